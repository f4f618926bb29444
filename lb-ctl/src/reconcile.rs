//! The one owner of the data plane's writer: makes the kernel hold what is desired, again and again.
//!
//! A round: addresses that must go are removed, the plan is carried out, servers that died by it are passed on so that
//! the ends of their connections are told, addresses whose service and link are in place are added. What fails is
//! told, and tried again with growing pauses; it stops nobody else.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    claims::{AddressBook, Claims, Owned},
    dataplane::{Error, FlowCensus, FlowFilter, Installed, Killed, Op, PersistFilter, Writer, XdpMode},
    lent::Lent,
    model::{
        desired::DesiredState,
        net::{NetFacts, VipAddress},
        proxied::Proxies,
    },
    plan::{self, Plan, Step},
    reset::{self, Death, Ended},
    shutdown::Shutdown,
};

/// Shortest and longest time from one sweep of the flow tables to the next. The longest is far from what the packet path
/// takes for the controller's death.
const SWEEP: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Sweeps take at most one part in so many of a core, however large the tables are.
const SWEEP_SHARE: u32 = 50;
/// First and longest pause before what failed is tried again.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Time that a program which something took off stays in the overview.
const LOSS_SHOWN: Duration = Duration::from_secs(600);
/// Plans made in one round: a second one may use slots that the first one freed.
const MAX_PLANS: usize = 4;

/// What the kernel should hold, numbered. Number 0 is nobody's: nothing is touched before number 1.
#[derive(Clone, Debug, Default)]
pub struct Goal {
    /// Rises with every change.
    pub number: u64,
    /// What is desired.
    pub state: DesiredState,
    /// What the companion proxy should do; the reconciler does not look at it.
    pub proxies: Arc<Proxies>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Reconciled {
    /// The goal that was tried last.
    pub number: u64,
    /// Its addresses were all tried too.
    pub settled: bool,
    /// What the kernel holds.
    pub installed: Arc<Installed>,
    /// By VIP name: what of it the data plane does not hold, with the cure.
    pub vips: BTreeMap<String, String>,
    /// By address: why this machine does not have it, with the cure.
    pub addresses: BTreeMap<IpAddr, String>,
    /// What else failed, a line each.
    pub problems: Vec<String>,
    /// What is wrong though no step failed, a line each: a program that something took off, sweeps that fail, addresses
    /// other than VIPs that this machine does not have.
    pub notices: Vec<String>,
}

/// What an operator wants done to the kernel's tables at once. The answer says how much was done.
#[derive(Debug)]
pub enum Chore {
    /// Forget persistence entries.
    ClearPersistence(PersistFilter, oneshot::Sender<Result<u64, Error>>),
    /// End flows, and tell both ends of those of NAT and SNAT.
    Kill(FlowFilter, oneshot::Sender<Result<u64, Error>>),
}

/// What the task is connected to.
pub struct Connections {
    /// From the controller.
    pub goal: watch::Receiver<Arc<Goal>>,
    /// From netlink.
    pub facts: watch::Receiver<NetFacts>,
    /// To those who show it.
    pub published: watch::Sender<Arc<Reconciled>>,
    /// To those who show it.
    pub census: watch::Sender<Arc<FlowCensus>>,
    /// To the task that tells the ends of connections.
    pub ended: mpsc::Sender<Ended>,
    /// From the API.
    pub chores: mpsc::Receiver<Chore>,
}

/// The actor.
pub struct Reconciler<A> {
    writer: Lent<Box<dyn Writer>>,
    claims: Claims<A>,
    losses: Losses,
    /// Why the last look at the kernel's tables and links failed, if it did.
    blind: Option<String>,
    to: Connections,
}

impl<A: AddressBook> Reconciler<A> {
    /// An actor that makes the kernel hold the goal. `owned` are the addresses that earlier daemons added.
    pub fn new(writer: Box<dyn Writer>, book: A, owned: Owned, to: Connections) -> Self {
        let (losses, blind) = (Losses::default(), None);
        Self { writer: Lent::new(writer), claims: Claims::new(book, owned), losses, blind, to }
    }

    /// Runs until shutdown, and leaves the kernel as it is then.
    ///
    /// # Errors
    ///
    /// When nobody is left to say what is desired.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        let mut sweep_at = Instant::now();
        let mut pause = RETRY[0];
        let mut retry_at: Option<Instant> = None;
        loop {
            let due = retry_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = &mut ended => return Ok(()),
                changed = self.to.goal.changed() => changed?,
                done = self.claims.next_done() => {
                    let facts = self.to.facts.borrow().clone();
                    if let Some(problem) = self.claims.note(done, &facts, Instant::now()).await {
                        tracing::error!("{problem}");
                    }
                }
                Some(chore) = self.to.chores.recv() => {
                    self.see_to(chore).await;
                    continue;
                }
                () = sleep_until(due), if retry_at.is_some() => {}
                () = sleep_until(sweep_at) => {
                    let began = Instant::now();
                    let changed = self.look().await;
                    sweep_at = began + sweep_interval(began.elapsed());
                    if !changed && !self.address_is_due() {
                        continue;
                    }
                }
            }
            if self.round().await {
                (pause, retry_at) = (RETRY[0], None);
            } else {
                retry_at = Some(Instant::now() + pause);
                pause = (pause * 2).min(RETRY[1]);
            }
        }
    }

    /// One round; false when something failed that is worth another try.
    async fn round(&mut self) -> bool {
        let goal = Arc::clone(&self.to.goal.borrow_and_update());
        if goal.number == 0 {
            return true;
        }
        let facts = self.to.facts.borrow().clone();
        let proxies = &goal.state.proxy_addresses;
        let wanted: BTreeSet<VipAddress> = goal.state.addresses.keys().chain(proxies).copied().collect();
        let mut problems = self.claims.release(&wanted, &facts).await;

        let state = Arc::clone(&goal);
        let (mut applied, installed) = self
            .writer
            .with(move |writer| {
                let applied = reach(writer.as_mut(), &state.state);
                (applied, writer.installed().clone())
            })
            .await;
        if !applied.deaths.is_empty() {
            self.tell(Ended::Servers(std::mem::take(&mut applied.deaths)));
        }
        let ready = ready(&goal.state, &installed);
        problems.extend(self.claims.acquire(&ready, &facts, Instant::now()).await);
        report(&applied, &installed, &facts, &self.to.published.borrow());

        let vips = vip_addresses(&goal.state);
        let done = applied.failures.is_empty() && problems.is_empty();
        problems.extend(applied.failures);
        self.to.published.send_replace(Arc::new(Reconciled {
            number: goal.number,
            settled: self.claims.settled(&ready),
            vips: applied.vips,
            addresses: self.claims.problems(),
            problems,
            notices: self
                .losses
                .lines(&installed, &facts)
                .chain(self.blind.clone())
                .chain(
                    self.claims
                        .problems()
                        .into_iter()
                        .filter(|(ip, _)| !vips.contains(ip))
                        .map(|(_, text)| text),
                )
                .collect(),
            installed: Arc::new(installed),
        }));
        done
    }

    /// Does what an operator asked for. Who asked may have gone away meanwhile.
    async fn see_to(&mut self, chore: Chore) {
        match chore {
            Chore::ClearPersistence(which, reply) => {
                let cleared = self.writer.with(move |writer| writer.clear_persistence(&which)).await;
                drop(reply.send(cleared));
            }
            Chore::Kill(which, reply) => {
                let (killed, backends) =
                    self.writer.with(move |w| (w.kill(&which), w.installed().backends.clone())).await;
                let killed = killed.map(|Killed { flows, pairs }| {
                    if !pairs.is_empty() {
                        let servers = backends.into_iter().map(|(slot, (_, record))| (slot, record));
                        self.tell(Ended::Flows(pairs, servers.collect()));
                    }
                    flows
                });
                drop(reply.send(killed));
            }
        }
    }

    /// Leaves it to be told what ended. Never waits: a queue that is full has hundreds of rounds in it.
    fn tell(&self, ended: Ended) {
        let Err(mpsc::error::TrySendError::Full(ended)) = self.to.ended.try_send(ended) else { return };
        match ended {
            Ended::Servers(deaths) => {
                let who: Vec<String> = deaths.into_iter().map(|death| death.who).collect();
                tracing::warn!(
                    "connections of {} are not told that their server is gone: too many servers went at a time",
                    who.join(", ")
                );
            }
            Ended::Flows(flows, _) => tracing::warn!(
                "the ends of {} connections are not told that they were ended: too much ends at a time; they learn of it \
                 when they send",
                flows.len()
            ),
        }
    }

    /// True when an address that should be there is not, and may be tried.
    fn address_is_due(&self) -> bool {
        let goal = self.to.goal.borrow();
        let ready = ready(&goal.state, &self.to.published.borrow().installed);
        goal.number > 0 && self.claims.any_due(&ready, &self.to.facts.borrow(), Instant::now())
    }

    /// Sweeps the flow tables and looks whether the program still runs where it should. True when what is
    /// published must change.
    async fn look(&mut self) -> bool {
        let (census, lost) = self.writer.with(|writer| (writer.sweep(), writer.lost_links())).await;
        let mut blind = None;
        match census {
            Ok(census) => drop(self.to.census.send_replace(Arc::new(census))),
            Err(error) => blind = Some(error.line()),
        }
        let lost = lost.unwrap_or_else(|error| {
            blind.get_or_insert_with(|| error.line());
            BTreeSet::new()
        });
        if blind != self.blind
            && let Some(text) = &blind
        {
            tracing::error!("{text}");
        }
        let now = Instant::now();
        let changed = self.losses.expire(now) || !lost.is_empty() || blind != self.blind;
        self.blind = blind;
        for ifindex in lost {
            tracing::error!("something took the program off {}", self.to.facts.borrow().link_name(ifindex));
            self.losses.note(ifindex, now);
        }
        changed
    }
}

/// Time to the next sweep after one that took so long.
fn sweep_interval(took: Duration) -> Duration {
    let [shortest, longest] = SWEEP;
    took.saturating_mul(SWEEP_SHARE).clamp(shortest, longest)
}

/// Links whose program something else took off of late.
#[derive(Debug, Default)]
struct Losses(BTreeMap<u32, Instant>);

impl Losses {
    fn note(&mut self, ifindex: u32, now: Instant) {
        self.0.insert(ifindex, now);
    }

    /// Forgets what was long ago; true when that was anything.
    fn expire(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, since| now < *since + LOSS_SHOWN);
        self.0.len() < before
    }

    fn lines<'a>(&'a self, installed: &'a Installed, facts: &'a NetFacts) -> impl Iterator<Item = String> {
        self.0.keys().map(|ifindex| {
            let name = facts.link_name(*ifindex);
            let since = if installed.links.contains_key(ifindex) { "was put back" } else { "is not back yet" };
            format!(
                "something other than lbd took the program off {name} in the last {} min; it {since}: find out what \
                 did (`bpftool net show dev {name}`), connections stop each time",
                LOSS_SHOWN.as_secs() / 60
            )
        })
    }
}

/// What carrying out the plans left undone.
#[derive(Debug, Default)]
struct Applied {
    vips: BTreeMap<String, String>,
    failures: Vec<String>,
    deaths: Vec<Death>,
}

/// Plans and applies until nothing is left to do, or nothing more can be done.
fn reach(writer: &mut dyn Writer, desired: &DesiredState) -> Applied {
    let mut applied = Applied::default();
    for _ in 0..MAX_PLANS {
        let plan = plan::plan(desired, writer.installed());
        applied.vips.clone_from(&plan.problems);
        if plan.steps.is_empty() {
            break;
        }
        if !carry_out(writer, plan, &mut applied) {
            break;
        }
    }
    applied
}

/// Takes the steps. A VIP's failure ends that VIP's steps, and a filter that could not be widened ends the plan;
/// everything else goes on. False when anything failed.
fn carry_out(writer: &mut dyn Writer, plan: Plan, applied: &mut Applied) -> bool {
    let mut failed = BTreeSet::new();
    let mut all = true;
    let mut steps = plan.steps.as_slice();
    while let Some((step, rest)) = steps.split_first() {
        let is_table = |step: &Step| matches!(step.op, Op::PutTable { .. });
        if is_table(step) {
            let (tables, rest) =
                steps.split_at(steps.iter().position(|step| !is_table(step)).unwrap_or(steps.len()));
            steps = rest;
            all &= put_tables(writer, tables, &mut failed, applied);
            continue;
        }
        steps = rest;
        if step.vip.as_ref().is_some_and(|vip| failed.contains(vip)) {
            continue;
        }
        if let Op::SetFilter { addresses, servers } = &step.op
            && is_too_narrow(writer.installed(), addresses, servers)
        {
            // A step that failed left a key or a server standing: its address must stay too.
            continue;
        }
        let death = reset::death(&step.op, writer.installed());
        match writer.apply(&step.op) {
            Ok(()) => applied.deaths.extend(death),
            Err(error) => {
                all = false;
                note_failure(step, &error, &mut failed, applied);
                if step.vip.is_none() && matches!(step.op, Op::SetFilter { .. }) {
                    break;
                }
            }
        }
    }
    all
}

/// Takes steps that replace look-up tables together. False when one failed.
fn put_tables(
    writer: &mut dyn Writer,
    steps: &[Step],
    failed: &mut BTreeSet<String>,
    applied: &mut Applied,
) -> bool {
    let sound = |step: &&Step| step.vip.as_ref().is_none_or(|vip| !failed.contains(vip));
    let steps: Vec<&Step> = steps.iter().filter(sound).collect();
    let tables = steps.iter().filter_map(|step| {
        let Op::PutTable { service, table } = &step.op else { return None };
        Some((*service, table))
    });
    let done = writer.put_tables(&tables.collect::<Vec<_>>());
    let mut all = true;
    for (step, outcome) in steps.into_iter().zip(done) {
        if let Err(error) = outcome {
            all = false;
            note_failure(step, &error, failed, applied);
        }
    }
    all
}

fn note_failure(step: &Step, error: &Error, failed: &mut BTreeSet<String>, applied: &mut Applied) {
    applied.failures.push(error.line());
    if let Some(vip) = &step.vip {
        applied.vips.insert(vip.clone(), error.line());
        failed.insert(vip.clone());
    }
}

/// True when what is installed needs an address that is not among these.
fn is_too_narrow(installed: &Installed, addresses: &BTreeSet<IpAddr>, servers: &BTreeSet<IpAddr>) -> bool {
    let mut keys = installed.keys.keys();
    keys.any(|key| !addresses.contains(&key.ip))
        || installed.routed_servers().any(|ip| !servers.contains(&ip))
}

/// Addresses whose link runs the program and, if a VIP has them, whose service has keys; and those that need neither.
fn ready(desired: &DesiredState, installed: &Installed) -> BTreeSet<VipAddress> {
    let vips = vip_addresses(desired);
    let served: BTreeSet<IpAddr> = installed.keys.keys().map(|key| key.ip).collect();
    let has_service = |a: &VipAddress| !vips.contains(&a.ip) || served.contains(&a.ip);
    let addresses = desired.addresses.iter();
    let ready = addresses.filter(|(a, link)| has_service(a) && installed.links.contains_key(link));
    ready.map(|(address, _)| *address).chain(desired.proxy_addresses.iter().copied()).collect()
}

/// Addresses that clients connect to.
fn vip_addresses(desired: &DesiredState) -> BTreeSet<IpAddr> {
    let layer4 = desired.services.values().flat_map(|service| service.keys.iter().map(|key| key.ip));
    layer4.chain(desired.proxy_addresses.iter().map(|address| address.ip)).collect()
}

/// Says in the log what is new.
fn report(applied: &Applied, installed: &Installed, facts: &NetFacts, before: &Reconciled) {
    let name = |index: &u32| facts.link_name(*index);
    for (index, mode) in &installed.links {
        if before.installed.links.contains_key(index) {
            continue;
        }
        match mode {
            XdpMode::Native => tracing::info!("attached to {} (native XDP)", name(index)),
            XdpMode::Generic => tracing::warn!(
                "attached to {} in GENERIC mode, which is several times slower: its driver refused native XDP",
                name(index)
            ),
        }
    }
    for index in before.installed.links.keys().filter(|i| !installed.links.contains_key(i)) {
        tracing::info!("detached from {}", name(index));
    }
    for failure in applied.failures.iter().filter(|f| !before.problems.contains(f)) {
        tracing::error!("{failure}");
    }
    for (vip, problem) in applied.vips.iter().filter(|(vip, p)| before.vips.get(*vip) != Some(p)) {
        tracing::error!("VIP {vip}: {problem}");
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        load::Limits,
        net::Mac,
        service::{Service, Sources, flags, mode},
    };

    use super::*;
    use crate::{
        dataplane::{Filling, ServiceKey, fake::Fake},
        model::{
            config::Protocol,
            desired::{DesiredBackend, DesiredService, Entrant, Forward},
        },
    };

    /// A VIP 10.12.1.100 with one server, on link 2.
    fn state(mode: u8) -> DesiredState {
        let forward = Forward {
            ifindex: 2,
            dst_mac: Mac([2, 0, 0, 0, 0, 1]),
            src_mac: Mac([2, 0, 0, 0, 0, 2]),
            vlan_depth: 0,
            vlan: [0; 2],
            outer_tpid: 0,
            mtu: 1500,
        };
        let server = DesiredBackend {
            ip: [10, 12, 1, 110].into(),
            port: None,
            forward: Some(forward),
            limits: Limits::default(),
        };
        let key = ServiceKey { ip: [10, 12, 1, 100].into(), port: 80, protocol: Protocol::Tcp };
        let service = DesiredService {
            keys: [key].into(),
            record: Service { mode, ..Service::default() },
            group: None,
            idle_timeout_secs: 3600,
            sources: Sources::default(),
            filling: Filling::RoundRobin,
            backends: [("R1".to_owned(), server)].into(),
            entrants: vec![Entrant { name: "R1".to_owned(), weight: 1 }],
        };
        let at = |last: u8| VipAddress { ifindex: 2, ip: [10, 12, 1, last].into() };
        DesiredState {
            addresses: [(at(100), 2), (at(254), 2)].into(),
            links: [2].into(),
            services: [("WEB".to_owned(), service)].into(),
            ..DesiredState::default()
        }
    }

    #[test]
    fn a_server_that_goes_down_or_away_is_told_once_with_the_record_it_had() {
        for goes_away in [false, true] {
            let (mut writer, _reader) = Fake::default().open();
            let mut desired = state(mode::NAT);
            desired.services.get_mut("WEB").unwrap().record.flags = flags::RESET;
            assert_eq!(reach(&mut writer, &desired).deaths, []);
            let (slot, (_, before)) = writer.installed().backends.first_key_value().unwrap();
            let told = Death { who: "WEB/R1".to_owned(), slot: *slot, backend: *before };

            let service = desired.services.get_mut("WEB").unwrap();
            service.entrants.clear();
            if goes_away {
                service.backends.clear();
            } else {
                service.backends.get_mut("R1").unwrap().forward = None;
            }
            assert_eq!(reach(&mut writer, &desired).deaths, [told]);
            assert_eq!(reach(&mut writer, &desired).deaths, []);
        }
    }

    #[test]
    fn a_vip_that_could_not_be_changed_keeps_its_servers_in_the_filter() {
        let fake = Fake::default();
        let (mut writer, _) = fake.open();
        assert!(reach(&mut writer, &state(mode::NAT)).failures.is_empty());
        let desired = state(mode::DR);
        let steps = plan::plan(&desired, writer.installed()).steps;
        fake.fail_at(steps.iter().position(|s| matches!(s.op, Op::PutService { .. })).unwrap());
        assert_eq!(reach(&mut writer, &desired).failures.len(), 1);
        assert_eq!(fake.check_invariants(), Ok(()));
        assert!(reach(&mut writer, &desired).failures.is_empty());
        assert!(writer.installed().filter.as_ref().unwrap().1.is_empty());
    }

    #[test]
    fn a_vips_address_waits_for_its_service_and_any_other_for_its_link_alone() {
        let desired = state(mode::NAT);
        let addresses = |installed: &Installed| -> Vec<String> {
            ready(&desired, installed).iter().map(|a| a.ip.to_string()).collect()
        };
        let mut installed = Installed::default();
        assert!(addresses(&installed).is_empty());
        installed.links.insert(2, XdpMode::Native);
        assert_eq!(addresses(&installed), ["10.12.1.254"]);
        installed.keys.extend(desired.services["WEB"].keys.iter().map(|key| (*key, 0)));
        assert_eq!(addresses(&installed), ["10.12.1.100", "10.12.1.254"]);
    }

    #[test]
    fn sweeps_of_large_tables_come_less_often_and_never_too_seldom() {
        let millis = Duration::from_millis;
        for (took, next) in [(0, 1000), (20, 1000), (40, 2000), (90, 4500), (60_000, 5000)] {
            assert_eq!(sweep_interval(millis(took)), millis(next));
        }
    }

    #[test]
    fn a_loss_is_told_for_its_time_and_no_longer() {
        let (installed, facts) = (Installed::default(), NetFacts::default());
        let then = Instant::now();
        let mut losses = Losses::default();
        losses.note(7, then);
        assert!(!losses.expire(then + LOSS_SHOWN / 2));
        let lines: Vec<String> = losses.lines(&installed, &facts).collect();
        assert!(lines.len() == 1 && lines[0].contains("interface 7"), "{lines:?}");
        assert!(losses.expire(then + LOSS_SHOWN));
        assert_eq!(losses.lines(&installed, &facts).count(), 0);
    }
}
