//! From what is known to what the data plane should hold. Pure: configuration, operator's word, health, network
//! facts and the state before go in; the desired state and a note on everything that is not as asked come out.
//!
//! A server takes new flows when its check passes, the operator has it online, the way to it is known and it has
//! weight. When no server does, the fallback server takes them, if there is one. Where something is *not known yet*, what was goes on: after a restart of the controller, or an edit
//! of a check, a server that carries flows carries them until its first verdict; one that did not is not up.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::{
    backend::LinkRecord,
    limits::MAX_IFINDEX,
    load::{Limits, flags::CLOSED},
    service::{Service, Sources, flags, mode, no_server, pick},
    settings::Settings,
};

use self::claims::Claiming;
use crate::{
    dataplane::{Filling, ServiceKey},
    model::{
        config::{Config, Fallback, Mode, Persist, ReturnPath, Rip, Scheduler, Unattended, Vip},
        desired::{DesiredBackend, DesiredService, DesiredState, FALLBACK, Forward},
        health::{Advice, AdvisedState, Health, HealthMap, RipId, Verdict},
        net::NetFacts,
        operator::{Forced, Order, Word, Words},
        proxied::Proxies,
        status::RipState,
    },
};

mod claims;
mod entrants;
mod fallback;
mod groups;
mod paths;
mod proxies;
mod sources;

/// Everything that decides.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Configuration in force.
    pub config: &'a Config,
    /// What the operator said; servers that are missing are online.
    pub operator: &'a Words,
    /// What checks found; servers that are missing are unknown.
    pub health: &'a HealthMap,
    /// What netlink tells.
    pub facts: &'a NetFacts,
    /// State before: the last one compiled, or what the kernel held when the controller started.
    pub before: &'a DesiredState,
    /// Unit of time of the kernel's records.
    pub settings: &'a Settings,
    /// Servers that came up a short while ago: percent of its weight that each has now, 1 to 99.
    pub ramps: &'a BTreeMap<RipId, u16>,
    /// VIPs whose server in use no longer matters: an operator cleared it.
    pub forget: &'a BTreeSet<String>,
    /// Servers of layer-7 VIPs that take new connections as things are.
    pub carried: &'a BTreeSet<RipId>,
}

/// What comes out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Compiled {
    /// What the data plane should hold.
    pub desired: DesiredState,
    /// What the companion proxy should do.
    pub proxies: Proxies,
    /// What people should know of it.
    pub notes: Notes,
}

/// What people should know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Notes {
    /// By VIP name: why its address cannot be served, with the cure.
    pub vips: BTreeMap<String, String>,
    /// Every real server of every VIP.
    pub rips: BTreeMap<RipId, RipNote>,
    /// What is wrong beyond single VIPs.
    pub problems: Vec<String>,
}

/// What became of a real server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RipNote {
    /// The one word.
    pub state: RipState,
    /// Why, when the check is not the reason.
    pub detail: Option<String>,
    /// It takes new flows, and nothing reached it before.
    pub fresh: bool,
}

/// Compiles.
#[must_use]
pub fn compile(inputs: &Inputs<'_>) -> Compiled {
    let Inputs { config, facts, before, .. } = *inputs;
    let mut out = Compiled::default();
    out.proxies.settings = config.proxy.clone();
    let mut claiming = Claiming::new(facts, before);
    let mut fallbacks = BTreeMap::new();
    for vip in &config.vips {
        if vip.mode.is_layer7() {
            let proxy = proxies::put(vip, inputs, &mut out.notes);
            if vip.enabled {
                out.notes.vips.extend(claiming.proxy(vip).map(|problem| (vip.name.clone(), problem)));
                out.proxies.vips.push(proxy);
            }
            continue;
        }
        let mut service = service(vip, inputs, &mut out.notes);
        if !vip.enabled {
            continue;
        }
        if vip.mode == Mode::L4Snat {
            put_sources(vip, inputs, &mut service, &mut out.notes);
        }
        let was = self::before(&vip.name, &service.keys, before);
        if let Some(note) = fallback::put(vip, was, inputs, &mut service, &mut out.notes) {
            fallbacks.insert(vip.name.clone(), note);
        }
        if let Some(problem) = claiming.vip(vip) {
            out.notes.vips.insert(vip.name.clone(), problem);
        }
        for ip in vip.server_addresses() {
            claiming.links.extend(paths::physical_of_path(ip, facts));
        }
        let forwards = service.backends.values().filter_map(|b| b.forward);
        claiming.links.extend(forwards.map(|f| f.ifindex));
        out.desired.services.insert(vip.name.clone(), service);
    }
    groups::mark(config, &mut out);
    claiming.gateway(config, &mut out.notes.problems);
    let Claiming { addresses, mut proxy_addresses, links, unsure, .. } = claiming;
    // An address that layer 4 has, too, waits for the program.
    proxy_addresses.retain(|address| !addresses.contains_key(address));
    out.desired.addresses = addresses;
    out.desired.proxy_addresses = proxy_addresses;
    if config.node.interfaces.is_empty() {
        out.desired.links = links;
    } else {
        out.desired.links = paths::named_links(&config.node.interfaces, facts, &mut out.notes.problems);
        claims::note_unnamed_links(config, facts, &mut out);
    }
    for (vip, note) in fallbacks {
        // Why nothing is served at all goes before.
        out.notes.vips.entry(vip).or_insert(note);
    }
    if unsure {
        // An interface that lost its address for a moment must not cost the VIP, nor the program's place on links.
        let still_there = before.links.iter().filter(|i| facts.links.contains_key(i));
        out.desired.links.extend(still_there);
    }
    out.desired.link_records =
        out.desired.links.iter().filter_map(|&i| Some((i, link_record(i, facts, before)?))).collect();
    out
}

/// How replies leave by a link; `None` when none can.
fn link_record(index: u32, facts: &NetFacts, before: &DesiredState) -> Option<LinkRecord> {
    let Some(link) = facts.links.get(&index) else {
        return before.link_records.get(&index).copied();
    };
    let usable = !link.mac.is_zero() && index < MAX_IFINDEX;
    usable.then(|| LinkRecord { mac: link.mac, mtu: paths::mtu(link) })
}

/// Gives a SNAT VIP its sources. Without any it takes no new flows, and its servers say so.
fn put_sources(vip: &Vip, inputs: &Inputs<'_>, service: &mut DesiredService, notes: &mut Notes) {
    match sources::of(vip, inputs) {
        Ok(sources) => service.sources = sources,
        Err(why) => _ = notes.vips.insert(vip.name.clone(), why),
    }
    notes.problems.extend(sources::note_several_links(vip, inputs.facts));
    if service.sources.count > 0 {
        return;
    }
    // Their shares stay: an address that is away for a moment must not change who is in use.
    service.entrants.clear();
    for rip in &vip.rips {
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        if let Some(note) = notes.rips.get_mut(&id).filter(|note| note.state == RipState::Active) {
            note.state = RipState::Checking;
            note.detail = Some("waiting for a source address".to_owned());
        }
    }
}

/// One VIP as the packet path should know it; says what became of each of its servers.
fn service(vip: &Vip, inputs: &Inputs<'_>, notes: &mut Notes) -> DesiredService {
    let keys = keys(vip);
    let before = before(&vip.name, &keys, inputs.before);
    let mut backends = BTreeMap::new();
    let mut active = Vec::new();
    for rip in &vip.rips {
        let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
        let fate = fate(&id, rip, before, inputs);
        if fate.note.state == RipState::Active {
            active.push(rip);
        }
        let limits = Limits { flags: fate.flags, ..entrants::limits(rip) };
        let backend = DesiredBackend { ip: rip.ip, port: rip.port, forward: fate.forward, limits };
        backends.insert(rip.name.clone(), backend);
        notes.rips.insert(id, fate.note);
    }
    let (pick, filling) = match vip.scheduler {
        Scheduler::First => (pick::FIRST, Filling::First),
        Scheduler::Maglev => (pick::HASH_FLOW, Filling::Maglev),
        Scheduler::SourceHash => (pick::HASH_CLIENT, Filling::Maglev),
        Scheduler::Wlc => (pick::LEAST, Filling::Maglev),
        Scheduler::Wrr => (pick::ROTATE, Filling::RoundRobin),
    };
    entrants::arrange(&mut active, vip, before, inputs);
    if let (Scheduler::First, Some((in_use, standby))) = (vip.scheduler, active.split_first()) {
        for rip in standby {
            let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
            if let Some(note) = notes.rips.get_mut(&id) {
                note.detail = Some(format!("standby: {} is in use", in_use.name));
            }
        }
    }
    let mut service = DesiredService {
        keys,
        record: record(vip, pick, inputs.settings),
        group: None,
        idle_timeout_secs: whole_secs(vip.idle_timeout),
        sources: Sources::default(),
        filling,
        backends,
        entrants: Vec::new(),
    };
    entrants::share_out(&active, vip, &mut service, inputs);
    service
}

/// Keys that lead to a VIP.
fn keys(vip: &Vip) -> BTreeSet<ServiceKey> {
    vip.ports.keys().flat_map(|port| keys_of_port(vip, port)).collect()
}

/// Keys that lead a port's packets to a VIP.
fn keys_of_port(vip: &Vip, port: u16) -> impl Iterator<Item = ServiceKey> {
    let ip = vip.ip;
    vip.protocols.each().iter().map(move |&protocol| ServiceKey { ip, port, protocol })
}

fn record(vip: &Vip, pick: u8, settings: &Settings) -> Service {
    let (persist_prefix, persist_ticks) = match vip.persist {
        Persist::LastSuccessful { .. } | Persist::None => (0, 0),
        Persist::Cookie { .. } | Persist::UrlParam { .. } => (0, 0),
        Persist::SourceIp { prefix_v4, prefix_v6, timeout, .. } => {
            let prefix = if vip.ip.is_ipv4() { prefix_v4 } else { prefix_v6 };
            (prefix, settings.ticks(whole_secs(timeout)))
        }
    };
    Service {
        mode: match vip.mode {
            Mode::L4Nat => mode::NAT,
            Mode::L4Snat => mode::SNAT,
            // Layer 7 never comes here.
            Mode::L4Dr | Mode::L7Http | Mode::L7Tcp => mode::DR,
        },
        pick,
        no_server: match vip.fallback {
            Fallback::Drop => no_server::DROP,
            Fallback::Page | Fallback::Reject | Fallback::Server { .. } => no_server::REJECT,
        },
        persist_prefix,
        flags: flags(vip),
        persist_ticks,
        ..Service::default()
    }
}

/// What is said of replies and of flows that lose their server (nothing where replies are not seen), and of new flows
/// while nobody watches. Which services share persistence is said where all of them are known.
const fn flags(vip: &Vip) -> u8 {
    let unattended = match vip.unattended {
        Unattended::Refuse => flags::FAIL_CLOSED,
        Unattended::Serve => 0,
    };
    if !vip.mode.sees_replies() {
        return unattended;
    }
    let by_route = match vip.return_path {
        ReturnPath::LastHop => 0,
        ReturnPath::Route => flags::RETURN_BY_ROUTE,
    };
    unattended | by_route | if vip.reset { flags::RESET } else { 0 }
}

/// Seconds, rounded up.
fn whole_secs(time: std::time::Duration) -> u32 {
    let secs = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(secs).unwrap_or(u32::MAX)
}

/// The service as it was: by name, or by a key when the VIP was renamed.
fn before<'a>(
    name: &str,
    keys: &BTreeSet<ServiceKey>,
    state: &'a DesiredState,
) -> Option<&'a DesiredService> {
    state.services.get(name).or_else(|| state.services.values().find(|s| !s.keys.is_disjoint(keys)))
}

struct Fate {
    /// `None` = dead.
    forward: Option<Forward>,
    /// [`Limits::flags`].
    flags: u16,
    note: RipNote,
}

fn fate(id: &RipId, rip: &Rip, before: Option<&DesiredService>, inputs: &Inputs<'_>) -> Fate {
    let note = |state, detail| RipNote { state, detail, fresh: false };
    let dead = |state, detail| Fate { forward: None, flags: 0, note: note(state, detail) };
    let was = before.and_then(|s| known(rip, s)?.forward);
    let Word { order, forced } = inputs.operator.get(id).copied().unwrap_or_default();
    if let Order::Halt { keep_sessions } = order
        && (!keep_sessions || was.is_none())
    {
        return dead(RipState::Halt, None);
    }
    let verdict = match forced {
        Some(Forced { up: true, .. }) => Verdict::Up,
        Some(Forced { up: false, .. }) => Verdict::Down,
        None => inputs.health.get(id).map_or(Verdict::Unknown, |h| h.verdict),
    };
    let fallen = if matches!(order, Order::Halt { .. }) { RipState::Halt } else { RipState::Down };
    if verdict == Verdict::Down {
        return dead(fallen, None);
    }
    let (forward, concern) = match (paths::forward(rip.ip, inputs.facts), was) {
        (paths::Way::Known(forward), _) => (forward, None),
        (paths::Way::None(why), _) => return dead(fallen, Some(why)),
        (paths::Way::Unknown(why), Some(forward)) => (forward, Some(why)),
        (paths::Way::Unknown(why), None) => return dead(RipState::Checking, Some(why)),
    };
    if verdict == Verdict::Unknown && was.is_none() {
        let waiting = inputs.health.get(id).and_then(|health| health.waiting.clone());
        return dead(RipState::Checking, waiting.or_else(|| Some("not checked yet".to_owned())));
    }
    let live = |state, detail, flags| Fate { forward: Some(forward), flags, note: note(state, detail) };
    match order {
        Order::Drain { migrate, .. } => {
            let flags = if migrate.unwrap_or(false) { CLOSED } else { 0 };
            live(RipState::Drain, concern, flags)
        }
        Order::Halt { .. } => live(RipState::Halt, concern, CLOSED),
        Order::Online if rip.weight == 0 => {
            live(RipState::Drain, Some("weight 0: takes no new flows".to_owned()), 0)
        }
        Order::Online => {
            if forced.is_none()
                && let Some((state, says, flags)) = advised(inputs.health.get(id))
            {
                return if flags & CLOSED != 0 && was.is_none() {
                    dead(state, Some(says))
                } else {
                    live(state, Some(says), flags)
                };
            }
            let slow = || inputs.ramps.get(id).map(|percent| format!("slow start {percent} %"));
            let mut fate = live(RipState::Active, concern.or_else(slow), 0);
            fate.note.fresh = was.is_none();
            fate
        }
    }
}

/// What a server wants to be by its own word, if that is anything else than in service: how it is shown, why, and what
/// becomes of new flows. Connections in progress stay whatever it says.
fn advised(health: Option<&Health>) -> Option<(RipState, String, u16)> {
    let Advice { percent, state } = health?.advice;
    match (state, percent) {
        (Some(AdvisedState::Maint), _) => Some((RipState::Halt, "its agent says maint".to_owned(), CLOSED)),
        (Some(AdvisedState::Drain), _) => Some((RipState::Drain, "its agent says drain".to_owned(), 0)),
        (None, Some(0)) => Some((RipState::Drain, "its agent says 0 %".to_owned(), 0)),
        (None, Some(_) | None) => None,
    }
}

/// The server as it was: by address and port, or by address when its port was changed.
fn known<'a>(rip: &Rip, service: &'a DesiredService) -> Option<&'a DesiredBackend> {
    // Whoever was the fallback server was not checked, and has to be.
    let servers = service.backends.iter().filter(|(name, _)| *name != FALLBACK).map(|(_, backend)| backend);
    let mut there = servers.filter(|b| b.ip == rip.ip);
    let first = there.clone().next();
    there.find(|b| b.port == rip.port).or(first)
}

/// Addresses that the network task should resolve and keep warm: servers and VIPs of everything served.
#[must_use]
pub fn watched(config: &Config) -> BTreeSet<IpAddr> {
    let served = config.vips.iter().filter(|v| v.enabled);
    served.flat_map(|vip| vip.server_addresses().chain([vip.ip])).collect()
}

#[cfg(test)]
mod tests;
