//! What ICMP says to a client: echoes, and errors about its own packets.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::topology::Host;

/// No error for this long means that none was sent.
const AGAIN: Duration = Duration::from_millis(300);
/// No error at all within this is a failure.
const DEADLINE: Duration = Duration::from_secs(5);

/// An ICMP error as it reached the host whose packet it is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IcmpError {
    /// Who sent it.
    pub from: IpAddr,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Source of the packet that it quotes.
    pub quoted_source: SocketAddr,
    /// Destination of the packet that it quotes.
    pub quoted_destination: SocketAddr,
}

/// True when `to` answers one echo request within two seconds.
#[must_use]
pub fn ping(client: &Host, to: IpAddr) -> bool {
    client.run("ping", &["-c", "1", "-W", "2", &to.to_string()]).success()
}

/// Sends a datagram that may take `hops` hops from a new port of `client`, again and again as traceroute does, and
/// gives that port's address and the ICMP error that comes back: who sends errors sends only so many.
///
/// # Errors
///
/// When none comes within five seconds.
pub fn probe(client: &Host, to: SocketAddr, hops: u8) -> io::Result<(SocketAddr, IcmpError)> {
    client.netns.enter(|| {
        let (domain, protocol) = match to {
            SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let listener = UdpSocket::from(Socket::new(domain, Type::RAW, Some(protocol))?);
        let sender = UdpSocket::bind(SocketAddr::new(client.address_like(to.ip()), 0))?;
        match to {
            SocketAddr::V4(_) => sender.set_ttl(hops.into())?,
            SocketAddr::V6(_) => SockRef::from(&sender).set_unicast_hops_v6(hops.into())?,
        }
        let source = sender.local_addr()?;
        listener.set_read_timeout(Some(AGAIN))?;

        let end = Instant::now() + DEADLINE;
        let mut buffer = [0; 2048];
        sender.send_to(b"how far", to)?;
        while Instant::now() < end {
            let (length, from) = match listener.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sender.send_to(b"how far", to)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let packet = buffer.get(..length).unwrap_or_default();
            let error = match from.ip() {
                IpAddr::V4(ip) => error_v4(ip, packet),
                IpAddr::V6(ip) => error_v6(ip, packet),
            };
            if let Some(error) = error.filter(|error| error.quoted_source.port() == source.port()) {
                return Ok((source, error));
            }
        }
        Err(ErrorKind::TimedOut.into())
    })
}

/// An error out of what a raw IPv4 socket yields: with the IP header (RFC 792).
fn error_v4(from: Ipv4Addr, packet: &[u8]) -> Option<IcmpError> {
    let message = packet.get(header_v4(packet)?..)?;
    let (kind, code, quote) = (*message.first()?, *message.get(1)?, message.get(8..)?);
    let transport = quote.get(header_v4(quote)?..)?;
    let address = |at: usize| Some(Ipv4Addr::from(*quote.get(at..)?.first_chunk::<4>()?));
    matches!(kind, 3 | 11 | 12).then_some(IcmpError {
        from: from.into(),
        kind,
        code,
        quoted_source: SocketAddr::new(address(12)?.into(), port(transport, 0)?),
        quoted_destination: SocketAddr::new(address(16)?.into(), port(transport, 2)?),
    })
}

/// An error out of what a raw IPv6 socket yields: without the IP header (RFC 4443, RFC 3542 section 3).
fn error_v6(from: Ipv6Addr, message: &[u8]) -> Option<IcmpError> {
    let (kind, code, quote) = (*message.first()?, *message.get(1)?, message.get(8..)?);
    let transport = quote.get(40..)?;
    let address = |at: usize| Some(Ipv6Addr::from(*quote.get(at..)?.first_chunk::<16>()?));
    // Errors are those below 128.
    (kind < 128).then_some(IcmpError {
        from: from.into(),
        kind,
        code,
        quoted_source: SocketAddr::new(address(8)?.into(), port(transport, 0)?),
        quoted_destination: SocketAddr::new(address(24)?.into(), port(transport, 2)?),
    })
}

/// Length of an IPv4 header.
fn header_v4(packet: &[u8]) -> Option<usize> {
    Some(usize::from(packet.first()? & 0xf) * 4)
}

fn port(transport: &[u8], at: usize) -> Option<u16> {
    transport.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}
