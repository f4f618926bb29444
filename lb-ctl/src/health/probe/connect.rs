//! A TCP connection: opened as the first step of other checks, or as a check of its own (R40).
#![forbid(unsafe_code)]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::{Peer, Stopwatch, failure};
use crate::model::health::{Failure, FailureReason};

/// Passes when the server answers our SYN.
///
/// The connection ends with a RST that leaves in place of the last ACK of the handshake: SYN, SYN-ACK, RST. The
/// server's kernel has said all there is to learn (a full accept queue does not answer), and its application never
/// sees a connection: no line in the archive's log per check, no association slot taken, no thread started, and no
/// TIME-WAIT here. A FIN would hand each probe to the application as a client that says nothing.
pub(super) async fn probe(peer: &Peer, clock: &mut Stopwatch) -> Result<(), Failure> {
    open(peer, Manner::Unseen, clock).await.map(drop)
}

/// How a connection is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Manner {
    /// To talk.
    Ordinary,
    /// To be dropped at once, unseen by the application.
    Unseen,
}

/// Opens a connection: the step `connect` of a check.
pub(super) async fn open(peer: &Peer, manner: Manner, clock: &mut Stopwatch) -> Result<TcpStream, Failure> {
    let addr = peer.addr;
    let work = async { attempt(addr, peer.source, manner).await.map_err(|error| classify(addr, &error)) };
    clock.step("connect", FailureReason::ConnectTimeout, &format!(" from {addr}"), work).await
}

async fn attempt(addr: SocketAddr, source: Option<IpAddr>, manner: Manner) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if manner == Manner::Unseen {
        // Without quick ACKs the kernel holds the last ACK back for a moment; without lingering, dropping the
        // socket within that moment sends the RST.
        let socket = SockRef::from(&socket);
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
    }
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(addr).await
}

fn classify(addr: SocketAddr, error: &io::Error) -> Failure {
    use FailureReason::{ConnectRefused, ConnectTimeout, ConnectionClosed, Local, Unreachable};
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => failure(ConnectRefused, format!("connect: connection refused by {addr}")),
        Some(libc::ECONNRESET) => failure(ConnectionClosed, format!("connect: connection reset by {addr}")),
        Some(libc::ETIMEDOUT) => failure(ConnectTimeout, format!("connect: no answer from {addr}")),
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => {
            failure(Unreachable, format!("connect: host unreachable: {addr}"))
        }
        Some(libc::ENETUNREACH) => failure(Unreachable, format!("connect: no route to {addr}")),
        Some(libc::EMFILE | libc::ENFILE) => failure(
            Local,
            format!("connect: not tried, no file descriptor left for {addr}: raise LimitNOFILE of lbd"),
        ),
        Some(libc::EACCES | libc::EPERM) => failure(
            Local,
            format!("connect: not tried, this machine's firewall or routes forbid it to reach {addr}"),
        ),
        Some(libc::EADDRNOTAVAIL) => {
            failure(Local, format!("connect: not tried, no free port or source address to reach {addr} from"))
        }
        _ => failure(Local, format!("connect: not tried, {error} ({addr})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_here_is_never_blamed_on_the_server() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 104));
        let reason = |code| classify(addr, &io::Error::from_raw_os_error(code)).reason;
        for code in
            [libc::EMFILE, libc::ENFILE, libc::EPERM, libc::EACCES, libc::EADDRNOTAVAIL, libc::ENOBUFS]
        {
            assert_eq!(reason(code), FailureReason::Local, "errno {code}");
        }
        assert_eq!(reason(libc::ECONNREFUSED), FailureReason::ConnectRefused);
        assert_eq!(reason(libc::EHOSTUNREACH), FailureReason::Unreachable);
        assert_eq!(reason(libc::ENETUNREACH), FailureReason::Unreachable);
    }
}
