//! Program and model side by side: whatever is done to one is done to both, and they must agree.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    backend::Backend,
    counter::{BackendTraffic, Reason, ServiceTraffic},
    flow::{Control, Decision, KEY_V4, KEY_V6, State, ports_of},
    limits::map,
    net::{host_port, ip4, ip6},
    persist::PersistKey,
    service::{Service, Table, mode},
};
use zerocopy::FromZeros as _;

use super::dut::{Dut, Options, Ran};
use crate::model::{
    Model, PersistId,
    flows::{Choice, Entry},
    parse::Flow,
};

/// Something done to the data plane.
#[derive(Clone)]
pub enum Op {
    /// A backend's record is written.
    Backend(u16, Backend),
    /// A service's record is written.
    Service(u16, Service),
    /// A service's look-up table is replaced.
    Table(u16, Vec<u16>),
    /// A VIP address, port and protocol lead to a service.
    AddKey(SocketAddr, u8, u16),
    /// They no longer do.
    RemoveKey(SocketAddr, u8),
    /// Ticks pass.
    Age(u32),
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
            Self::AddKey(vip, proto, id) => write!(f, "add key {vip} protocol {proto}: service {id}"),
            Self::RemoveKey(vip, proto) => write!(f, "remove key {vip} protocol {proto}"),
            Self::Age(ticks) => write!(f, "{ticks} ticks pass"),
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
}

impl Bench {
    /// Loads the program. Round robin keeps a cursor per CPU, so this thread stays on the one it is on.
    #[must_use]
    pub fn new(options: Options) -> Self {
        stay_on_this_cpu();
        Self { dut: Dut::load(options), model: Model::new(&options) }
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
            Op::Frame(frame) => {
                let (is, want) = (self.dut.run(frame), self.model.run(frame));
                if is != want {
                    let show = |ran: &Ran| format!("verdict {} {}", ran.verdict, hex(&ran.frame));
                    return Err(format!("the program gave {}\nthe model gave   {}", show(&is), show(&want)));
                }
            }
        }
        Ok(())
    }

    /// Runs a frame through both and gives what came out.
    ///
    /// # Panics
    ///
    /// When they do not agree about the frame or anything that was counted so far.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        let (is, want) = (self.dut.run(frame), self.model.run(frame));
        assert_eq!(is, want, "program and model disagree about {}", hex(frame));
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

    /// A service with these servers, in this order, and a key for each of these ports.
    pub fn serve(&mut self, id: u16, service: Service, keys: &[(SocketAddr, u8)], slots: &[u16]) {
        self.set(&Op::Service(id, Service { mode: mode::DR, ..service }));
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

    /// Compares every remembered flow and every persistence entry.
    ///
    /// # Errors
    ///
    /// What only one side remembers.
    pub fn compare_memory(&mut self) -> Result<(), String> {
        let now = self.model.now;
        for (name, family, table) in [
            ("established", 0, &self.model.established[0]),
            ("established", 1, &self.model.established[1]),
            ("half-open", 0, &self.model.half_open[0]),
            ("half-open", 1, &self.model.half_open[1]),
        ] {
            let is: BTreeMap<Flow, Entry> = match (name, family) {
                ("established", 0) => entries_v4(&mut self.dut, map::FLOWS_V4, now),
                ("established", _) => entries_v6(&mut self.dut, map::FLOWS_V6, now),
                (_, 0) => entries_v4(&mut self.dut, map::HALF_OPEN_V4, now),
                _ => entries_v6(&mut self.dut, map::HALF_OPEN_V6, now),
            };
            let want = table.entries().map(|entry| (entry.flow, *entry)).collect();
            differences(name, &is, &want)?;
        }
        let is: BTreeMap<PersistId, (u16, u16, u64)> = self
            .dut
            .persisted()
            .into_iter()
            .map(|(key, entry)| {
                (persist_id(&key), (entry.slot, entry.generation, then(now, entry.last_seen)))
            })
            .collect();
        let want = self.model.persisted.iter().map(|(id, e)| (*id, (e.slot, e.generation, e.last_seen)));
        differences("persistence", &is, &want.collect())
    }
}

fn differences<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
    name: &str,
    is: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
) -> Result<(), String> {
    let extra: Vec<_> = is.iter().filter(|(key, value)| want.get(key) != Some(value)).collect();
    let missing: Vec<_> = want.iter().filter(|(key, value)| is.get(key) != Some(value)).collect();
    if extra.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("{name}: the program has {extra:?}\nthe model has {missing:?}"))
}

/// The model's time for a tick of the program, whose clock stands at 0 while its entries grow older.
fn then(now: u64, last_seen: u32) -> u64 {
    now - u64::from(0u32.wrapping_sub(last_seen))
}

fn entries_v4(dut: &mut Dut, name: &str, now: u64) -> BTreeMap<Flow, Entry> {
    let entry = |words: [u64; 8]| {
        let (client, vip) = (ip4(words[1] as u32).into(), ip4((words[1] >> 32) as u32).into());
        entry(words[0], client, vip, words[KEY_V4], words[1 + KEY_V4], now)
    };
    dut.entries_v4(name).into_iter().map(entry).map(|entry| (entry.flow, entry)).collect()
}

fn entries_v6(dut: &mut Dut, name: &str, now: u64) -> BTreeMap<Flow, Entry> {
    let entry = |words: [u64; 16]| {
        let (client, vip) = (ip6([words[1], words[2]]).into(), ip6([words[3], words[4]]).into());
        entry(words[0], client, vip, words[KEY_V6], words[1 + KEY_V6], now)
    };
    dut.entries_v6(name).into_iter().map(entry).map(|entry| (entry.flow, entry)).collect()
}

fn entry(control: u64, client: IpAddr, vip: IpAddr, ports: u64, decision: u64, now: u64) -> Entry {
    let (client_port, vip_port, proto) = ports_of(ports);
    let (control, decision) = (Control(control), Decision(decision));
    Entry {
        flow: Flow { client, client_port: host_port(client_port), vip, vip_port: host_port(vip_port), proto },
        choice: Choice {
            service: decision.service(),
            slot: decision.slot(),
            generation: decision.generation(),
        },
        state: State::from_u8(control.state()).expect("a live entry has a state"),
        last_seen: then(now, control.last_seen()),
    }
}

fn persist_id(key: &PersistKey) -> PersistId {
    let client = if key.family == 4 { ip4(key.client[0] as u32).into() } else { ip6(key.client).into() };
    (key.group, client)
}

/// A look-up table with these places.
#[must_use]
pub fn table(places: &[u16]) -> Box<Table> {
    let mut table = Table::new_box_zeroed().expect("memory for a table");
    table.len = places.len() as u32;
    table.slots[..places.len()].copy_from_slice(places);
    table
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
