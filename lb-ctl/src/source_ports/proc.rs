//! Ports in use, as `/proc` tells them: those of the network namespace of the calling thread.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use super::{Listener, PortFacts};
use crate::model::config::Protocol;

/// State of a TCP socket that listens (include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// State of a UDP socket that is connected to nobody: TCP's number for "closed".
const UNCONNECTED: &str = "07";

/// Gathers what is in use. Blocks.
///
/// # Errors
///
/// Names the file that cannot be read or understood.
pub fn gather() -> io::Result<PortFacts> {
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    let ephemeral = ephemeral(&read(range)?).ok_or_else(|| unreadable(range))?;
    let list = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let reserved = reserved(&read(list)?).ok_or_else(|| unreadable(list))?;
    let mut listeners = Vec::new();
    for (table, protocol, state) in [
        ("tcp", Protocol::Tcp, LISTEN),
        ("tcp6", Protocol::Tcp, LISTEN),
        ("udp", Protocol::Udp, UNCONNECTED),
        ("udp6", Protocol::Udp, UNCONNECTED),
    ] {
        // `/proc/net` is that of the main thread.
        let path = format!("/proc/thread-self/net/{table}");
        let text = match read(&path) {
            // A kernel without IPv6 has no table of it.
            Err(error) if table.ends_with('6') && error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let sockets = bound(&text, state).ok_or_else(|| unreadable(&path))?;
        listeners.extend(sockets.into_iter().map(|at| Listener { protocol, at }));
    }
    Ok(PortFacts { ephemeral, reserved, listeners })
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn unreadable(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{path} holds something that this version cannot read"),
    )
}

/// `32768\t60999`
fn ephemeral(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(str::parse);
    Some(words.next()?.ok()?..=words.next()?.ok()?)
}

/// `8080,9148-9160`, or nothing.
fn reserved(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let ranges = text.trim().split(',').filter(|part| !part.is_empty());
    ranges
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

/// Local addresses of the sockets in this state. After a line of headings, a line a socket:
/// `0: 0100007F:0016 00000000:0000 0A ...`
fn bound(table: &str, state: &str) -> Option<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        if fields.nth(1)? == state {
            found.push(local_address(local)?);
        }
    }
    Some(found)
}

/// Words of the address in the machine's own order, as hexadecimal numbers, and the port.
fn local_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            // A socket of IPv6 may be bound to an address of IPv4.
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_kernel_writes_them() {
        assert_eq!(ephemeral("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(ephemeral("32768"), None);
        assert_eq!(reserved("\n"), Some(vec![]));
        assert_eq!(reserved("8080,9148-9160\n"), Some(vec![8080..=8080, 9148..=9160]));
        assert_eq!(reserved("8080,x\n"), None);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn sockets_are_read_as_the_kernel_writes_them() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
            \x20  0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            \x20  1: 05010C0A:A001 6E010C0A:0068 01 00000000:00000000 00:00000000 00000000     0\n";
        assert_eq!(bound(tcp, LISTEN), Some(vec!["127.0.0.1:22".parse().unwrap()]));
        let tcp6 = "  sl  local_address                         remote_address                        st\n\
            \x20  0: 00000000000000000000000000000000:2B67 00000000000000000000000000000000:0000 0A\n\
            \x20  1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A\n";
        let expected = ["[::]:11111", "127.0.0.1:22"].map(|at| at.parse().unwrap());
        assert_eq!(bound(tcp6, LISTEN), Some(expected.to_vec()));
        assert_eq!(bound("heading\n 0: 01:16 02:0 0A\n", LISTEN), None);
    }

    #[test]
    fn a_socket_of_this_test_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket =
            std::net::UdpSocket::bind("[::1]:0").or_else(|_| std::net::UdpSocket::bind("127.0.0.1:0"));
        let socket = socket.unwrap();
        let facts = gather().unwrap();
        for (protocol, at) in
            [(Protocol::Tcp, listener.local_addr().unwrap()), (Protocol::Udp, socket.local_addr().unwrap())]
        {
            assert!(facts.listeners.contains(&Listener { protocol, at }), "{at} {facts:?}");
        }
        assert!(facts.ephemeral.contains(&listener.local_addr().unwrap().port()));
    }
}
