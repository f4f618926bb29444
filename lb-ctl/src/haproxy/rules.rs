//! What `haproxy -c` lets through, and the proxy then refuses or does wrong.
//!
//! The configuration of lbd is checked when it is read; this looks at what came of it, raw lines included. A line of a
//! VIP is indented, the beginning of a section is not.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::render::PEERS;
use crate::model::proxy::SECTIONS;

/// Something that must not be loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Name of the section that it is in; `None` = it concerns all VIPs.
    pub section: Option<String>,
    /// What is wrong, with the cure.
    pub what: String,
}

/// As the proxy itself says such things, the section between quotes.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(section) = &self.section {
            write!(f, "'{section}': ")?;
        }
        f.write_str(&self.what)
    }
}

/// Words that only HTTP has a meaning for. In TCP they are taken with a warning, and then do nothing.
const HTTP_WORDS: [&str; 8] = [
    "capture",
    "cookie",
    "errorfile",
    "errorloc",
    "http-after-response",
    "http-request",
    "http-response",
    "redirect",
];
/// Options of the same kind.
const HTTP_OPTIONS: [&str; 7] = [
    "accept-invalid-http-request",
    "accept-invalid-http-response",
    "forwardfor",
    "http-pretend-keepalive",
    "http-server-close",
    "httpclose",
    "originalto",
];

/// Everything that must not be loaded, in the order of the text.
#[must_use]
pub fn faults(text: &str) -> Vec<Fault> {
    let sections = read(text);
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for section in &sections {
        if let Some(name) = section.proxy()
            && !names.insert(name)
        {
            faults.push(
                section.fault(format!("two sections are called {name}: give one VIP or pool another name")),
            );
        }
        own_lines(section, &mut faults);
    }
    binds(&sections, &mut faults);
    process(&sections, &mut faults);
    faults
}

/// A section: the words of its first line, and of the others.
struct Section<'a> {
    head: Vec<&'a str>,
    lines: Vec<Vec<&'a str>>,
}

impl<'a> Section<'a> {
    fn is(&self, keyword: &str) -> bool {
        self.head.first() == Some(&keyword)
    }

    /// Name of a VIP's section.
    fn proxy(&self) -> Option<&'a str> {
        let name = self.head.get(1).copied()?;
        (self.is("listen") || self.is("backend")).then_some(name)
    }

    /// Lines that begin with a word.
    fn each<'s>(&'s self, keyword: &'s str) -> impl Iterator<Item = &'s [&'a str]> {
        self.lines
            .iter()
            .filter(move |line| line.first() == Some(&keyword))
            .map(|line| line.get(1..).unwrap_or(&[]))
    }

    fn fault(&self, what: String) -> Fault {
        Fault { section: self.proxy().map(str::to_owned), what }
    }
}

/// The sections. Quotes do not matter: no word that is looked for stands between any.
fn read(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        if !line.starts_with(' ') {
            sections.push(Section { head: words, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(words);
        }
    }
    sections
}

fn own_lines(section: &Section<'_>, faults: &mut Vec<Fault>) {
    if section.proxy().is_none() {
        return;
    }
    for line in &section.lines {
        if let Some(word) = line.first().filter(|word| SECTIONS.contains(word)) {
            let text = line.join(" ");
            faults.push(section.fault(format!(
                "`{text}` would begin a section, and end that of the VIP: take `{word}` out of haproxy_extra"
            )));
        }
    }
    if section.each("stick-table").count() > 1 {
        faults.push(
            section.fault(
                "two stick tables in one section: take `persist` away, or `stick-table` out of haproxy_extra"
                    .to_owned(),
            ),
        );
    }
    let mut servers = BTreeSet::new();
    for name in section.each("server").filter_map(|words| words.first()) {
        if !servers.insert(*name) {
            faults
                .push(section.fault(format!("two servers are called {name}: give one of them another name")));
        }
    }
    if section.head.get(2..) == Some(&["from", "tcp"]) && section.each("mode").all(|mode| mode != ["http"]) {
        http_in_tcp(section, faults);
    }
}

fn http_in_tcp(section: &Section<'_>, faults: &mut Vec<Fault>) {
    for line in &section.lines {
        let is_http = match line.as_slice() {
            ["option", option, ..] => HTTP_OPTIONS.contains(option),
            [word, ..] => HTTP_WORDS.contains(word),
            [] => false,
        };
        if is_http {
            let text = line.join(" ");
            faults.push(section.fault(format!(
                "`{text}` does nothing to TCP: take it out of haproxy_extra, or give the VIP the mode \"l7-http\""
            )));
        }
    }
}

/// Two that listen in the same place share its clients between them by chance.
fn binds(sections: &[Section<'_>], faults: &mut Vec<Fault>) {
    let mut taken: BTreeMap<(&str, u16), &str> = BTreeMap::new();
    let own = "the exchange of stick tables (table_sync in [proxy])";
    for section in sections {
        let peer = section.each("peer").filter_map(|words| words.get(1)).map(|place| (*place, own));
        let name = section.proxy().unwrap_or_default();
        let bind = section.each("bind").filter_map(|words| words.first()).map(|place| (*place, name));
        let mut told = BTreeSet::new();
        for (place, who) in peer.chain(bind) {
            let Some((address, ports)) = split(place) else { continue };
            for port in ports {
                if let Some(other) = taken.insert((address, port), who)
                    && told.insert(other)
                {
                    faults.push(section.fault(format!(
                        "{address}:{port} is taken twice, by {other} and {who}: give one of them another port"
                    )));
                }
            }
        }
    }
}

/// Address and ports of a place; `None` for a path, or what is none of ours.
fn split(place: &str) -> Option<(&str, std::ops::RangeInclusive<u16>)> {
    let (address, ports) = place.rsplit_once(':')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some((address, first.parse().ok()?..=last.parse().ok()?))
}

fn process(sections: &[Section<'_>], faults: &mut Vec<Fault>) {
    let global = sections.iter().find(|section| section.is("global"));
    let local = global.and_then(|global| global.each("localpeer").next()).and_then(|words| words.first());
    let mut peers = sections.iter().filter(|section| section.is("peers"));
    let is_peer = |section: &Section<'_>| section.each("peer").any(|words| words.first() == local);
    if local.is_none() || !peers.any(is_peer) {
        let what = format!(
            "no peer in section {PEERS} has the local name: stick tables would be lost with every reload, silently"
        );
        faults.push(Fault { section: None, what });
    }
    if global.is_some_and(|global| global.each("user").next().is_some()) {
        let uses = |section: &&Section<'_>| section.lines.iter().any(|line| line.contains(&"usesrc"));
        for section in sections.iter().filter(uses) {
            faults.push(section.fault(
                "`usesrc` needs root, and the proxy gives it up: use `transparent = true` in place of a raw line"
                    .to_owned(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "global\n    user haproxy\n    localpeer lbd\npeers lbd\n    peer lbd 127.0.0.1:7778\n";

    /// What is wrong with sections behind a sound beginning.
    fn wrong(sections: &str) -> Vec<(Option<String>, String)> {
        faults(&format!("{HEAD}{sections}")).into_iter().map(|fault| (fault.section, fault.what)).collect()
    }

    fn one(sections: &str, section: &str, part: &str) {
        let found = wrong(sections);
        let [(name, what)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(name.as_deref(), Some(section), "{what}");
        assert!(what.contains(part), "{what}");
    }

    #[test]
    fn a_sound_configuration_has_no_fault() {
        let sections = "# a: TCP\nlisten a from tcp\n    bind 10.0.0.1:1000-1010 transparent\n    server x 10.0.1.1\n\
                        listen b from http\n    bind 10.0.0.1:1011 transparent\n    bind 10.0.0.2:1000\n    \
                        cookie S insert\n    server x 10.0.1.1\nbackend b.p from http\n    server x 10.0.1.1\n";
        assert_eq!(wrong(sections), []);
    }

    #[test]
    fn a_place_that_two_listen_in_is_told_with_both() {
        one(
            "listen a from tcp\n    bind 10.0.0.1:1000-1010\nlisten b from tcp\n    bind 10.0.0.1:1005-1006\n",
            "b",
            "10.0.0.1:1005 is taken twice, by a and b",
        );
        one("listen a from tcp\n    bind [::1]:80\n    bind [::1]:80 ssl\n", "a", "[::1]:80 is taken twice");
        one("listen a from tcp\n    bind 127.0.0.1:7778\n", "a", "table_sync");
    }

    #[test]
    fn names_are_unique() {
        one("listen a.b from tcp\nbackend a.b from tcp\n", "a.b", "two sections are called a.b");
        let servers = "listen a from tcp\n    server fallback 10.0.1.1\n    server fallback 10.0.1.2\n";
        one(servers, "a", "two servers are called fallback");
    }

    #[test]
    fn raw_lines_begin_no_section_and_bring_no_second_table() {
        one("listen a from tcp\n    backend evil\n", "a", "`backend evil` would begin a section");
        let tables = "listen a from tcp\n    stick-table type ip size 1\n    stick-table type ip size 2\n";
        one(tables, "a", "two stick tables");
    }

    #[test]
    fn what_only_http_has_is_told_in_tcp() {
        one("listen a from tcp\n    http-request deny\n", "a", "`http-request deny` does nothing to TCP");
        one("listen a from tcp\n    option forwardfor\n", "a", "`option forwardfor` does nothing to TCP");
        assert_eq!(wrong("listen a from tcp\n    option tcpka\n"), []);
    }

    #[test]
    fn a_client_address_as_the_source_needs_root() {
        let seen = "listen a from tcp\n    server x 10.0.1.1 source 0.0.0.0 usesrc clientip\n";
        one(seen, "a", "`usesrc` needs root");
        assert_eq!(faults(&format!("{}{seen}", HEAD.replace("    user haproxy\n", ""))), []);
    }

    #[test]
    fn tables_without_the_local_peer_are_told_for_all_vips() {
        for head in
            [HEAD.replace("localpeer lbd", "localpeer other"), HEAD.replace("    localpeer lbd\n", "")]
        {
            let found = faults(&head);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].section.is_none() && found[0].what.contains("no peer"), "{found:?}");
        }
    }
}
