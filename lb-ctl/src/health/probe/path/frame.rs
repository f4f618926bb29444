//! What comes in by the wire, as far as a try of a VIP needs it, and the filter that lets nothing else in. Pure.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "protocols and messages that are not named here concern no try"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, PROTO_TCP};
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};
use socket2::SockFilter;

/// Tries are made from this port and those above it: no kernel hands them out by itself (its range ends at 60999), and
/// SNAT's lie below.
pub(super) const FIRST_LOCAL_PORT: u16 = 61_000;
/// Bytes of an untagged Ethernet header.
pub(super) const ETHERNET_BYTES: usize = 14;

/// Bytes of an IPv6 header.
const IPV6_HEADER_BYTES: usize = 40;
/// Of an ICMP error or redirect: bytes before the packet that it quotes (RFC 792, RFC 4443).
const ICMP_HEADER_BYTES: usize = 8;
/// Of an ICMPv6 redirect: bytes before its options (RFC 4861, 4.5), and the type of the one that quotes.
const REDIRECT_BYTES: usize = 40;
const OPTION_REDIRECTED: u8 = 4;

/// A frame that concerns a try.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Heard {
    /// Who sent the frame.
    pub(super) from: Mac,
    /// What it says.
    pub(super) what: What,
}

/// What a frame says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// A TCP segment for us.
    Segment(Segment),
    /// A packet that we sent to `to` has come back.
    Returned {
        /// Where it was to go.
        to: SocketAddr,
    },
    /// An ICMP message about a packet that we sent to `about`.
    Icmp {
        /// Who says so.
        by: IpAddr,
        /// What.
        message: Message,
        /// Where the packet was to go.
        about: SocketAddr,
    },
}

/// A TCP segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    /// Who sent it.
    pub(super) source: SocketAddr,
    /// What it acknowledges, if it does.
    pub(super) acknowledges: Option<u32>,
    /// The whole IP packet.
    pub(super) packet: Vec<u8>,
}

/// What an ICMP message says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Message {
    /// There is a better way.
    Redirect,
    /// It was forwarded too often.
    TimeExceeded,
    /// A rule forbids it.
    Prohibited,
    /// Nobody has the port.
    PortUnreachable,
    /// It cannot be delivered for another reason.
    Unreachable,
}

/// Reads an untagged frame: the local port that it concerns, and what it says. `None` = none of ours.
pub(super) fn read(frame: &[u8]) -> Option<(u16, Heard)> {
    let from = frame.get(6..12)?.first_chunk().copied().map(Mac)?;
    let ethertype = u16::from_be_bytes(frame.get(12..ETHERNET_BYTES)?.first_chunk().copied()?);
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (port, what) = match ethertype {
        ETHERTYPE_IPV4 => read_v4(packet)?,
        ETHERTYPE_IPV6 => read_v6(packet)?,
        _ => return None,
    };
    Some((port, Heard { from, what }))
}

fn read_v4(bytes: &[u8]) -> Option<(u16, What)> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.frag_offset() != 0 {
        return None;
    }
    let whole = bytes.get(..usize::from(packet.total_len()))?;
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Tcp => read_tcp(source, destination, packet.payload(), whole),
        IpProtocol::Icmp => {
            let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
            let message = match (icmp.msg_type(), icmp.msg_code()) {
                (Icmpv4Message::Redirect, _) => Message::Redirect,
                (Icmpv4Message::TimeExceeded, _) => Message::TimeExceeded,
                (Icmpv4Message::DstUnreachable, 3) => Message::PortUnreachable,
                // RFC 1812, 5.2.7.1: network, host or communication administratively prohibited.
                (Icmpv4Message::DstUnreachable, 9 | 10 | 13) => Message::Prohibited,
                (Icmpv4Message::DstUnreachable, code) if code != 4 => Message::Unreachable,
                _ => return None,
            };
            let (port, about) = quoted_v4(packet.payload().get(ICMP_HEADER_BYTES..)?)?;
            Some((port, What::Icmp { by: source, message, about }))
        }
        _ => None,
    }
}

fn read_v6(bytes: &[u8]) -> Option<(u16, What)> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let whole = bytes.get(..packet.total_len())?;
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    match packet.next_header() {
        IpProtocol::Tcp => read_tcp(source, destination, packet.payload(), whole),
        IpProtocol::Icmpv6 => {
            let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
            let message = match (icmp.msg_type(), icmp.msg_code()) {
                (Icmpv6Message::Redirect, _) => Message::Redirect,
                (Icmpv6Message::TimeExceeded, _) => Message::TimeExceeded,
                (Icmpv6Message::DstUnreachable, 4) => Message::PortUnreachable,
                // RFC 4443, 3.1: prohibited, failed a policy, rejected by a route.
                (Icmpv6Message::DstUnreachable, 1 | 5 | 6) => Message::Prohibited,
                (Icmpv6Message::DstUnreachable, _) => Message::Unreachable,
                _ => return None,
            };
            let quote = if message == Message::Redirect {
                redirected(packet.payload())?
            } else {
                packet.payload().get(ICMP_HEADER_BYTES..)?
            };
            let (port, about) = quoted_v6(quote)?;
            Some((port, What::Icmp { by: source, message, about }))
        }
        _ => None,
    }
}

fn read_tcp(source: IpAddr, destination: IpAddr, payload: &[u8], packet: &[u8]) -> Option<(u16, What)> {
    let tcp = TcpPacket::new_checked(payload).ok()?;
    if tcp.dst_port() >= FIRST_LOCAL_PORT {
        let acknowledges = tcp.ack().then(|| tcp.ack_number().0.cast_unsigned());
        let source = SocketAddr::new(source, tcp.src_port());
        return Some((
            tcp.dst_port(),
            What::Segment(Segment { source, acknowledges, packet: packet.to_owned() }),
        ));
    }
    let to = SocketAddr::new(destination, tcp.dst_port());
    (tcp.src_port() >= FIRST_LOCAL_PORT).then_some((tcp.src_port(), What::Returned { to }))
}

/// Source port and destination of a TCP packet that an ICMP message quotes, which may do no more than the ports.
fn quoted_v4(quote: &[u8]) -> Option<(u16, SocketAddr)> {
    let version_and_length = *quote.first()?;
    if version_and_length >> 4 != 4 || *quote.get(9)? != PROTO_TCP {
        return None;
    }
    let destination: [u8; 4] = quote.get(16..20)?.first_chunk().copied()?;
    ports(quote.get(usize::from(version_and_length & 0xf) * 4..)?, Ipv4Addr::from(destination).into())
}

fn quoted_v6(quote: &[u8]) -> Option<(u16, SocketAddr)> {
    if quote.first()? >> 4 != 6 || *quote.get(6)? != PROTO_TCP {
        return None;
    }
    let destination: [u8; 16] = quote.get(24..IPV6_HEADER_BYTES)?.first_chunk().copied()?;
    ports(quote.get(IPV6_HEADER_BYTES..)?, Ipv6Addr::from(destination).into())
}

fn ports(tcp: &[u8], destination: IpAddr) -> Option<(u16, SocketAddr)> {
    let [a, b, c, d]: [u8; 4] = tcp.first_chunk().copied()?;
    let (source, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    (source >= FIRST_LOCAL_PORT).then_some((source, SocketAddr::new(destination, to)))
}

/// What a redirect of IPv6 quotes (RFC 4861, 4.6.3).
fn redirected(message: &[u8]) -> Option<&[u8]> {
    let mut options = message.get(REDIRECT_BYTES..)?;
    // Option lengths are in units of eight bytes; zero is malformed (RFC 4861, 4.6).
    while let [kind, units, ..] = *options
        && units > 0
    {
        let option = options.get(..usize::from(units) * 8)?;
        if kind == OPTION_REDIRECTED {
            return option.get(8..);
        }
        options = options.get(option.len()..)?;
    }
    None
}

/// Lets through TCP from or to the ports of tries, and ICMP: a busy machine's other packets are not copied for it.
pub(super) fn filter(ethertype: u16) -> Vec<SockFilter> {
    // Classic BPF (the kernel's Documentation/networking/filter.rst).
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_HALF_BEHIND_X: u16 = 0x48;
    const LOAD_X_HEADER_LENGTH: u16 = 0xb1;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    const JUMP_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const WHOLE_FRAME: u32 = 0x4_0000;
    const ICMP: u32 = 1;
    const ICMPV6: u32 = 58;
    let first_port = u32::from(FIRST_LOCAL_PORT);
    let tcp = u32::from(PROTO_TCP);
    // Code, instructions to skip when true and when false, operand. The last two are "no" and "yes".
    let v4 = [
        (LOAD_BYTE, 0, 0, 23),
        (JUMP_EQUAL, 9, 0, ICMP),
        (JUMP_EQUAL, 0, 7, tcp),
        (LOAD_HALF, 0, 0, 20),
        (JUMP_SET, 5, 0, 0x1fff),
        (LOAD_X_HEADER_LENGTH, 0, 0, 14),
        (LOAD_HALF_BEHIND_X, 0, 0, 16),
        (JUMP_GREATER_OR_EQUAL, 3, 0, first_port),
        (LOAD_HALF_BEHIND_X, 0, 0, 14),
        (JUMP_GREATER_OR_EQUAL, 1, 0, first_port),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, WHOLE_FRAME),
    ];
    let v6 = [
        (LOAD_BYTE, 0, 0, 20),
        (JUMP_EQUAL, 6, 0, ICMPV6),
        (JUMP_EQUAL, 0, 4, tcp),
        (LOAD_HALF, 0, 0, 56),
        (JUMP_GREATER_OR_EQUAL, 3, 0, first_port),
        (LOAD_HALF, 0, 0, 54),
        (JUMP_GREATER_OR_EQUAL, 1, 0, first_port),
        (RETURN, 0, 0, 0),
        (RETURN, 0, 0, WHOLE_FRAME),
    ];
    let program: &[(u16, u8, u8, u32)] = if ethertype == ETHERTYPE_IPV4 { &v4 } else { &v6 };
    program.iter().map(|&(code, yes, no, operand)| SockFilter::new(code, yes, no, operand)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 9];
    const LOCAL: u16 = 61_234;

    fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1][..], &SERVER, &ethertype.to_be_bytes(), packet].concat()
    }

    fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        [&head[..], &source, &destination, payload].concat()
    }

    fn v6(protocol: u8, source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&[0x60, 0, 0, 0, length[0], length[1], protocol, 64][..], &ip(source), &ip(destination), payload]
            .concat()
    }

    /// A segment that acknowledges 0x0102_0304.
    fn tcp(source: u16, destination: u16) -> Vec<u8> {
        let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
        [&ports[..], &[0, 0, 0, 0, 1, 2, 3, 4, 0x50, 0x12, 0, 0, 0, 0, 0, 0]].concat()
    }

    #[test]
    fn answers_are_read_whole_and_without_padding() {
        let packet = v4(6, [10, 0, 0, 100], [10, 0, 0, 2], &tcp(104, LOCAL));
        let mut frame = ethernet(ETHERTYPE_IPV4, &packet);
        frame.resize(60, 0xee);
        let (port, heard) = read(&frame).unwrap();
        let source = "10.0.0.100:104".parse().unwrap();
        let what = What::Segment(Segment { source, acknowledges: Some(0x0102_0304), packet });
        assert_eq!((port, heard), (LOCAL, Heard { from: Mac(SERVER), what }));

        let packet = v6(6, "fd00::100", "fd00::2", &tcp(104, LOCAL));
        let (port, heard) = read(&ethernet(ETHERTYPE_IPV6, &packet)).unwrap();
        let source = "[fd00::100]:104".parse().unwrap();
        let what = What::Segment(Segment { source, acknowledges: Some(0x0102_0304), packet });
        assert_eq!((port, heard.what), (LOCAL, what));
    }

    #[test]
    fn what_comes_back_is_told_from_answers_and_other_ports_are_nobodys() {
        let frame = |source, destination| {
            ethernet(ETHERTYPE_IPV4, &v4(6, [10, 0, 0, 2], [10, 0, 0, 100], &tcp(source, destination)))
        };
        let (port, heard) = read(&frame(LOCAL, 104)).unwrap();
        assert_eq!((port, heard.what), (LOCAL, What::Returned { to: "10.0.0.100:104".parse().unwrap() }));
        assert_eq!(read(&frame(60_999, 104)), None);
    }

    #[test]
    fn icmp_is_read_by_what_it_quotes() {
        // As little as RFC 792 asks for: the header and eight bytes.
        let quote = &v4(6, [10, 0, 0, 2], [10, 0, 0, 100], &tcp(LOCAL, 104))[..28];
        let about: SocketAddr = "10.0.0.100:104".parse().unwrap();
        for (kind, code, message) in [
            (5, 1, Some(Message::Redirect)),
            (11, 0, Some(Message::TimeExceeded)),
            (3, 1, Some(Message::Unreachable)),
            (3, 3, Some(Message::PortUnreachable)),
            (3, 13, Some(Message::Prohibited)),
            (3, 4, None),
            (0, 0, None),
        ] {
            let icmp = [&[kind, code, 0, 0, 0, 0, 0, 0][..], quote].concat();
            let frame = ethernet(ETHERTYPE_IPV4, &v4(1, [10, 0, 0, 11], [10, 0, 0, 2], &icmp));
            let by = [10, 0, 0, 11].into();
            let expected = message.map(|message| (LOCAL, What::Icmp { by, message, about }));
            assert_eq!(read(&frame).map(|(port, heard)| (port, heard.what)), expected, "{kind}/{code}");
        }
        let quote = v6(6, "fd00::2", "fd00::100", &tcp(LOCAL, 104));
        let about: SocketAddr = "[fd00::100]:104".parse().unwrap();
        let redirect =
            [&[137, 0][..], &[0; 38], &[2, 1, 2, 0, 0, 0, 0, 9, 4, 8, 0, 0, 0, 0, 0, 0], &quote[..56]]
                .concat();
        let unreachable = [&[1, 1, 0, 0, 0, 0, 0, 0][..], &quote].concat();
        for (icmp, message) in [(redirect, Message::Redirect), (unreachable, Message::Prohibited)] {
            let frame = ethernet(ETHERTYPE_IPV6, &v6(58, "fd00::11", "fd00::2", &icmp));
            let by = "fd00::11".parse().unwrap();
            let heard = read(&frame).map(|(port, heard)| (port, heard.what));
            assert_eq!(heard, Some((LOCAL, What::Icmp { by, message, about })));
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_says_nothing() {
        let icmp = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &v4(6, [10, 0, 0, 2], [10, 0, 0, 100], &tcp(LOCAL, 104))]
            .concat();
        for packet in [
            v4(6, [10, 0, 0, 100], [10, 0, 0, 2], &tcp(104, LOCAL)),
            v4(1, [10, 0, 0, 11], [10, 0, 0, 2], &icmp),
        ] {
            let frame = ethernet(ETHERTYPE_IPV4, &packet);
            for length in 0..frame.len() {
                assert_eq!(read(&frame[..length]), None, "{length} bytes");
            }
        }
    }
}
