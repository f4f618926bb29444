//! Rules of layer 7 within a VIP: what goes with which mode, and with what else. The proxy's own check of its
//! configuration lets most of this pass.

use std::collections::HashMap;

use super::{
    super::{
        diag::{Code, Report},
        file::{At, Entry, Span, Table},
        ports::DraftPorts,
        server::DraftRip,
        service::Draft,
    },
    KEYS, extra,
    switch::pools_of,
};
use crate::model::{
    config::{Fallback, Mode, Persist, Protocols, Scheduler},
    proxy::{Proxy, ProxyHeader, SwitchOn},
};

/// Keys of layer 4 that mean nothing on layer 7, with the reason.
const LAYER_4_KEYS: [(&str, &str); 4] = [
    ("idle_timeout", "the proxy's limits are in `timeouts`"),
    ("return", "the proxy answers clients itself"),
    ("source_ports", "the kernel chooses the proxy's ports"),
    ("unattended", "the proxy goes on while lbd does not run"),
];
/// Characters of a URL parameter that hardly two values share.
const LONG_KEY: u16 = 64;

/// Applies those of one VIP, with the merged table that it was read from.
pub(in crate::config) fn check_vip(table: &Table, named: &str, vip: &Draft, report: &mut Report<'_>) {
    let Some(mode) = vip.mode else { return };
    let place = |key: &str| table.get(key).map_or(vip.name.span, |entry| entry.key.span);
    if !mode.is_layer7() {
        for Entry { key, .. } in KEYS.iter().filter_map(|key| table.get(key)) {
            meaningless(&key.value, key.span, mode, named, "it is for layer 7", report);
        }
        pools_of_servers(table, vip, mode, report);
        needs_http(table, named, vip, mode, report);
        return;
    }
    for (key, why) in LAYER_4_KEYS {
        if table.has(key) {
            meaningless(key, place(key), mode, named, why, report);
        }
    }
    names(table, vip, report);
    shape(named, vip, &place, report);
    needs_http(table, named, vip, mode, report);
    tls(table, named, vip, report);
    sources(table, vip, report);
    pools_of_servers(table, vip, mode, report);
    lines(vip, &place, report);
    advise(named, vip, &place, report);
}

fn meaningless(name: &str, span: Span, mode: Mode, named: &str, why: &str, report: &mut Report<'_>) {
    report.warning(
        Code::Redundant,
        span,
        format!("`{name}` means nothing in mode \"{}\" of {named}: {why}", mode.name()),
        format!("remove `{name}`, or leave it for a mode that has it"),
    );
}

/// Names become those of the proxy's sections and servers.
fn names(table: &Table, vip: &Draft, report: &mut Report<'_>) {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let rips = vip.rips.as_deref().unwrap_or_default();
    let of_rips = rips.iter().map(|rip| ("server", rip.name.value.as_str(), rip.name.span));
    let of_pools = pools_of(table).into_iter().map(|pool| ("pool", pool.value, pool.span));
    let of_vip = ("vip", vip.name.value.as_str(), vip.name.span);
    for (what, text, span) in std::iter::once(of_vip).chain(of_rips).chain(of_pools) {
        // What no name may contain was reported where the name is.
        if let Some(bad) = text.chars().find(|c| c.is_alphanumeric() && !good(*c)) {
            let cure: String = text.chars().map(|c| if good(c) { c } else { '_' }).collect();
            report.error(
                Code::BadName,
                span,
                format!(
                    "the name of {what} `{text}` contains `{bad}`, which the proxy of layer 7 cannot have"
                ),
                format!("write `{cure}`: names on layer 7 are letters of ASCII, digits, `_`, `-` and `.`"),
            );
        }
        if what == "server" && text == "fallback" {
            report.error(
                Code::BadName,
                span,
                "a server of layer 7 cannot be called `fallback`: the proxy's fallback server is",
                "give it another name",
            );
        }
    }
    let mut first: HashMap<&str, &DraftRip> = HashMap::new();
    for rip in rips {
        if let Some(other) = first.insert(&rip.name.value, rip) {
            let of = |rip: &DraftRip| {
                rip.pool.as_ref().map_or_else(|| "the VIP itself".to_owned(), |p| format!("pool `{p}`"))
            };
            report.error_also(
                Code::DuplicateName,
                rip.name.span,
                (other.name.span, "and here"),
                format!(
                    "server `{}` of vip `{}` is there twice: of {} and of {}",
                    rip.name.value,
                    vip.name.value,
                    of(other),
                    of(rip)
                ),
                "rename one of them, or write another pool in the rule",
            );
        }
    }
}

/// What a VIP of layer 4 may be and one of layer 7 not.
fn shape(named: &str, vip: &Draft, place: &impl Fn(&str) -> Span, report: &mut Report<'_>) {
    if let Some(protocols @ (Protocols::Udp | Protocols::TcpUdp)) = vip.protocols {
        report.error(
            Code::Layer7,
            place("protocol"),
            format!(
                "{named} has protocol \"{}\", and the proxy of layer 7 takes TCP alone",
                protocols.name()
            ),
            "write `protocol = \"tcp\"`, or choose mode \"l4-nat\" or \"l4-snat\"",
        );
    }
    if let Some(DraftPorts::All(span)) = vip.ports {
        report.error(
            Code::Layer7,
            span,
            format!("{named} has every port, and the proxy of layer 7 listens on those that are named"),
            "write the ports that are meant: `ports = [80]`",
        );
    }
    if vip.scheduler == Some(Scheduler::Maglev) {
        report.error(
            Code::Layer7,
            place("scheduler"),
            format!("{named} has scheduler \"maglev\", which the proxy of layer 7 has not got"),
            "write `scheduler = \"source-hash\"`, or \"wlc\", \"wrr\" or \"first\"",
        );
    }
}

/// What reads requests, in a mode that does not.
fn needs_http(table: &Table, named: &str, vip: &Draft, mode: Mode, report: &mut Report<'_>) {
    if mode == Mode::L7Http {
        let aets = |on: &SwitchOn| matches!(on, SwitchOn::CalledAet(_) | SwitchOn::CallingAet(_));
        if let Some(entry) =
            table.get("switch").filter(|_| vip.proxy.value.switch.iter().any(|rule| aets(&rule.on)))
        {
            report.error(
                Code::Layer7,
                entry.key.span,
                format!("{named} goes by AE titles in mode \"l7-http\", and DICOM is no HTTP"),
                "write `mode = \"l7-tcp\"`, or go by `host`, `path_prefix` or `sni`",
            );
        }
        return;
    }
    let mut refuse = |what: &str, span: Span, cure: &str| {
        report.error(
            Code::NeedsHttp,
            span,
            format!("{what} needs mode \"l7-http\", and {named} is in mode \"{}\"", mode.name()),
            format!("write `mode = \"l7-http\"`, or {cure}"),
        );
    };
    if let Some(At { value: Persist::Cookie { .. } | Persist::UrlParam { .. }, span }) = &vip.persist {
        refuse("`persist` by what a request says", *span, "`persist = \"source-ip\"`");
    }
    // On layer 4 the rest is told as meaning nothing.
    if !mode.is_layer7() {
        return;
    }
    for key in ["http", "headers"] {
        if let Some(entry) = table.get(key) {
            refuse(&format!("`{key}`"), entry.key.span, &format!("remove `{key}`"));
        }
    }
    if let Some(entry) = table.get("https_redirect").filter(|_| vip.proxy.value.https_redirect.is_some()) {
        refuse("`https_redirect`", entry.key.span, "`https_redirect = \"off\"`");
    }
    let reads = |on: &SwitchOn| matches!(on, SwitchOn::Host(_) | SwitchOn::PathPrefix(_));
    if let Some(entry) =
        table.get("switch").filter(|_| vip.proxy.value.switch.iter().any(|rule| reads(&rule.on)))
    {
        refuse("`switch` by host or path", entry.key.span, "go by `sni` or AE titles");
    }
}

fn tls(table: &Table, named: &str, vip: &Draft, report: &mut Report<'_>) {
    let Proxy { tls, switch, https_redirect, send_proxy, .. } = &vip.proxy.value;
    let Some(entry) = table.get("tls") else {
        let mut refuse = |key: &str, what: &str, cure: &str| {
            let Some(entry) = table.get(key) else { return };
            report.error(
                Code::NeedsTls,
                entry.key.span,
                format!("{what}, and {named} has no `tls`"),
                format!("add `tls = {{ port = 443, cert = \"NAME\" }}`, or {cure}"),
            );
        };
        if https_redirect.is_some() {
            refuse("https_redirect", "`https_redirect` leads to TLS", "remove `https_redirect`");
        }
        if matches!(send_proxy, Some(ProxyHeader::V2Ssl | ProxyHeader::V2SslCn)) {
            refuse(
                "send_proxy",
                "`send_proxy` tells servers of the client's TLS",
                "write `send_proxy = \"v2\"`",
            );
        }
        if vip.mode == Some(Mode::L7Http) && switch.iter().any(|rule| matches!(rule.on, SwitchOn::Sni(_))) {
            refuse("switch", "`switch` by `sni` goes by TLS", "go by `host`");
        }
        return;
    };
    let Some(tls) = tls else { return };
    let place = vip.proxy.tls_port.as_ref().map_or(entry.key.span, |port| port.span);
    if let (Some(DraftPorts::Ranges(ranges)), true) = (&vip.ports, tls.cleartext)
        && let Some(range) = ranges.iter().find(|range| range.value.contains(&tls.port))
    {
        report.error_also(
            Code::DuplicatePort,
            place,
            (range.span, "without TLS"),
            format!("{named} would serve port {} with TLS and without", tls.port),
            "write another port, or `cleartext = false` in `tls` to serve TLS alone",
        );
    }
    several_ports(named, vip, place, report);
    if https_redirect.is_some()
        && !tls.cleartext
        && let Some(entry) = table.get("https_redirect")
    {
        report.warning(
            Code::Redundant,
            entry.key.span,
            format!("{named} sends clients without TLS to TLS, but serves none of them"),
            "write `cleartext = true` in `tls`, or remove `https_redirect`",
        );
    }
    if tls.cleartext && tls.client_ca.is_some() {
        let ports = vip.ports.as_ref().map(DraftPorts::shown).unwrap_or_default();
        report.warning(
            Code::SideDoor,
            entry.key.span,
            format!(
                "{named} asks clients of port {} for certificates, and lets anybody in by {ports}",
                tls.port
            ),
            "remove `cleartext = true`: its other ports are closed then",
        );
    }
}

/// A server without a port gets the client's, which one of TLS cannot be.
fn several_ports(named: &str, vip: &Draft, tls_port: Span, report: &mut Report<'_>) {
    let several = vip.ports.as_ref().is_some_and(|ports| ports.keys() > 1);
    if !several || vip.translation.rip_port.is_some() {
        return;
    }
    if let Some(rip) = vip.rips.iter().flatten().find(|rip| rip.port.is_none()) {
        report.error_also(
            Code::BadPort,
            rip.name.span,
            (tls_port, "TLS ends here"),
            format!(
                "server `{}` of {named} has no port: it would be asked without TLS on the port that clients use with it",
                rip.name.value
            ),
            "write its port, or `rip_port = 80`, or a VIP of its own for each port",
        );
    }
}

fn sources(table: &Table, vip: &Draft, report: &mut Report<'_>) {
    let Some(source) = table.get("source") else { return };
    let pool = &vip.translation.pool;
    if pool.len() > 1 {
        report.error(
            Code::Layer7,
            source.node.span,
            format!("`source` has {} addresses, and the proxy of layer 7 takes one", pool.len()),
            "keep one of them, or write \"interface\" or \"vip\"",
        );
    }
    if let Some(entry) = table.get("transparent").filter(|_| vip.proxy.value.transparent)
        && source.node.value.as_str() != Some("interface")
    {
        report.error_also(
            Code::MisplacedKey,
            entry.key.span,
            (source.key.span, "another source"),
            format!("vip `{}` would have the client's address and another one as its source", vip.name.value),
            "remove `transparent`, or `source`",
        );
    }
}

/// Pools that servers name, and that rules lead to.
fn pools_of_servers(table: &Table, vip: &Draft, mode: Mode, report: &mut Report<'_>) {
    let led_to = pools_of(table);
    for rip in vip.rips.iter().flatten() {
        let Some(pool) = &rip.pool else { continue };
        if mode.is_layer7() && led_to.iter().any(|name| name.value == pool) {
            continue;
        }
        let (server, name) = (&rip.name.value, &vip.name.value);
        report.error(
            Code::MisplacedKey,
            rip.name.span,
            format!("server `{server}` is of pool `{pool}`, which no rule of vip `{name}` leads to"),
            format!(
                "write a rule, `switch = [{{ called_aet = \"ARCHIVE\", pool = \"{pool}\" }}]` in mode \"l7-tcp\", or remove `pool`"
            ),
        );
    }
}

fn lines(vip: &Draft, place: &impl Fn(&str) -> Span, report: &mut Report<'_>) {
    if matches!(vip.persist.as_ref().map(|persist| &persist.value), None | Some(Persist::None)) {
        return;
    }
    if let Some(line) = vip.proxy.value.extra.iter().find(|line| extra::persists(line)) {
        report.error(
            Code::BadLine,
            place("haproxy_extra"),
            format!(
                "the line \"{line}\" makes clients come back, and so does `persist` of vip `{}`",
                vip.name.value
            ),
            "write `persist = \"none\"` beside it, or remove the line",
        );
    }
}

/// Warnings.
fn advise(named: &str, vip: &Draft, place: &impl Fn(&str) -> Span, report: &mut Report<'_>) {
    if let Some(At { value: Persist::UrlParam { key_len, .. }, span }) = &vip.persist
        && *key_len < LONG_KEY
    {
        report.warning(
            Code::ShortKey,
            *span,
            format!("{named} tells values apart by their first {key_len} characters alone"),
            format!("write `key_len` of at least {LONG_KEY}, unless the values are that short"),
        );
    }
    let page = vip.fallback.as_ref().filter(|fallback| fallback.value == Fallback::Page);
    if let Some(fallback) = page.filter(|_| vip.mode == Some(Mode::L7Tcp) && vip.proxy.value.tls.is_none()) {
        report.warning(
            Code::Redundant,
            fallback.span,
            format!("{named} would answer with a page of HTTP, which its clients may not speak"),
            "write `fallback = \"off\"`, or `mode = \"l7-http\"`",
        );
    }
    if !vip.proxy.value.reads_ae_titles() && vip.proxy.value.unintelligible != Default::default() {
        report.warning(
            Code::Redundant,
            place("unintelligible"),
            format!("`unintelligible` means nothing for {named}: no rule goes by AE titles"),
            "remove `unintelligible`, or write a rule with `called_aet` or `calling_aet`",
        );
    }
}
