//! A VIP's keys, one by one: from the merged table to a [`Draft`], whose parts are there as far as they are valid.

use std::{collections::HashSet, net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{
    alerts::read_addresses,
    check::{self, DraftCheck, Scope, read_check},
    diag::{Code, Report},
    file::{At, Entry, Span, Table, Value},
    keys::{merge_typed, typed},
    persistence::read_persist,
    ports::{DraftPorts, read_ports},
    proxy::{self, DraftProxy, read_proxy},
    read::{self, Times, missing, wrong_type},
    sections::{Sections, entries, find, owner},
    server::{DraftRip, SERVERS_EXAMPLE, read_endpoint, read_servers},
    translate::{Translation, read_translation},
};
use crate::model::config::{Fallback, Mode, Persist, Protocols, Scheduler, Unattended, Vip};

/// Longest time in which a server works its way to its whole weight.
const MAX_SLOW_START: Duration = Duration::from_secs(3600);
/// Longest idle time of a flow or a persistence entry.
pub(super) const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);

const MODES: [(&str, Mode); 5] = [
    ("l4-dr", Mode::L4Dr),
    ("l4-nat", Mode::L4Nat),
    ("l4-snat", Mode::L4Snat),
    ("l7-tcp", Mode::L7Tcp),
    ("l7-http", Mode::L7Http),
];
const MODES_LATER: [&str; 2] = ["l4-tun", "l7-snat"];
const PROTOCOLS: [(&str, Protocols); 3] =
    [("tcp", Protocols::Tcp), ("udp", Protocols::Udp), ("tcp+udp", Protocols::TcpUdp)];
/// What a VIP of layer 4 may have for its fallback, and one of layer 7.
const FALLBACKS_4: [(&str, Fallback); 2] = [("reject", Fallback::Reject), ("drop", Fallback::Drop)];
const FALLBACKS_7: [(&str, Fallback); 2] = [("page", Fallback::Page), ("off", Fallback::Reject)];
const UNATTENDED: [(&str, Unattended); 2] = [("serve", Unattended::Serve), ("refuse", Unattended::Refuse)];
const SCHEDULERS: [(&str, Scheduler); 5] = [
    ("wlc", Scheduler::Wlc),
    ("wrr", Scheduler::Wrr),
    ("maglev", Scheduler::Maglev),
    ("source-hash", Scheduler::SourceHash),
    ("first", Scheduler::First),
];

/// A VIP as far as it could be read; a part that lacks was reported, or was not written and has a default.
pub(super) struct Draft {
    pub(super) name: At<String>,
    pub(super) ip: Option<At<IpAddr>>,
    pub(super) ports: Option<DraftPorts>,
    pub(super) protocols: Option<Protocols>,
    pub(super) mode: Option<Mode>,
    pub(super) enabled: bool,
    pub(super) scheduler: Option<Scheduler>,
    /// With the place of `persist`, or of the VIP's name.
    pub(super) persist: Option<At<Persist>>,
    pub(super) check: Option<DraftCheck>,
    /// With the place of `alert_to`.
    pub(super) alert_to: Option<At<Vec<String>>>,
    /// Its own servers or its pool's.
    pub(super) rips: Option<Vec<DraftRip>>,
    pub(super) translation: Translation,
    /// What has meaning on layer 7 alone.
    pub(super) proxy: DraftProxy,
    interface: Option<String>,
    idle_timeout: Option<Duration>,
    pub(super) fallback: Option<At<Fallback>>,
    pub(super) slow_start: Option<Duration>,
    unattended: Option<Unattended>,
}

impl Draft {
    /// The fallback server, if there is one, with its port.
    pub(super) fn fallback_server(&self) -> Option<(At<IpAddr>, Option<u16>)> {
        let At { value, span } = self.fallback.as_ref()?;
        match *value {
            Fallback::Server { ip, port } => Some((At { value: ip, span: *span }, port)),
            Fallback::Drop | Fallback::Page | Fallback::Reject => None,
        }
    }

    /// Its check, and those of servers that have their own.
    pub(super) fn checks(&self) -> impl Iterator<Item = &DraftCheck> {
        let own = self.rips.iter().flatten().filter_map(|rip| rip.merged_check.as_ref());
        self.check.iter().chain(own)
    }

    /// Ports that are served, each with its place: its `ports`, unless TLS alone is, and that of TLS.
    pub(super) fn served(&self) -> impl Iterator<Item = (RangeInclusive<u16>, Span)> {
        let layer7 = self.mode.is_some_and(Mode::is_layer7);
        let ranges = match &self.ports {
            Some(DraftPorts::Ranges(ranges)) if !layer7 || self.proxy.serves_ports() => ranges.as_slice(),
            None | Some(DraftPorts::All(_) | DraftPorts::Ranges(_)) => &[],
        };
        let tls = self.proxy.tls_port().filter(|_| layer7).map(|port| (port.value..=port.value, port.span));
        ranges.iter().map(|range| (range.value.clone(), range.span)).chain(tls)
    }

    /// The VIP, when nothing lacks.
    pub(super) fn finish(self) -> Option<Vip> {
        let (mode, protocols) = (self.mode?, self.protocols?);
        let port = self.translation.rip_port.as_ref().map(|port| port.value);
        let plain = Vip::new(self.name.value, mode, self.ip?.value, self.ports?.finish());
        let mut vip = Vip {
            protocols,
            interface: self.interface,
            scheduler: self.scheduler?,
            persist: self.persist?.value,
            check: self.check?.finish(mode, protocols),
            alert_to: self.alert_to.map(|to| to.value).unwrap_or_default(),
            idle_timeout: self.idle_timeout.unwrap_or(plain.idle_timeout),
            fallback: self.fallback.map_or(default_fallback(mode), |fallback| fallback.value),
            slow_start: self.slow_start.unwrap_or(plain.slow_start),
            unattended: self.unattended.unwrap_or(plain.unattended),
            enabled: self.enabled,
            ..plain.clone()
        };
        if mode.is_layer7() {
            (vip.idle_timeout, vip.unattended) = (plain.idle_timeout, plain.unattended);
            vip.proxy = Some(Box::new(self.proxy.finish()));
        }
        vip.rips = self.rips?.into_iter().map(|rip| rip.finish(&vip, port)).collect::<Option<_>>()?;
        self.translation.finish(&mut vip)?;
        Some(vip)
    }
}

/// Reads a VIP.
pub(super) fn read_vip(
    vip: &Entry,
    scope: Scope<'_>,
    pools: &[Option<Vec<DraftRip>>],
    report: &mut Report<'_>,
) -> Draft {
    let sections = scope.sections;
    let table = sections.resolve_vip(vip, report);
    let named = owner("vip", vip);
    let span = vip.key.span;
    for (key, example) in [("mode", "\"l4-dr\""), ("ip", "\"10.12.1.100\""), ("ports", "[104, 11112]")] {
        if !table.has(key) {
            missing(key, &named, span, example, report);
        }
    }
    let mut draft = read_service(&table, vip, scope, report);
    advise_meaningless(&table, &named, draft.mode, report);
    draft.rips = if let Some(servers) = table.get("servers") {
        read_servers(servers, report)
    } else if let Some(pool) = table.get("pool") {
        let name = read::string(pool, "\"NAME\"", report);
        name.and_then(|name| {
            let found = sections.pools.iter().position(|entry| entry.key.value == name);
            if found.is_none() {
                sections.unknown(pool, "pool", &sections.pools, report);
            }
            pools.get(found?)?.clone()
        })
    } else {
        missing("servers", &named, span, SERVERS_EXAMPLE, report);
        None
    };
    add_pools(&mut draft, &table, sections, pools, report);
    read_own_checks(&mut draft, &table, &named, scope, report);
    proxy::check_vip(&table, &named, &draft, report);
    draft
}

/// Servers of the pools that switch rules lead to, after the VIP's own. A pool that servers of the VIP say of themselves
/// is that one.
fn add_pools(
    draft: &mut Draft,
    table: &Table,
    sections: &Sections,
    pools: &[Option<Vec<DraftRip>>],
    report: &mut Report<'_>,
) {
    let Some(rips) = &mut draft.rips else { return };
    let own: HashSet<String> = rips.iter().filter_map(|rip| rip.pool.clone()).collect();
    let mut done = HashSet::new();
    for At { value: name, span } in proxy::pools_of(table) {
        if own.contains(name) || !done.insert(name) {
            continue;
        }
        let Some(number) = sections.pools.iter().position(|entry| entry.key.value == name) else {
            sections.unknown_name(name, span, "pool", &sections.pools, report);
            continue;
        };
        let Some(Some(servers)) = pools.get(number) else { continue };
        if draft.mode.is_some_and(Mode::is_layer7) {
            rips.extend(servers.iter().map(|rip| DraftRip { pool: Some(name.to_owned()), ..rip.clone() }));
        }
    }
}

/// What clients get when no server is up and nothing is said: on layer 7 a page, if they understand one.
const fn default_fallback(mode: Mode) -> Fallback {
    match mode {
        Mode::L4Dr | Mode::L4Nat | Mode::L4Snat | Mode::L7Tcp => Fallback::Reject,
        Mode::L7Http => Fallback::Page,
    }
}

/// Lays what servers say of their checks upon the VIP's.
fn read_own_checks(draft: &mut Draft, table: &Table, named: &str, scope: Scope<'_>, report: &mut Report<'_>) {
    let Some((vips, _)) = check_table(table, draft.name.span) else { return };
    let (mode, protocols) = (draft.mode, draft.protocols);
    check::advise_meaningless(&vips, named, mode, protocols, report);
    // Faults of the VIP's would be told again.
    if draft.check.is_none() {
        return;
    }
    for rip in draft.rips.iter_mut().flatten() {
        let Some(own) = &rip.check else { continue };
        let Some(keys) = typed(&own.node) else { continue };
        let merged = merge_typed(vips.clone(), keys);
        check::advise_meaningless(&merged, named, mode, protocols, report);
        rip.merged_check = read_check(&merged, own.key.span, scope, report);
    }
}

/// The keys of `check` and its place; none, and the place of the name, where there is no `check`. `None`: it is no check.
fn check_table(table: &Table, named: Span) -> Option<(Table, Span)> {
    match table.get("check") {
        Some(entry) => Some((typed(&entry.node)?, entry.key.span)),
        None => Some((Table::default(), named)),
    }
}

/// Checks what a profile says, as far as that can be told without the VIPs that use it.
pub(super) fn check_profile(profile: &Entry, scope: Scope<'_>, report: &mut Report<'_>) {
    let sections = scope.sections;
    let table = sections.resolve_profile(profile, report);
    let _ = read_service(&table, profile, scope, report);
    if let Some(pool) = table.get("pool")
        && let Some(name) = read::string(pool, "\"NAME\"", report)
        && find(&sections.pools, name).is_none()
    {
        sections.unknown(pool, "pool", &sections.pools, report);
    }
}

/// The servers of a pool.
pub(super) fn read_pool(pool: &Entry, report: &mut Report<'_>) -> Option<Vec<DraftRip>> {
    let Some(servers) = entries(pool).get("servers") else {
        missing("servers", &owner("pool", pool), pool.key.span, SERVERS_EXAMPLE, report);
        return None;
    };
    let rips = read_servers(servers, report)?;
    for rip in rips.iter().filter(|rip| rip.pool.is_some()) {
        report.error(
            Code::MisplacedKey,
            rip.name.span,
            format!("server `{}` of {} is of another pool", rip.name.value, owner("pool", pool)),
            "remove its `pool`: rules lead to the whole list",
        );
    }
    Some(rips)
}

/// Whether a table must hold everything that a VIP needs.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Part {
    Profile,
    Whole,
}

fn read_service(table: &Table, named: &Entry, scope: Scope<'_>, report: &mut Report<'_>) -> Draft {
    let text = |key: &str, example: &str, report: &mut Report<'_>| {
        let entry = table.get(key)?;
        Some(At { value: read::string(entry, example, report)?.to_owned(), span: entry.node.span })
    };
    let ip = text("ip", "\"10.12.1.100\"", report).and_then(|ip| {
        Some(At { value: read::host_address(&ip.value, "a vip", ip.span, report)?, span: ip.span })
    });
    let interface = text("interface", "\"eth0\"", report);
    let mode = table.get("mode").and_then(|entry| read::word(entry, &MODES, &MODES_LATER, report));
    let protocols = match table.get("protocol") {
        Some(entry) => read::word(entry, &PROTOCOLS, &["sctp"], report),
        None => Some(Protocols::default()),
    };
    let ports = table.get("ports").and_then(|entry| read_ports(entry, report));
    let scheduler = match table.get("scheduler") {
        Some(entry) => read::word(entry, &SCHEDULERS, &[], report),
        None => Some(Scheduler::default()),
    };
    let layer7 = mode.filter(|_| scope.part == Part::Whole).map(Mode::is_layer7);
    let fallback = table
        .get("fallback")
        .and_then(|entry| Some(At { value: read_fallback(entry, layer7, report)?, span: entry.node.span }));
    let persist =
        read_persist(table.get("persist"), mode, scope.part, ip.as_ref().map(|ip| ip.value), report);
    let slow = Times { range: Duration::ZERO..=MAX_SLOW_START, whole_secs: true, example: "30s" };
    let slow_start = table.get("slow_start").and_then(|entry| read::duration(entry, &slow, report));
    let unattended = table.get("unattended").and_then(|entry| read::word(entry, &UNATTENDED, &[], report));
    let idle = Times { range: Duration::from_secs(1)..=MAX_IDLE, whole_secs: true, example: "1h" };
    let idle_timeout = table.get("idle_timeout").and_then(|entry| read::duration(entry, &idle, report));
    let enabled = table.get("enabled").and_then(|entry| read::boolean(entry, report));
    Draft {
        name: named.key.clone(),
        persist: persist.map(|value| {
            let span = table.get("persist").map_or(named.key.span, |entry| entry.node.span);
            At { value, span }
        }),
        check: match check_table(table, named.key.span) {
            Some((keys, place)) => read_check(&keys, place, scope, report),
            None => {
                if let Some(entry) = table.get("check") {
                    wrong_type(entry, "a string or a table", "\"connect\"", report);
                }
                None
            }
        },
        alert_to: table
            .get("alert_to")
            .map(|entry| At { value: read_addresses(entry, report), span: entry.node.span }),
        translation: read_translation(table, report),
        proxy: read_proxy(table, scope, report),
        interface: interface.and_then(|name| read::interface(&name.value, name.span, report)),
        enabled: enabled.unwrap_or(true),
        rips: None,
        ip,
        ports,
        mode,
        protocols,
        scheduler,
        fallback,
        slow_start,
        unattended,
        idle_timeout,
    }
}

/// A word of the VIP's layer, or the address of a server with or without a port. A profile whose layer is not known
/// may have the words of both.
fn read_fallback(entry: &Entry, layer7: Option<bool>, report: &mut Report<'_>) -> Option<Fallback> {
    if let Value::String(text) = &entry.node.value
        && text.contains(['.', ':'])
    {
        let (ip, port) = read_endpoint(text, "a fallback server", entry.node.span, report)?;
        return Some(Fallback::Server { ip, port });
    }
    let [layer_4, layer_7] = [FALLBACKS_4, FALLBACKS_7];
    match layer7 {
        Some(true) => read::word(entry, &layer_7, &[], report),
        Some(false) => read::word(entry, &layer_4, &[], report),
        None => read::word(entry, &[layer_4, layer_7].concat(), &[], report),
    }
}

/// Warns of keys that mean nothing in the VIP's mode: a wish that is not fulfilled.
fn advise_meaningless(table: &Table, named: &str, mode: Option<Mode>, report: &mut Report<'_>) {
    let Some(mode) = mode else { return };
    let (keys, cure): (&[&str], _) = match mode {
        Mode::L4Dr => (
            &["source", "source_ports", "return", "reset"],
            "with direct routing servers answer clients themselves",
        ),
        Mode::L4Nat => (&["source", "source_ports"], "NAT keeps the client's address"),
        Mode::L4Snat | Mode::L7Http | Mode::L7Tcp => return,
    };
    for Entry { key, .. } in keys.iter().filter_map(|key| table.get(key)) {
        let name = &key.value;
        report.warning(
            Code::Redundant,
            key.span,
            format!("`{name}` means nothing in mode \"{}\" of {named}: {cure}", mode.name()),
            format!("remove `{name}`, or leave it for a mode that has it"),
        );
    }
}
