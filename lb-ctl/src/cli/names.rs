//! Names as typed, looked up in what the daemon has.

use super::args::{QualifiedRip, RipTarget};
use crate::model::{
    health::RipId,
    status::{Status, VipStatus},
};

/// The VIP of this name, or what is said when there is none.
pub(super) fn find_vip<'a>(status: &'a Status, name: &str) -> Result<&'a VipStatus, String> {
    let names = status.vips.iter().map(|vip| vip.name.as_str());
    status.vips.iter().find(|vip| vip.name == name).ok_or_else(|| unknown("VIP", name, names))
}

/// Real servers that are meant, each once, in the order typed; `vips` is what the daemon has.
pub(super) fn expand(targets: &[RipTarget], vips: &[VipStatus]) -> Result<Vec<RipId>, String> {
    let mut meant: Vec<RipId> = Vec::new();
    for target in targets {
        let ids = match target {
            RipTarget::Everywhere(rip) => everywhere(rip, vips)?,
            RipTarget::In(rip) => vec![id_of(rip)],
        };
        for id in ids {
            if !meant.contains(&id) {
                meant.push(id);
            }
        }
    }
    Ok(meant)
}

/// The same name as the daemon has it.
pub(super) fn id_of(rip: &QualifiedRip) -> RipId {
    RipId { vip: rip.vip.clone(), rip: rip.rip.clone() }
}

fn everywhere(name: &str, vips: &[VipStatus]) -> Result<Vec<RipId>, String> {
    let all = || vips.iter().flat_map(|vip| vip.rips.iter().map(move |rip| (vip, rip)));
    let ids: Vec<RipId> = all()
        .filter(|(_, rip)| rip.name == name)
        .map(|(vip, rip)| RipId { vip: vip.name.clone(), rip: rip.name.clone() })
        .collect();
    if ids.is_empty() {
        let names = all().map(|(_, rip)| rip.name.as_str());
        return Err(unknown("real server", name, names));
    }
    Ok(ids)
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
