//! Requests about the kernel's tables: ending connections, forgetting clients, explaining what becomes of a packet.
#![forbid(unsafe_code)]

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    routing::{get, post},
};
use lb_common::{backend, limits::MAX_PERSIST, service::mode};
use tokio::sync::Semaphore;

use super::{
    proxy_tables,
    server::{Api, No, in_time},
};
use crate::{
    control::{Done, Request, View},
    dataplane::{
        FlowFilter, Installed, PersistFilter, Persisted, ServiceKey,
        explain::{Explainer, Probe, Rehearsal},
    },
    explain::{explain, network},
    model::{
        command::{Command, Outcome},
        config::{Config, Persist, Vip},
        explain::{ExplainQuery, Explanation},
        tables::{Clear, EntryList, EntryQuery, EntryStatus, Kill, Removed, TableKind, TableStatus},
    },
    reconcile::Chore,
    telemetry::Listing,
};

/// Entries listed when the query does not say.
pub(super) const DEFAULT_LIMIT: usize = 1000;

/// Tries packets out, one at a time: each takes the kernel's verifier a second and memory for another set of tables.
#[derive(Clone)]
pub struct Explaining {
    explainer: Arc<dyn Explainer>,
    turn: Arc<Semaphore>,
}

impl Explaining {
    /// Asks this one.
    #[must_use]
    pub fn new(explainer: Arc<dyn Explainer>) -> Self {
        Self { explainer, turn: Arc::new(Semaphore::new(1)) }
    }

    async fn rehearse(&self, probe: Probe, installed: Arc<Installed>) -> Result<Rehearsal, No> {
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let explainer = Arc::clone(&self.explainer);
        // The turn ends with the work, also when nobody waits for it any more.
        let work = tokio::task::spawn_blocking(move || (explainer.rehearse(&probe, &installed), turn));
        match work.await {
            Ok((rehearsal, _turn)) => rehearsal.map_err(|error| No::from(&error)),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

impl fmt::Debug for Explaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explaining").field("turn", &self.turn).finish_non_exhaustive()
    }
}

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/flows/kill", post(kill))
        .route("/v1/tables", get(tables))
        .route("/v1/tables/entries", get(entries))
        .route("/v1/tables/clear", post(clear))
        .route("/v1/explain", get(explain_packet))
}

async fn kill(State(api): State<Api>, body: Result<Json<Kill>, JsonRejection>) -> Result<Json<Removed>, No> {
    let Json(kill) = body?;
    let moment = api.moment();
    let which = moment.flow_filter(&kill)?;
    if kill.dry_run {
        let flows = api.every_flow().await?;
        let count = flows.iter().filter(|flow| which.holds(flow.service, flow.slot, flow.client)).count();
        return Ok(Json(Removed { count: count as u64, lines: Vec::new() }));
    }
    let count = api.have_done(|reply| Chore::Kill(which.clone(), reply)).await?;
    tracing::info!("an operator ended {count} connections: {kill:?}");
    let mut lines = vec![format!("{} ended", plural(count, "connection"))];
    if count > 0 && moment.any_direct(&which) {
        lines.push(
            "with direct routing a client learns of it at its next packet, and its server from the client or by its \
             own time-out"
                .to_owned(),
        );
    }
    Ok(Json(Removed { count, lines }))
}

async fn tables(State(api): State<Api>) -> Result<Json<Vec<TableStatus>>, No> {
    let moment = api.moment();
    let persisted = api.persisted().await?;
    let status = |vip: &Vip| {
        let id = moment.id_of(&vip.name);
        let kind = match &vip.persist {
            Persist::None => return None,
            // Only the proxy has these.
            Persist::Cookie { .. } | Persist::UrlParam { .. } => return None,
            Persist::LastSuccessful { .. } => {
                TableKind::LastSuccessful { server: id.and_then(|id| moment.first_of(id)) }
            }
            Persist::SourceIp { timeout, group, prefix_v4, prefix_v6 } => TableKind::SourceIp {
                prefix: if vip.ip.is_ipv4() { *prefix_v4 } else { *prefix_v6 },
                timeout_secs: timeout.as_secs(),
                group: group.clone(),
                entries: id.map_or(0, |id| {
                    persisted.iter().filter(|entry| moment.concerns(entry, id, vip.ip)).count() as u64
                }),
            },
        };
        Some(TableStatus { vip: vip.name.clone(), kind })
    };
    let mut tables = Vec::new();
    for vip in &moment.config().vips {
        if vip.mode.is_layer7() {
            let kind = proxy_tables::kind(&api, vip).await;
            tables.extend(kind.map(|kind| TableStatus { vip: vip.name.clone(), kind }));
        } else {
            tables.extend(status(vip));
        }
    }
    Ok(Json(tables))
}

async fn entries(
    State(api): State<Api>,
    query: Result<Query<EntryQuery>, QueryRejection>,
) -> Result<Json<EntryList>, No> {
    let Query(query) = query?;
    let moment = api.moment();
    let vip = moment.remembering(&query.vip)?;
    if vip.mode.is_layer7() {
        return proxy_tables::entries(&api, vip, &query).await.map(Json);
    }
    if query.key.is_some() {
        return Err(by_address(vip));
    }
    let Persist::SourceIp { timeout, .. } = &vip.persist else {
        return Err(No::invalid(format!(
            "VIP {} remembers no clients, its persistence is last-successful: see the server in use with `lbctl table list`",
            vip.name
        )));
    };
    let id = moment.service(&query.vip)?;
    let rips = query.rip.as_ref().map(|rip| moment.slots(rip, Some(id))).transpose()?;
    let prefix = moment.prefix_of(id);
    let client = query.client.map(|client| network(client, prefix));
    let mut entries = Vec::new();
    let mut total = 0;
    for entry in api.persisted().await?.iter().filter(|entry| moment.concerns(entry, id, vip.ip)) {
        let slot = moment.slot_in(entry, id);
        let name = network(entry.client, prefix);
        if rips.as_ref().is_some_and(|rips| slot.is_none_or(|slot| !rips.contains(&slot)))
            || client.as_ref().is_some_and(|client| *client != name)
        {
            continue;
        }
        total += 1;
        if entries.len() < query.limit.unwrap_or(DEFAULT_LIMIT) {
            let idle_secs = entry.idle_millis / 1000;
            entries.push(EntryStatus {
                client: name,
                rip: slot.and_then(|slot| moment.name_of(slot)),
                idle_secs,
                left_secs: timeout.as_secs().saturating_sub(idle_secs),
            });
        }
    }
    Ok(Json(EntryList { entries, total }))
}

async fn clear(
    State(api): State<Api>,
    body: Result<Json<Clear>, JsonRejection>,
) -> Result<Json<Removed>, No> {
    let Json(clear) = body?;
    let moment = api.moment();
    let vip = moment.remembering(&clear.vip)?;
    if vip.mode.is_layer7() {
        return proxy_tables::clear(&api, vip, &clear).await.map(Json);
    }
    if clear.key.is_some() {
        return Err(by_address(vip));
    }
    let id = moment.service(&vip.name)?;
    if matches!(vip.persist, Persist::LastSuccessful { .. }) {
        return forget_server(&api, &clear).await.map(Json);
    }
    let slots = clear.rip.as_ref().map(|rip| moment.slots(rip, Some(id))).transpose()?;
    let which = PersistFilter {
        group: Some(moment.group_of(id)),
        slots: slots.map(|slots| moment.with_twins(slots, id)),
        client: clear.client,
    };
    let count = api.have_done(|reply| Chore::ClearPersistence(which, reply)).await?;
    tracing::info!("an operator had {count} clients forgotten: {clear:?}");
    let mut lines = vec![format!("{} forgotten", plural(count, "client"))];
    let sharing = moment.sharing_with(id);
    if count > 0 && !sharing.is_empty() {
        lines.push(format!("they are forgotten in {}, too: the entries are shared", sharing.join(", ")));
    }
    Ok(Json(Removed { count, lines }))
}

/// Forgets the server that a VIP keeps to.
async fn forget_server(api: &Api, clear: &Clear) -> Result<Removed, No> {
    let vip = &clear.vip;
    if clear.client.is_some() || clear.rip.is_some() {
        return Err(No::invalid(format!(
            "VIP {vip} remembers one server for all clients (last-successful): clear it without naming a client or server"
        )));
    }
    let before = api.before();
    let command = Command::Forget { vip: vip.clone() };
    let Done { outcome, goal } = api.ask(|reply| Request::Command(Box::new(command), reply)).await?;
    let Outcome { changes: mut lines, warnings, traffic: _ } = api.confirm(goal, outcome, &before).await?;
    lines.extend(warnings);
    let now = api.moment();
    if let Some(server) = now.id_of(vip).and_then(|id| now.first_of(id)) {
        lines.push(format!("new connections go to {server} from now on"));
    }
    Ok(Removed { count: 1, lines })
}

async fn explain_packet(
    State(api): State<Api>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explanation>, No> {
    let Query(query) = query?;
    let moment = api.moment();
    let probe = moment.probe(&query)?;
    let rehearsal = in_time(api.explaining.rehearse(probe, Arc::clone(&moment.installed))).await?;
    let facts = api.observer.facts.borrow().clone();
    Ok(Json(explain(&probe, &rehearsal, &moment.installed, |ifindex| facts.link_name(ifindex))))
}

impl Api {
    fn moment(&self) -> Moment {
        Moment {
            view: Arc::clone(&self.observer.view.borrow()),
            installed: Arc::clone(&self.reconciled.borrow().installed),
        }
    }

    async fn persisted(&self) -> Result<Vec<Persisted>, No> {
        let (entries, _) = self.list(MAX_PERSIST as usize, Listing::Persistence).await?;
        Ok(entries)
    }
}

/// What names stand for at one moment.
struct Moment {
    view: Arc<View>,
    installed: Arc<Installed>,
}

impl Moment {
    fn config(&self) -> &Config {
        &self.view.config
    }

    fn id_of(&self, vip: &str) -> Option<u16> {
        self.installed.services.iter().find(|(_, (who, _))| who.name == vip).map(|(id, _)| *id)
    }

    /// The VIP of this name.
    fn vip(&self, name: &str) -> Result<&Vip, No> {
        let vips = &self.config().vips;
        vips.iter().find(|vip| vip.name == name).ok_or_else(|| {
            No::invalid(format!("no VIP {name}: there are {}", listed(vips.iter().map(described))))
        })
    }

    /// Its id in the kernel's tables.
    fn service(&self, vip: &str) -> Result<u16, No> {
        let vip = self.vip(vip)?;
        self.id_of(&vip.name).ok_or_else(|| No::invalid(not_served(vip)))
    }

    /// A VIP that has persistence.
    fn remembering(&self, name: &str) -> Result<&Vip, No> {
        let vip = self.vip(name)?;
        if vip.persist == Persist::None {
            return Err(No::invalid(format!(
                "VIP {name} has no persistence: give it some with `lbctl vip set {name} persist=...`"
            )));
        }
        Ok(vip)
    }

    /// Slots of the servers of this name.
    fn slots(&self, rip: &str, service: Option<u16>) -> Result<BTreeSet<u16>, No> {
        let of_service =
            self.installed.backends.iter().filter(|(_, (who, _))| service.is_none_or(|id| who.service == id));
        let named = of_service.clone().filter(|(_, (who, _))| who.name == rip);
        let slots: BTreeSet<u16> = named.map(|(slot, _)| *slot).collect();
        if slots.is_empty() {
            let names: BTreeSet<String> = of_service.map(|(_, (who, _))| who.name.clone()).collect();
            return Err(No::invalid(format!(
                "no real server {rip} in the data plane: there are {}",
                listed(names.into_iter())
            )));
        }
        Ok(slots)
    }

    fn flow_filter(&self, kill: &Kill) -> Result<FlowFilter, No> {
        if kill.vip.is_none() && kill.rip.is_none() && kill.client.is_none() {
            return Err(No::invalid(
                "name a VIP, a real server or a client whose connections are to end: without any, all of them would"
                    .to_owned(),
            ));
        }
        if kill.client.is_none() && kill.client_port.is_some() {
            return Err(No::invalid("a client's port needs its address beside it: ADDRESS:PORT".to_owned()));
        }
        let service = kill.vip.as_ref().map(|vip| self.service(vip)).transpose()?;
        Ok(FlowFilter {
            services: service.map(|id| [id].into()),
            slots: kill.rip.as_ref().map(|rip| self.slots(rip, service)).transpose()?,
            client: kill.client.map(|client| (client, kill.client_port)),
        })
    }

    /// True when some of these flows may be of direct routing.
    fn any_direct(&self, which: &FlowFilter) -> bool {
        let has_slot = |id: &u16, slot: &u16| {
            self.installed.backends.get(slot).is_some_and(|(who, _)| who.service == *id)
        };
        let mut services = self.installed.services.iter().filter(|(id, _)| {
            which.services.as_ref().is_none_or(|services| services.contains(id))
                && which.slots.as_ref().is_none_or(|slots| slots.iter().any(|slot| has_slot(id, slot)))
        });
        services.any(|(_, (_, record))| record.mode == mode::DR)
    }

    /// The server that gets everything, of a VIP that keeps to one.
    fn first_of(&self, id: u16) -> Option<String> {
        let first = self.installed.tables.get(&id)?.entrants.first()?;
        self.name_of(first.slot)
    }

    fn name_of(&self, slot: u16) -> Option<String> {
        self.installed.backends.get(&slot).map(|(who, _)| who.name.clone())
    }

    fn group_of(&self, id: u16) -> u32 {
        self.installed.services.get(&id).map_or(0, |(_, record)| record.persist_group)
    }

    fn prefix_of(&self, id: u16) -> u8 {
        self.installed.services.get(&id).map_or(0, |(_, record)| record.persist_prefix)
    }

    /// True when a service goes by this entry.
    fn concerns(&self, entry: &Persisted, id: u16, vip: IpAddr) -> bool {
        entry.group == self.group_of(id) && entry.client.is_ipv4() == vip.is_ipv4()
    }

    /// The slot of the server that an entry names, as this service has it.
    fn slot_in(&self, entry: &Persisted, id: u16) -> Option<u16> {
        let (who, record) = self.installed.backends.get(&entry.slot)?;
        if record.generation != entry.generation || record.state != backend::state::LIVE {
            return None;
        }
        if who.service == id {
            Some(entry.slot)
        } else {
            self.installed.twins.get(&(entry.slot, id)).copied()
        }
    }

    /// These slots of a service, and those that the same servers have in services which share its entries.
    fn with_twins(&self, mut slots: BTreeSet<u16>, id: u16) -> BTreeSet<u16> {
        let twins = self.installed.twins.iter();
        let named = twins.filter(|((_, service), own)| *service == id && slots.contains(own));
        let named: Vec<u16> = named.map(|((slot, _), _)| *slot).collect();
        slots.extend(named);
        slots
    }

    /// Names of the other services that go by the same entries.
    fn sharing_with(&self, id: u16) -> Vec<String> {
        let group = self.group_of(id);
        let others = self.installed.services.iter().filter(|(other, (_, record))| {
            **other != id && record.persist_prefix > 0 && record.persist_group == group
        });
        others.map(|(_, (who, _))| who.name.clone()).collect()
    }

    /// The packet that is asked about.
    fn probe(&self, query: &ExplainQuery) -> Result<Probe, No> {
        let at = self.vips_at(&query.vip)?;
        let ip = at.ip;
        if query.client.is_ipv4() != ip.is_ipv4() {
            return Err(No::invalid(format!(
                "client {} and VIP {ip} are not of one IP version: no packet goes from one to the other",
                query.client
            )));
        }
        let to = ServiceKey { ip, port: query.vip_port, protocol: query.protocol };
        let has = |port| self.installed.keys.contains_key(&ServiceKey { port, ..to });
        if !has(to.port) && !has(0) {
            let here = self.config().vips.iter().filter(|vip| vip.ip == ip);
            if let Some(vip) = here.clone().find(|vip| vip.enabled && is_proxied(vip, to.port)) {
                let name = &vip.name;
                return Err(No::invalid(format!(
                    "VIP {name} is of layer 7: the kernel takes its packets for HAProxy, which chooses a server for each connection; \
                     see `lbctl status`, and whom it remembers with `lbctl table show {name}`"
                )));
            }
            if let Some(vip) = here.clone().find(|vip| self.id_of(&vip.name).is_none()) {
                return Err(No::invalid(not_served(vip)));
            }
            return Err(No::invalid(format!(
                "no VIP is on {} port {} of {ip}: there are {}",
                query.protocol.name(),
                query.vip_port,
                listed(here.map(described))
            )));
        }
        let link = self.view.goal.state.addresses.iter().find(|(address, _)| address.ip == ip);
        Ok(Probe {
            client: (query.client, query.port.unwrap_or(0)).into(),
            to,
            ingress: link.map(|(_, link)| *link),
        })
    }

    /// A VIP by name, or by address.
    fn vips_at(&self, typed: &str) -> Result<&Vip, No> {
        let vips = &self.config().vips;
        let named = vips.iter().find(|vip| vip.name == typed);
        let address: Option<IpAddr> = typed.parse().ok();
        let found = named.or_else(|| vips.iter().find(|vip| Some(vip.ip) == address));
        found.ok_or_else(|| {
            No::invalid(format!("no VIP {typed}: there are {}", listed(vips.iter().map(described))))
        })
    }
}

fn by_address(vip: &Vip) -> No {
    No::invalid(format!("VIP {} knows clients by their address: name one with --client", vip.name))
}

/// True when the companion proxy serves a port of this VIP.
fn is_proxied(vip: &Vip, port: u16) -> bool {
    let tls = vip.proxy.as_ref().and_then(|proxy| proxy.tls.as_ref());
    vip.proxy.is_some()
        && (tls.is_some_and(|tls| tls.port == port)
            || tls.is_none_or(|tls| tls.cleartext) && vip.ports.keys().any(|own| own == port))
}

fn not_served(vip: &Vip) -> String {
    let name = &vip.name;
    if vip.enabled {
        format!("VIP {name} is not in the data plane yet: see `lbctl status`")
    } else {
        format!("VIP {name} is switched off: switch it on with `lbctl vip set {name} enabled=true`")
    }
}

/// `DICOM (10.12.1.100, tcp 104,11112)`.
fn described(vip: &Vip) -> String {
    format!("{} ({}, {} {})", vip.name, vip.ip, vip.protocols.name(), vip.ports)
}

pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
