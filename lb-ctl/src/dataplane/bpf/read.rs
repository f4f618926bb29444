//! What the kernel counted: the side that cannot write.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
};
use lb_common::{
    counter::{BackendTraffic, Reason, ServiceTraffic},
    event::Event,
    limits::map,
    persist::{PersistEntry, PersistKey},
    service::ServiceInfo,
    settings::Settings,
};
use tokio::sync::watch;
use zerocopy::FromBytes as _;

use super::{Error, clock::Clock, fault, flows::FlowTables, persistence};
use crate::dataplane::{Counters, Flow, Persisted, Reader, ServiceCounts};

/// What the writer lets the reader know.
#[derive(Clone, Debug)]
pub(super) struct InUse {
    /// Service ids with a service.
    pub(super) services: BTreeSet<u16>,
    /// Slots with a backend, and the service each belongs to.
    pub(super) backends: BTreeMap<u16, u16>,
    /// The packet path's clock.
    pub(super) clock: Clock,
}

/// Maps that are only read here.
pub(super) struct ReaderMaps {
    pub(super) service_traffic: PerCpuArray<MapData, ServiceTraffic>,
    pub(super) backend_traffic: PerCpuArray<MapData, BackendTraffic>,
    pub(super) service_info: Array<MapData, ServiceInfo>,
    pub(super) persist: HashMap<MapData, PersistKey, PersistEntry>,
    pub(super) reasons: PerCpuArray<MapData, u64>,
    pub(super) events: RingBuf<MapData>,
}

/// Reads counters, events, flows and persistence entries. Made by [`super::open()`].
pub struct BpfReader {
    maps: ReaderMaps,
    flows: Arc<FlowTables>,
    tick_nanos: u64,
    in_use: watch::Receiver<InUse>,
}

impl BpfReader {
    pub(super) const fn new(
        maps: ReaderMaps,
        flows: Arc<FlowTables>,
        settings: &Settings,
        in_use: watch::Receiver<InUse>,
    ) -> Self {
        Self { maps, flows, tick_nanos: settings.tick_nanos(), in_use }
    }
}

impl Reader for BpfReader {
    fn counters(&mut self) -> Result<Counters, Error> {
        let in_use = self.in_use.borrow().clone();
        let mut counters = Counters::default();
        for &id in &in_use.services {
            let per_cpu = values(&self.maps.service_traffic, map::SERVICE_TRAFFIC, u32::from(id))?;
            let flows = per_cpu.iter().fold(0u64, |sum, cpu| sum.wrapping_add(cpu.flows));
            let BackendTraffic { packets, bytes } = departed(&self.maps.service_info, id)?;
            counters.services.insert(id, ServiceCounts { packets, bytes, flows });
        }
        for (&slot, service) in &in_use.backends {
            let per_cpu = values(&self.maps.backend_traffic, map::BACKEND_TRAFFIC, u32::from(slot))?;
            let sum = total(per_cpu.iter().copied());
            counters.backends.insert(slot, (sum.packets, sum.bytes));
            if let Some(counts) = counters.services.get_mut(service) {
                counts.packets = counts.packets.wrapping_add(sum.packets);
                counts.bytes = counts.bytes.wrapping_add(sum.bytes);
            }
        }
        for reason in 0..Reason::COUNT {
            let per_cpu = values(&self.maps.reasons, map::REASONS, reason)?;
            counters.reasons.push(per_cpu.iter().fold(0, |sum, cpu| sum.wrapping_add(*cpu)));
        }
        Ok(counters)
    }

    fn events(&mut self, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < limit
            && let Some(record) = self.maps.events.next()
        {
            match Event::read_from_bytes(&record) {
                Ok(event) => events.push(event),
                // Records are written whole by the program that was loaded from this build.
                Err(_) => tracing::error!(bytes = record.len(), "an event of unknown size was passed over"),
            }
        }
        events
    }

    fn flows(&mut self, limit: usize) -> Result<(Vec<Flow>, u64), Error> {
        let now = self.in_use.borrow().clock.now();
        Ok(self.flows.list(limit, now, self.tick_nanos))
    }

    fn persistence(&mut self, limit: usize) -> Result<(Vec<Persisted>, u64), Error> {
        let now = self.in_use.borrow().clock.now();
        persistence::list(&self.maps.persist, limit, now, self.tick_nanos)
    }
}

/// What a service's former backends forwarded.
fn departed(info: &Array<MapData, ServiceInfo>, service: u16) -> Result<BackendTraffic, Error> {
    info.get(&u32::from(service), 0)
        .map(|info| info.departed)
        .map_err(|e| fault(format!("map `{}`, entry {service}, cannot be read", map::SERVICE_INFO), e))
}

/// The sum of counters.
pub(super) fn total(counters: impl Iterator<Item = BackendTraffic>) -> BackendTraffic {
    counters.fold(BackendTraffic::default(), |sum, counter| BackendTraffic {
        packets: sum.packets.wrapping_add(counter.packets),
        bytes: sum.bytes.wrapping_add(counter.bytes),
    })
}

pub(super) fn values<V: Pod>(
    array: &PerCpuArray<MapData, V>,
    name: &str,
    index: u32,
) -> Result<aya::maps::PerCpuValues<V>, Error> {
    array.get(&index, 0).map_err(|e| fault(format!("map `{name}`, entry {index}, cannot be read"), e))
}
