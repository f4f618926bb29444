//! Rules of layer 7 between VIPs, and between them and `[proxy]`. The proxy's own check of its configuration looks at
//! none of this.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive};

use super::{
    super::{
        diag::{Code, Report},
        file::{At, Span},
        ports::DraftPorts,
        service::Draft,
    },
    settings::DraftSettings,
};
use crate::model::config::Mode;

/// Applies all of them.
pub(in crate::config) fn check(vips: &[Draft], settings: &DraftSettings, report: &mut Report<'_>) {
    own_ports(vips, settings, report);
    section_names(vips, report);
    shared_servers(vips, report);
}

/// This machine cannot listen where a VIP does.
fn own_ports(vips: &[Draft], settings: &DraftSettings, report: &mut Report<'_>) {
    for (key, At { value: listen, span }) in &settings.listens {
        for vip in vips.iter().filter(|vip| vip.enabled) {
            let Some(ip) = &vip.ip else { continue };
            let same = ip.value == listen.ip();
            let named = vip.served().find(|(ports, _)| ports.contains(&listen.port()));
            let named = named.filter(|_| same || listen.ip().is_unspecified()).map(|(_, place)| place);
            let all = match &vip.ports {
                Some(DraftPorts::All(place)) if same => Some(*place),
                None | Some(DraftPorts::All(_) | DraftPorts::Ranges(_)) => None,
            };
            if let Some(place) = named.or(all) {
                report.error_also(
                    Code::VipOverlap,
                    *span,
                    (place, "the VIP's"),
                    format!("`{key}` {listen} is a port of vip `{}`", vip.name.value),
                    "write another address or port for one of them",
                );
            }
        }
    }
    if let [(one, first), (other, second)] = settings.listens.as_slice()
        && first.value == second.value
    {
        report.error_also(
            Code::VipOverlap,
            second.span,
            (first.span, "and here"),
            format!("`{one}` and `{other}` are both {}", second.value),
            "write another port for one of them",
        );
    }
}

/// A pool of a VIP becomes a section `VIP.POOL`.
fn section_names(vips: &[Draft], report: &mut Report<'_>) {
    let layer7 = || vips.iter().filter(|vip| vip.mode.is_some_and(Mode::is_layer7));
    let names: HashMap<&str, &Draft> = layer7().map(|vip| (vip.name.value.as_str(), vip)).collect();
    for vip in layer7() {
        for rule in &vip.proxy.value.switch {
            if let Some(other) = names.get(format!("{}.{}", vip.name.value, rule.pool).as_str()) {
                report.error_also(
                    Code::DuplicateName,
                    other.name.span,
                    (vip.name.span, "the other"),
                    format!(
                        "vip `{}` has the name of pool `{}` of vip `{}`",
                        other.name.value, rule.pool, vip.name.value
                    ),
                    "rename one of them",
                );
            }
        }
    }
}

/// A server of layer 7 at one address.
struct Endpoint<'v> {
    ports: RangeInclusive<u16>,
    vip: &'v Draft,
    span: Span,
}

/// A server that the proxy connects to from this machine's address and that SNAT leads to from the same address: one of
/// the two would take the other's packets (R05).
fn shared_servers(vips: &[Draft], report: &mut Report<'_>) {
    let served = || vips.iter().filter(|vip| vip.enabled);
    let mut proxied: HashMap<IpAddr, Vec<Endpoint<'_>>> = HashMap::new();
    for vip in served().filter(|vip| vip.mode.is_some_and(Mode::is_layer7)) {
        for (ip, ports) in endpoints(vip) {
            proxied.entry(ip.value).or_default().push(Endpoint { ports, vip, span: ip.span });
        }
    }
    for vip in served().filter(|vip| vip.mode == Some(Mode::L4Snat)) {
        for (ip, ports) in endpoints(vip) {
            let others = proxied.get(&ip.value).map(Vec::as_slice).unwrap_or_default();
            let clash = |other: &&Endpoint<'_>| {
                other.ports.start() <= ports.end() && ports.start() <= other.ports.end()
            };
            if let Some(other) = others.iter().find(clash) {
                let (port, address) = (other.ports.start().max(ports.start()), ip.value);
                report.error_also(
                    Code::SharedServer,
                    ip.span,
                    (other.span, "on layer 7"),
                    format!(
                        "port {port} of server {address} is behind vip `{}` (l4-snat) and vip `{}` (layer 7): their packets \
                         cannot be told apart",
                        vip.name.value, other.vip.name.value
                    ),
                    "put both VIPs on one layer, or let the server listen on another port for one of them",
                );
            }
        }
    }
}

/// Addresses of a VIP's servers, with the ports that they get.
fn endpoints(vip: &Draft) -> Vec<(&At<IpAddr>, RangeInclusive<u16>)> {
    let rip_port = vip.translation.rip_port.as_ref().map(|port| port.value);
    let mut endpoints = Vec::new();
    for rip in vip.rips.iter().flatten() {
        let Some(ip) = &rip.ip else { continue };
        match rip.port.as_ref().map(|port| port.value).or(rip_port) {
            Some(port) => endpoints.push((ip, port..=port)),
            None => match &vip.ports {
                Some(DraftPorts::All(_)) => endpoints.push((ip, 1..=u16::MAX)),
                Some(DraftPorts::Ranges(ranges)) => {
                    endpoints.extend(ranges.iter().map(|range| (ip, range.value.clone())));
                }
                None => {}
            },
        }
    }
    endpoints
}
