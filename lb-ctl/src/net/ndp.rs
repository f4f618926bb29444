//! Neighbour discovery (RFC 4861) as far as claiming and watching an IPv6 address needs it. Advertisements are ICMPv6
//! payload: the kernel writes the IPv6 header and the checksum. Solicitations are whole frames, so that they can be sent
//! from any address of the interface. Pure.
#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

use lb_common::net::{ETHERTYPE_IPV6, Mac};

/// Bytes of an advertisement with a target link-layer address.
pub const ADVERTISEMENT_BYTES: usize = 32;

/// Bytes of a solicitation with a source link-layer address, as an Ethernet frame.
pub const SOLICITATION_FRAME_BYTES: usize = MESSAGE_OFFSET + SOLICITATION_BYTES;
/// Where an ICMPv6 message stands in an untagged frame without extension headers, which neighbour discovery has none of.
pub const MESSAGE_OFFSET: usize = 54;
/// Hop limit of what no router has passed on (RFC 4861, 7.1).
pub const HOP_LIMIT: u8 = 255;
/// ICMPv6's protocol number (IANA).
pub const PROTO_ICMPV6: u8 = 58;
/// ICMPv6 type of an advertisement.
pub const TYPE_ADVERTISEMENT: u8 = 136;

const TYPE_SOLICITATION: u8 = 135;
const SOLICITATION_BYTES: usize = 32;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;

/// Asks who has `ip` (RFC 4861, 4.3), from an address of this machine.
#[must_use]
pub fn solicitation(mac: Mac, source: Ipv6Addr, ip: Ipv6Addr) -> [u8; SOLICITATION_FRAME_BYTES] {
    let [.., a, b, c] = ip.octets();
    // The solicited-node address (RFC 4291, 2.7.1) and its Ethernet address (RFC 2464, 7).
    let [x, y] = [u16::from(a) | 0xff00, u16::from_be_bytes([b, c])];
    let everybody = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, x, y);
    let mut message = [0; SOLICITATION_BYTES];
    message[0] = TYPE_SOLICITATION;
    message[8..24].copy_from_slice(&ip.octets());
    message[24..26].copy_from_slice(&[OPTION_SOURCE_MAC, 1]);
    message[26..].copy_from_slice(&mac.0);
    let checksum = checksum(source, everybody, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let parts: [&[u8]; 7] = [
        &[0x33, 0x33, 0xff, a, b, c],
        &mac.0,
        &ETHERTYPE_IPV6.to_be_bytes(),
        &[0x60, 0, 0, 0, 0, SOLICITATION_BYTES as u8, PROTO_ICMPV6, HOP_LIMIT],
        &source.octets(),
        &everybody.octets(),
        &message,
    ];
    let mut frame = [0; SOLICITATION_FRAME_BYTES];
    for (byte, value) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *byte = *value;
    }
    frame
}

/// The checksum of ICMPv6 (RFC 4443, 2.3) over a message in which its field is zero.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8; SOLICITATION_BYTES]) -> u16 {
    let pair = |bytes: &[u8]| {
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>()
    };
    let mut sum = pair(&source.octets()) + pair(&destination.octets()) + pair(message);
    sum += SOLICITATION_BYTES as u32 + u32::from(PROTO_ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An unsolicited advertisement: everybody who knows `ip` shall know it at `mac` from now on (RFC 4861, 7.2.6).
#[must_use]
pub fn advertisement(mac: Mac, ip: Ipv6Addr) -> [u8; ADVERTISEMENT_BYTES] {
    let mut message = [0; ADVERTISEMENT_BYTES];
    message[0] = TYPE_ADVERTISEMENT;
    message[4] = FLAG_OVERRIDE;
    message[8..24].copy_from_slice(&ip.octets());
    message[24..26].copy_from_slice(&[OPTION_TARGET_MAC, 1]);
    message[26..].copy_from_slice(&mac.0);
    message
}

/// Who says that it has `ip`: the MAC in an advertisement for it. `None` when the message is anything else, or
/// names no MAC.
#[must_use]
pub fn advertiser(message: &[u8], ip: Ipv6Addr) -> Option<Mac> {
    advertised(message).filter(|(advertised, _)| *advertised == ip).map(|(_, mac)| mac)
}

/// What an advertisement says: an address, and the MAC that it is at. `None` when the message is anything else, or names
/// no MAC.
#[must_use]
pub fn advertised(message: &[u8]) -> Option<(Ipv6Addr, Mac)> {
    if message.first() != Some(&TYPE_ADVERTISEMENT) {
        return None;
    }
    let ip: [u8; 16] = message.get(8..24)?.first_chunk().copied()?;
    let mut options = message.get(24..)?;
    // Option lengths are in units of eight bytes; zero is malformed (RFC 4861, 4.6).
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        let option = options.get(..length)?;
        if kind == OPTION_TARGET_MAC {
            let mac = option[2..].first_chunk().copied().map(Mac)?;
            return Some((ip.into(), mac));
        }
        options = &options[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    #[rustfmt::skip]
    const BYTES: [u8; ADVERTISEMENT_BYTES] = [
        136, 0, 0, 0, 0x20, 0, 0, 0,
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00,
        2, 1, 2, 0, 0, 0, 0, 9,
    ];

    fn vip() -> Ipv6Addr {
        "2001:db8::100".parse().unwrap()
    }

    #[test]
    fn an_unsolicited_advertisement_is_these_bytes_and_is_read_back() {
        assert_eq!(advertisement(MAC, vip()), BYTES);
        assert_eq!(advertiser(&BYTES, vip()), Some(MAC));
        assert_eq!(advertiser(&BYTES, "2001:db8::101".parse().unwrap()), None);
    }

    #[test]
    fn a_solicitation_is_these_bytes() {
        let source = "fe80::1".parse().unwrap();
        let frame = solicitation(Mac([2, 0, 0, 0, 0, 1]), source, vip());
        #[rustfmt::skip]
        let expected = [
            0x33, 0x33, 0xff, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0x86, 0xdd,
            0x60, 0, 0, 0, 0, 32, 58, 255,
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 1, 0,
            135, 0, 0x49, 0x63, 0, 0, 0, 0,
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00,
            1, 1, 2, 0, 0, 0, 0, 1,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn the_mac_is_found_behind_other_options_and_never_past_the_end() {
        let mut message = BYTES[..24].to_vec();
        message.extend([14, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(&BYTES[24..]);
        assert_eq!(advertiser(&message, vip()), Some(MAC));
        for length in 0..message.len() {
            assert_eq!(advertiser(&message[..length], vip()), None, "{length} bytes");
        }
        message[25] = 0;
        assert_eq!(advertiser(&message, vip()), None, "an option of no length");
    }
}
