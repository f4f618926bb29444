//! Rules between values: within a VIP, between VIPs, and the limits of the kernel's tables.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use lb_common::limits::{MAX_BACKENDS, MAX_SERVERS, MAX_SERVICE_KEYS, MAX_SERVICES};

use super::{
    check as checks,
    diag::{Code, Report},
    file::{At, Span},
    gateway::DraftGateway,
    persistence,
    ports::{DraftPorts, Taken},
    sections::Sections,
    server::DraftRip,
    service::Draft,
};
use crate::model::config::{CheckKind, Mode, Protocol, Scheduler};

/// By address: whose it is, and where that is said.
type Owners<'v> = HashMap<IpAddr, (&'v str, Span)>;

/// Applies all of them.
pub(super) fn check(vips: &[Draft], gateway: &DraftGateway, sections: &Sections, report: &mut Report<'_>) {
    let addresses: Owners<'_> = vips
        .iter()
        .filter_map(|vip| vip.ip.as_ref().map(|ip| (ip.value, (vip.name.value.as_str(), ip.span))))
        .collect();
    for vip in vips {
        servers(vip, &addresses, report);
        fallback(vip, &addresses, report);
        server_ports(vip, report);
        advise(vip, report);
    }
    checks::check(vips, sections, report);
    persistence::check(vips, report);
    roles(vips, &addresses, gateway, report);
    overlaps(vips, report);
    capacity(vips, report);
}

fn servers(vip: &Draft, vips: &Owners<'_>, report: &mut Report<'_>) {
    let rips = vip.rips.as_deref().unwrap_or_default();
    let rip_port = vip.translation.rip_port.as_ref().map(|port| port.value);
    let mut seen: HashMap<(Option<&str>, IpAddr, Option<u16>), Span> = HashMap::new();
    for rip in rips {
        let Some(ip) = &rip.ip else { continue };
        let (address, span) = (ip.value, ip.span);
        // Two ports of one machine are two servers; direct routing takes no ports.
        let port = rip.port.as_ref().map(|port| port.value).or(rip_port);
        // A server may be in several pools that rules lead to.
        if let Some(first) = seen.insert((rip.pool.as_deref(), address, port), span) {
            let shown =
                port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string());
            let message = format!("{shown} is there twice in vip `{}`", vip.name.value);
            let help = "remove one of them, or raise the weight of the other";
            report.error_also(Code::DuplicateAddress, span, (first, "first here"), message, help);
        }
        is_no_vip(vip, &format!("server `{}`", rip.name.value), ip, vips, report);
        same_family(vip, "server", ip, report);
    }
    all_zero(vip, rips, report);
    if rips.len() > MAX_SERVERS {
        let (name, count) = (&vip.name.value, rips.len());
        report.error(
            Code::TooMany,
            vip.name.span,
            format!("vip `{name}` has {count} servers, the limit is {MAX_SERVERS}"),
            "remove some, or spread them over several VIPs",
        );
    }
}

fn is_no_vip(vip: &Draft, what: &str, ip: &At<IpAddr>, vips: &Owners<'_>, report: &mut Report<'_>) {
    let Some((owner, place)) = vips.get(&ip.value) else {
        return;
    };
    let help = match vip.mode {
        Some(Mode::L4Nat | Mode::L4Snat | Mode::L7Http | Mode::L7Tcp) => "write the server's own address",
        None | Some(Mode::L4Dr) => "write the server's own address; the VIP goes on its loopback interface",
    };
    report.error_also(
        Code::ServerIsVip,
        ip.span,
        (*place, "the virtual address"),
        format!("{what} has the address of vip `{owner}`"),
        help,
    );
}

/// A fallback server is one more server, and none of the others.
fn fallback(vip: &Draft, vips: &Owners<'_>, report: &mut Report<'_>) {
    let Some((at, port)) = vip.fallback_server() else { return };
    let (ip, span) = (at.value, at.span);
    is_no_vip(vip, "the fallback server", &at, vips, report);
    same_family(vip, "fallback server", &at, report);
    let shown = |port: u16| SocketAddr::new(ip, port);
    match (port, &vip.ports) {
        (Some(port), _) if vip.mode == Some(Mode::L4Dr) => report.error(
            Code::DrPort,
            span,
            format!("\"{}\" names port {port}: direct routing cannot translate ports", shown(port)),
            format!(
                "write \"{ip}\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""
            ),
        ),
        (Some(port), Some(DraftPorts::All(all))) => report.error_also(
            Code::AllPorts,
            span,
            (*all, "every port"),
            format!("vip `{}` would lead every port to port {port} of its fallback server", vip.name.value),
            format!("write \"{ip}\", or write the ports that are meant: `ports = [80]`"),
        ),
        (_, _) => {}
    }
    let rip_port = vip.translation.rip_port.as_ref().map(|port| port.value);
    for rip in vip.rips.iter().flatten() {
        let its_port = rip.port.as_ref().map(|port| port.value).or(rip_port);
        if let Some(its) = rip.ip.as_ref().filter(|its| its.value == ip)
            && its_port == port
        {
            report.error_also(
                Code::DuplicateAddress,
                span,
                (its.span, "the server"),
                format!("the fallback server is server `{}` of vip `{}`", rip.name.value, vip.name.value),
                "write the address of another machine: when the fallback is needed, no server works",
            );
        }
    }
}

fn same_family(vip: &Draft, what: &str, ip: &At<IpAddr>, report: &mut Report<'_>) {
    if let Some(virtual_ip) = &vip.ip
        && virtual_ip.value.is_ipv4() != ip.value.is_ipv4()
    {
        report.error_also(
            Code::FamilyMismatch,
            ip.span,
            (virtual_ip.span, "the virtual address"),
            format!("vip `{}` and {what} {} are not both IPv4 or both IPv6", vip.name.value, ip.value),
            "write an address of the same family; no mode translates one into the other",
        );
    }
}

/// Who may have a port of its own: no server with direct routing (R01), none where every port is served.
fn server_ports(vip: &Draft, report: &mut Report<'_>) {
    let rips = vip.rips.as_deref().unwrap_or_default();
    if vip.mode == Some(Mode::L4Dr) {
        dr_ports(vip, rips, report);
        return;
    }
    let Some(DraftPorts::All(all)) = vip.ports else { return };
    let of_servers = rips.iter().filter_map(|rip| rip.port.as_ref().map(|port| (port.value, port.span)));
    let of_vip = vip.translation.rip_port.as_ref().map(|port| (port.value, port.span));
    for (port, span) in of_servers.chain(of_vip) {
        report.error_also(
            Code::AllPorts,
            span,
            (all, "every port"),
            format!("vip `{}` would lead every port to port {port} of its servers", vip.name.value),
            "remove the port, or write the ports that are meant: `ports = [80]`",
        );
    }
}

fn dr_ports(vip: &Draft, rips: &[DraftRip], report: &mut Report<'_>) {
    if let Some(port) = &vip.translation.rip_port {
        report.error(
            Code::DrPort,
            port.span,
            "direct routing cannot translate ports: `rip_port` has no meaning here",
            "remove `rip_port` and let the servers listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\"",
        );
    }
    for rip in rips {
        let (Some(port), Some(ip)) = (&rip.port, &rip.ip) else {
            continue;
        };
        let (message, help) = if port.in_address {
            let typed = SocketAddr::new(ip.value, port.value);
            (format!("\"{typed}\" names port {}", port.value), format!("write \"{}\"", ip.value))
        } else {
            (format!("server `{}` has a `port`", rip.name.value), "remove `port`".to_owned())
        };
        report.error(
            Code::DrPort,
            port.span,
            format!("{message}: direct routing cannot translate ports"),
            format!(
                "{help} and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""
            ),
        );
    }
}

/// Gateway addresses and SNAT sources are this machine's, and nothing else's.
fn roles(vips: &[Draft], virtual_ips: &Owners<'_>, gateway: &DraftGateway, report: &mut Report<'_>) {
    let rips = vips.iter().flat_map(|vip| vip.rips.iter().flatten());
    let fallbacks = vips.iter().filter_map(Draft::fallback_server);
    let fallbacks = fallbacks.map(|(ip, _)| (ip.value, ("fallback", ip.span)));
    let servers: Owners<'_> = fallbacks
        .chain(
            rips.filter_map(|rip| rip.ip.as_ref().map(|ip| (ip.value, (rip.name.value.as_str(), ip.span)))),
        )
        .collect();
    let mut sources: Owners<'_> = HashMap::new();
    let mut refuse = |what: &str, ip: &At<IpAddr>, role: &str, owners: &Owners<'_>, cure: &str| {
        let Some((owner, place)) = owners.get(&ip.value) else {
            return;
        };
        report.error_also(
            Code::TwoRoles,
            ip.span,
            (*place, "also here"),
            format!("{what} {} is the address of {role} `{owner}`", ip.value),
            cure,
        );
    };
    let has_source = |vip: &&Draft| vip.mode.is_some_and(|mode| mode == Mode::L4Snat || mode.is_layer7());
    for vip in vips.iter().filter(has_source) {
        for source in &vip.translation.pool {
            let cure = "write an address that no server has";
            refuse("source", source, "server", &servers, cure);
            sources.insert(source.value, (vip.name.value.as_str(), source.span));
        }
    }
    for address in &gateway.addresses {
        let cure = "write an address that nothing else has";
        refuse("gateway", &address.ip, "vip", virtual_ips, cure);
        refuse("gateway", &address.ip, "server", &servers, cure);
        refuse("gateway", &address.ip, "a source of vip", &sources, cure);
    }
    for vip in vips.iter().filter(has_source) {
        for source in &vip.translation.pool {
            same_family(vip, "source", source, report);
        }
    }
}

/// Of the VIP's own servers and of each of its pools.
fn all_zero(vip: &Draft, rips: &[DraftRip], report: &mut Report<'_>) {
    if !vip.enabled {
        return;
    }
    let zero = |rip: &&DraftRip| rip.weight.as_ref().is_some_and(|weight| weight.value == 0);
    let mut pools: BTreeMap<Option<&str>, (Option<Span>, bool)> = BTreeMap::new();
    for rip in rips {
        let first = (rip.weight.as_ref().map(|weight| weight.span), true);
        pools.entry(rip.pool.as_deref()).or_insert(first).1 &= zero(&rip);
    }
    for (pool, (place, all)) in pools {
        let Some(place) = place.filter(|_| all) else { continue };
        let name = &vip.name.value;
        let of =
            pool.map_or_else(|| format!("vip `{name}`"), |pool| format!("pool `{pool}` of vip `{name}`"));
        report.error(
            Code::AllWeightsZero,
            place,
            format!("every server of {of} has weight 0: nothing would be served"),
            "give one server a weight from 1 to 256, or write `enabled = false` for the VIP",
        );
    }
}

/// Warnings.
fn advise(vip: &Draft, report: &mut Report<'_>) {
    let (name, span) = (&vip.name.value, vip.name.span);
    if vip.check.as_ref().is_some_and(|check| check.value.kind == CheckKind::Off) {
        report.warning(
            Code::CheckOff,
            span,
            format!("the servers of vip `{name}` are not checked: a dead one keeps its share of the clients"),
            "write `check = \"connect\"`, or a \"dicom-echo\" check",
        );
    }
    if vip.rips.as_ref().is_some_and(Vec::is_empty) {
        report.warning(
            Code::NoServers,
            span,
            format!("vip `{name}` has no servers: every client is turned away"),
            format!("add one: `lbctl rip add {name} NAME=IP`"),
        );
    }
    if vip.scheduler == Some(Scheduler::First) && vip.slow_start.is_some_and(|time| !time.is_zero()) {
        report.warning(
            Code::Redundant,
            span,
            format!("vip `{name}` has a slow start, which scheduler \"first\" does not look at"),
            "remove `slow_start`, or leave it for another scheduler",
        );
    }
    let weights = vip.rips.iter().flatten().filter_map(|rip| rip.weight.as_ref().map(|weight| weight.value));
    let mut weights = weights.filter(|weight| *weight != 0);
    let first = weights.next();
    if vip.scheduler == Some(Scheduler::First) && weights.any(|weight| Some(weight) != first) {
        report.warning(
            Code::Redundant,
            span,
            format!("vip `{name}` has weights, which scheduler \"first\" does not look at (but for 0)"),
            "put the servers in the order of preference, and remove the weights",
        );
    }
}

/// A VIP that is not enabled claims nothing, so it may stand by with the address and ports of another. A port that is
/// named wins over `all` of another VIP, so only two of the same kind are in each other's way; but what the packet path
/// takes the proxy of layer 7 never sees.
fn overlaps(vips: &[Draft], report: &mut Report<'_>) {
    let cure = "give one of them another address or port, or write `enabled = false` for it";
    let mut named: HashMap<_, Taken<_>> = HashMap::new();
    let mut all = HashMap::new();
    let enabled = || vips.iter().filter(|vip| vip.enabled);
    let layer7 = |vip: &Draft| vip.mode.is_some_and(Mode::is_layer7);
    for vip in enabled() {
        let (Some(ip), Some(protocols)) = (&vip.ip, vip.protocols) else { continue };
        let name = vip.name.value.as_str();
        for protocol in protocols.each() {
            let key = (ip.value, *protocol);
            if let (Some(DraftPorts::All(span)), false) = (&vip.ports, layer7(vip))
                && let Some((other, first)) = all.insert(key, (name, *span))
            {
                let message = format!("vips `{other}` and `{name}` both have every port of {}", ip.value);
                report.error_also(Code::VipOverlap, *span, (first, "and here"), message, cure);
            }
            let taken = named.entry(key).or_default();
            // Twice in one VIP is told where that VIP is.
            for (range, span) in vip.served() {
                if let Some((port, (other, first))) = taken.put(&range, (name, span))
                    && other != name
                {
                    let message = format!("vips `{other}` and `{name}` are both {} port {port}", ip.value);
                    report.error_also(Code::VipOverlap, span, (first, "and here"), message, cure);
                }
            }
        }
    }
    for vip in enabled().filter(|vip| layer7(vip)) {
        let (Some(ip), Some((_, span))) = (&vip.ip, vip.served().next()) else { continue };
        if let Some((other, first)) = all.get(&(ip.value, Protocol::Tcp)) {
            let message =
                format!("vip `{other}` takes every port of {} from vip `{}`", ip.value, vip.name.value);
            report.error_also(Code::VipOverlap, span, (*first, "every port"), message, cure);
        }
    }
}

fn capacity(vips: &[Draft], report: &mut Report<'_>) {
    let (mut services, mut backends, mut keys) = (0usize, 0usize, [0usize; 2]);
    let split = "remove some, or split them over two load balancers";
    let mut limit = |what: &str, count: usize, most: u32, vip: &Draft, cure: &str| {
        if count <= most as usize {
            return false;
        }
        let message = format!("vip `{}` brings the {what} to {count}, the limit is {most}", vip.name.value);
        report.error(Code::TooMany, vip.name.span, message, cure);
        true
    };
    for vip in vips.iter().filter(|vip| !vip.mode.is_some_and(Mode::is_layer7)) {
        services += 1;
        backends += vip.rips.as_ref().map_or(0, Vec::len) + usize::from(vip.fallback_server().is_some());
        let family = usize::from(vip.ip.as_ref().is_some_and(|ip| ip.value.is_ipv6()));
        let protocols = vip.protocols.map_or(0, |protocols| protocols.each().len());
        keys[family] += vip.ports.as_ref().map_or(0, DraftPorts::keys) * protocols;
        let full = [
            limit("VIPs", services, MAX_SERVICES, vip, split),
            limit("real servers", backends, MAX_BACKENDS, vip, split),
            limit(
                "ports of VIPs",
                keys[family],
                MAX_SERVICE_KEYS,
                vip,
                "remove some, or write `ports = \"all\"`",
            ),
        ];
        // The VIP that crosses a limit is told, not the thousand after it.
        if full.contains(&true) {
            return;
        }
    }
}
