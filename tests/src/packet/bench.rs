//! Program and model side by side: whatever is done to one is done to both, and they must agree.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    backend::{Backend, LinkRecord},
    counter::{BackendTraffic, Reason, ServiceTraffic},
    flow::kind,
    load::Limits,
    net::words,
    service::{Service, Sources, Table, mode},
};
use zerocopy::FromZeros as _;

use super::dut::{Dut, Options, Ran, XDP_DROP};
use crate::model::{Model, SourceRange};

/// Something done to the data plane.
#[derive(Clone)]
pub enum Op {
    /// A backend's record is written.
    Backend(u16, Backend),
    /// A service's record is written.
    Service(u16, Service),
    /// A service's look-up table is replaced.
    Table(u16, Vec<u16>),
    /// A server's limits are written.
    Limits(u16, Limits),
    /// A server, known by its slot, has this slot in a service, or none.
    Twin(u16, u16, Option<u16>),
    /// The controller is alive.
    Beat,
    /// An operator ends the flows of a client.
    Kill(IpAddr),
    /// NAT and SNAT send a slot's flows there; port 0 stands for the one that was asked for.
    Target(u16, SocketAddr),
    /// A service's source addresses and ports are written.
    Sources(u16, SourceRange),
    /// An interface's record is written.
    Link(u32, LinkRecord),
    /// A VIP address, port and protocol lead to a service.
    AddKey(SocketAddr, u8, u16),
    /// They no longer do.
    RemoveKey(SocketAddr, u8),
    /// Ticks pass.
    Age(u32),
    /// Events and ICMP errors may be sent again, as in another tick.
    ForgetTicks,
    /// A frame comes in.
    Frame(Vec<u8>),
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(slot, backend) => write!(f, "backend {slot}: {backend:?}"),
            Self::Service(id, service) => write!(f, "service {id}: {service:?}"),
            Self::Table(id, places) if places.len() <= 16 => write!(f, "table of {id}: {places:?}"),
            Self::Table(id, places) => write!(f, "table of {id}: {} places", places.len()),
            Self::Limits(slot, limits) => write!(f, "limits of {slot}: {limits:?}"),
            Self::Twin(slot, service, twin) => write!(f, "twin of {slot} in {service}: {twin:?}"),
            Self::Beat => write!(f, "heartbeat"),
            Self::Kill(client) => write!(f, "kill flows of {client}"),
            Self::Target(slot, server) => write!(f, "target of {slot}: {server}"),
            Self::Sources(id, sources) => write!(f, "sources of {id}: {sources:?}"),
            Self::Link(ifindex, link) => write!(f, "link {ifindex}: {link:?}"),
            Self::AddKey(vip, proto, id) => write!(f, "add key {vip} protocol {proto}: service {id}"),
            Self::RemoveKey(vip, proto) => write!(f, "remove key {vip} protocol {proto}"),
            Self::Age(ticks) => write!(f, "{ticks} ticks pass"),
            Self::ForgetTicks => write!(f, "another tick"),
            Self::Frame(frame) => write!(f, "frame {}", hex(frame)),
        }
    }
}

/// Bytes as people read them.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counted {
    /// Packets by reason, without zeros.
    pub reasons: BTreeMap<Reason, u64>,
    /// Services, without those that counted nothing.
    pub services: BTreeMap<u16, ServiceTraffic>,
    /// Backends, likewise.
    pub backends: BTreeMap<u16, BackendTraffic>,
}

/// The pair.
pub struct Bench {
    /// The program.
    pub dut: Dut,
    /// The model.
    pub model: Model,
    /// What the last frame became.
    pub output: Ran,
}

impl Bench {
    /// Loads the program. Round robin keeps a cursor per CPU, so this thread stays on the one it is on.
    #[must_use]
    pub fn new(options: Options) -> Self {
        stay_on_this_cpu();
        let output = Ran { verdict: XDP_DROP, frame: Vec::new() };
        Self { dut: Dut::load(options), model: Model::new(&options), output }
    }

    /// Does something to both.
    ///
    /// # Errors
    ///
    /// What they do not agree about.
    pub fn apply(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Backend(slot, backend) => {
                self.dut.set_backend(*slot, *backend);
                self.model.backends.insert(*slot, *backend);
            }
            Op::Service(id, service) => {
                self.dut.set_service(*id, *service);
                self.model.services.insert(*id, *service);
            }
            Op::Table(id, places) => {
                self.dut.set_table(*id, &table(places));
                self.model.tables.insert(*id, places.clone());
                self.model.lists.insert(*id, servers_of(places));
            }
            Op::Limits(slot, limits) => {
                self.dut.set_limits(*slot, *limits);
                self.model.loads.entry(*slot).or_default().limits = *limits;
            }
            Op::Twin(slot, service, twin) => {
                self.dut.set_twin(*slot, *service, *twin);
                match twin {
                    Some(twin) => _ = self.model.twins.insert((*slot, *service), *twin),
                    None => _ = self.model.twins.remove(&(*slot, *service)),
                }
            }
            Op::Beat => {
                self.dut.beat();
                self.model.heartbeat = self.model.now;
            }
            Op::Kill(client) => self.kill(*client),
            Op::Target(slot, server) => {
                self.dut.set_target(*slot, *server);
                self.model.targets.insert(*slot, *server);
            }
            Op::Sources(id, sources) => {
                self.dut.set_sources(*id, record_of(sources));
                self.model.sources.insert(*id, sources.clone());
            }
            Op::Link(ifindex, link) => {
                self.dut.set_link(*ifindex, *link);
                self.model.links.insert(*ifindex, *link);
            }
            Op::AddKey(vip, proto, id) => {
                self.dut.add_key(*vip, *proto, *id);
                self.model.keys.insert((vip.ip(), vip.port(), *proto), *id);
            }
            Op::RemoveKey(vip, proto) => {
                self.dut.remove_key(*vip, *proto);
                self.model.keys.remove(&(vip.ip(), vip.port(), *proto));
            }
            Op::Age(ticks) => {
                self.dut.age(*ticks);
                self.model.now += u64::from(*ticks);
            }
            Op::ForgetTicks => {
                self.dut.forget_ticks();
                self.model.told = false;
            }
            Op::Frame(frame) => {
                let (is, want) = (self.dut.run(frame), self.model.run(frame));
                if !is.is_like(&want) {
                    let show = |ran: &Ran| format!("verdict {} {}", ran.verdict, hex(&ran.frame));
                    return Err(format!("the program gave {}\nthe model gave   {}", show(&is), show(&want)));
                }
                self.output = is;
            }
        }
        Ok(())
    }

    /// Ends the flows of a client, in both directions.
    fn kill(&mut self, client: IpAddr) {
        let mut flows = BTreeSet::new();
        for entry in self.remembered().into_values().filter(|entry| entry.choice.kind != kind::REPLY) {
            if entry.flow.src.ip() == client {
                flows.extend([entry.flow].into_iter().chain(entry.sibling()));
            }
        }
        self.dut.void(&flows);
        for flow in &flows {
            self.model.void(flow);
        }
    }

    /// Runs a frame through both and gives what came out.
    ///
    /// # Panics
    ///
    /// When they do not agree about the frame or anything that was counted so far.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        let (is, want) = (self.dut.run(frame), self.model.run(frame));
        assert!(
            is.is_like(&want),
            "program and model disagree about {}: {} {}\nthe model says {} {}",
            hex(frame),
            is.verdict,
            hex(&is.frame),
            want.verdict,
            hex(&want.frame),
        );
        self.compare().unwrap_or_else(|difference| panic!("after {}: {difference}", hex(frame)));
        is
    }

    /// Does something other than running a frame.
    ///
    /// # Panics
    ///
    /// Never for such an [`Op`].
    pub fn set(&mut self, op: &Op) {
        self.apply(op).unwrap_or_else(|difference| panic!("{op:?}: {difference}"));
    }

    /// A service with these servers, in this order, and a key for each of these ports. Without a mode it is direct.
    pub fn serve(&mut self, id: u16, service: Service, keys: &[(SocketAddr, u8)], slots: &[u16]) {
        let mode = if service.mode == 0 { mode::DR } else { service.mode };
        self.set(&Op::Service(id, Service { mode, ..service }));
        self.set(&Op::Table(id, slots.to_vec()));
        for (vip, proto) in keys {
            self.set(&Op::AddKey(*vip, *proto, id));
        }
    }

    /// Everything the program counted.
    pub fn counted(&mut self) -> Counted {
        let services = self.model.services.keys().map(|&id| (id, self.dut.service_traffic(id)));
        let services: BTreeMap<_, _> = services.filter(|(_, is)| *is != ServiceTraffic::default()).collect();
        let backends = self.model.backends.keys().map(|&slot| (slot, self.dut.backend_traffic(slot)));
        let backends = backends.filter(|(_, is)| *is != BackendTraffic::default()).collect();
        Counted { reasons: self.dut.reasons(), services, backends }
    }

    /// Compares everything that was counted.
    ///
    /// # Errors
    ///
    /// Both sides, when they differ.
    pub fn compare(&mut self) -> Result<(), String> {
        let want = Counted {
            reasons: self.model.reasons.clone(),
            services: self.model.service_traffic.clone(),
            backends: self.model.backend_traffic.clone(),
        };
        let is = self.counted();
        if is == want {
            Ok(())
        } else {
            Err(format!("the program counted {is:?}\nthe model counted   {want:?}"))
        }
    }
}

/// The record that says the same.
fn record_of(sources: &SourceRange) -> Sources {
    let mut record = Sources {
        count: sources.addrs.len() as u32,
        first_port: sources.first_port,
        ports: sources.ports,
        ..Sources::default()
    };
    for (to, from) in record.addrs.iter_mut().zip(&sources.addrs) {
        *to = words(*from);
    }
    record
}

/// A look-up table with these places.
#[must_use]
pub fn table(places: &[u16]) -> Box<Table> {
    let mut table = Table::new_box_zeroed().expect("memory for a table");
    table.len = places.len() as u32;
    table.slots[..places.len()].copy_from_slice(places);
    let list = servers_of(places);
    table.servers = list.len() as u32;
    table.list[..list.len()].copy_from_slice(&list);
    table
}

/// Every server of these places once, in their order.
fn servers_of(places: &[u16]) -> Vec<u16> {
    let mut known = BTreeSet::new();
    places.iter().copied().filter(|slot| known.insert(*slot)).collect()
}

/// Keeps this thread where it is.
///
/// # Panics
///
/// When the kernel refuses.
pub fn stay_on_this_cpu() {
    pin_to_cpu(rustix::thread::sched_getcpu());
}

/// Keeps this thread on one CPU.
///
/// # Panics
///
/// When there is no such CPU.
pub fn pin_to_cpu(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap_or_else(|e| panic!("cannot run on CPU {cpu}: {e}"));
}

/// Undoes what a thread inherited of [`stay_on_this_cpu`]: it may run wherever the kernel lets it.
///
/// # Panics
///
/// When the kernel lets it run nowhere.
pub fn leave_this_cpu() {
    let mut set = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    rustix::thread::sched_setaffinity(None, &set).unwrap_or_else(|e| panic!("cannot run anywhere: {e}"));
}
