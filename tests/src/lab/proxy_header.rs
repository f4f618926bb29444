//! PROXY headers: what a load balancer says of the client whose connection it hands on, in both versions of the
//! protocol (proxy-protocol.txt of HAProxy, 2.1 and 2.2).

use std::{
    io::{self, BufRead, ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// How the binary header begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the command PROXY.
const VERSION_COMMAND: u8 = 0x21;
/// TCP over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The longest line of version 1, with its end (2.1).
const LONGEST_LINE: u64 = 107;
/// What is known of the client's TLS (2.2.6): its own type, and those of its parts.
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
const TLV_SSL_CN: u8 = 0x22;

/// What a header says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Announced {
    /// Version of the header.
    pub version: u8,
    /// Whose connection it is.
    pub client: SocketAddr,
    /// Where the client connected to.
    pub to: SocketAddr,
    /// Version of the client's TLS, as `TLSv1.3`; `None` = nothing is said of TLS.
    pub tls: Option<String>,
    /// Name in the client's certificate.
    pub common_name: Option<String>,
}

/// The line of version 1.
///
/// # Panics
///
/// When the addresses are of two families.
#[must_use]
pub fn v1(client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    assert_eq!(client.is_ipv4(), to.is_ipv4(), "{client} cannot have connected to {to}");
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), to.ip(), client.port(), to.port()).into_bytes()
}

/// The header of version 2.
///
/// # Panics
///
/// When the addresses are of two families.
#[must_use]
pub fn v2(client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (family, addresses) = match (client.ip(), to.ip()) {
        (IpAddr::V4(client), IpAddr::V4(to)) => (TCP4, [client.octets(), to.octets()].concat()),
        (IpAddr::V6(client), IpAddr::V6(to)) => (TCP6, [client.octets(), to.octets()].concat()),
        _ => panic!("{client} cannot have connected to {to}"),
    };
    let ports = [client.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let body = [addresses, ports].concat();
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&SIGNATURE[..], &[VERSION_COMMAND, family], &length, &body].concat()
}

/// Reads the header that a connection begins with.
///
/// # Errors
///
/// When it begins otherwise.
pub fn read(from: &mut impl BufRead) -> io::Result<Announced> {
    if from.fill_buf()?.first() == Some(&b'P') {
        let mut line = Vec::new();
        from.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        return read_line(&line).ok_or_else(|| bad(format!("{line:?} is no PROXY line")));
    }
    let mut head = [0; 16];
    from.read_exact(&mut head)?;
    let [signature @ .., version, family, high, low] = head;
    if signature != SIGNATURE || version != VERSION_COMMAND {
        return Err(bad(format!("{head:02x?} is no PROXY header")));
    }
    let mut body = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    from.read_exact(&mut body)?;
    read_body(family, &body).ok_or_else(|| bad(format!("{body:02x?} is no body of a PROXY header")))
}

fn read_line(line: &str) -> Option<Announced> {
    let mut words = line.strip_suffix("\r\n")?.strip_prefix("PROXY TCP")?.split(' ').skip(1);
    let (client, to) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (from_port, to_port) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Announced {
        version: 1,
        client: SocketAddr::new(client, from_port),
        to: SocketAddr::new(to, to_port),
        tls: None,
        common_name: None,
    })
}

fn read_body(family: u8, body: &[u8]) -> Option<Announced> {
    let (client, to, rest) = match family {
        TCP4 => {
            let (client, rest) = body.split_first_chunk::<4>()?;
            let (to, rest) = rest.split_first_chunk::<4>()?;
            (IpAddr::V4(Ipv4Addr::from(*client)), IpAddr::V4(Ipv4Addr::from(*to)), rest)
        }
        TCP6 => {
            let (client, rest) = body.split_first_chunk::<16>()?;
            let (to, rest) = rest.split_first_chunk::<16>()?;
            (IpAddr::V6(Ipv6Addr::from(*client)), IpAddr::V6(Ipv6Addr::from(*to)), rest)
        }
        _ => return None,
    };
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, rest) = rest.split_first_chunk::<2>()?;
    // Of TLS first come five bytes that say whether there is any and how the certificate fared.
    let tls = part(rest, TLV_SSL).and_then(|value| value.get(5..));
    let text =
        |kind| tls.and_then(|parts| part(parts, kind)).map(|value| String::from_utf8_lossy(value).into());
    Some(Announced {
        version: 2,
        client: SocketAddr::new(client, u16::from_be_bytes(*from_port)),
        to: SocketAddr::new(to, u16::from_be_bytes(*to_port)),
        tls: text(TLV_SSL_VERSION),
        common_name: text(TLV_SSL_CN),
    })
}

/// The first of the parts that has this type: type, length, value.
fn part(mut parts: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [kind, high, low, rest @ ..] = parts {
        let (value, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        if *kind == wanted {
            return Some(value);
        }
        parts = after;
    }
    None
}

fn bad(what: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_they_were_made_from() {
        for (client, to) in
            [("192.0.2.7:4711", "198.51.100.1:80"), ("[2001:db8::7]:4711", "[2001:db8::1]:80")]
        {
            let (client, to): (SocketAddr, SocketAddr) =
                (client.parse().expect("an address"), to.parse().expect("an address"));
            for (version, header) in [(1, v1(client, to)), (2, v2(client, to))] {
                let bytes = [&header[..], b"GET"].concat();
                let mut left = &bytes[..];
                let said = read(&mut left).expect("a header");
                assert_eq!(said, Announced { version, client, to, tls: None, common_name: None });
                assert_eq!(left, b"GET", "nothing behind the header is taken");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_an_error() {
        assert!(read(&mut &b"GET / HTTP/1.1\r\n\r\n        "[..]).is_err());
        assert!(read(&mut &b"PROXY UNKNOWN\r\n"[..]).is_err());
    }
}
