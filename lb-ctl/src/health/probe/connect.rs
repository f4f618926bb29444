//! A TCP connection: opened as the first step of other checks, or as a check of its own (R40).
#![forbid(unsafe_code)]

use std::{
    fmt::Display,
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
    let work = async {
        attempt(addr, peer.source, manner).await.map_err(|error| classify("connect", &addr, &error))
    };
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

/// What a step that sends something for the first time failed for, as the kernel says it; `whom` is the server.
pub(super) fn classify(step: &str, whom: &dyn Display, error: &io::Error) -> Failure {
    use FailureReason::{ConnectRefused, ConnectTimeout, ConnectionClosed, Local, Unreachable};
    let (reason, what) = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => (ConnectRefused, format!("connection refused by {whom}")),
        Some(libc::ECONNRESET) => (ConnectionClosed, format!("connection reset by {whom}")),
        Some(libc::ETIMEDOUT) => (ConnectTimeout, format!("no answer from {whom}")),
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => (Unreachable, format!("host unreachable: {whom}")),
        Some(libc::ENETUNREACH) => (Unreachable, format!("no route to {whom}")),
        Some(libc::EMFILE | libc::ENFILE) => {
            (Local, format!("not tried, no file descriptor left for {whom}: raise LimitNOFILE of lbd"))
        }
        Some(libc::EACCES | libc::EPERM) => {
            (Local, format!("not tried, this machine's firewall or routes forbid it to reach {whom}"))
        }
        Some(libc::EADDRNOTAVAIL) => {
            (Local, format!("not tried, no free port or source address to reach {whom} from"))
        }
        _ => (Local, format!("not tried, {error} ({whom})")),
    };
    failure(reason, format!("{step}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_here_is_never_blamed_on_the_server() {
        let addr = SocketAddr::from(([10, 0, 0, 1], 104));
        let reason = |code| classify("connect", &addr, &io::Error::from_raw_os_error(code)).reason;
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
