//! Names as typed, looked up in what the daemon has.

use std::{collections::BTreeSet, net::IpAddr};

use super::args::{QualifiedRip, RipTarget};
use crate::model::{
    health::RipId,
    status::{RipStatus, Status, VipStatus},
};

/// Letters by which an address may differ from the one typed and still be what was meant.
const NEAR_ADDRESS: usize = 2;
/// Addresses offered at most.
const NEAR_ADDRESSES: usize = 3;

/// The VIP of this name, or what is said when there is none.
pub(super) fn find_vip<'a>(status: &'a Status, name: &str) -> Result<&'a VipStatus, String> {
    let names = status.vips.iter().map(|vip| vip.name.as_str());
    status.vips.iter().find(|vip| vip.name == name).ok_or_else(|| unknown("VIP", name, names))
}

/// Real servers that are meant, each once, in the order typed; `vips` is what the daemon has.
pub(super) fn expand(
    targets: &[RipTarget],
    all_vips: bool,
    vips: &[VipStatus],
) -> Result<Vec<RipId>, String> {
    let mut meant: Vec<RipId> = Vec::new();
    for target in targets {
        let ids = match target {
            RipTarget::Everywhere(rip) => everywhere(rip, all_vips, vips)?,
            RipTarget::In(QualifiedRip { vip, rip }) if all_vips => {
                return Err(format!("--all-vips goes with a real server alone: write {rip} for {vip}/{rip}"));
            }
            RipTarget::In(rip) => vec![id_of(rip)],
        };
        add(&mut meant, ids);
    }
    Ok(meant)
}

/// Real servers at these addresses, in every VIP that has one.
pub(super) fn at_address(ips: &[IpAddr], vips: &[VipStatus]) -> Result<Vec<RipId>, String> {
    let mut meant = Vec::new();
    for ip in ips {
        let ids: Vec<RipId> = all(vips).filter(|(_, rip)| rip.ip == *ip).map(ids_of).collect();
        if ids.is_empty() {
            let addresses: BTreeSet<IpAddr> = all(vips).map(|(_, rip)| rip.ip).collect();
            return Err(nowhere(*ip, &addresses));
        }
        add(&mut meant, ids);
    }
    Ok(meant)
}

fn add(meant: &mut Vec<RipId>, ids: Vec<RipId>) {
    for id in ids {
        if !meant.contains(&id) {
            meant.push(id);
        }
    }
}

fn all(vips: &[VipStatus]) -> impl Iterator<Item = (&VipStatus, &RipStatus)> {
    vips.iter().flat_map(|vip| vip.rips.iter().map(move |rip| (vip, rip)))
}

fn ids_of((vip, rip): (&VipStatus, &RipStatus)) -> RipId {
    RipId { vip: vip.name.clone(), rip: rip.name.clone() }
}

/// The same name as the daemon has it.
pub(super) fn id_of(rip: &QualifiedRip) -> RipId {
    RipId { vip: rip.vip.clone(), rip: rip.rip.clone() }
}

fn everywhere(name: &str, all_vips: bool, vips: &[VipStatus]) -> Result<Vec<RipId>, String> {
    let ids: Vec<RipId> = all(vips).filter(|(_, rip)| rip.name == name).map(ids_of).collect();
    match ids.len() {
        0 => Err(unknown("real server", name, all(vips).map(|(_, rip)| rip.name.as_str()))),
        2.. if !all_vips => {
            let each: Vec<String> = ids.iter().map(|id| format!("{}/{}", id.vip, id.rip)).collect();
            Err(format!("`{name}` is more than one: say --all-vips, or which of {}", each.join(", ")))
        }
        _ => Ok(ids),
    }
}

/// What is said of an address that no VIP has, with those that look like it.
fn nowhere(ip: IpAddr, addresses: &BTreeSet<IpAddr>) -> String {
    let typed = ip.to_string();
    let mut near: Vec<(usize, String)> = addresses
        .iter()
        .map(|address| (strsim::damerau_levenshtein(&typed, &address.to_string()), address.to_string()))
        .filter(|(distance, _)| *distance <= NEAR_ADDRESS)
        .collect();
    near.sort();
    near.truncate(NEAR_ADDRESSES);
    let near: Vec<String> = near.into_iter().map(|(_, address)| address).collect();
    let hint = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(" or ")) };
    format!("no VIP has a real server at {ip}; {hint}see `lbctl rip list`")
}

fn unknown<'a>(kind: &str, name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let nearest = names
        .map(|candidate| {
            (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3);
    let list = if kind == "VIP" { "lbctl vip list" } else { "lbctl rip list" };
    match nearest {
        Some((_, candidate)) => {
            format!("there is no {kind} `{name}`; did you mean `{candidate}`? see `{list}`")
        }
        None => format!("there is no {kind} `{name}`; see `{list}`"),
    }
}
