//! The sections of all files in one: what stands by name (certificates, pools, profiles, VIPs), and profiles merged into VIPs.

use std::collections::{HashMap, HashSet};

use super::{
    diag::{Code, Report, nearest},
    file::{Entry, File, Span, Table, Value},
    keys::{CHECK_KEYS, PERSIST_KEYS, merge_typed, typed},
    pki::{CERT, FAMILY},
    proxy::{LAID_TABLES, TABLE_KEYS, pools_of},
    read::{check_keys, check_name, string, table, wrong_type},
};

/// Keys of a VIP; a profile has the same but `servers`.
pub(super) const VIP_KEYS: [&str; 35] = [
    "profile",
    "mode",
    "ip",
    "ports",
    "protocol",
    "interface",
    "scheduler",
    "persist",
    "check",
    "alert_to",
    "idle_timeout",
    "fallback",
    "slow_start",
    "unattended",
    "source",
    "source_ports",
    "return",
    "reset",
    "rip_port",
    "enabled",
    "pool",
    "servers",
    "tls",
    "backend_tls",
    "timeouts",
    "http",
    "https_redirect",
    "headers",
    "switch",
    "unintelligible",
    "accept_proxy",
    "send_proxy",
    "transparent",
    "max_connections",
    "haproxy_extra",
];
const VIP_KEYS_LATER: [&str; 1] = ["acl"];
const SECTIONS: [&str; 8] = ["node", "gateway", "pki", "alerts", "proxy", "pool", "profile", "vip"];
const SECTIONS_LATER: [&str; 4] = ["cluster", "http", "snmp", "web"];
const PKI_KEYS: [&str; 2] = ["cert", "ca"];

/// What all files say together, by section. Names are unique.
#[derive(Default)]
pub(super) struct Sections {
    pub(super) node: Option<Entry>,
    pub(super) gateway: Option<Entry>,
    pub(super) alerts: Option<Entry>,
    pub(super) proxy: Option<Entry>,
    pub(super) certs: Vec<Entry>,
    pub(super) families: Vec<Entry>,
    pub(super) pools: Vec<Entry>,
    pub(super) profiles: Vec<Entry>,
    pub(super) vips: Vec<Entry>,
    /// A file did not parse: names that are not found may stand in it.
    pub(super) incomplete: bool,
}

impl Sections {
    /// Sorts the files' tables into sections. A file that is not sound is left out: half of it may be garbled.
    pub(super) fn collect(files: Vec<File>, report: &mut Report<'_>) -> Self {
        let mut sections = Self { incomplete: files.iter().any(|file| !file.sound), ..Self::default() };
        for file in files.into_iter().filter(|file| file.sound) {
            check_keys(&file.table, "the file", &SECTIONS, &SECTIONS_LATER, report);
            for entry in file.table.entries {
                match entry.key.value.as_str() {
                    "node" => set_once(&mut sections.node, entry, "{ name = \"lb1\" }", report),
                    "gateway" => {
                        set_once(&mut sections.gateway, entry, "{ addresses = [\"10.12.1.250\"] }", report);
                    }
                    "alerts" => set_once(&mut sections.alerts, entry, "{ syslog = true }", report),
                    "proxy" => set_once(&mut sections.proxy, entry, "{ max_connections = 40000 }", report),
                    "pki" => sections.gather_pki(entry, report),
                    "pool" => gather(entry, "pool", &mut sections.pools, report),
                    "profile" => gather(entry, "profile", &mut sections.profiles, report),
                    "vip" => gather(entry, "vip", &mut sections.vips, report),
                    _ => {}
                }
            }
        }
        for (list, what) in [
            (&mut sections.certs, CERT),
            (&mut sections.families, FAMILY),
            (&mut sections.pools, "pool"),
            (&mut sections.profiles, "profile"),
            (&mut sections.vips, "vip"),
        ] {
            keep_first(list, what, report);
        }
        for pool in &sections.pools {
            check_keys(entries(pool), &owner("pool", pool), &["servers"], &[], report);
        }
        for profile in &sections.profiles {
            check_service_keys(profile, "profile", report);
        }
        for vip in &sections.vips {
            check_service_keys(vip, "vip", report);
        }
        sections
    }

    fn gather_pki(&mut self, section: Entry, report: &mut Report<'_>) {
        let Value::Table(kinds) = section.node.value else {
            wrong_type(&section, "a table", "{ cert = { .. }, ca = { .. } }", report);
            return;
        };
        check_keys(&kinds, "`[pki]`", &PKI_KEYS, &[], report);
        for kind in kinds.entries {
            match kind.key.value.as_str() {
                "cert" => gather(kind, CERT, &mut self.certs, report),
                "ca" => gather(kind, FAMILY, &mut self.families, report),
                _ => {}
            }
        }
    }

    /// A VIP with everything that its profiles add, the nearest profile first.
    pub(super) fn resolve_vip(&self, vip: &Entry, report: &mut Report<'_>) -> Table {
        self.resolve(vip, Vec::new(), report)
    }

    /// A profile with everything that the profiles it rests on add.
    pub(super) fn resolve_profile(&self, profile: &Entry, report: &mut Report<'_>) -> Table {
        self.resolve(profile, vec![profile.key.value.as_str()], report)
    }

    /// `path`: profiles passed on the way here.
    fn resolve<'s>(&'s self, service: &'s Entry, mut path: Vec<&'s str>, report: &mut Report<'_>) -> Table {
        let mut merged = entries(service).clone();
        let mut next = entries(service).get("profile");
        while let Some(reference) = next {
            let Some(name) = string(reference, "\"NAME\"", report) else {
                break;
            };
            let Some(profile) = find(&self.profiles, name) else {
                self.unknown(reference, "profile", &self.profiles, report);
                break;
            };
            if path.contains(&name) {
                // A ring is met once from each of its profiles, and from what uses them: the first by name tells it.
                if path.first() == Some(&name) && path.iter().min() == Some(&name) {
                    let message =
                        format!("profile `{name}` rests on itself: {} -> {name}", path.join(" -> "));
                    report.error(
                        Code::ProfileCycle,
                        reference.node.span,
                        message,
                        "remove one `profile` key of the ring",
                    );
                }
                break;
            }
            merged = merge(entries(profile), &merged);
            path.push(name);
            next = entries(profile).get("profile");
        }
        merged.entries.retain(|entry| entry.key.value != "profile");
        merged
    }

    /// Warns of pools and profiles that nothing names.
    pub(super) fn advise_unused(&self, report: &mut Report<'_>) {
        for (what, list) in [("pool", &self.pools), ("profile", &self.profiles)] {
            let services = self.profiles.iter().chain(&self.vips);
            let mut used: HashSet<&str> = services
                .clone()
                .filter_map(|service| entries(service).get(what)?.node.value.as_str())
                .collect();
            if what == "pool" {
                used.extend(services.flat_map(|service| pools_of(entries(service))).map(|name| name.value));
            }
            for entry in list.iter().filter(|entry| !used.contains(entry.key.value.as_str())) {
                let message = format!("{} is not used", owner(what, entry));
                report.warning(Code::Unused, entry.key.span, message, "remove it, or name it in a VIP");
            }
        }
    }

    /// Reports a name that is nowhere defined, unless a file that cannot be read may define it.
    pub(super) fn unknown(&self, reference: &Entry, what: &str, list: &[Entry], report: &mut Report<'_>) {
        if let Value::String(name) = &reference.node.value {
            self.unknown_name(name, reference.node.span, what, list, report);
        }
    }

    /// The same for a name at a place.
    pub(super) fn unknown_name(
        &self,
        name: &str,
        span: Span,
        what: &str,
        list: &[Entry],
        report: &mut Report<'_>,
    ) {
        if self.incomplete {
            return;
        }
        let names = list.iter().map(|entry| entry.key.value.as_str());
        let help = nearest(name, names).map_or_else(
            || format!("define `[{what}.{name}]`, or remove the reference"),
            |near| format!("did you mean \"{near}\"?"),
        );
        report.error(Code::UnknownName, span, format!("there is no {what} `{name}`"), help);
    }
}

/// The entry of that name.
pub(super) fn find<'l>(list: &'l [Entry], name: &str) -> Option<&'l Entry> {
    list.iter().find(|entry| entry.key.value == name)
}

/// Its table; sections hold nothing else.
pub(super) const fn entries(entry: &Entry) -> &Table {
    const EMPTY: &Table = &Table { entries: Vec::new() };
    if let Value::Table(table) = &entry.node.value { table } else { EMPTY }
}

/// ``vip `DICOM` ``.
pub(super) fn owner(what: &str, entry: &Entry) -> String {
    format!("{what} `{}`", entry.key.value)
}

/// Takes a section that only one file may have.
fn set_once(section: &mut Option<Entry>, entry: Entry, example: &str, report: &mut Report<'_>) {
    if table(&entry, example, report).is_none() {
        return;
    }
    if let Some(first) = section {
        report.error_also(
            Code::DuplicateName,
            entry.key.span,
            (first.key.span, "first defined here"),
            format!("section `{}` is in two files", entry.key.value),
            "keep one of them, best in the main file",
        );
    } else {
        *section = Some(entry);
    }
}

fn gather(section: Entry, what: &str, list: &mut Vec<Entry>, report: &mut Report<'_>) {
    let Value::Table(named) = section.node.value else {
        wrong_type(&section, "a table of names", "{ NAME = { .. } }", report);
        return;
    };
    for entry in named.entries {
        check_name(&entry.key, what, report);
        if matches!(entry.node.value, Value::Table(_)) {
            list.push(entry);
        } else {
            let (name, span) = (&entry.key.value, entry.node.span);
            report.error(
                Code::WrongType,
                span,
                format!("{what} `{name}` must be a table, not {}", entry.node.value.kind()),
                format!("write a section `[{what}.{name}]` with its keys below it"),
            );
        }
    }
}

fn keep_first(list: &mut Vec<Entry>, what: &str, report: &mut Report<'_>) {
    let mut first = HashMap::new();
    list.retain(|entry| {
        let span = entry.key.span;
        let earlier = *first.entry(entry.key.value.clone()).or_insert(span);
        if earlier != span {
            report.error_also(
                Code::DuplicateName,
                span,
                (earlier, "first defined here"),
                format!("{what} `{}` is defined in two files", entry.key.value),
                "rename or remove one of them",
            );
        }
        earlier == span
    });
}

fn check_service_keys(service: &Entry, what: &str, report: &mut Report<'_>) {
    let (named, table) = (owner(what, service), entries(service));
    // Other faults have words of their own.
    let mut visible = table.clone();
    visible.entries.retain(|entry| match entry.key.value.as_str() {
        "servers" if what == "profile" => {
            report.error(
                Code::MisplacedKey,
                entry.key.span,
                format!("{named} has `servers`, which belong to a VIP or a pool"),
                "move them into a `[pool.NAME]` and write `pool = \"NAME\"` here",
            );
            false
        }
        _ => true,
    });
    check_keys(&visible, &named, &VIP_KEYS, &VIP_KEYS_LATER, report);
    let typed_keys = [("check", &CHECK_KEYS[..]), ("persist", &PERSIST_KEYS)];
    for (key, known) in typed_keys.into_iter().chain(TABLE_KEYS) {
        if let Some(Value::Table(inner)) = table.get(key).map(|entry| &entry.node.value) {
            check_keys(inner, &format!("`{key}` of {named}"), known, &[], report);
        }
    }
    if let (Some(pool), Some(servers)) = (table.get("pool"), table.get("servers"))
        && what == "vip"
    {
        report.error_also(
            Code::PoolAndServers,
            servers.key.span,
            (pool.key.span, "the pool"),
            format!("{named} has a pool and servers of its own"),
            "move the servers into the pool, or remove `pool`",
        );
    }
}

/// `over` laid upon `base`, tables into tables.
fn merge(base: &Table, over: &Table) -> Table {
    let mut merged = over.clone();
    for under in &base.entries {
        let key = under.key.value.as_str();
        // A VIP's own servers take the place of its profile's pool; a profile has no servers.
        if (key == "pool" && over.has("servers")) || key == "servers" {
            continue;
        }
        let Some(upper) = merged.entries.iter_mut().find(|entry| entry.key.value == key) else {
            merged.entries.push(under.clone());
            continue;
        };
        if matches!(key, "check" | "persist")
            && let (Some(lower), Some(mine)) = (typed(&under.node), typed(&upper.node))
        {
            upper.node.value = Value::Table(merge_typed(lower, mine));
        }
        if LAID_TABLES.contains(&key)
            && let (Value::Table(lower), Value::Table(mine)) = (&under.node.value, &upper.node.value)
        {
            upper.node.value = Value::Table(merge(lower, mine));
        }
    }
    merged
}
