//! NAT and SNAT: addresses, ports, one hop of TTL, and the checksums that cover them, each updated by a delta that was
//! ready before the packet came (RFC 3022, 4.1; RFC 1624).

use lb_common::{
    checksum,
    net::{PROTO_TCP, PROTO_UDP},
};

use crate::{
    packet::Packet,
    scratch::Seen,
    wire::{ipv4::Ipv4, ipv6::Ipv6, tcp::Tcp, udp::Udp},
};

/// Rewrites an IPv4 packet: new addresses (source in the low half), and [`Rewrite::ports_word`]. `None` when the frame
/// is not what was read from it before.
///
/// [`Rewrite::ports_word`]: lb_common::flow::Rewrite::ports_word
#[inline(always)]
pub fn rewrite_v4(packet: &mut Packet<'_>, seen: &Seen, addresses: u64, ports: u64) -> Option<()> {
    let ip = packet.get_mut::<Ipv4>(seen.link.l3())?;
    ip.addrs = addresses.to_le_bytes();
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.checksum = updated(ip.checksum, (ports >> 32) as u16);
    transport(packet, seen, ports)
}

/// Rewrites an IPv6 packet, likewise: new source, new destination.
#[inline(always)]
pub fn rewrite_v6(packet: &mut Packet<'_>, seen: &Seen, addresses: [u64; 4], ports: u64) -> Option<()> {
    let ip = packet.get_mut::<Ipv6>(seen.link.l3())?;
    let [src_hi, src_lo, dst_hi, dst_lo] = addresses;
    ip.src = [src_hi.to_ne_bytes(), src_lo.to_ne_bytes()];
    ip.dst = [dst_hi.to_ne_bytes(), dst_lo.to_ne_bytes()];
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    transport(packet, seen, ports)
}

/// Rewrites the transport header; a fragment without one has `l4` 0.
#[inline(always)]
fn transport(packet: &mut Packet<'_>, seen: &Seen, ports: u64) -> Option<()> {
    // The mask changes nothing, it is what the verifier can see of a number that comes out of memory: no transport
    // header starts later (`odd::MAX_L4`).
    let l4 = seen.l4 as usize & 0x7ff;
    let delta = (ports >> 48) as u16;
    match seen.ends.proto {
        _ if l4 == 0 => Some(()),
        PROTO_TCP => {
            let tcp = packet.get_mut::<Tcp>(l4)?;
            tcp.ports = (ports as u32).to_le_bytes();
            tcp.checksum = updated(tcp.checksum, delta);
            Some(())
        }
        PROTO_UDP => {
            let udp = packet.get_mut::<Udp>(l4)?;
            udp.ports = (ports as u32).to_le_bytes();
            udp.checksum = updated_udp(udp.checksum, delta);
            Some(())
        }
        _ => None,
    }
}

/// A checksum field after a change.
#[inline(always)]
#[must_use]
pub const fn updated(field: [u8; 2], delta: u16) -> [u8; 2] {
    checksum::update(u16::from_ne_bytes(field), delta).to_ne_bytes()
}

/// UDP's checksum field after a change: zero means "none", so it stays, and is never the result (RFC 768).
#[inline(always)]
#[must_use]
pub const fn updated_udp(field: [u8; 2], delta: u16) -> [u8; 2] {
    match (field, updated(field, delta)) {
        ([0, 0], _) => [0, 0],
        (_, [0, 0]) => [0xff, 0xff],
        (_, updated) => updated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_udp_checksum_stays_none_and_none_is_never_made() {
        assert_eq!(updated_udp([0, 0], 0x1234), [0, 0]);
        // 0x0001 (as its own complement, 0xfffe) plus 0x0001 is 0xffff: the field would be 0.
        assert_eq!(updated_udp(1u16.to_ne_bytes(), 1), [0xff, 0xff]);
        assert_eq!(updated(1u16.to_ne_bytes(), 1), [0, 0]);
    }
}
