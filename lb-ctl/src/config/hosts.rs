//! Names of other machines, as mail relays, `Host` headers, TLS and addresses of the web have them. Nothing is looked up.

use std::net::{IpAddr, Ipv6Addr};

/// Longest name (RFC 1035, 2.3.4, less the dots that are not written).
const MAX_NAME: usize = 253;
/// Longest part of one.
const MAX_LABEL: usize = 63;

/// True for an address or a name that may stand in the DNS. Underscores are common, though not in the standard.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // What ends with a number is an address, or a typing error in one (RFC 3696, 2).
    let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.parse::<IpAddr>().is_ok()
        || text.len() <= MAX_NAME && !last_is_number && text.split('.').all(is_label)
}

/// `HOST`, `HOST:PORT`, `[IPv6]`, `[IPv6]:PORT` or a bare IPv6 address: the host without brackets, and the port.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    let (host, rest) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    if !is_host(host) {
        return None;
    }
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((host, Some(digits.parse().ok().filter(|port| *port != 0)?)))
}

/// True for `http://HOST[:PORT][/PATH]` and the same with `https`, without a fragment, a user or a space.
pub(super) fn is_web_address(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let bare_v6 = authority.parse::<Ipv6Addr>().is_ok();
    host_and_port(authority).is_some() && !bare_v6 && is_path(path)
}

/// True for what may follow the host in a request: visible ASCII without a fragment (RFC 9112, 3.2).
pub(super) fn is_path(text: &str) -> bool {
    text.bytes().all(|byte| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_and_addresses() {
        for good in
            ["mail", "mail.hospital.example", "a_b", "10.0.0.1", "2001:db8::1", "xn--mnchen-3ya.de", "1a"]
        {
            assert!(is_host(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "mail:25", "10.0.0.256", "ü", "user@a", &long] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    #[test]
    fn ports_follow_hosts() {
        let cases = [
            ("mail", Some(("mail", None))),
            ("mail:587", Some(("mail", Some(587)))),
            ("2001:db8::1", Some(("2001:db8::1", None))),
            ("[2001:db8::1]", Some(("2001:db8::1", None))),
            ("[2001:db8::1]:25", Some(("2001:db8::1", Some(25)))),
            ("mail:0", None),
            ("mail:", None),
            ("mail:+5", None),
            ("mail:65536", None),
            ("[10.0.0.1]", None),
            ("[2001:db8::1]x", None),
            ("smtp://mail", None),
        ];
        for (text, expected) in cases {
            assert_eq!(host_and_port(text), expected, "{text}");
        }
    }

    #[test]
    fn web_addresses_have_a_scheme_and_a_host() {
        for good in [
            "https://hooks.example/lb?a=b&c=%20",
            "http://10.0.0.1:8080",
            "https://[2001:db8::1]/x",
            "http://a?b",
        ] {
            assert!(is_web_address(good), "{good}");
        }
        for bad in [
            "hooks.example",
            "ftp://a",
            "https://",
            "https://u:p@a/",
            "https://a/ b",
            "https://2001:db8::1/",
            "https://a/#b",
        ] {
            assert!(!is_web_address(bad), "{bad}");
        }
    }
}
