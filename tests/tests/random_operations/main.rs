//! Random operations through the whole controller into the real program's maps, and packets through that program after
//! each: configuration, compile, plan, writer, packet path. A slow model says what must hold. `LB_SEED` repeats a run,
//! `LB_OPERATIONS` makes it longer.

#![forbid(unsafe_code)]

mod clients;
mod site;
mod tables;

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{SystemTime, UNIX_EPOCH},
};

use lb_common::net::{PROTO_TCP, PROTO_UDP};
use lb_ctl::{
    dataplane::{Installed, Writer as _},
    model::{desired::DesiredState, health::Verdict, operator::Order},
    plan::plan,
};
use lb_tests::{
    lab::{
        netns::{Lifetime, Netns, test_name},
        require_root,
    },
    packet::{bench::stay_on_this_cpu, plane::Plane},
    random::Random,
};

use clients::{Clients, InForce, Wish};
use site::{DRAIN, HALT, PORTS, Site};
use tables::Tables;

/// Operations that are printed when something is not as it must be.
const LAST: usize = 40;
/// Operations between two times at which every flow ends and the maps are looked at.
const ROUND: u64 = 1500;
/// Index of the second interface.
const BACK: u32 = 7;
/// Room for flows: IPv4, IPv6, half-open. So much that no bucket is ever full.
const ROOM: [u32; 3] = [1 << 15, 1 << 15, 1 << 13];
/// Flows that there may be at a time.
const FLOWS: usize = 200;
/// Longer than any flow or persistence entry lives.
const AGES_SECS: u32 = 2 * 3600;
/// Sweeps after which every entry was looked at: whether a pair is whole is looked up in one of eight.
const SWEEPS: usize = 9;

#[test]
fn whatever_is_done_no_flow_moves_nobody_gets_what_he_must_not_and_nothing_is_left_over() {
    if !require_root("random_operations") {
        return;
    }
    let seed = from_env("LB_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
    });
    let operations = from_env("LB_OPERATIONS").unwrap_or(4000);
    println!("LB_SEED={seed} LB_OPERATIONS={operations}");
    let netns = Netns::new(&test_name(0, "operations"), Lifetime::WithProgram);
    netns.ip(&format!(
        "link add va index {BACK} type veth peer name vb
         link set va up
         link set vb up"
    ));
    netns.enter(|| {
        // Round robin keeps a cursor per CPU.
        stay_on_this_cpu();
        let mut run = Run::new(&netns, seed);
        for _ in 0..operations {
            let done = catch_unwind(AssertUnwindSafe(|| run.step()));
            if let Err(panic) = done {
                println!("LB_SEED={seed}; the last operations:\n{}", run.told());
                resume_unwind(panic);
            }
        }
        let done = catch_unwind(AssertUnwindSafe(|| run.look()));
        if let Err(panic) = done {
            println!("LB_SEED={seed}; the last operations:\n{}", run.told());
            resume_unwind(panic);
        }
    });
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// One run: what is served, who serves it, who is served.
struct Run<'a> {
    netns: &'a Netns,
    random: Random,
    site: Site,
    plane: Plane,
    /// As the controller remembers it.
    before: DesiredState,
    force: InForce,
    clients: Clients,
    steps: u64,
    next_client: u32,
    told: VecDeque<String>,
}

impl<'a> Run<'a> {
    fn new(netns: &'a Netns, seed: u64) -> Self {
        let mut run = Self {
            netns,
            random: Random::new(seed),
            site: Site::default(),
            plane: Plane::new(netns, "", ROOM),
            before: DesiredState::default(),
            force: InForce::default(),
            clients: Clients::default(),
            steps: 0,
            next_client: 0,
            told: VecDeque::new(),
        };
        run.site.add_vip(&mut run.random);
        run.reload();
        run
    }

    /// One operation, and a few packets.
    fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(ROUND) {
            self.look();
        }
        match self.random.below(1000) {
            0..=179 => {
                if self.change() {
                    self.reload();
                }
            }
            180..=181 => {
                self.note("the controller is started again".to_owned());
                self.restart();
            }
            182..=184 if self.change() => self.crash(),
            185..=194 => {
                self.note("sweep".to_owned());
                self.plane.sweep();
            }
            195..=519 => self.begin(),
            520..=899 => self.go_on(),
            _ => self.end(),
        }
    }

    fn note(&mut self, what: String) {
        if self.told.len() == LAST {
            self.told.pop_front();
        }
        self.told.push_back(format!("{}: {what}", self.steps));
    }

    fn told(&self) -> String {
        self.told.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// Somebody changes something; false when there was nothing to change.
    fn change(&mut self) -> bool {
        let random = &mut self.random;
        let site = &mut self.site;
        let what = match random.below(12) {
            0 => site.add_vip(random),
            1 if random.once_in(3) => site.any_vip(random).map(|(name, _)| name).map(|name| {
                site.vips.remove(&name);
                self.clients.forget_vip(&name);
                format!("remove {name}")
            }),
            2 => site.reschedule(random),
            3 => site.any_vip(random).and_then(|(name, vip)| {
                let ip = vip.add_server(random)?;
                Some(format!("{name}: add {ip}"))
            }),
            4 => site.any_vip(random).and_then(|(name, vip)| {
                let last = vip.servers.len() == 1;
                let gone = (!last).then(|| vip.servers.remove(random.below(vip.servers.len())))?;
                Some(format!("{name}: remove {}", gone.ip))
            }),
            5 => site.any_vip(random).map(|(name, vip)| {
                let at = random.below(vip.servers.len());
                // A VIP without any weight is refused.
                let least = usize::from(at == 0);
                vip.servers[at].weight = (least + random.below(256)) as u16;
                format!("{name}: {} has weight {}", vip.servers[at].ip, vip.servers[at].weight)
            }),
            6 => {
                let ips: Vec<IpAddr> = site.servers().iter().map(|server| server.ip).collect();
                (!ips.is_empty()).then(|| {
                    let ip = *random.pick(&ips);
                    let card = site.cards.entry(ip).or_default();
                    *card = card.wrapping_add(1);
                    format!("{ip} has another MAC")
                })
            }
            7 | 8 => site.any_vip(random).map(|(name, vip)| {
                let at = random.below(vip.servers.len());
                let orders = [Order::Online, DRAIN, HALT];
                vip.servers[at].order = *random.pick(&orders);
                format!("{name}: {} {:?}", vip.servers[at].ip, vip.servers[at].order)
            }),
            _ => site.any_vip(random).map(|(name, vip)| {
                let at = random.below(vip.servers.len());
                let verdicts = [Verdict::Up, Verdict::Up, Verdict::Down, Verdict::Unknown];
                vip.servers[at].verdict = *random.pick(&verdicts);
                format!("{name}: {} is {:?}", vip.servers[at].ip, vip.servers[at].verdict)
            }),
        };
        let changed = what.is_some();
        what.into_iter().for_each(|what| self.note(what));
        changed
    }

    /// The configuration, verdicts or words are taken up, whole.
    fn reload(&mut self) {
        let compiled = self.site.compile(&self.before, self.plane.settings());
        let plan = plan(&compiled.desired, self.plane.writer().installed());
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        self.plane.apply(&plan.steps);
        let again = lb_ctl::plan::plan(&compiled.desired, self.plane.writer().installed());
        assert_eq!(again.steps, Vec::new(), "what was applied is there");
        self.before = compiled.desired;
        self.force.settle(&self.site);
    }

    /// Another controller goes on from what the kernel holds.
    fn restart(&mut self) {
        self.plane.lose_controller();
        self.some_packets();
        self.plane.open_again();
        self.before = DesiredState::from_installed(self.plane.writer().installed());
        self.some_packets();
        self.reload();
    }

    /// The controller dies in the midst of a plan; the next one finishes the work, or dies as well.
    fn crash(&mut self) {
        loop {
            let compiled = self.site.compile(&self.before, self.plane.settings());
            let plan = plan(&compiled.desired, self.plane.writer().installed());
            let reached = self.random.below(plan.steps.len() + 1);
            self.note(format!("the controller dies after {reached} of {} steps", plan.steps.len()));
            self.plane.apply(&plan.steps[..reached]);
            self.force.unsettle(&self.site);
            self.plane.lose_controller();
            self.some_packets();
            self.plane.open_again();
            self.before = DesiredState::from_installed(self.plane.writer().installed());
            self.force.was_live = live(&self.before);
            if !self.random.once_in(3) {
                self.some_packets();
                return self.reload();
            }
        }
    }

    fn some_packets(&mut self) {
        for _ in 0..self.random.below(12) {
            if self.random.once_in(3) { self.begin() } else { self.go_on() }
        }
    }

    fn begin(&mut self) {
        if self.clients.flows.len() >= FLOWS {
            return self.end();
        }
        let Some((name, vip)) = self.site.any_vip(&mut self.random) else { return };
        let is_v4 = vip.ip.is_ipv4();
        self.next_client += 1;
        // Few clients, but no port of any twice.
        let number = self.random.below(12) as u16;
        let ip: IpAddr = if is_v4 {
            Ipv4Addr::new(10, 1, (number / 4) as u8, (number % 4) as u8 + 1).into()
        } else {
            Ipv6Addr::new(0xfd01, 0, 0, number / 4, 0, 0, 0, number % 4 + 1).into()
        };
        let wish = Wish {
            client: SocketAddr::new(ip, 1024 + (self.next_client % 60_000) as u16),
            port: *self.random.pick(&PORTS),
            proto: if self.random.once_in(5) { PROTO_UDP } else { PROTO_TCP },
            half: self.random.once_in(12),
        };
        self.note(format!("{wish:?} to {name}"));
        self.clients.begin(&self.plane, &self.site, &self.force, &name, wish);
    }

    fn go_on(&mut self) {
        if self.clients.flows.is_empty() {
            return self.begin();
        }
        let which = self.random.below(self.clients.flows.len());
        self.note(format!("on with {:?}", self.clients.flows[which]));
        self.clients.go_on(&self.plane, &self.site, &self.force, which);
    }

    fn end(&mut self) {
        if self.clients.flows.is_empty() {
            return;
        }
        let which = self.random.below(self.clients.flows.len());
        let in_peace = self.random.once_in(2);
        self.note(format!("end of {:?}, in peace: {in_peace}", self.clients.flows[which]));
        self.clients.end(&self.plane, &self.site, &self.force, which, in_peace);
    }

    /// Every flow goes on, and every flow ends. Then the maps must be as if they had just been made.
    fn look(&mut self) {
        self.note("every flow ends".to_owned());
        for which in (0..self.clients.flows.len()).rev() {
            self.clients.go_on(&self.plane, &self.site, &self.force, which);
        }
        let counted = self.plane.sweep();
        let established = counted.established_v4 + counted.established_v6;
        assert!(established >= self.clients.flows.len() as u64, "{counted:?}");
        while let Some(which) = self.clients.flows.len().checked_sub(1) {
            let in_peace = self.random.once_in(2);
            self.clients.end(&self.plane, &self.site, &self.force, which, in_peace);
        }
        let ages = self.plane.settings().ticks(AGES_SECS);
        self.plane.pins().age(ages);
        self.clients.forget();
        let censuses: Vec<_> = (0..SWEEPS).map(|_| self.plane.sweep()).collect();
        let last = censuses.last().expect("there was a sweep");
        assert_eq!((last.established_v4, last.established_v6, last.half_open), (0, 0, 0), "{last:?}");
        assert_eq!((last.replies_v4, last.replies_v6, last.persistent()), (0, 0, 0), "{last:?}");
        assert!(last.active_by_slot.values().all(|count| *count == 0), "{last:?}");
        assert!(last.closing_by_slot.values().all(|count| *count == 0), "{last:?}");
        assert!(last.sources_in_use.values().all(|count| *count == 0), "{last:?}");
        let loads: Vec<[u64; 4]> = self.plane.pins().values(lb_common::limits::map::LOADS);
        let busy: Vec<_> = loads.iter().enumerate().filter(|(_, load)| load[0] != 0).collect();
        assert!(busy.is_empty(), "active connections where there are none: {busy:?}");

        let fresh = self.fresh();
        Tables::read(self.plane.pins()).assert_like(&Tables::read(fresh.pins()));
    }

    /// Another data plane for the same site, without links: they are taken.
    fn fresh(&self) -> Plane {
        let mut fresh = Plane::new(self.netns, "-fresh", ROOM);
        let desired = DesiredState { links: [].into(), ..self.before.clone() };
        for step in plan(&desired, &Installed::default()).steps {
            fresh.writer().apply(&step.op).unwrap_or_else(|error| panic!("{step:?}: {}", error.line()));
        }
        fresh
    }
}

/// Servers that are live in a state.
fn live(state: &DesiredState) -> std::collections::BTreeSet<(String, IpAddr)> {
    let services = state.services.iter();
    let live = services.flat_map(|(vip, service)| {
        let live = service.backends.values().filter(|backend| backend.forward.is_some());
        live.map(move |backend| (vip.clone(), backend.ip))
    });
    live.collect()
}
