//! From frame to flow key, or the reason why not.

use lb_common::{
    counter::Reason,
    net::{ETHERTYPE_QINQ, ETHERTYPE_VLAN, PROTO_TCP, PROTO_UDP},
};

use crate::{
    packet::Packet,
    wire::{
        eth::{ETHERNET_LEN, Ethernet, TAG_LEN, Tag},
        ipv4::Ipv4,
        ipv6::{FRAGMENT_HEADER, IPV6_LEN, Ipv6, is_extension},
        tcp::{Flags, TCP_LEN, Tcp},
        udp::{UDP_LEN, Udp},
    },
};

/// What the Ethernet header and its tags say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Type of the packet behind the tags, host order.
    pub ethertype: u16,
    /// Number of tags: 0, 1 or 2.
    pub depth: u8,
}

impl Link {
    /// Where the IP header starts.
    #[inline(always)]
    #[must_use]
    pub const fn l3(self) -> usize {
        ETHERNET_LEN + self.depth as usize * TAG_LEN
    }
}

/// Reads the Ethernet header and up to two tags.
#[inline(always)]
pub fn link(packet: &Packet<'_>) -> Result<Link, Reason> {
    let ethertype = packet.get::<Ethernet>(0).ok_or(Reason::Malformed)?.ethertype.get();
    if !is_tag(ethertype) {
        return Ok(Link { ethertype, depth: 0 });
    }
    let ethertype = packet.get::<Tag>(ETHERNET_LEN).ok_or(Reason::Malformed)?.ethertype.get();
    if !is_tag(ethertype) {
        return Ok(Link { ethertype, depth: 1 });
    }
    let ethertype = packet.get::<Tag>(ETHERNET_LEN + TAG_LEN).ok_or(Reason::Malformed)?.ethertype.get();
    if is_tag(ethertype) {
        return Err(Reason::VlanDepth);
    }
    Ok(Link { ethertype, depth: 2 })
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transport {
    /// Source port in the low half, destination port in the high half, wire bytes.
    pub ports: u32,
    /// TCP's control bits; `None` = UDP.
    pub flags: Option<Flags>,
}

/// An IPv4 packet that starts at the view's start. `ip` is its header, already read.
#[inline(always)]
pub fn transport_v4(l3: &Packet<'_>, ip: &Ipv4) -> Result<Transport, Reason> {
    let header = ip.header_len().ok_or(Reason::Malformed)?;
    // A fragment is judged before its protocol: later ones have no transport header at all.
    if ip.is_fragment() {
        return Err(Reason::FragmentUnknown);
    }
    transport(&l3.skip(header), ip.proto, (ip.total_len.get() as usize).checked_sub(header))
}

/// An IPv6 packet that starts at the view's start.
#[inline(always)]
pub fn transport_v6(l3: &Packet<'_>, ip: &Ipv6) -> Result<Transport, Reason> {
    if !ip.is_version_6() {
        return Err(Reason::Malformed);
    }
    if is_extension(ip.next_header) {
        return Err(if ip.next_header == FRAGMENT_HEADER {
            Reason::FragmentUnknown
        } else {
            Reason::ExtensionHeader
        });
    }
    transport(&l3.skip(IPV6_LEN), ip.next_header, Some(ip.payload_len.get() as usize))
}

/// `len` is what the IP header leaves for the transport protocol. What it promises beyond the headers is not
/// compared with the frame: the frame may lie in several buffers, and the server checks it anyway.
#[inline(always)]
fn transport(l4: &Packet<'_>, proto: u8, len: Option<usize>) -> Result<Transport, Reason> {
    let len = len.ok_or(Reason::Malformed)?;
    match proto {
        PROTO_TCP => {
            let tcp = l4.get::<Tcp>(0).filter(|_| len >= TCP_LEN).ok_or(Reason::Malformed)?;
            Ok(Transport { ports: tcp.ports(), flags: Some(tcp.flags) })
        }
        PROTO_UDP => {
            let udp = l4.get::<Udp>(0).filter(|_| len >= UDP_LEN).ok_or(Reason::Malformed)?;
            Ok(Transport { ports: udp.ports(), flags: None })
        }
        _ => Err(Reason::NotTcpUdp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tags: &[u16], ethertype: u16) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        for tpid in tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend([0, 7]);
        }
        bytes.extend(ethertype.to_be_bytes());
        bytes
    }

    #[test]
    fn up_to_two_tags_are_read_and_a_third_is_refused() {
        for (tags, want) in [
            (&[][..], Ok(Link { ethertype: 0x0800, depth: 0 })),
            (&[0x8100], Ok(Link { ethertype: 0x0800, depth: 1 })),
            (&[0x88a8, 0x8100], Ok(Link { ethertype: 0x0800, depth: 2 })),
            (&[0x88a8, 0x8100, 0x8100], Err(Reason::VlanDepth)),
        ] {
            let mut bytes = frame(tags, 0x0800);
            assert_eq!(link(&Packet::from_slice(&mut bytes)), want, "{tags:x?}");
        }
    }

    #[test]
    fn every_cut_of_a_tagged_frame_is_malformed() {
        let whole = frame(&[0x88a8, 0x8100], 0x0800);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            assert_eq!(link(&Packet::from_slice(&mut cut)), Err(Reason::Malformed), "{len} bytes");
        }
    }

    #[test]
    fn the_ip_length_must_leave_room_for_the_transport_header() {
        let mut bytes = [0; 20];
        bytes[13] = Flags::SYN;
        let packet = Packet::from_slice(&mut bytes);
        assert_eq!(transport(&packet, 6, Some(19)), Err(Reason::Malformed));
        assert!(transport(&packet, 6, Some(20)).unwrap().flags.unwrap().is_open());
        assert_eq!(transport(&packet, 17, Some(7)), Err(Reason::Malformed));
        assert_eq!(transport(&packet, 17, Some(8)).unwrap().flags, None);
        assert_eq!(transport(&packet, 6, None), Err(Reason::Malformed));
        assert_eq!(transport(&packet, 1, Some(20)), Err(Reason::NotTcpUdp));
    }
}
