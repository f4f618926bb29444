//! What the maps hold, told in names: the same for two data planes that serve the same site, whatever their history.

use std::collections::BTreeMap;

use aya::maps::{Array, ArrayOfMaps, MapData};
use lb_common::{
    backend::{Backend, BackendInfo, LinkRecord, Target, state},
    limits::{FILTER_WORDS, map},
    load::Limits,
    service::{Service, ServiceInfo, ServiceKey4, ServiceKey6, ServiceRef, Sources, Table},
};

use lb_tests::packet::plane::Pins;

/// Everything that a controller writes.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Tables {
    services: BTreeMap<String, ServiceTables>,
    /// VIP and name of each server.
    backends: BTreeMap<(String, String), BackendTables>,
    /// Servers that share persistence: VIP and name of one, and of the other.
    twins: BTreeMap<(String, String), (String, String)>,
    filter: Vec<u64>,
    links: Vec<LinkRecord>,
    /// What stands under ids and slots that are nobody's.
    left_over: Vec<String>,
}

/// What stands under a service's id.
#[derive(Clone, Debug, Eq, PartialEq)]
struct ServiceTables {
    idle_timeout_secs: u32,
    /// Its group is 0 when it is the service's own.
    record: Service,
    sources: Sources,
    keys: Vec<String>,
    /// Places in use, and the server at each place, by its rank among the names.
    places: (u32, Vec<usize>),
    /// The servers listed, by name.
    list: Vec<String>,
}

/// What stands under a server's slot.
#[derive(Debug, Eq, PartialEq)]
struct BackendTables {
    addr: [u8; 16],
    /// Without its generation.
    record: Backend,
    target: Target,
    limits: Limits,
}

impl Tables {
    /// Reads them all.
    pub(crate) fn read(pins: &Pins) -> Self {
        let infos: Vec<ServiceInfo> = pins.values(map::SERVICE_INFO);
        let owners: Vec<BackendInfo> = pins.values(map::BACKEND_INFO);
        let name = |info: &ServiceInfo| info.name.as_str().expect("names are text").to_owned();
        let who = |slot: usize| {
            let owner = &owners[slot];
            let own = owner.name.as_str().expect("names are text").to_owned();
            (name(&infos[owner.service as usize]), own)
        };
        let mut tables = Self {
            services: BTreeMap::new(),
            backends: BTreeMap::new(),
            twins: BTreeMap::new(),
            filter: pins.values::<[u64; FILTER_WORDS]>(map::FILTER)[0].to_vec(),
            links: pins.values(map::LINKS),
            left_over: Vec::new(),
        };
        tables.read_services(pins, &infos, &|slot| who(slot).1);
        tables.read_backends(pins, &owners, &who);
        for ([slot, service], twin) in pins.entries::<[u16; 2], u32>(map::TWINS) {
            let at = who(usize::from(slot));
            let key = (format!("{}/{}", at.0, at.1), name(&infos[usize::from(service)]));
            tables.twins.insert(key, who(twin as usize));
        }
        tables
    }

    fn read_services(&mut self, pins: &Pins, infos: &[ServiceInfo], server: &dyn Fn(usize) -> String) {
        let records: Vec<Service> = pins.values(map::SERVICES);
        let sources: Vec<Sources> = pins.values(map::SOURCES);
        let outer: ArrayOfMaps<MapData, Array<MapData, Table>> = pins.map(map::TABLES);
        let mut keys: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (key, to) in pins.entries::<ServiceKey4, ServiceRef>(map::SERVICE_KEYS_V4) {
            keys.entry(to.service).or_default().push(format!("{key:?}"));
        }
        for (key, to) in pins.entries::<ServiceKey6, ServiceRef>(map::SERVICE_KEYS_V6) {
            keys.entry(to.service).or_default().push(format!("{key:?}"));
        }
        for (id, info) in (0u32..).zip(infos) {
            let at = id as usize;
            // A service that never had a table has no inner map.
            let table = outer.get(&id, 0).ok().map(|inner| Box::new(inner.get(&0, 0).expect("one value")));
            let used = table.as_ref().map_or(0, |table| table.len);
            if *info == ServiceInfo::default() {
                if (records[at], sources[at], used) != (Service::default(), Sources::default(), 0) {
                    self.left_over.push(format!("service {id}: {:?}, table of {used}", records[at]));
                }
                if let Some(keys) = keys.get(&id) {
                    self.left_over.push(format!("keys of service {id}: {keys:?}"));
                }
                continue;
            }
            let mut keys = keys.remove(&id).unwrap_or_default();
            keys.sort();
            let record = records[at];
            let own_group = record.persist_group == id;
            let list = table.as_ref().map_or(&[][..], |table| &table.list[..table.servers as usize]);
            let list: Vec<String> = list.iter().map(|slot| server(usize::from(*slot))).collect();
            let places = table.as_ref().map_or(&[][..], |table| &table.slots[..used as usize]);
            let is = ServiceTables {
                idle_timeout_secs: info.idle_timeout_secs,
                record: Service { persist_group: if own_group { 0 } else { record.persist_group }, ..record },
                sources: sources[at],
                keys,
                places: (used, ranks(places, server)),
                list,
            };
            self.services.insert(info.name.as_str().expect("names are text").to_owned(), is);
        }
    }

    fn read_backends(
        &mut self,
        pins: &Pins,
        owners: &[BackendInfo],
        who: &dyn Fn(usize) -> (String, String),
    ) {
        let records: Vec<Backend> = pins.values(map::BACKENDS);
        let targets: Vec<Target> = pins.values(map::TARGETS);
        let loads: Vec<[u64; 4]> = pins.values(map::LOADS);
        for (slot, owner) in owners.iter().enumerate() {
            let record = Backend { generation: 0, ..records[slot] };
            let (target, limits) = (targets[slot], Limits::of(loads[slot][1]));
            if *owner == BackendInfo::default() {
                let dead = Backend { state: state::DEAD, ..Backend::default() };
                if (record, target, limits) != (dead, Target::default(), Limits::default()) {
                    self.left_over.push(format!("slot {slot}: {record:?} {target:?} {limits:?}"));
                }
                continue;
            }
            self.backends.insert(who(slot), BackendTables { addr: owner.addr, record, target, limits });
        }
    }

    /// Fails unless both say the same; `other` is the one that was made afresh.
    pub(crate) fn assert_like(&self, other: &Self) {
        assert_eq!(self.left_over, Vec::<String>::new(), "left over");
        assert_eq!(self.services.keys().collect::<Vec<_>>(), other.services.keys().collect::<Vec<_>>());
        for (name, service) in &self.services {
            let fresh = &other.services[name];
            assert!(service.places == fresh.places, "{name}: the places of its table");
            assert_eq!(
                ServiceTables { places: (0, Vec::new()), ..service.clone() },
                ServiceTables { places: (0, Vec::new()), ..fresh.clone() },
                "{name}"
            );
        }
        assert_eq!(self.backends, other.backends);
        assert_eq!(self.twins, other.twins);
        assert_eq!(self.links, other.links);
        assert!(self.filter == other.filter, "bits of the filter");
    }
}

/// Slots as the ranks of their servers' names.
fn ranks(slots: &[u16], server: &dyn Fn(usize) -> String) -> Vec<usize> {
    let mut by_name: Vec<(String, u16)> = Vec::new();
    for &slot in slots {
        if !by_name.iter().any(|(_, known)| *known == slot) {
            by_name.push((server(usize::from(slot)), slot));
        }
    }
    by_name.sort();
    let mut rank = vec![0; usize::from(u16::MAX) + 1];
    by_name.iter().enumerate().for_each(|(at, (_, slot))| rank[usize::from(*slot)] = at);
    slots.iter().map(|slot| rank[usize::from(*slot)]).collect()
}
