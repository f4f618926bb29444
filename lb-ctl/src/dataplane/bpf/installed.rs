//! Reading back what is installed, so that a restarted controller goes on from there.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use aya::{
    Pod,
    maps::{Array, MapData},
};
use lb_common::{
    backend::{BackendInfo, LinkRecord, Target},
    limits::{MAX_BACKENDS, MAX_IFINDEX, MAX_SERVICES, map},
    load::Limits,
    net::{host_port, ip4, ip6, unmapped},
    service::{Name, ServiceInfo, Sources},
};

use super::{Error, fail, fault, loads::Loads, write::WriterMaps};
use crate::{
    dataplane::{BackendIdentity, Installed, ServiceIdentity, ServiceKey, XdpMode},
    model::config::Protocol,
};

/// What the maps say is installed; `links` have been adopted already.
pub(super) fn read(maps: &WriterMaps, loads: &Loads, links: Vec<(u32, XdpMode)>) -> Result<Installed, Error> {
    let mut installed = Installed { links: links.into_iter().collect(), ..Installed::default() };
    for id in 0..MAX_SERVICES as u16 {
        let info = entry(&maps.service_info, map::SERVICE_INFO, id)?;
        if info == ServiceInfo::default() {
            continue;
        }
        let identity = ServiceIdentity {
            name: text(&info.name, map::SERVICE_INFO, id)?,
            idle_timeout_secs: info.idle_timeout_secs,
        };
        let record = entry(&maps.services, map::SERVICES, id)?;
        installed.services.insert(id, (identity, record));
        let sources = entry(&maps.sources, map::SOURCES, id)?;
        if sources != Sources::default() {
            installed.sources.insert(id, sources);
        }
    }
    for slot in 0..MAX_BACKENDS as u16 {
        let record = entry(&maps.backends, map::BACKENDS, slot)?;
        if record.generation != 0 {
            installed.generations.insert(slot, record.generation);
        }
        let info = entry(&maps.backend_info, map::BACKEND_INFO, slot)?;
        if info == BackendInfo::default() {
            continue;
        }
        let identity = BackendIdentity {
            service: id(info.service, map::BACKEND_INFO)?,
            name: text(&info.name, map::BACKEND_INFO, slot)?,
            ip: unmapped(info.addr),
            port: port(entry(&maps.targets, map::TARGETS, slot)?),
        };
        installed.generations.insert(slot, record.generation);
        installed.backends.insert(slot, (identity, record));
        let limits = loads.limits(slot)?;
        if limits != Limits::default() {
            installed.loads.insert(slot, limits);
        }
    }
    for ifindex in 0..MAX_IFINDEX as u16 {
        let record = entry(&maps.links, map::LINKS, ifindex)?;
        if record != LinkRecord::default() {
            installed.link_records.insert(u32::from(ifindex), record);
        }
    }
    read_keys(maps, &mut installed)?;
    for pair in maps.twins.iter() {
        let (key, twin) = pair.map_err(|e| unreadable(map::TWINS, e))?;
        installed.twins.insert((key.slot, key.service), slot(twin, map::TWINS)?);
    }
    Ok(installed)
}

fn read_keys(maps: &WriterMaps, installed: &mut Installed) -> Result<(), Error> {
    let mut put = |ip: IpAddr, port: u16, proto: u8, service: u32, name: &str| -> Result<(), Error> {
        let key = ServiceKey { ip, port: host_port(port), protocol: protocol(proto, name)? };
        installed.keys.insert(key, id(service, name)?);
        Ok(())
    };
    for pair in maps.keys_v4.iter() {
        let name = map::SERVICE_KEYS_V4;
        let (key, target) = pair.map_err(|e| unreadable(name, e))?;
        put(ip4(key.addr).into(), key.port, key.proto, target.service, name)?;
    }
    for pair in maps.keys_v6.iter() {
        let name = map::SERVICE_KEYS_V6;
        let (key, target) = pair.map_err(|e| unreadable(name, e))?;
        put(ip6(key.addr).into(), key.port, key.proto, target.service, name)?;
    }
    Ok(())
}

fn entry<V: Pod>(array: &Array<MapData, V>, name: &str, index: u16) -> Result<V, Error> {
    array
        .get(&u32::from(index), 0)
        .map_err(|e| fault(format!("map `{name}`, entry {index}, cannot be read"), e))
}

fn unreadable(name: &str, error: aya::maps::MapError) -> Error {
    fault(format!("map `{name}` cannot be read"), error)
}

fn text(name: &Name, map: &str, index: u16) -> Result<String, Error> {
    name.as_str()
        .map(String::from)
        .ok_or_else(|| damaged(map, &format!("the name of entry {index} is not text")))
}

/// The port that a target names.
const fn port(target: Target) -> Option<u16> {
    match host_port(target.port) {
        0 => None,
        port => Some(port),
    }
}

fn id(value: u32, map: &str) -> Result<u16, Error> {
    u16::try_from(value)
        .ok()
        .filter(|&id| u32::from(id) < MAX_SERVICES)
        .ok_or_else(|| damaged(map, &format!("service id {value} is out of range")))
}

fn slot(value: u32, map: &str) -> Result<u16, Error> {
    u16::try_from(value)
        .ok()
        .filter(|&slot| u32::from(slot) < MAX_BACKENDS)
        .ok_or_else(|| damaged(map, &format!("slot {value} is out of range")))
}

fn protocol(number: u8, map: &str) -> Result<Protocol, Error> {
    match i32::from(number) {
        libc::IPPROTO_TCP => Ok(Protocol::Tcp),
        libc::IPPROTO_UDP => Ok(Protocol::Udp),
        _ => Err(damaged(map, &format!("IP protocol {number} is neither TCP nor UDP"))),
    }
}

fn damaged(map: &str, what: &str) -> Error {
    fail(format!(
        "map `{map}` is damaged ({what}): something else wrote to it; traffic goes on as it is; run `lbd --detach` \
         (interrupts traffic) and start again"
    ))
}
