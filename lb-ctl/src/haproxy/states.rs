//! What servers may do, as commands to a running proxy.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::render::section_name;
use crate::model::proxied::{Proxies, Service, Takes};

/// A server as the proxy knows it: its section and its name.
pub(super) type Server = (String, String);

/// What a worker was told of each server.
pub(super) type Told = BTreeMap<Server, Service>;

/// What each server should be told.
pub(super) fn wanted(proxies: &Proxies) -> Told {
    let servers = proxies.vips.iter().flat_map(|desired| {
        desired.vip.rips.iter().map(|rip| {
            let section = section_name(&desired.vip.name, rip.pool.as_deref());
            let nothing = Service { takes: Takes::Nothing, weight: 0, ends_sessions: false };
            ((section, rip.name.clone()), desired.servers.get(&rip.name).copied().unwrap_or(nothing))
        })
    });
    servers.collect()
}

/// Commands that lead from what was told to what is wanted. Who takes nothing any more comes first, and a weight before
/// the state in which it counts.
pub(super) fn commands(told: &Told, wanted: &Told) -> Vec<String> {
    let mut changed: Vec<(&Server, &Service)> = wanted
        .iter()
        .filter(|(server, service)| {
            told.get(*server).is_none_or(|old| (old.takes, old.weight) != (service.takes, service.weight))
        })
        .collect();
    changed.sort_by_key(|(_, service)| std::cmp::Reverse(service.takes));
    let mut commands = Vec::new();
    for ((section, name), service) in changed {
        let server = format!("set server {section}/{name}");
        if service.takes != Takes::Nothing {
            commands.push(format!("{server} weight {}", service.weight));
        }
        let state = match service.takes {
            Takes::Everything => "ready",
            Takes::Persistent => "drain",
            Takes::Nothing => "maint",
        };
        commands.push(format!("{server} state {state}"));
    }
    commands
}

/// Servers whose connections are to end, and were not before.
pub(super) fn ending<'a>(told: &'a Told, wanted: &'a Told) -> impl Iterator<Item = &'a Server> {
    let new = |(server, service): &(&Server, &Service)| {
        service.ends_sessions && told.get(*server).is_none_or(|old| !old.ends_sessions)
    };
    wanted.iter().filter(new).map(|(server, _)| server)
}

/// Servers that nobody is to be sent back to any more.
pub(super) fn forgotten<'a>(told: &'a Told, wanted: &'a Told) -> impl Iterator<Item = &'a Server> {
    let new = |(server, service): &(&Server, &Service)| {
        service.takes == Takes::Nothing && told.get(*server).is_none_or(|old| old.takes != Takes::Nothing)
    };
    wanted.iter().filter(new).map(|(server, _)| server)
}

/// Sessions towards a server in the answer to `show sess`.
pub(super) fn sessions<'a>(text: &'a str, (section, name): &Server) -> Vec<&'a str> {
    let (of_section, of_server) = (format!("be={section}"), format!("srv={name}"));
    let towards = |line: &&str| {
        let has = |wanted: &str| line.split_whitespace().any(|word| word == wanted);
        line.starts_with("0x") && has(&of_section) && has(&of_server)
    };
    text.lines().filter(towards).filter_map(|line| Some(line.split_once(':')?.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(services: &[(&str, Takes, u16, bool)]) -> Told {
        let entry = |&(name, takes, weight, ends_sessions): &(&str, Takes, u16, bool)| {
            (("V".to_owned(), name.to_owned()), Service { takes, weight, ends_sessions })
        };
        services.iter().map(entry).collect()
    }

    #[test]
    fn only_what_changes_is_said_and_those_that_stop_come_first() {
        let before = told(&[
            ("a", Takes::Everything, 100, false),
            ("b", Takes::Nothing, 100, false),
            ("c", Takes::Everything, 5, false),
        ]);
        let after = told(&[
            ("a", Takes::Nothing, 100, true),
            ("b", Takes::Everything, 10, false),
            ("c", Takes::Everything, 5, false),
        ]);
        let said = commands(&before, &after);
        assert_eq!(
            said,
            ["set server V/a state maint", "set server V/b weight 10", "set server V/b state ready"]
        );
        assert_eq!(ending(&before, &after).count(), 1);
        assert_eq!(forgotten(&before, &after).map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(commands(&after, &after).is_empty());
        assert_eq!(ending(&after, &after).count(), 0);
    }

    #[test]
    fn who_drains_keeps_the_clients_that_it_has() {
        let before = told(&[("a", Takes::Everything, 100, false)]);
        let after = told(&[("a", Takes::Persistent, 100, false)]);
        assert_eq!(commands(&before, &after), ["set server V/a weight 100", "set server V/a state drain"]);
        assert_eq!(forgotten(&before, &after).count(), 0);
    }

    #[test]
    fn sessions_are_those_of_one_server_in_one_section() {
        let text = "0x1: proto=tcpv4 src=10.0.0.1:1 fe=V be=V srv=a ts=00\n\
                    0x2: proto=tcpv4 src=10.0.0.1:2 fe=V be=V srv=ab ts=00\n\
                    0x3: proto=tcpv4 src=10.0.0.1:3 fe=V be=V.p srv=a ts=00\n";
        assert_eq!(sessions(text, &("V".to_owned(), "a".to_owned())), ["0x1"]);
    }
}
