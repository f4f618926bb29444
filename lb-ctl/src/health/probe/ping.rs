//! ICMP echo: whether the machine answers at all, whatever runs on it.
#![forbid(unsafe_code)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_common::checksum;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{Peer, Stopwatch, connect::classify, failure};
use crate::{
    model::health::{Failure, FailureReason},
    random::random,
};

/// Requests of one check, spread over its time: one that is lost on the way is not the server's fault.
const TRIES: u16 = 3;
/// Time between two of them at most.
const MAX_GAP: Duration = Duration::from_secs(1);

/// Echo request and reply: of RFC 792, and of RFC 4443 4.1 and 4.2.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// Type, code, checksum, identifier, sequence.
const HEADER_BYTES: usize = 8;
/// Longest IPv4 header and what we sent; what is cut off of a longer packet is not looked at.
const BUFFER_BYTES: usize = 60 + HEADER_BYTES + size_of::<u64>();

/// Passes when the server answers one of the requests.
pub(super) async fn probe(peer: &Peer, clock: &mut Stopwatch) -> Result<(), Failure> {
    let ip = peer.addr.ip();
    let gap = (clock.timeout / u32::from(TRIES)).min(MAX_GAP);
    let work = async {
        let socket = open(peer).map_err(|error| not_opened(ip, &error))?;
        // The hasher's keys are random: the standard library's way to a random number.
        let echo = Echo { is_v4: ip.is_ipv4(), token: random() };
        exchange(&socket, &echo, gap).await.map_err(|error| classify("ping", &ip, &error))
    };
    clock.step("ping", FailureReason::PingTimeout, &format!(" from {ip}"), work).await
}

/// A raw socket that talks to this server alone. Its calls to send and receive are those of a UDP socket, which is what the
/// runtime takes it for.
fn open(peer: &Peer) -> io::Result<UdpSocket> {
    let (domain, protocol, any): (_, _, IpAddr) = match peer.addr {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(peer.source.unwrap_or(any), 0).into())?;
    let mut server = peer.addr;
    server.set_port(0);
    socket.connect(&server.into())?;
    UdpSocket::from_std(socket.into())
}

fn not_opened(ip: IpAddr, error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => failure(
            FailureReason::Local,
            format!("ping: not tried, no permission to send ICMP to {ip}: lbd and lbctl need CAP_NET_RAW"),
        ),
        _ => classify("ping", &ip, error),
    }
}

/// Asks, and asks again, until there is an answer. The caller holds the deadline.
async fn exchange(socket: &UdpSocket, echo: &Echo, gap: Duration) -> io::Result<()> {
    for sequence in 1..TRIES {
        socket.send(&echo.request(sequence)).await?;
        if let Ok(outcome) = timeout_at(Instant::now() + gap, answer(socket, echo)).await {
            return outcome;
        }
    }
    socket.send(&echo.request(TRIES)).await?;
    answer(socket, echo).await
}

/// Waits for an answer among all else that the server sends over ICMP.
async fn answer(socket: &UdpSocket, echo: &Echo) -> io::Result<()> {
    let mut heard = [0; BUFFER_BYTES];
    loop {
        let length = socket.recv(&mut heard).await?;
        if echo.is_answered_by(heard.get(..length).unwrap_or_default()) {
            return Ok(());
        }
    }
}

/// What tells our requests from those of everybody else on this machine.
#[derive(Clone, Copy, Debug)]
struct Echo {
    is_v4: bool,
    /// Sent along, and to come back; the identifier is taken from it.
    token: u64,
}

impl Echo {
    const fn identifier(self) -> [u8; 2] {
        let [a, b, ..] = self.token.to_be_bytes();
        [a, b]
    }

    /// The message. The kernel fills in the checksum of ICMPv6 (RFC 3542 3.1).
    fn request(self, sequence: u16) -> [u8; HEADER_BYTES + size_of::<u64>()] {
        let kind = if self.is_v4 { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
        let ([i0, i1], [s0, s1]) = (self.identifier(), sequence.to_be_bytes());
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.token.to_be_bytes();
        let mut message = [kind, 0, 0, 0, i0, i1, s0, s1, t0, t1, t2, t3, t4, t5, t6, t7];
        if self.is_v4 {
            let [first, second] = checksum::whole(&message).to_ne_bytes();
            (message[2], message[3]) = (first, second);
        }
        message
    }

    /// Whether a packet as the socket gives it (with its header, if it is IPv4) is the answer to one of our requests.
    fn is_answered_by(self, packet: &[u8]) -> bool {
        let (message, reply) = if self.is_v4 {
            let header_bytes = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
            (packet.get(header_bytes..).unwrap_or_default(), ECHO_REPLY)
        } else {
            (packet, ECHO_REPLY_V6)
        };
        let Some((&[kind, code, _, _, i0, i1, s0, s1], sent_along)) = message.split_first_chunk() else {
            return false;
        };
        (kind, code) == (reply, 0)
            && [i0, i1] == self.identifier()
            && (1..=TRIES).contains(&u16::from_be_bytes([s0, s1]))
            && sent_along == self.token.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: Echo = Echo { is_v4: true, token: 0x1234_5678_9abc_def0 };
    const V6: Echo = Echo { is_v4: false, ..V4 };

    /// An IPv4 header of twenty bytes, which is not looked into further.
    const HEADER: [u8; 20] = [0x45, 0, 0, 36, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];

    fn replied(echo: Echo, change: impl Fn(&mut Vec<u8>)) -> bool {
        let mut message = echo.request(2).to_vec();
        message[0] = if echo.is_v4 { ECHO_REPLY } else { ECHO_REPLY_V6 };
        change(&mut message);
        let packet = if echo.is_v4 { [&HEADER[..], &message].concat() } else { message };
        echo.is_answered_by(&packet)
    }

    #[test]
    fn the_checksum_of_a_request_is_right() {
        assert_eq!(checksum::fold(checksum::sum(&V4.request(7))), 0xffff);
    }

    #[test]
    fn only_the_answer_to_our_own_request_counts() {
        for echo in [V4, V6] {
            assert!(replied(echo, |_| {}));
            let request = echo.request(2)[0];
            assert!(!replied(echo, |message| message[0] = request), "our own request, on loopback");
            assert!(!replied(echo, |message| message[1] = 1), "another code");
            assert!(!replied(echo, |message| message[4] ^= 1), "another's identifier");
            assert!(!replied(echo, |message| message[7] = 9), "a number that was not sent");
            assert!(!replied(echo, |message| message[15] ^= 1), "another's token");
            assert!(!replied(echo, |message| message.truncate(12)), "cut short");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_packets_are_no_answer(packet in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(!V4.is_answered_by(&packet) && !V6.is_answered_by(&packet));
        }
    }
}
