//! Rules between a check and its VIP, and between VIPs that go by each other.

use std::collections::{BTreeMap, HashMap};

use super::{
    super::{
        diag::{Code, Report},
        file::{At, Entry, Span, Table},
        keys::COMBINATIONS,
        ports::DraftPorts,
        sections::Sections,
        service::Draft,
    },
    DraftCheck,
};
use crate::model::config::{Check, CheckKind, Mode, Protocols};

impl DraftCheck {
    /// The check of a VIP of this mode and with these protocols: what means nothing there has its default.
    pub(in crate::config) fn finish(&self, mode: Mode, protocols: Protocols) -> Check {
        let default = Check::default();
        let mut check = self.value.clone();
        if !tries_path(mode, protocols) {
            check.dr_path = default.dr_path;
        }
        if protocols == Protocols::Udp {
            check.syn_repeats = default.syn_repeats;
        }
        check
    }
}

/// Whether the VIP can be tried at its servers: over the way of clients' packets, by a TCP connection.
pub(in crate::config) fn tries_path(mode: Mode, protocols: Protocols) -> bool {
    mode == Mode::L4Dr && protocols != Protocols::Udp
}

/// Warns of keys of a check that mean nothing in the VIP's mode, or with its protocol.
pub(in crate::config) fn advise_meaningless(
    table: &Table,
    named: &str,
    mode: Option<Mode>,
    protocols: Option<Protocols>,
    report: &mut Report<'_>,
) {
    let udp = protocols == Some(Protocols::Udp);
    let routed = mode.filter(|mode| *mode != Mode::L4Dr);
    let of_path = routed
        .map(|mode| {
            format!("in mode \"{}\" of {named}: checks go the way of clients' packets there", mode.name())
        })
        .or_else(|| udp.then(|| format!("with protocol \"udp\" of {named}: the VIP is tried by TCP")));
    let of_syns = udp.then(|| format!("with protocol \"udp\" of {named}: there are no SYNs"));
    for (key, why) in [("dr_path", of_path), ("syn_repeats", of_syns)] {
        if let (Some(Entry { key, .. }), Some(why)) = (table.get(key), why) {
            let name = &key.value;
            let help = format!("remove `{name}`, or leave it for a VIP that has it");
            report.warning(Code::Redundant, key.span, format!("`{name}` means nothing {why}"), help);
        }
    }
}

/// Applies all of them.
pub(in crate::config) fn check(vips: &[Draft], sections: &Sections, report: &mut Report<'_>) {
    for vip in vips {
        for check in vip.checks() {
            port(vip, check, report);
            source(vip, check, report);
        }
    }
    tracks(vips, sections, report);
}

/// A check needs a port that answers it.
fn port(vip: &Draft, check: &DraftCheck, report: &mut Report<'_>) {
    let kind = &check.value.kind;
    if check.value.port.is_some() || !kind.asks_port() {
        return;
    }
    let name = kind.name();
    let said =
        if COMBINATIONS.contains(&name) { format!("{name} = [..]") } else { format!("type = \"{name}\"") };
    let written = format!("`check = {{ {said}, port = 104 }}`");
    if vip.protocols == Some(Protocols::Udp) && asks_tcp(kind) {
        report.error(
            Code::CheckUdp,
            check.span,
            "a UDP service cannot be checked by connecting to its own port",
            format!("write the TCP port to ask, {written}, or `check = \"off\"`"),
        );
    } else if matches!(vip.ports, Some(DraftPorts::All(_))) {
        report.error(
            Code::CheckPort,
            check.span,
            format!("vip `{}` has every port, so its check must name the one to ask", vip.name.value),
            format!("write it, {written}, or `check = \"off\"`"),
        );
    }
}

/// Whether a check connects to the port of the whole. A script may ask in any way.
fn asks_tcp(kind: &CheckKind) -> bool {
    match kind {
        CheckKind::All(parts) | CheckKind::Any(parts) => {
            parts.iter().any(|part| part.port.is_none() && asks_tcp(&part.kind))
        }
        CheckKind::Script(_) => false,
        CheckKind::Off
        | CheckKind::Connect
        | CheckKind::Http(_)
        | CheckKind::DicomEcho(_)
        | CheckKind::Mllp(_)
        | CheckKind::Ping
        | CheckKind::Agent
        | CheckKind::Track { .. } => kind.asks_port(),
    }
}

fn source(vip: &Draft, check: &DraftCheck, report: &mut Report<'_>) {
    if let (Some(source), Some(ip)) = (&check.source, &vip.ip)
        && source.value.is_ipv4() != ip.value.is_ipv4()
    {
        report.error_also(
            Code::FamilyMismatch,
            source.span,
            (ip.span, "the virtual address"),
            format!("vip `{}` and source {} are not both IPv4 or both IPv6", vip.name.value, source.value),
            "write an address of the same family: checks go to the servers",
        );
    }
}

/// VIPs that a VIP goes by must be there, be served, and not go by that VIP in turn.
fn tracks(vips: &[Draft], sections: &Sections, report: &mut Report<'_>) {
    let numbers: HashMap<&str, usize> =
        vips.iter().enumerate().map(|(number, vip)| (vip.name.value.as_str(), number)).collect();
    let mut edges: BTreeMap<usize, Vec<(usize, Span)>> = BTreeMap::new();
    for (number, vip) in vips.iter().enumerate() {
        for At { value, span } in vip.checks().flat_map(|check| &check.tracked) {
            let Some(tracked) = numbers.get(value.as_str()) else {
                sections.unknown_name(value, *span, "vip", &sections.vips, report);
                continue;
            };
            edges.entry(number).or_default().push((*tracked, *span));
            if vips.get(*tracked).is_some_and(|tracked| !tracked.enabled) {
                report.warning(
                    Code::Redundant,
                    *span,
                    format!(
                        "vip `{}` tracks vip `{value}`, which is not enabled: its servers count as down",
                        vip.name.value
                    ),
                    format!("write `enabled = true` for vip `{value}`, or track another"),
                );
            }
        }
    }
    for start in edges.keys().copied() {
        if let Some((ring, span)) = ring_from(start, &edges) {
            let names: Vec<_> =
                ring.iter().filter_map(|number| Some(vips.get(*number)?.name.value.as_str())).collect();
            report.error(
                Code::TrackCycle,
                span,
                format!("vip `{}` tracks itself: {}", names.first().unwrap_or(&""), names.join(" -> ")),
                "remove one `track` of the ring",
            );
        }
    }
}

/// The shortest way from a VIP back to itself by VIPs that come after it: each ring is met once, from its first VIP.
fn ring_from(start: usize, edges: &BTreeMap<usize, Vec<(usize, Span)>>) -> Option<(Vec<usize>, Span)> {
    // By VIP: the one it was reached from.
    let mut from: HashMap<usize, usize> = HashMap::new();
    let mut next = vec![start];
    while !next.is_empty() {
        let mut after = Vec::new();
        for vip in next {
            for (tracked, _) in edges.get(&vip).into_iter().flatten() {
                if *tracked == start {
                    let mut ring = vec![start, vip];
                    while let Some(before) = ring.last().and_then(|last| from.get(last)) {
                        ring.push(*before);
                    }
                    if vip == start {
                        ring.truncate(1);
                    }
                    let ring: Vec<_> = ring.into_iter().rev().chain([start]).collect();
                    let second = ring.get(1)?;
                    let first_step = edges.get(&start)?.iter().find(|(tracked, _)| tracked == second)?;
                    return Some((ring, first_step.1));
                }
                if *tracked > start && !from.contains_key(tracked) {
                    from.insert(*tracked, vip);
                    after.push(*tracked);
                }
            }
        }
        next = after;
    }
    None
}
