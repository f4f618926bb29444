//! Rules between values: within a VIP, between VIPs, and the limits of the kernel's tables.

use std::{collections::HashMap, net::IpAddr};

use lb_common::limits::{MAX_BACKENDS, MAX_SERVICE_KEYS, MAX_SERVICES};

use super::{
    diag::{Code, Report},
    file::Span,
    service::{Draft, DraftRip},
};
use crate::model::config::{CheckKind, Persist, Scheduler};

/// Applies all of them.
pub(super) fn check(vips: &[Draft], report: &mut Report<'_>) {
    let addresses: HashMap<IpAddr, (&str, Span)> = vips
        .iter()
        .filter_map(|vip| vip.ip.as_ref().map(|ip| (ip.value, (vip.name.value.as_str(), ip.span))))
        .collect();
    for vip in vips {
        servers(vip, &addresses, report);
        advise(vip, report);
    }
    overlaps(vips, report);
    capacity(vips, report);
}

fn servers(vip: &Draft, vips: &HashMap<IpAddr, (&str, Span)>, report: &mut Report<'_>) {
    let rips = vip.rips.as_deref().unwrap_or_default();
    let mut seen: HashMap<IpAddr, Span> = HashMap::new();
    for rip in rips {
        let Some(ip) = &rip.ip else { continue };
        let (address, span) = (ip.value, ip.span);
        if let Some(first) = seen.insert(address, span) {
            let message = format!("{address} is there twice in vip `{}`", vip.name.value);
            let help = "remove one of them, or raise the weight of the other";
            report.error_also(Code::DuplicateAddress, span, (first, "first here"), message, help);
        }
        if let Some((owner, place)) = vips.get(&address) {
            report.error_also(
                Code::ServerIsVip,
                span,
                (*place, "the virtual address"),
                format!("server `{}` has the address of vip `{owner}`", rip.name.value),
                "write the server's own address; the VIP goes on its loopback interface",
            );
        }
        if let Some(virtual_ip) = &vip.ip
            && virtual_ip.value.is_ipv4() != address.is_ipv4()
        {
            report.error_also(
                Code::FamilyMismatch,
                span,
                (virtual_ip.span, "the virtual address"),
                format!("vip `{}` and server {address} are not both IPv4 or both IPv6", vip.name.value),
                "write an address of the same family; direct routing translates nothing",
            );
        }
    }
    all_zero(vip, rips, report);
}

fn all_zero(vip: &Draft, rips: &[DraftRip], report: &mut Report<'_>) {
    let zero = |rip: &DraftRip| rip.weight.as_ref().is_some_and(|weight| weight.value == 0);
    if let Some(weight) = rips.first().and_then(|rip| rip.weight.as_ref())
        && vip.enabled
        && rips.iter().all(zero)
    {
        report.error(
            Code::AllWeightsZero,
            weight.span,
            format!("every server of vip `{}` has weight 0: nothing would be served", vip.name.value),
            "give one server a weight from 1 to 256, or write `enabled = false` for the VIP",
        );
    }
}

/// Warnings.
fn advise(vip: &Draft, report: &mut Report<'_>) {
    let (name, span) = (&vip.name.value, vip.name.span);
    if vip.check.as_ref().is_some_and(|check| check.kind == CheckKind::Off) {
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
    if vip.scheduler == Some(Scheduler::SourceHash) && matches!(vip.persist, Some(Persist::SourceIp { .. })) {
        report.warning(
            Code::Redundant,
            span,
            format!(
                "vip `{name}` persists by source address, which scheduler \"source-hash\" does by itself"
            ),
            "choose scheduler \"wrr\" beside `persist`, or remove `persist`",
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

/// A VIP that is not enabled claims nothing, so it may stand by with the address and ports of another.
fn overlaps(vips: &[Draft], report: &mut Report<'_>) {
    let mut taken = HashMap::new();
    for vip in vips.iter().filter(|vip| vip.enabled) {
        let (Some(ip), Some(protocol)) = (&vip.ip, vip.protocol) else {
            continue;
        };
        for port in &vip.ports {
            let key = (ip.value, port.value, protocol);
            let Some((other, span)) = taken.insert(key, (&vip.name.value, port.span)) else {
                continue;
            };
            report.error_also(
                Code::VipOverlap,
                port.span,
                (span, "and here"),
                format!("vips `{other}` and `{}` are both {} port {}", vip.name.value, ip.value, port.value),
                "give one of them another address or port, or write `enabled = false` for it",
            );
        }
    }
}

fn capacity(vips: &[Draft], report: &mut Report<'_>) {
    let (mut services, mut backends, mut keys) = (0usize, 0usize, [0usize; 2]);
    let mut limit = |what: &str, count: usize, most: u32, vip: &Draft| {
        if count <= most as usize {
            return false;
        }
        let message = format!("vip `{}` brings the {what} to {count}, the limit is {most}", vip.name.value);
        report.error(
            Code::TooMany,
            vip.name.span,
            message,
            "remove some, or split them over two load balancers",
        );
        true
    };
    for vip in vips {
        services += 1;
        backends += vip.rips.as_ref().map_or(0, Vec::len);
        let family = usize::from(vip.ip.as_ref().is_some_and(|ip| ip.value.is_ipv6()));
        keys[family] += vip.ports.len();
        let full = [
            limit("VIPs", services, MAX_SERVICES, vip),
            limit("real servers", backends, MAX_BACKENDS, vip),
            limit("ports of VIPs", keys[family], MAX_SERVICE_KEYS, vip),
        ];
        // The VIP that crosses a limit is told, not the thousand after it.
        if full.contains(&true) {
            return;
        }
    }
}
