//! What the controller's round through the flow tables costs: it comes every second, whatever else happens.

use std::{io::Write, path::PathBuf};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{
    backend::{Backend, state},
    flow::{Bucket4, Control, Decision, Ends, State},
    hash,
    limits::map,
    net::{Mac, words},
    persist::{PersistEntry, PersistKey},
    service::{Service, mode, pick},
};
use lb_ctl::dataplane::{
    BackendIdentity, FlowCensus, Op, ServiceIdentity, Writer as _,
    bpf::{BpfReader, BpfWriter, Opened, Options, open},
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::lab::bpffs;

/// Servers that the flows go to.
const SERVERS: u16 = 16;
/// Ticks that an entry of persistence lives: far from its end when a flow has just been seen.
const PERSIST_TICKS: u32 = 1 << 20;

/// One row: flows, and a table that they are in.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Live IPv4 flows, each of a client of its own.
    pub flows: u32,
    /// Places of the table.
    pub places: u32,
    /// Clients whose persistence ends unless they have a flow.
    pub due: u32,
}

/// Milliseconds of processor time that sweeps took.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Live flows that were counted.
    pub flows: u64,
    /// Places of the table.
    pub places: u32,
    /// Clients whose persistence was due.
    pub due: u32,
    /// The least.
    pub ms_min: f64,
    /// The middle.
    pub ms_median: f64,
    /// The most.
    pub ms_max: f64,
}

impl Figures {
    /// Share of a core, at a sweep a second.
    #[must_use]
    pub fn per_cent(&self) -> f64 {
        self.ms_median / 10.0
    }

    /// A line for people.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written.
    pub fn write_line(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(
            out,
            "sweep of {} flows in {} places, {} clients due: {:.2} ms (from {:.2} to {:.2}), {:.2} % of a core",
            self.flows,
            self.places,
            self.due,
            self.ms_median,
            self.ms_min,
            self.ms_max,
            self.per_cent()
        )
    }
}

/// A data plane with flows in it, which goes away with this.
struct Rig {
    pin_dir: PathBuf,
    /// There until the end.
    writer: Option<Box<BpfWriter>>,
    _reader: BpfReader,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let removed = self.writer.take().map(|writer| writer.remove_all());
        if let Some(Err(error)) = removed {
            // The next figures would be of this table.
            assert!(std::thread::panicking(), "{}", error.line());
        }
    }
}

/// Sweeps so many times.
///
/// # Errors
///
/// When the data plane cannot be made, or counts other flows than there are.
pub fn measure(load: Load, rounds: usize) -> Result<Figures> {
    bpffs::mount();
    let pin_dir = bpffs::path(&format!("lbt-sweep-{}", std::process::id()));
    let options = Options { pin_dir, flows_v4: load.places, flows_v6: 1024, half_open: 1024 };
    let pin_dir = options.pin_dir.clone();
    let Opened { writer, reader, .. } = open(options).map_err(|e| anyhow!(e.line()))?;
    let mut rig = Rig { pin_dir, writer: Some(Box::new(writer)), _reader: reader };
    rig.serve()?;
    let clients = rig.fill(load)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        rig.expire(clients.iter().take(load.due as usize))?;
        let start = clock_gettime(ClockId::ThreadCPUTime);
        let census = rig.writer()?.sweep().map_err(|e| anyhow!(e.line()))?;
        let end = clock_gettime(ClockId::ThreadCPUTime);
        times.push((end.tv_sec - start.tv_sec) as f64 * 1e3 + (end.tv_nsec - start.tv_nsec) as f64 / 1e6);
        rig.check(&census, clients.len(), load)?;
    }
    times.sort_by(f64::total_cmp);
    let at = |place: usize| times.get(place).copied().context("at least one round");
    Ok(Figures {
        flows: clients.len() as u64,
        places: load.places,
        due: load.due,
        ms_min: at(0)?,
        ms_median: at(rounds / 2)?,
        ms_max: at(rounds.saturating_sub(1))?,
    })
}

impl Rig {
    fn writer(&mut self) -> Result<&mut BpfWriter> {
        self.writer.as_deref_mut().context("a data plane that is there")
    }

    fn apply(&mut self, op: &Op) -> Result<()> {
        self.writer()?.apply(op).map_err(|e| anyhow!(e.line()))
    }

    /// One service, and its servers.
    fn serve(&mut self) -> Result<()> {
        let identity = ServiceIdentity { name: "PACS".to_owned(), idle_timeout_secs: 3600 };
        let record = Service {
            mode: mode::DR,
            pick: pick::LEAST,
            persist_prefix: 32,
            persist_ticks: PERSIST_TICKS,
            ..Service::default()
        };
        self.apply(&Op::PutService { service: 0, identity, record })?;
        for slot in 0..SERVERS {
            let identity = BackendIdentity {
                service: 0,
                name: format!("PACS{slot}"),
                ip: [10, 0, 1, slot as u8].into(),
                port: None,
            };
            let backend = Backend {
                generation: 1,
                state: state::LIVE,
                dst_mac: Mac([2, 0, 0, 0, 1, slot as u8]),
                ..Backend::default()
            };
            self.apply(&Op::PutBackend { slot, identity, backend })?;
        }
        Ok(())
    }

    /// Puts flows where the packet path would, and gives their clients; those whose bucket is full are left out.
    fn fill(&mut self, load: Load) -> Result<Vec<u64>> {
        let settings = self.writer()?.settings();
        anyhow::ensure!(settings.flows[0] == load.places, "a table of {} places", settings.flows[0]);
        let buckets = settings.flows[0] / 4;
        let now = self.now()?;
        let mut table = vec![Bucket4([[0; 8]; 4]); buckets as usize];
        let mut clients = Vec::new();
        for n in 0..load.flows {
            let client = std::net::Ipv4Addr::from(0x1400_0000 + n);
            let ends = Ends::between((client, 40_000).into(), ([10, 0, 0, 100], 104).into(), 6);
            let [addrs, ports] = ends.key_v4();
            let hash = hash::flow4(settings.flow_seed, addrs, ports);
            let Bucket4(ways) = &mut table[(hash >> 32) as usize & (buckets as usize - 1)];
            let first = (hash >> 54) as usize;
            let Some(way) = (first..first + 4).map(|way| way & 3).find(|&way| ways[way][0] == 0) else {
                continue;
            };
            let slot = (n % u32::from(SERVERS)) as u16;
            let control = Control::new(1, (hash >> 56) as u8, State::Established, now);
            ways[way] = [control.0, addrs, ports, Decision::new(mode::DR, 0, slot, 1).0, 0, 0, 0, 0];
            let [word, _] = words(client.into());
            clients.push(word);
        }
        let mut map: Array<MapData, Bucket4> = self.map(map::FLOWS_V4)?;
        for (bucket, ways) in (0..).zip(table).filter(|(_, Bucket4(ways))| ways.iter().any(|way| way[0] != 0))
        {
            map.set(bucket, ways, 0)?;
        }
        Ok(clients)
    }

    /// Makes the persistence of clients end now.
    fn expire<'a>(&self, clients: impl Iterator<Item = &'a u64>) -> Result<()> {
        let last_seen = self.now()?.wrapping_sub(PERSIST_TICKS);
        let mut map: HashMap<MapData, PersistKey, PersistEntry> = self.map(map::PERSIST)?;
        for &client in clients {
            let key = PersistKey { client: [client, 0], group: 0, family: 4 };
            map.insert(key, PersistEntry { slot: 0, generation: 1, last_seen }, 0)?;
        }
        Ok(())
    }

    /// The tick of the last sweep.
    fn now(&self) -> Result<u32> {
        Ok(self.map::<Array<MapData, u64>>(map::HEARTBEAT)?.get(&0, 0)? as u32)
    }

    fn map<T: TryFrom<Map, Error = aya::maps::MapError>>(&self, name: &str) -> Result<T> {
        let data = MapData::from_pin(self.pin_dir.join(name))?;
        Ok(T::try_from(Map::from_map_data(data)?)?)
    }

    /// True figures are of sweeps that counted every flow and kept every client.
    fn check(&self, census: &FlowCensus, flows: usize, load: Load) -> Result<()> {
        let active: u64 = census.active_by_slot.values().sum();
        let found = (census.established_v4, active, census.persistent(), census.retired);
        anyhow::ensure!(
            found == (flows as u64, flows as u64, u64::from(load.due), 0),
            "counted {found:?} of {flows} flows and {} clients",
            load.due
        );
        Ok(())
    }
}
