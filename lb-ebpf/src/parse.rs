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
        ipv6::{IPV6_LEN, Ipv6},
        tcp::{TCP_LEN, Tcp},
        udp::{UDP_LEN, Udp},
    },
};

/// What the Ethernet header and its tags say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
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
        // Two tags at most, which the mask tells the verifier where it does not follow the depth.
        ETHERNET_LEN + (self.depth & 3) as usize * TAG_LEN
    }

    /// The same, of whose depth the compiler knows nothing: so that the mask above stays.
    #[inline(always)]
    #[must_use]
    pub const fn anew(self) -> Self {
        Self { depth: core::hint::black_box(self.depth), ..self }
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
    /// TCP's control bits; 0 for UDP.
    pub flags: u8,
}

/// The transport header of an IPv4 packet that starts at the view's start; the packet is whole. `ip` is its header,
/// already read.
#[inline(always)]
pub fn transport_v4(l3: &Packet<'_>, ip: &Ipv4) -> Result<Transport, Reason> {
    let header = ip.header_len().ok_or(Reason::Malformed)?;
    transport(&l3.skip(header), ip.proto, (ip.total_len.get() as usize).checked_sub(header))
}

/// The transport header of an IPv6 packet that starts at the view's start, right behind its IP header.
#[inline(always)]
pub fn transport_v6(l3: &Packet<'_>, ip: &Ipv6) -> Result<Transport, Reason> {
    transport(&l3.skip(IPV6_LEN), ip.next_header, Some(ip.payload_len.get() as usize))
}

/// `len` is what the IP header leaves for the transport protocol. What it promises beyond the headers is not
/// compared with the frame: the frame may lie in several buffers, and the server checks it anyway.
#[inline(always)]
pub fn transport(l4: &Packet<'_>, proto: u8, len: Option<usize>) -> Result<Transport, Reason> {
    let len = len.ok_or(Reason::Malformed)?;
    match proto {
        PROTO_TCP => {
            let tcp = l4.get::<Tcp>(0).filter(|_| len >= TCP_LEN).ok_or(Reason::Malformed)?;
            Ok(Transport { ports: tcp.ports(), flags: tcp.flags.0 })
        }
        PROTO_UDP => {
            let udp = l4.get::<Udp>(0).filter(|_| len >= UDP_LEN).ok_or(Reason::Malformed)?;
            Ok(Transport { ports: udp.ports(), flags: 0 })
        }
        _ => Err(Reason::NotTcpUdp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp::Flags;

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
        assert_eq!(transport(&packet, 6, Some(20)).unwrap().flags, Flags::SYN);
        assert_eq!(transport(&packet, 17, Some(7)), Err(Reason::Malformed));
        assert_eq!(transport(&packet, 17, Some(8)).unwrap().flags, 0);
        assert_eq!(transport(&packet, 6, None), Err(Reason::Malformed));
        assert_eq!(transport(&packet, 1, Some(20)), Err(Reason::NotTcpUdp));
    }
}
