//! HTTP byte by byte, for what no well-behaved client would send, and headers as they came.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::topology::Host;

/// Nothing received for this long ends an exchange.
const SILENCE: Duration = Duration::from_secs(10);

/// Headers, a line each.
#[must_use]
pub fn parse_headers(lines: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    lines.split("\r\n").filter_map(pair).collect()
}

/// Values of the headers called `name`, in whichever case, in their order.
#[must_use]
pub fn values<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = headers.iter().filter(|(candidate, _)| candidate.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_str()).collect()
}

/// Sends bytes as they are and gives all that comes back until the other end closes.
///
/// # Errors
///
/// When the connection cannot be made or breaks, or the other end says nothing for ten seconds and does not close.
pub fn send_raw(client: &Host, to: SocketAddr, bytes: &[u8]) -> io::Result<String> {
    let mut stream = client.netns.enter(|| TcpStream::connect_timeout(&to, SILENCE))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(bytes)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    Ok(String::from_utf8_lossy(&received).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_name_keep_their_order() {
        let headers = parse_headers("A: 1\r\nlocation: http://x/\r\na: 2\r\n\r\n");
        assert_eq!(
            (values(&headers, "a"), values(&headers, "Location")),
            (vec!["1", "2"], vec!["http://x/"])
        );
    }
}
