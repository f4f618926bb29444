//! What is particular to HTTP: how connections are kept, redirects, headers.
#![forbid(unsafe_code)]

use std::{borrow::Cow, net::IpAddr};

use super::text::{Text, quoted, time};
use crate::model::{
    config::Vip,
    proxy::{HeaderAction, HeaderOf, HeaderRule, KeepAlive, Proxy, SwitchOn, groups},
};

/// How requests of clients are taken, in the section that takes them.
pub(super) fn write(text: &mut Text, vip: &Vip, proxy: &Proxy) {
    let http = &proxy.http;
    match http.request_timeout {
        Some(limit) => text.line(format_args!("timeout http-request {}", time(limit))),
        None => text.line("timeout http-request 0"),
    }
    if http.accept_invalid {
        text.line("option accept-invalid-http-request");
    }
    if http.forwarded_for {
        text.line("option forwardfor");
    }
    if let (Some(status), Some(tls)) = (proxy.https_redirect, &proxy.tls) {
        // Before header rules: the location is the host that the client named.
        let port = if tls.port == 443 { String::new() } else { format!(":{}", tls.port) };
        text.line(format_args!(
            "http-request redirect code {status} location \
             https://%[req.hdr(host),regsub(:[0-9]+$,)]{port}%[capture.req.uri] unless {{ ssl_fc }}"
        ));
    }
    if proxy.switch.iter().any(|rule| matches!(rule.on, SwitchOn::Host(_))) {
        // Likewise: a rule may give the servers another host.
        text.line("http-request set-var(txn.host) req.hdr(host),host_only,lower");
    }
    for rule in &proxy.headers {
        text.line(header(rule, vip.ip));
    }
}

/// How servers are asked, in each section that has servers.
pub(super) fn write_servers(text: &mut Text, proxy: &Proxy) {
    if proxy.http.accept_invalid {
        text.line("option accept-invalid-http-response");
    }
    match proxy.http.keep_alive {
        KeepAlive::Both => {}
        KeepAlive::Off => text.line("option httpclose"),
        KeepAlive::Client => text.line("option http-server-close"),
        KeepAlive::Pretend => {
            text.line("option http-server-close");
            text.line("option http-pretend-keepalive");
        }
    }
}

fn header(rule: &HeaderRule, vip: IpAddr) -> String {
    let of = match rule.of {
        HeaderOf::Request => "http-request",
        HeaderOf::Response => "http-response",
    };
    let name = quoted(&rule.name);
    match &rule.action {
        HeaderAction::Add(value) => format!("{of} add-header {name} {}", quoted(&format_of(value, vip))),
        HeaderAction::Set(value) => format!("{of} set-header {name} {}", quoted(&format_of(value, vip))),
        HeaderAction::Delete => format!("{of} del-header {name}"),
        HeaderAction::Replace { pattern, with } => {
            let (pattern, with) = of_whole(pattern, &format_of(with, vip));
            format!("{of} replace-header {name} {} {}", quoted(&pattern), quoted(&with))
        }
    }
}

/// The proxy puts something in place of a whole value. So what is before and behind the match is kept by groups round it,
/// and the rule's own groups have other numbers; `\0`, the match, is one of them.
fn of_whole(pattern: &str, with: &str) -> (String, String) {
    let behind = groups(pattern) + 3;
    // In a pattern `\0` is a sign (octal), not a group.
    let pattern = shifted(pattern, 1);
    (format!("^(.*?)({pattern})(.*)$"), format!(r"\1{}\{behind}", shifted(with, 0)))
}

/// A text whose references to groups, from `first` on, leave room for two more before them.
fn shifted(text: &str, first: u32) -> String {
    let mut shifted = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        shifted.push(c);
        if c == '\\'
            && let Some(escaped) = chars.next()
        {
            match escaped.to_digit(10).filter(|group| *group >= first) {
                Some(group) => shifted.push_str(&(group + 2).to_string()),
                None => shifted.push(escaped),
            }
        }
    }
    shifted
}

/// A format in which the VIP's address before a port is one that has a port behind it (RFC 3986, 3.2.2).
fn format_of(value: &str, vip: IpAddr) -> Cow<'_, str> {
    const WITH_PORT: &str = "%fi:";
    if vip.is_ipv4() || value.contains("[%fi]") {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.replace(WITH_PORT, "[%fi]:"))
}

#[cfg(test)]
mod tests {
    use super::of_whole;

    #[test]
    fn groups_of_a_rule_move_behind_the_one_before_the_match() {
        let (pattern, with) = of_whole(r"(a|b)\.\1", r"\0-\1\\1");
        assert_eq!(pattern, r"^(.*?)((a|b)\.\3)(.*)$");
        assert_eq!(with, r"\1\2-\3\\1\4");
    }
}
