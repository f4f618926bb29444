//! ARP over Ethernet (RFC 826) as far as claiming an IPv4 address needs it (RFC 5227). Pure.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, net::Ipv4Addr};

use lb_common::net::{ETHERTYPE_IPV4, Mac};

/// ARP's Ethernet type, in host order.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Bytes of an Ethernet frame with an ARP packet, without padding and checksum.
pub const FRAME_BYTES: usize = 42;

/// Hardware type Ethernet (IANA).
const HARDWARE_ETHERNET: u16 = 1;

/// An ARP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arp {
    /// What it does.
    pub operation: Operation,
    /// Hardware address of who sent it.
    pub sender_mac: Mac,
    /// Protocol address of who sent it; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// Hardware address asked for; zero in a request.
    pub target_mac: Mac,
    /// Protocol address asked for.
    pub target_ip: Ipv4Addr,
}

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Answers.
    Reply,
    /// Asks.
    Request,
}

impl Arp {
    /// Asks whether anybody has `ip`, without claiming it and without touching any cache (RFC 5227, 1.1).
    #[must_use]
    pub const fn probe(mac: Mac, ip: Ipv4Addr) -> Self {
        Self {
            operation: Operation::Request,
            sender_mac: mac,
            sender_ip: Ipv4Addr::UNSPECIFIED,
            target_mac: Mac([0; 6]),
            target_ip: ip,
        }
    }

    /// Tells everybody that `ip` is at `mac` (RFC 5227, 2.3).
    #[must_use]
    pub const fn announcement(mac: Mac, ip: Ipv4Addr) -> Self {
        Self { sender_ip: ip, ..Self::probe(mac, ip) }
    }

    /// The packet as a broadcast frame.
    #[must_use]
    pub fn frame(&self) -> [u8; FRAME_BYTES] {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let parts: [&[u8]; 12] = [
            &Mac::BROADCAST.0,
            &self.sender_mac.0,
            &ETHERTYPE_ARP.to_be_bytes(),
            &HARDWARE_ETHERNET.to_be_bytes(),
            &ETHERTYPE_IPV4.to_be_bytes(),
            &[6],
            &[4],
            &operation.to_be_bytes(),
            &self.sender_mac.0,
            &self.sender_ip.octets(),
            &self.target_mac.0,
            &self.target_ip.octets(),
        ];
        let mut frame = [0; FRAME_BYTES];
        for (byte, value) in frame.iter_mut().zip(parts.into_iter().flatten()) {
            *byte = *value;
        }
        frame
    }

    /// Reads an untagged Ethernet frame; `None` when it is not ARP for IPv4 over Ethernet.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..FRAME_BYTES)?;
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        if frame[12..14] != ETHERTYPE_ARP.to_be_bytes()
            || word(0) != HARDWARE_ETHERNET
            || word(2) != ETHERTYPE_IPV4
            || packet[4..6] != [6, 4]
        {
            return None;
        }
        let operation = match word(6) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| packet[at..].first_chunk().copied().map(Mac);
        let ip = |at: usize| packet[at..].first_chunk::<4>().copied().map(Ipv4Addr::from);
        Some(Self {
            operation,
            sender_mac: mac(8)?,
            sender_ip: ip(14)?,
            target_mac: mac(18)?,
            target_ip: ip(24)?,
        })
    }

    /// The other host, if this packet means that it has `ip` or is about to claim it (RFC 5227, 2.1.1). `ours`
    /// are the hardware addresses of this machine.
    #[must_use]
    pub fn contender(&self, ip: Ipv4Addr, ours: &BTreeSet<Mac>) -> Option<Mac> {
        let uses = self.sender_ip == ip;
        let probes =
            self.operation == Operation::Request && self.sender_ip.is_unspecified() && self.target_ip == ip;
        ((uses || probes) && !ours.contains(&self.sender_mac)).then_some(self.sender_mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 12, 1, 100);

    #[rustfmt::skip]
    const PROBE: [u8; FRAME_BYTES] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06,
        0, 1, 0x08, 0x00, 6, 4, 0, 1,
        2, 0, 0, 0, 0, 1, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 10, 12, 1, 100,
    ];
    #[rustfmt::skip]
    const REPLY: [u8; FRAME_BYTES] = [
        2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x08, 0x06,
        0, 1, 0x08, 0x00, 6, 4, 0, 2,
        2, 0, 0, 0, 0, 9, 10, 12, 1, 100,
        2, 0, 0, 0, 0, 1, 0, 0, 0, 0,
    ];

    #[test]
    fn a_probe_and_an_announcement_are_these_bytes() {
        assert_eq!(Arp::probe(OURS, VIP).frame(), PROBE);
        let mut announcement = PROBE;
        announcement[28..32].copy_from_slice(&VIP.octets());
        assert_eq!(Arp::announcement(OURS, VIP).frame(), announcement);
    }

    #[test]
    fn a_reply_is_read_back() {
        let reply = Arp {
            operation: Operation::Reply,
            sender_mac: OTHER,
            sender_ip: VIP,
            target_mac: OURS,
            target_ip: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(Arp::parse(&REPLY), Some(reply));
        let mut padded = REPLY.to_vec();
        padded.resize(60, 0);
        assert_eq!(Arp::parse(&padded), Some(reply));
    }

    #[test]
    fn anything_but_whole_arp_for_ipv4_over_ethernet_is_refused() {
        for length in 0..FRAME_BYTES {
            assert_eq!(Arp::parse(&REPLY[..length]), None, "{length} bytes");
        }
        for (at, what) in [(12, "type"), (15, "hardware"), (16, "protocol"), (18, "sizes"), (21, "operation")]
        {
            let mut frame = REPLY;
            frame[at] ^= 0x40;
            assert_eq!(Arp::parse(&frame), None, "{what}");
        }
    }

    #[test]
    fn users_and_simultaneous_probers_contend_and_this_machine_does_not() {
        let ours = BTreeSet::from([OURS]);
        let other = |ip, vip| Arp { sender_ip: ip, ..Arp::probe(OTHER, vip) };
        let elsewhere = Ipv4Addr::new(10, 12, 1, 7);
        let cases = [
            ("a reply", Arp::parse(&REPLY).unwrap(), Some(OTHER)),
            ("its owner asks for somebody else", other(VIP, elsewhere), Some(OTHER)),
            ("another host probes it", Arp::probe(OTHER, VIP), Some(OTHER)),
            ("another host announces it", Arp::announcement(OTHER, VIP), Some(OTHER)),
            ("a neighbour asks for it", other(elsewhere, VIP), None),
            ("another address is probed", Arp::probe(OTHER, elsewhere), None),
            ("our own probe comes back", Arp::probe(OURS, VIP), None),
            ("our own announcement comes back", Arp::announcement(OURS, VIP), None),
        ];
        for (what, packet, expected) in cases {
            assert_eq!(packet.contender(VIP, &ours), expected, "{what}");
        }
    }
}
