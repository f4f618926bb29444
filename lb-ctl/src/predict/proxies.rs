//! What a change of the configuration will do to connections through the companion proxy.

use crate::model::{
    config::{Rip, Vip},
    proxied::{Proxied, Proxies},
};

/// What will become of connections when the proxy goes from `before` to `after`, a line each.
#[must_use]
pub fn predict_proxies(before: &Proxies, after: &Proxies, proxied: &Proxied) -> Vec<String> {
    let mut lines = Vec::new();
    let mut reloads = before.settings != after.settings;
    for was in &before.vips {
        let name = &was.vip.name;
        let connections = proxied.vips.get(name).map_or(0, |vip| vip.connections);
        let Some(is) = after.vip(name) else {
            reloads = true;
            let kept = after.vips.iter().any(|other| other.vip.ip == was.vip.ip);
            lines.push(if kept {
                format!("VIP {name}: no new connections; {connections} in progress go on until they end")
            } else {
                format!(
                    "VIP {name}: no new connections; {connections} in progress break, since {} goes",
                    was.vip.ip
                )
            });
            continue;
        };
        let gone = was.vip.rips.iter().filter(|rip| !is.vip.rips.iter().any(|other| same_server(rip, other)));
        for rip in gone {
            let left = proxied.vips.get(name).and_then(|vip| vip.servers.get(&rip.name));
            lines.push(format!(
                "VIP {name}: {} gets no new connections; {} in progress go on until they end",
                rip.name,
                left.map_or(0, |server| server.connections)
            ));
        }
        reloads |= unweighted(&was.vip) != unweighted(&is.vip);
    }
    for is in after.vips.iter().filter(|is| before.vip(&is.vip.name).is_none()) {
        reloads = true;
        lines.push(format!("VIP {}: served by the proxy", is.vip.name));
    }
    if reloads && !before.vips.is_empty() {
        lines.push(
            "the proxy reloads: new connections find the new configuration, those in progress go on in the process before"
                .to_owned(),
        );
    }
    lines
}

/// True for a server whose connections stay its own.
fn same_server(one: &Rip, other: &Rip) -> bool {
    (&one.name, one.ip, one.port) == (&other.name, other.ip, other.port)
}

/// A VIP without what is changed by a command and needs no reload.
fn unweighted(vip: &Vip) -> Vip {
    let mut vip = vip.clone();
    for rip in &mut vip.rips {
        rip.weight = Rip::WEIGHT;
        rip.check = None;
    }
    vip.check = crate::model::check::Check::default();
    vip.alert_to.clear();
    vip
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, slice};

    use super::*;
    use crate::model::{
        config::{Mode, Ports},
        proxied::{DesiredProxy, ProxiedServer, ProxiedVip},
    };

    fn web(name: &str, octet: u8, weight: u16, servers: &[&str]) -> DesiredProxy {
        let mut vip = Vip::new(name, Mode::L7Http, [10, 0, 0, octet].into(), Ports::Ranges(vec![80..=80]));
        vip.rips =
            servers.iter().map(|name| Rip { weight, ..Rip::new(*name, [10, 0, 1, 1].into()) }).collect();
        DesiredProxy { vip, servers: BTreeMap::new() }
    }

    fn predicted(before: &[DesiredProxy], after: &[DesiredProxy]) -> Vec<String> {
        let proxies = |vips: &[DesiredProxy]| Proxies { vips: vips.to_vec(), ..Proxies::default() };
        let server = ProxiedServer { connections: 3, ..ProxiedServer::default() };
        let vip = ProxiedVip {
            connections: 7,
            servers: [("B".to_owned(), server)].into(),
            ..ProxiedVip::default()
        };
        let proxied = Proxied { vips: [("WEB".to_owned(), vip)].into(), ..Proxied::default() };
        predict_proxies(&proxies(before), &proxies(after), &proxied)
    }

    #[test]
    fn a_weight_changes_without_a_reload_and_a_server_does_not() {
        let two = web("WEB", 1, 100, &["A", "B"]);
        assert_eq!(predicted(slice::from_ref(&two), &[web("WEB", 1, 50, &["A", "B"])]), [""; 0]);
        let lines = predicted(&[two], &[web("WEB", 1, 100, &["A"])]);
        assert_eq!(lines[0], "VIP WEB: B gets no new connections; 3 in progress go on until they end");
        assert!(lines.len() == 2 && lines[1].starts_with("the proxy reloads"), "{lines:?}");
    }

    #[test]
    fn connections_break_when_the_address_goes_and_only_then() {
        let (one, beside) = (web("WEB", 1, 100, &["A"]), web("OTHER", 1, 100, &["A"]));
        let lines = predicted(slice::from_ref(&one), &[]);
        assert_eq!(lines[0], "VIP WEB: no new connections; 7 in progress break, since 10.0.0.1 goes");
        let lines = predicted(&[one, beside.clone()], slice::from_ref(&beside));
        assert_eq!(lines[0], "VIP WEB: no new connections; 7 in progress go on until they end");
        assert_eq!(predicted(&[], &[beside]), ["VIP OTHER: served by the proxy"]);
    }
}
