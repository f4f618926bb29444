//! Neighbour advertisements (RFC 4861, 4.4) as ICMPv6 payload: the kernel writes the IPv6 header and the
//! checksum. Pure.
#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

use lb_common::net::Mac;

/// Bytes of an advertisement with a target link-layer address.
pub const ADVERTISEMENT_BYTES: usize = 32;

const TYPE_ADVERTISEMENT: u8 = 136;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_MAC: u8 = 2;

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
    if message.first() != Some(&TYPE_ADVERTISEMENT) || message.get(8..24)? != ip.octets() {
        return None;
    }
    let mut options = message.get(24..)?;
    // Option lengths are in units of eight bytes; zero is malformed (RFC 4861, 4.6).
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 {
            return None;
        }
        let option = options.get(..length)?;
        if kind == OPTION_TARGET_MAC {
            return option[2..].first_chunk().copied().map(Mac);
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
