//! Packets of this machine's own making, without data: Ethernet, VLAN tags, IPv4 or IPv6, TCP or UDP. Pure.
#![forbid(unsafe_code)]

use lb_common::{
    backend::Backend,
    checksum,
    flow::{Ends, Hop},
    hash,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Mac, ip4, ip6},
};

/// Bytes of a TCP header without options (RFC 9293, 3.1).
const TCP_BYTES: usize = 20;
/// Bytes of a UDP header (RFC 768).
const UDP_BYTES: usize = 8;
/// Hops that a packet of ours may take (RFC 1700).
const TTL: u8 = 64;
/// The flag SYN (RFC 9293, 3.1).
pub const SYN: u8 = 0x02;
/// The flag ACK.
pub const ACK: u8 = 0x10;
/// Don't fragment, and no fragment.
const DONT_FRAGMENT: u16 = 0x4000;
/// A third of all sequence numbers: three tries are never all in one window.
const STEP: u32 = 0x5555_5555;

/// How a frame gets to an end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// Interface, the physical one.
    pub ifindex: u32,
    /// Next hop's MAC.
    pub dst_mac: Mac,
    /// Ours.
    pub src_mac: Mac,
    /// VLAN identifiers, outer first.
    pub vlan: [u16; 2],
    /// Number of VLAN tags: 0, 1 or 2.
    pub vlan_depth: u8,
    /// Tag protocol of the outer tag when there are two; a lone or inner one is 802.1Q.
    pub outer_tpid: u16,
}

impl Way {
    /// The way that a client's packets came, back; `src_mac` is that of the interface.
    #[must_use]
    pub fn by_hop(hop: &Hop, src_mac: Mac) -> Self {
        Self {
            ifindex: u32::from(hop.ifindex),
            dst_mac: hop.mac,
            src_mac,
            vlan: hop.vlan,
            vlan_depth: hop.vlan_depth,
            outer_tpid: hop.outer_tpid,
        }
    }

    /// The way to a server.
    #[must_use]
    pub const fn to_backend(backend: &Backend) -> Self {
        Self {
            ifindex: backend.ifindex,
            dst_mac: backend.dst_mac,
            src_mac: backend.src_mac,
            vlan: backend.vlan,
            vlan_depth: backend.vlan_depth,
            outer_tpid: backend.outer_tpid,
        }
    }
}

/// A TCP segment without options and data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// How it gets there.
    pub way: Way,
    /// From whom to whom.
    pub ends: Ends,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags: [`SYN`], [`ACK`].
    pub flags: u8,
}

impl Segment {
    /// A bare ACK that the receiver finds outside its window, whatever its window is, in at least two of three tries
    /// (RFC 9293, 3.10.7.4; a window is at most a quarter of all numbers, RFC 7323, 2.3).
    #[must_use]
    pub const fn out_of_window(way: Way, ends: Ends, tried: u32) -> Self {
        let bits = hash::steer(ends.src, ends.dst, ends.ports_word());
        let seq = (bits as u32).wrapping_add(STEP.wrapping_mul(tried));
        Self { way, ends, seq, ack: (bits >> 32) as u32, flags: ACK }
    }

    /// The frame, without padding and frame check sequence.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        frame(&self.way, &self.ends, self.tcp())
    }

    fn tcp(&self) -> [u8; TCP_BYTES] {
        let mut header = [0; TCP_BYTES];
        header[0..2].copy_from_slice(&self.ends.src_port().to_ne_bytes());
        header[2..4].copy_from_slice(&self.ends.dst_port().to_ne_bytes());
        header[4..8].copy_from_slice(&self.seq.to_be_bytes());
        header[8..12].copy_from_slice(&self.ack.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = self.flags;
        let sum = transport_checksum(&self.ends, &header);
        header[16..18].copy_from_slice(&sum);
        header
    }
}

/// A UDP datagram without data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// How it gets there.
    pub way: Way,
    /// From whom to whom.
    pub ends: Ends,
}

impl Datagram {
    /// The frame, without padding and frame check sequence.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        frame(&self.way, &self.ends, self.udp())
    }

    /// RFC 768.
    fn udp(&self) -> [u8; UDP_BYTES] {
        let mut header = [0; UDP_BYTES];
        header[0..2].copy_from_slice(&self.ends.src_port().to_ne_bytes());
        header[2..4].copy_from_slice(&self.ends.dst_port().to_ne_bytes());
        header[4..6].copy_from_slice(&(UDP_BYTES as u16).to_be_bytes());
        let sum = match transport_checksum(&self.ends, &header) {
            // Zero would say that there is none.
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        header[6..8].copy_from_slice(&sum);
        header
    }
}

fn frame<const LEN: usize>(way: &Way, ends: &Ends, transport: [u8; LEN]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + 8 + 40 + LEN);
    put_ethernet(&mut frame, way, ends.family);
    if ends.family == 4 {
        frame.extend(ipv4(ends, LEN as u16));
    } else {
        frame.extend(ipv6(ends, LEN as u16));
    }
    frame.extend(transport);
    frame
}

fn put_ethernet(frame: &mut Vec<u8>, way: &Way, family: u8) {
    let Way { dst_mac, src_mac, vlan: [first, second], vlan_depth, outer_tpid, .. } = *way;
    frame.extend(dst_mac.0);
    frame.extend(src_mac.0);
    let mut put = |tpid: u16, id: u16| {
        frame.extend(tpid.to_be_bytes());
        frame.extend(id.to_be_bytes());
    };
    match vlan_depth {
        0 => {}
        1 => put(ETHERTYPE_VLAN, first),
        _ => {
            put(outer_tpid, first);
            put(ETHERTYPE_VLAN, second);
        }
    }
    let ethertype = if family == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    frame.extend(ethertype.to_be_bytes());
}

/// RFC 791, 3.1.
fn ipv4(ends: &Ends, payload: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&(20 + payload).to_be_bytes());
    header[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    header[8] = TTL;
    header[9] = ends.proto;
    header[12..16].copy_from_slice(&ip4(ends.src[0] as u32).octets());
    header[16..20].copy_from_slice(&ip4(ends.dst[0] as u32).octets());
    let sum = internet_checksum([&header[..]]);
    header[10..12].copy_from_slice(&sum);
    header
}

/// RFC 8200, 3.
fn ipv6(ends: &Ends, payload: u16) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = ends.proto;
    header[7] = TTL;
    header[8..24].copy_from_slice(&ip6(ends.src).octets());
    header[24..40].copy_from_slice(&ip6(ends.dst).octets());
    header
}

/// Checksum of a TCP or UDP header without data, with its pseudo header.
fn transport_checksum<const LEN: usize>(ends: &Ends, header: &[u8; LEN]) -> [u8; 2] {
    // The pseudo header's addresses may as well be summed as eight native words: IPv4 has zeros there.
    let [a, b, c, d] = [ends.src[0], ends.src[1], ends.dst[0], ends.dst[1]];
    let addresses: Vec<u8> = [a, b, c, d].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let rest = u32::from(ends.proto).to_be_bytes();
    internet_checksum([&addresses[..], &rest, &(LEN as u16).to_be_bytes(), header])
}

/// The checksum of RFC 1071 over parts of even length, in wire bytes.
fn internet_checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 2] {
    let words = parts.into_iter().flat_map(|part| part.as_chunks::<2>().0);
    // At most some 60 words: the sum stays far below 32 bits.
    let sum = words.map(|word| u32::from(u16::from_ne_bytes(*word))).sum();
    (!checksum::fold(sum)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use lb_common::net::{PROTO_TCP, PROTO_UDP};

    use super::*;

    fn way() -> Way {
        Way {
            ifindex: 2,
            dst_mac: Mac([2, 0, 0, 0, 0, 9]),
            src_mac: Mac([2, 0, 0, 0, 0, 1]),
            vlan: [104, 7],
            vlan_depth: 0,
            outer_tpid: 0x88a8,
        }
    }

    fn ends(src: &str, dst: &str) -> Ends {
        Ends::between(src.parse().unwrap(), dst.parse().unwrap(), PROTO_TCP)
    }

    #[test]
    fn an_ipv4_segment_is_these_bytes() {
        let ends = ends("10.12.1.100:104", "10.0.0.7:40000");
        let frame = Segment { way: way(), ends, seq: 0x0102_0304, ack: 0x0506_0708, flags: ACK }.frame();
        #[rustfmt::skip]
        let expected = [
            2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x08, 0x00,
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x25, 0x5a, 10, 12, 1, 100, 10, 0, 0, 7,
            0, 104, 0x9c, 0x40, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 0, 0, 0xed, 0xa1, 0, 0,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn checksums_of_both_families_come_out_right() {
        for (src, dst) in
            [("10.12.1.100:104", "192.168.3.7:40000"), ("[2001:db8::1]:104", "[2001:db8:5::9]:65535")]
        {
            let segment = Segment::out_of_window(way(), ends(src, dst), 1);
            let frame = segment.frame();
            let (ip, addresses, tcp) = if segment.ends.family == 4 {
                (&frame[14..34], &frame[26..34], &frame[34..])
            } else {
                (&[][..], &frame[22..54], &frame[54..])
            };
            assert_eq!(tcp.len(), 20);
            // A sum that includes the right checksum folds to all ones (RFC 1071, 1).
            if !ip.is_empty() {
                assert_eq!(internet_checksum([ip]), [0, 0]);
            }
            assert_eq!(internet_checksum([addresses, &[0, 6, 0, 20], tcp]), [0, 0]);
        }
    }

    #[test]
    fn datagrams_are_whole_and_their_checksums_right() {
        for (src, dst) in [("10.12.1.100:514", "192.168.3.7:514"), ("[2001:db8::1]:514", "[2001:db8:5::9]:9")]
        {
            let ends = Ends { proto: PROTO_UDP, ..ends(src, dst) };
            let frame = Datagram { way: way(), ends }.frame();
            let (addresses, udp) = if ends.family == 4 {
                (&frame[26..34], &frame[34..])
            } else {
                (&frame[22..54], &frame[54..])
            };
            assert_eq!(udp[4..6], [0, 8]);
            assert_eq!(internet_checksum([addresses, &[0, 17, 0, 8], udp]), [0, 0]);
        }
    }

    #[test]
    fn tags_stand_between_the_macs_and_the_type() {
        let tagged = |vlan_depth| {
            let way = Way { vlan_depth, ..way() };
            Segment { way, ends: ends("[2001:db8::1]:104", "[2001:db8::2]:9"), seq: 0, ack: 0, flags: SYN }
                .frame()
        };
        assert_eq!(tagged(0)[12..14], [0x86, 0xdd]);
        assert_eq!(tagged(1)[12..18], [0x81, 0, 0, 104, 0x86, 0xdd]);
        assert_eq!(tagged(2)[12..22], [0x88, 0xa8, 0, 104, 0x81, 0, 0, 7, 0x86, 0xdd]);
        assert_eq!(tagged(2)[22..], tagged(0)[14..]);
    }

    #[test]
    fn at_most_one_of_three_tries_is_inside_any_window() {
        let seq = |tried| Segment::out_of_window(way(), ends("10.0.0.1:1", "10.0.0.2:2"), tried).seq;
        let window = 1u32 << 30;
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let apart = seq(a).wrapping_sub(seq(b));
            assert!(apart.min(apart.wrapping_neg()) > window);
        }
    }
}
