//! Observed state: everything that tasks publish, folded into what the API shows. Reads only.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::{backend, counter::Reason, limits, service::mode};
use tokio::sync::watch;

use crate::{
    alert,
    control::View,
    dataplane::{Counters, Flow, FlowCensus, Installed, ServiceKey, XdpMode},
    fallback_page,
    model::{
        config::{CheckKind, Rip, SourceAddresses, Vip},
        health::{Health, HealthMap, RipId, TELLING_SYN_REPEATS, Verdict, syns_in_vain},
        net::{Address, ForeignAnswers, NetFacts, VipAddress},
        operator::{Forced, Order, Word, utc},
        proxied::{Proxied, ProxiedServer, Takes},
        status::{
            Colour, FlowStatus, FlowsStatus, LinkStatus, ReasonCount, RipState, RipStatus, SourcePorts,
            Status, VipStatus,
        },
        tls::{Lasts, Validity},
    },
    net::foreign::describe,
    reconcile::Reconciled,
    routing,
};

/// Share of a flow table in use, in percent, from which on it is a problem: a flow has four places to be in, and
/// from about here on one in thirty finds them all taken.
const CROWDED_PERCENT: u64 = 45;
/// Share of a VIP's source ports in use, in percent, from which on it is a problem.
const SCARCE_PERCENT: u64 = 80;

/// What is said of VIPs and servers on their way into the kernel's tables.
const NOT_YET: &str = "not in the data plane yet";

/// The ends of all channels that say something.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Name shown when the configuration gives none.
    pub host: String,
    /// Start of the daemon.
    pub started: Instant,
    /// Configuration and notes.
    pub view: watch::Receiver<Arc<View>>,
    /// Verdicts.
    pub health: watch::Receiver<HealthMap>,
    /// Network.
    pub facts: watch::Receiver<NetFacts>,
    /// What keeps the machine from being the router that it should be.
    pub routing: watch::Receiver<routing::Problems>,
    /// Who else answers for VIPs.
    pub foreign: watch::Receiver<Arc<ForeignAnswers>>,
    /// What the companion proxy does.
    pub proxied: watch::Receiver<Arc<Proxied>>,
    /// What keeps the fallback page from being served.
    pub fallback_page: watch::Receiver<fallback_page::Problems>,
    /// How long certificates last.
    pub validities: watch::Receiver<Option<Arc<Vec<Validity>>>>,
    /// Why nobody can be told.
    pub alerts: watch::Receiver<alert::Problems>,
    /// Data plane.
    pub reconciled: watch::Receiver<Arc<Reconciled>>,
    /// Flows.
    pub census: watch::Receiver<Arc<FlowCensus>>,
    /// Counters.
    pub counters: watch::Receiver<Arc<Counters>>,
}

impl Observer {
    /// What is so now.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Status {
        let view = Arc::clone(&self.view.borrow());
        let reconciled = Arc::clone(&self.reconciled.borrow());
        let census = Arc::clone(&self.census.borrow());
        let counters = Arc::clone(&self.counters.borrow());
        let proxied = Arc::clone(&self.proxied.borrow());
        let health = self.health.borrow().clone();
        let facts = self.facts.borrow().clone();
        let scene = Scene {
            view: &view,
            health: &health,
            facts: &facts,
            reconciled: &reconciled,
            census: &census,
            counters: &counters,
            proxied: &proxied,
            slots: slots(&reconciled.installed),
            in_tables: in_tables(&reconciled.installed),
            now,
        };
        let vips: Vec<VipStatus> = view.config.vips.iter().map(|vip| scene.vip(vip)).collect();
        let links = scene.links();
        let served = vips.iter().filter(|v| v.enabled);
        let worst = served.clone().map(|v| v.colour).max().unwrap_or(Colour::Green);
        let detached = links.is_empty() && served.filter(|vip| !vip.mode.is_layer7()).count() > 0;
        let mut problems = scene.problems(&links, &vips, detached);
        let foreign = Arc::clone(&self.foreign.borrow());
        problems.extend(foreign.iter().map(|answer| describe(answer, &view.config, &facts)));
        problems.extend(self.routing.borrow().iter().cloned());
        problems.extend(self.alerts.borrow().iter().cloned());
        problems.extend(proxied.problems.iter().cloned());
        problems.extend(self.fallback_page.borrow().iter().cloned());
        problems
            .extend(self.validities.borrow().iter().flat_map(|all| all.iter()).filter_map(expiring).cloned());
        Status {
            node: view.config.node.name.clone().unwrap_or_else(|| self.host.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_epoch_secs: since(SystemTime::UNIX_EPOCH, now),
            uptime_secs: self.started.elapsed().as_secs(),
            health: if detached { Colour::Red } else { worst },
            problems,
            flows: scene.flows(),
            reasons: reasons(&counters),
            links,
            vips,
        }
    }

    /// A flow with names. A server whose slot has changed hands since has none.
    #[must_use]
    pub fn flow(flow: &Flow, installed: &Installed) -> FlowStatus {
        let vip = installed.services.get(&flow.service).map(|(who, _)| who.name.clone());
        let rip = installed
            .backends
            .get(&flow.slot)
            .filter(|(who, record)| who.service == flow.service && record.generation == flow.generation)
            .map(|(who, _)| who.name.clone());
        FlowStatus {
            protocol: flow.protocol,
            client: flow.client.0,
            client_port: flow.client.1,
            vip_ip: flow.vip.0,
            vip_port: flow.vip.1,
            server: flow.server.map(SocketAddr::from),
            source: flow.source.map(SocketAddr::from),
            vip,
            rip,
            state: flow.state.name().to_owned(),
            idle_secs: flow.idle_millis / 1000,
        }
    }
}

/// What is to be said of a certificate that does not last.
const fn expiring(validity: &Validity) -> Option<&String> {
    match &validity.lasts {
        Lasts::Within { text, .. } => Some(text),
        Lasts::Long | Lasts::Unknown => None,
    }
}

/// By service name and server name: the slot.
fn slots(installed: &Installed) -> BTreeMap<(&str, &str), u16> {
    let mut slots = BTreeMap::new();
    for (&slot, (who, _)) in &installed.backends {
        if let Some((service, _)) = installed.services.get(&who.service) {
            slots.insert((service.name.as_str(), who.name.as_str()), slot);
        }
    }
    slots
}

/// Slots that take new flows.
fn in_tables(installed: &Installed) -> BTreeSet<u16> {
    installed.tables.values().flat_map(|table| table.entrants.iter().map(|entrant| entrant.slot)).collect()
}

/// One moment of everything.
struct Scene<'a> {
    view: &'a View,
    health: &'a HealthMap,
    facts: &'a NetFacts,
    reconciled: &'a Reconciled,
    census: &'a FlowCensus,
    counters: &'a Counters,
    proxied: &'a Proxied,
    slots: BTreeMap<(&'a str, &'a str), u16>,
    in_tables: BTreeSet<u16>,
    now: SystemTime,
}

impl Scene<'_> {
    fn vip(&self, vip: &Vip) -> VipStatus {
        if vip.mode.is_layer7() {
            return self.proxy(vip);
        }
        let rips: Vec<RipStatus> = vip.rips.iter().map(|rip| self.rip(vip, rip)).collect();
        let problem = self.vip_problem(vip);
        let installed = &self.reconciled.installed;
        let id = installed.services.iter().find(|(_, (who, _))| who.name == vip.name).map(|(id, _)| *id);
        let traffic = id.and_then(|id| self.counters.services.get(&id)).copied().unwrap_or_default();
        VipStatus {
            name: vip.name.clone(),
            ip: vip.ip,
            ports: vip.ports.to_string(),
            tls_port: None,
            protocol: vip.protocols,
            mode: vip.mode,
            scheduler: vip.scheduler,
            enabled: vip.enabled,
            colour: colour(vip.enabled, problem.is_some(), &rips),
            problem,
            connections: rips.iter().map(|r| r.connections).sum(),
            closing: rips.iter().map(|r| r.closing).sum(),
            flows_total: traffic.flows,
            packets_total: traffic.packets,
            bytes_total: traffic.bytes,
            source_ports: id.and_then(|id| self.source_ports(id)),
            rips,
        }
    }

    /// A VIP that the companion proxy serves.
    fn proxy(&self, vip: &Vip) -> VipStatus {
        let proxied = self.proxied.vips.get(&vip.name).cloned().unwrap_or_default();
        let rips: Vec<RipStatus> =
            vip.rips.iter().map(|rip| self.proxied_rip(vip, rip, proxied.servers.get(&rip.name))).collect();
        let problem = self.proxy_problem(vip);
        let tls = vip.proxy.as_ref().and_then(|proxy| proxy.tls.as_ref());
        VipStatus {
            name: vip.name.clone(),
            ip: vip.ip,
            ports: if tls.is_none_or(|tls| tls.cleartext) { vip.ports.to_string() } else { String::new() },
            tls_port: tls.map(|tls| tls.port),
            protocol: vip.protocols,
            mode: vip.mode,
            scheduler: vip.scheduler,
            enabled: vip.enabled,
            colour: colour(vip.enabled, problem.is_some(), &rips),
            problem,
            connections: proxied.connections,
            closing: 0,
            flows_total: proxied.connections_total,
            packets_total: 0,
            bytes_total: proxied.bytes_total,
            source_ports: None,
            rips,
        }
    }

    /// A server as the companion proxy has it. What was decided counts when the proxy says the same.
    fn proxied_rip(&self, vip: &Vip, rip: &Rip, proxied: Option<&ProxiedServer>) -> RipStatus {
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        let health = self.health.get(&id);
        let kind = &rip.check.as_ref().unwrap_or(&vip.check).kind;
        let note = self.view.notes.rips.get(&id);
        let decided = note.map_or(RipState::Checking, |note| note.state);
        let word = self.view.operator.get(&id).copied().unwrap_or_default();
        let traffic = proxied.copied().unwrap_or_default();
        let concern = note.and_then(|note| note.detail.clone());
        let why = told(&word, decided, traffic.connections, concern, check_detail(kind, health), self.now);
        let wanted = self.view.goal.proxies.vip(&vip.name).and_then(|desired| desired.servers.get(&rip.name));
        let should = vip.enabled && wanted.is_some_and(|service| service.takes == Takes::Everything);
        let (state, detail) = match (should, traffic.in_service) {
            (true, false) => (RipState::Checking, "not in the proxy yet".to_owned()),
            (false, true) => (RipState::Active, format!("{why}; still takes new connections")),
            (true, true) | (false, false) => (decided, why),
        };
        RipStatus {
            name: rip.name.clone(),
            ip: rip.ip,
            port: rip.port,
            weight: rip.weight,
            state,
            operator: word,
            verdict: health.map_or(Verdict::Unknown, |h| h.verdict),
            verdict_for_secs: health.map_or(0, |h| since(h.since, self.now)),
            detail,
            reason: health.and_then(Health::failure).map(|f| f.reason),
            steps: health.into_iter().flat_map(|h| &h.last).flat_map(|check| check.steps.clone()).collect(),
            syn_repeats: 0,
            connections: traffic.connections,
            closing: 0,
            packets_total: 0,
            bytes_total: traffic.bytes_total,
            mac: self.facts.paths.get(&rip.ip).and_then(|path| path.mac).map(|mac| mac.to_string()),
        }
    }

    /// Why a VIP is not served by the proxy, the cause before its consequences.
    fn proxy_problem(&self, vip: &Vip) -> Option<String> {
        if !vip.enabled {
            return None;
        }
        let here = self.view.notes.vips.get(&vip.name).or_else(|| self.proxied.refused.get(&vip.name));
        if here.is_some() || !self.facts.complete {
            return here.cloned();
        }
        let goal = &self.view.goal.state;
        let mut claimed = goal.proxy_addresses.iter().chain(goal.addresses.keys());
        let address = claimed.find(|address| address.ip == vip.ip)?;
        if let Some(refused) = self.reconciled.addresses.get(&vip.ip) {
            return Some(refused.clone());
        }
        if !self.is_here(address) {
            return Some(self.claiming(address));
        }
        (!self.proxied.vips.contains_key(&vip.name)).then(|| "not in the proxy yet".to_owned())
    }

    /// Source ports of a SNAT service. One towards one server is not in the way of the same one towards another.
    fn source_ports(&self, id: u16) -> Option<SourcePorts> {
        let installed = &self.reconciled.installed;
        let (_, record) = installed.services.get(&id)?;
        if record.mode != mode::SNAT {
            return None;
        }
        let each = installed.sources.get(&id).map_or(0, |s| u64::from(s.count) * u64::from(s.ports));
        let live = installed
            .backends
            .values()
            .filter(|(who, record)| who.service == id && record.state == backend::state::LIVE);
        Some(SourcePorts {
            in_use: self.census.sources_in_use.get(&id).copied().unwrap_or(0),
            capacity: each * live.count() as u64,
        })
    }

    /// Why a VIP is not served, the cause before its consequences.
    fn vip_problem(&self, vip: &Vip) -> Option<String> {
        if !vip.enabled {
            return None;
        }
        let here = self.view.notes.vips.get(&vip.name);
        let dataplane = || self.reconciled.vips.get(&vip.name);
        here.or_else(dataplane).cloned().or_else(|| self.on_the_way(vip))
    }

    /// What is still missing before packets for a VIP are forwarded, in the order in which it is done.
    fn on_the_way(&self, vip: &Vip) -> Option<String> {
        if !self.facts.complete {
            // Servers are not known to be active either: nothing is green, and the node says why.
            return None;
        }
        let installed = &self.reconciled.installed;
        let (address, link) =
            self.view.goal.state.addresses.iter().find(|(address, _)| address.ip == vip.ip)?;
        if !installed.links.contains_key(link) {
            return Some(format!("the program does not run on {} (yet)", self.facts.link_name(*link)));
        }
        let leads_to_it = |port: u16| {
            let has = |&protocol| installed.keys.contains_key(&ServiceKey { ip: vip.ip, port, protocol });
            vip.protocols.each().iter().all(has)
        };
        if !vip.ports.keys().all(leads_to_it) {
            return Some(NOT_YET.to_owned());
        }
        if let Some(refused) = self.reconciled.addresses.get(&vip.ip) {
            return Some(refused.clone());
        }
        if !self.is_here(address) {
            return Some(self.claiming(address));
        }
        self.no_source(vip)
    }

    /// What keeps a VIP from all of the source addresses that are claimed for it.
    fn no_source(&self, vip: &Vip) -> Option<String> {
        let SourceAddresses::Pool(pool) = &vip.source.addresses else { return None };
        let claimed = self.view.goal.state.addresses.keys().filter(|a| pool.contains(&a.ip));
        if claimed.clone().any(|address| self.is_here(address)) {
            return None;
        }
        let refused = |a: &VipAddress| self.reconciled.addresses.get(&a.ip).cloned();
        claimed.clone().find_map(refused).or_else(|| claimed.clone().next().map(|a| self.claiming(a)))
    }

    fn is_here(&self, address: &VipAddress) -> bool {
        let usable = |a: &&Address| !a.tentative && !a.duplicate;
        let mut here = self.facts.addresses.iter().filter(usable);
        here.any(|a| a.ip == address.ip && a.ifindex == address.ifindex)
    }

    fn claiming(&self, address: &VipAddress) -> String {
        let name = self.facts.link_name(address.ifindex);
        format!("claiming {} on {name}: asking whether another host has it", address.ip)
    }

    fn rip(&self, vip: &Vip, rip: &Rip) -> RipStatus {
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        let health = self.health.get(&id);
        let kind = &rip.check.as_ref().unwrap_or(&vip.check).kind;
        let checks = health.into_iter().flat_map(|h| h.last.iter().chain(&h.path));
        let note = self.view.notes.rips.get(&id);
        let slot = self.slots.get(&(vip.name.as_str(), rip.name.as_str()));
        let (packets, bytes) = slot.and_then(|s| self.counters.backends.get(s)).copied().unwrap_or_default();
        let count = |by_slot: &BTreeMap<u16, u64>| slot.and_then(|s| by_slot.get(s)).copied().unwrap_or(0);
        let decided = note.map_or(RipState::Checking, |n| n.state);
        let word = self.view.operator.get(&id).copied().unwrap_or_default();
        let connections = count(&self.census.active_by_slot);
        let concern = note.and_then(|n| n.detail.clone());
        let why = told(&word, decided, connections, concern, check_detail(kind, health), self.now);
        let in_table = slot.is_some_and(|slot| self.in_tables.contains(slot));
        // What was decided counts when the kernel's table says the same.
        let (state, detail) = match (self.is_entrant(&id), in_table) {
            (true, false) => (RipState::Checking, NOT_YET.to_owned()),
            (false, true) => (RipState::Active, format!("{why}; still takes new connections")),
            (true, true) | (false, false) => (decided, why),
        };
        let path = self.facts.paths.get(&rip.ip);
        RipStatus {
            name: rip.name.clone(),
            ip: rip.ip,
            port: rip.port,
            weight: rip.weight,
            state,
            operator: word,
            verdict: health.map_or(Verdict::Unknown, |h| h.verdict),
            verdict_for_secs: health.map_or(0, |h| since(h.since, self.now)),
            detail,
            reason: health.and_then(Health::failure).map(|f| f.reason),
            steps: checks.flat_map(|check| check.steps.iter().cloned()).collect(),
            syn_repeats: health.map_or(0, |h| h.syn_repeats),
            connections,
            closing: count(&self.census.closing_by_slot),
            packets_total: packets,
            bytes_total: bytes,
            mac: path.and_then(|p| p.mac).map(|mac| mac.to_string()),
        }
    }

    /// True for a server that should take new flows.
    fn is_entrant(&self, id: &RipId) -> bool {
        let service = self.view.goal.state.services.get(&id.vip);
        service.is_some_and(|service| service.entrants.iter().any(|entrant| entrant.name == id.rip))
    }

    fn links(&self) -> Vec<LinkStatus> {
        let links = self.reconciled.installed.links.iter();
        let status = links.map(|(&ifindex, mode)| {
            let link = self.facts.links.get(&ifindex);
            LinkStatus {
                name: self.facts.link_name(ifindex),
                ifindex,
                xdp: match mode {
                    XdpMode::Generic => "generic".to_owned(),
                    XdpMode::Native => "native".to_owned(),
                },
                up: link.is_some_and(|l| l.up && l.carrier),
            }
        });
        status.collect()
    }

    fn problems(&self, links: &[LinkStatus], vips: &[VipStatus], detached: bool) -> Vec<String> {
        let mut problems: Vec<String> =
            self.view.config_problem.iter().chain(&self.view.operator_problem).cloned().collect();
        if !self.facts.complete {
            problems.push("the network's state is not known yet: the data plane stays as it was".to_owned());
        } else if detached {
            problems.push(
                "the program runs on no interface: nothing is balanced; see the VIPs' problems".to_owned(),
            );
        }
        problems.extend(self.view.notes.problems.iter().cloned());
        problems.extend(self.reconciled.problems.iter().cloned());
        problems.extend(self.reconciled.notices.iter().cloned());
        for link in links {
            if link.xdp == "generic" {
                problems.push(format!(
                    "{} runs in generic mode, which is several times slower: its driver refuses native XDP, see `lbctl doctor`",
                    link.name
                ));
            }
            if !link.up {
                problems
                    .push(format!("{} is down or has no carrier: check its cable and `ip link`", link.name));
            }
        }
        problems.extend(self.refused_beside_vips().cloned());
        problems.extend(crowded(self.census));
        problems.extend(vips.iter().filter_map(scarce));
        problems
    }

    /// Why addresses are not there that are no VIP's: sources of SNAT, gateways.
    fn refused_beside_vips(&self) -> impl Iterator<Item = &String> {
        let is_vip = |ip: &IpAddr| self.view.config.vips.iter().any(|vip| vip.ip == *ip);
        self.reconciled.addresses.iter().filter(move |(ip, _)| !is_vip(ip)).map(|(_, why)| why)
    }

    fn flows(&self) -> FlowsStatus {
        let census = self.census;
        let [v4, v6, half_open] = census.capacity;
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        FlowsStatus {
            established_v4: census.established_v4,
            replies_v4: census.replies_v4,
            capacity_v4: v4,
            established_v6: census.established_v6,
            replies_v6: census.replies_v6,
            capacity_v6: v6,
            half_open: census.half_open,
            memory_bytes: limits::flow_table_bytes(count(v4), count(v6), count(half_open)),
        }
    }
}

/// Flow tables in which flows begin to find no room.
fn crowded(census: &FlowCensus) -> impl Iterator<Item = String> {
    let tables = [
        ("IPv4", "flows_v4", census.established_v4 + census.replies_v4),
        ("IPv6", "flows_v6", census.established_v6 + census.replies_v6),
    ];
    tables.into_iter().zip(census.capacity).filter_map(|((family, key, used), room)| {
        let percent = (used * 100).checked_div(room)?;
        (percent >= CROWDED_PERCENT).then(|| {
            format!(
                "the {family} flow table is {percent} % full, {used} of {room}, and some connections find no room in it: \
                 raise `node.{key}`"
            )
        })
    })
}

/// What is said of a VIP that runs short of source ports.
fn scarce(vip: &VipStatus) -> Option<String> {
    let SourcePorts { in_use, capacity } = vip.source_ports?;
    let percent = (in_use * 100).checked_div(capacity)?;
    (vip.enabled && percent >= SCARCE_PERCENT).then(|| {
        format!(
            "VIP {} has {percent} % of its source ports in use, {in_use} of {capacity}: give it more `source` addresses or ports",
            vip.name
        )
    })
}

/// Colour of a VIP (R79). One that is switched off is nobody's worry.
fn colour(enabled: bool, problem: bool, rips: &[RipStatus]) -> Colour {
    if !enabled {
        return Colour::Green;
    }
    let active = rips.iter().filter(|r| r.state == RipState::Active).count();
    if problem || active == 0 {
        Colour::Red
    } else if active < rips.len() {
        Colour::Yellow
    } else {
        Colour::Green
    }
}

/// What the check says, in a few words.
fn check_detail(kind: &CheckKind, health: Option<&Health>) -> String {
    if *kind == CheckKind::Off {
        return "not checked (check = \"off\")".to_owned();
    }
    let what = if matches!(kind, CheckKind::DicomEcho(_)) { "c-echo" } else { kind.name() };
    let Some(last) = health.and_then(|h| h.last.as_ref()) else {
        return "not checked yet".to_owned();
    };
    if let Some(failure) = health.and_then(Health::failure) {
        return failure.text.clone();
    }
    let mut passed = format!("{what} {}", short(last.took));
    if let Some(why) = health.and_then(|h| h.waiting.as_ref()) {
        passed.push_str(&format!("; vip not tried: {why}"));
    }
    let repeats = health.map_or(0, |h| h.syn_repeats);
    if repeats >= TELLING_SYN_REPEATS {
        passed.push_str(&format!("; {}", syns_in_vain(repeats)));
    }
    passed
}

/// What is to be known of a server beside its one word: what its drain waits for, what is wrong, what overrules the
/// check, and what the check says.
fn told(
    word: &Word,
    state: RipState,
    connections: u64,
    concern: Option<String>,
    check: String,
    now: SystemTime,
) -> String {
    let now = since(SystemTime::UNIX_EPOCH, now);
    let forced = |forced: Forced| {
        let how = if forced.up { "forced up" } else { "forced down" };
        let until =
            forced.until_epoch_secs.map_or_else(String::new, |at| format!(" until {}", clock(at, now)));
        format!("{how}{until} (the check says: {check})")
    };
    let drain = match (state, word.order) {
        (RipState::Drain, Order::Drain { deadline_epoch_secs, then_halt, .. }) => {
            waits(connections, deadline_epoch_secs, then_halt, now)
        }
        _ => None,
    };
    let because = match (word.forced.map(forced), concern) {
        (Some(forced), Some(concern)) => format!("{concern}; {forced}"),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => check,
    };
    drain.map_or_else(|| because.clone(), |drain| format!("{drain}; {because}"))
}

/// `3 connections, halts in 4 min`; nothing for a drain that has no end.
fn waits(
    connections: u64,
    deadline_epoch_secs: Option<u64>,
    then_halt: bool,
    now_epoch_secs: u64,
) -> Option<String> {
    let end = match (deadline_epoch_secs.map(|at| at.saturating_sub(now_epoch_secs)), then_halt) {
        (None, false) => return None,
        (None, true) => "halts when they are gone".to_owned(),
        (Some(0), false) => "its time is over".to_owned(),
        (Some(secs), false) => format!("has {}", minutes(secs)),
        (Some(secs), true) => format!("halts in {}", minutes(secs)),
    };
    let plural = if connections == 1 { "" } else { "s" };
    Some(format!("{connections} connection{plural}, {end}"))
}

/// `45 s`, `4 min`, `3 h 5 min`: rounded up to minutes from the first on.
fn minutes(secs: u64) -> String {
    match (secs, secs.div_ceil(60)) {
        (..60, _) => format!("{secs} s"),
        (_, minutes @ ..60) => format!("{minutes} min"),
        (_, minutes) if minutes % 60 == 0 => format!("{} h", minutes / 60),
        (_, minutes) => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// A time of today as `12:30 UTC`, any other with its date.
fn clock(at_epoch_secs: u64, now_epoch_secs: u64) -> String {
    let (at, now) = (utc(at_epoch_secs), utc(now_epoch_secs));
    match (at.split_once(' '), now.split_once(' ')) {
        (Some((day, time)), Some((today, _))) if day == today => time.to_owned(),
        _ => at,
    }
}

/// `0.4 ms`, `3 ms`, `1.2 s`.
fn short(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("0.{} ms", micros / 100),
        1_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{} s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// Seconds; 0 when the clock was set back.
fn since(then: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(then).map_or(0, |time| time.as_secs())
}

fn reasons(counters: &Counters) -> Vec<ReasonCount> {
    let counted = Reason::ALL.iter().zip(&counters.reasons).filter(|(_, packets)| **packets > 0);
    counted
        .map(|(reason, &packets)| ReasonCount {
            reason: reason.name().to_owned(),
            text: reason.explain().to_owned(),
            packets,
        })
        .collect()
}

/// Where the daemon's own name comes from when the configuration gives none.
#[must_use]
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_unreadable| "lbd".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(word: Word, state: RipState, connections: u64, concern: Option<&str>) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_778_243_841);
        told(&word, state, connections, concern.map(str::to_owned), "c-echo 3 ms".to_owned(), now)
    }

    #[test]
    fn a_drain_says_what_it_waits_for() {
        let drain = |deadline_epoch_secs, then_halt| {
            Word::from(Order::Drain { migrate: None, deadline_epoch_secs, then_halt })
        };
        let at = |secs: u64| Some(1_778_243_841 + secs);
        for (word, connections, expected) in [
            (drain(None, false), 3, "c-echo 3 ms"),
            (drain(at(240), true), 3, "3 connections, halts in 4 min; c-echo 3 ms"),
            (drain(at(181), true), 1, "1 connection, halts in 4 min; c-echo 3 ms"),
            (drain(at(59), true), 0, "0 connections, halts in 59 s; c-echo 3 ms"),
            (drain(None, true), 2, "2 connections, halts when they are gone; c-echo 3 ms"),
            (drain(at(7500), false), 2, "2 connections, has 2 h 5 min; c-echo 3 ms"),
            (drain(Some(7), false), 2, "2 connections, its time is over; c-echo 3 ms"),
        ] {
            assert_eq!(said(word, RipState::Drain, connections, None), expected);
        }
        assert_eq!(said(drain(at(60), true), RipState::Down, 0, None), "c-echo 3 ms", "nothing waits");
    }

    #[test]
    fn a_forced_verdict_is_told_with_what_the_check_says() {
        let forced = |up, until_epoch_secs| Word {
            order: Order::Online,
            forced: Some(Forced { up, until_epoch_secs }),
        };
        for (word, concern, expected) in [
            (forced(false, None), None, "forced down (the check says: c-echo 3 ms)"),
            (
                forced(true, Some(1_778_243_841 + 60)),
                None,
                "forced up until 12:38:21 UTC (the check says: c-echo 3 ms)",
            ),
            (
                forced(true, Some(1_778_243_841 + 86_400)),
                Some("no answer to ARP"),
                "no answer to ARP; forced up until 2026-05-09 12:37:21 UTC (the check says: c-echo 3 ms)",
            ),
        ] {
            assert_eq!(said(word, RipState::Active, 0, concern), expected);
        }
    }

    #[test]
    fn a_flow_table_is_called_crowded_before_it_is_full_and_replies_count() {
        let census = |established_v4, replies_v4, established_v6| FlowCensus {
            established_v4,
            replies_v4,
            established_v6,
            capacity: [1000, 1000, 1000],
            ..FlowCensus::default()
        };
        let told = |census: &FlowCensus| crowded(census).collect::<Vec<_>>();
        assert_eq!(told(&census(440, 9, 449)), Vec::<String>::new());
        assert_eq!(told(&FlowCensus::default()), Vec::<String>::new(), "nothing is known yet");
        let both = told(&census(225, 225, 450));
        assert_eq!(both.len(), 2);
        assert_eq!(
            both[0],
            "the IPv4 flow table is 45 % full, 450 of 1000, and some connections find no room in it: raise `node.flows_v4`"
        );
    }
}
