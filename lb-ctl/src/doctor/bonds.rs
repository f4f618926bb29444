//! Checks of bonds: whether the program can run on one, and whether it is on the bond and not below it.

use super::{Bond, Facts, Finding, Interface, KernelVersion, drivers};
use crate::model::net::Link;

/// Modes in which a bond runs XDP natively.
const MODES: [&str; 4] = ["active-backup", "balance-rr", "balance-xor", "802.3ad"];
/// Modes that choose a port by a hash of the packet.
const HASHING: [&str; 2] = ["balance-xor", "802.3ad"];
/// The hash that XDP does not know.
const UNKNOWN_HASH: &str = "vlan+srcmac";

/// The bond that an interface belongs to: the program is refused below it.
pub(super) fn port(facts: &Facts, link: &Link) -> Option<Finding> {
    let master = facts.net.links.get(&link.master?)?;
    if master.kind.as_deref() != Some("bond") {
        return None;
    }
    let (name, bond) = (&link.name, &master.name);
    Some(Finding::problem(
        "bond",
        format!("{name} is a port of {bond}: the program runs on the whole bond or not at all"),
        format!("name {bond} instead of {name}, in `interfaces` of [node] and in `interface` of VIPs"),
    ))
}

/// A bond's mode, and its ports' drivers.
pub(super) fn bond(facts: &Facts, link: &Link, interface: &Interface) -> Vec<Finding> {
    let Some(Bond { mode, hash }) = &interface.bond else {
        return Vec::new();
    };
    let name = &link.name;
    let slower = "the program runs in generic mode there: correct, but several times slower";
    if !MODES.contains(&mode.as_str()) {
        return vec![Finding::warning(
            "bond",
            format!("{name} is a bond in mode {mode}, in which it has no native XDP; {slower}"),
            format!("choose one of the modes {}", MODES.join(", ")),
        )];
    }
    if HASHING.contains(&mode.as_str()) && hash == UNKNOWN_HASH {
        return vec![Finding::warning(
            "bond",
            format!(
                "{name} is a bond with xmit_hash_policy {hash}, with which it has no native XDP; {slower}"
            ),
            "choose the policy layer2+3 or layer3+4",
        )];
    }
    let kernel = KernelVersion::parse(&facts.kernel_release);
    let ports = facts.net.links.values().filter(|port| port.master == Some(link.index));
    let unfit: Vec<Finding> = ports
        .filter_map(|port| {
            let driver = facts.interfaces.get(&port.index)?.driver.as_ref()?;
            let fit = drivers::find(driver).zip(kernel).is_some_and(|(known, kernel)| kernel >= known.since);
            (!fit).then(|| {
                Finding::warning(
                    "bond",
                    format!(
                        "{}, a port of {name}: {driver} is not known to run XDP natively, and then {name} does not either; {slower}",
                        port.name
                    ),
                    "use ports whose drivers can, all of them",
                )
            })
        })
        .collect();
    if unfit.is_empty() {
        return vec![Finding::ok("bond", format!("{name} is a bond in mode {mode}"))];
    }
    unfit
}
