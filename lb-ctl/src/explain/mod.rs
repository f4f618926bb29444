//! What the packet path would do with a packet, in words. Pure: facts in, lines out.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    counter::{Fate, Reason},
    load,
    net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, ip4, ip6},
    service::{Service, mode, pick},
};
use lb_ebpf::wire::{
    eth::{Ethernet, Tag, VID_MASK},
    ipv4::Ipv4,
    ipv6::Ipv6,
};
use zerocopy::FromBytes as _;

use crate::{
    dataplane::{
        BackendIdentity, Installed,
        explain::{Occupancy, Probe, Rehearsal, Remembered, Sent, Verdict},
    },
    model::explain::{Explanation, Leaving, Treatment},
};

/// Servers named in one line.
const MAX_NAMED: usize = 8;

/// Tells what came of a probe. `link_name` knows interfaces.
#[must_use]
pub fn explain(
    probe: &Probe,
    rehearsal: &Rehearsal,
    installed: &Installed,
    link_name: impl Fn(u32) -> String,
) -> Explanation {
    let scene = Scene { rehearsal, installed };
    let treatment = scene.treatment();
    let leaves = scene.leaves(treatment, link_name);
    let made_up = probe.client.port() == 0;
    let mut lines = vec![scene.headline(treatment)];
    lines.extend(scene.why(treatment));
    lines.extend(leaves.as_ref().map(|leaves| scene.departure(treatment, leaves)));
    if made_up {
        lines.push(format!(
            "the client's port, {}, was made up: name one to ask about a connection in progress",
            rehearsal.client.port()
        ));
    }
    Explanation {
        client: rehearsal.client,
        client_port_made_up: made_up,
        vip: scene.vip().map(str::to_owned),
        to: SocketAddr::new(probe.to.ip, probe.to.port),
        protocol: probe.to.protocol,
        treatment,
        rip: scene.server().map(|who| who.name.clone()),
        reasons: rehearsal.reasons.iter().map(|reason| reason.name().to_owned()).collect(),
        leaves,
        lines,
    }
}

struct Scene<'a> {
    rehearsal: &'a Rehearsal,
    installed: &'a Installed,
}

impl<'a> Scene<'a> {
    fn treatment(&self) -> Treatment {
        let counted = |fate| self.rehearsal.reasons.iter().any(|reason| reason.fate() == fate);
        match self.rehearsal.verdict {
            Verdict::Drop => Treatment::Dropped,
            Verdict::Pass => Treatment::Kernel,
            Verdict::Redirect | Verdict::Transmit if counted(Fate::Answer) => Treatment::Answered,
            Verdict::Redirect | Verdict::Transmit => Treatment::Forwarded,
        }
    }

    fn vip(&self) -> Option<&'a str> {
        let (id, _) = self.rehearsal.service?;
        self.installed.services.get(&id).map(|(who, _)| who.name.as_str())
    }

    /// Who gets the packet.
    fn server(&self) -> Option<&'a BackendIdentity> {
        self.backend(self.rehearsal.slot?)
    }

    fn backend(&self, slot: u16) -> Option<&'a BackendIdentity> {
        self.installed.backends.get(&slot).map(|(who, _)| who)
    }

    fn name(&self, slot: u16) -> String {
        self.backend(slot).map_or_else(|| format!("slot {slot}"), |who| who.name.clone())
    }

    fn headline(&self, treatment: Treatment) -> String {
        let of = self.vip().map_or_else(String::new, |vip| format!(" of {vip}"));
        match treatment {
            Treatment::Forwarded => match self.server() {
                Some(who) => {
                    let to = who
                        .port
                        .map_or_else(|| who.ip.to_string(), |port| SocketAddr::new(who.ip, port).to_string());
                    format!("goes to {} ({to}){of}", who.name)
                }
                None => format!("goes to a server{of}"),
            },
            Treatment::Answered => "is answered by the balancer itself, no server gets it".to_owned(),
            Treatment::Kernel => "is left to this machine's kernel, no server gets it".to_owned(),
            Treatment::Dropped => "is dropped".to_owned(),
        }
    }

    /// Why it is treated so: the rule that decided, then whatever else the packet path remarked.
    fn why(&self, treatment: Treatment) -> Vec<String> {
        let mut lines = Vec::new();
        if treatment == Treatment::Forwarded {
            lines.extend(self.because());
        }
        lines.extend(self.missed_persistence());
        let told = |reason: &&Reason| **reason != Reason::Spilled || treatment != Treatment::Forwarded;
        // What ended the packet's way goes before what was noted on it.
        let mut reasons: Vec<&Reason> = self.rehearsal.reasons.iter().filter(told).collect();
        reasons.sort_by_key(|reason| reason.fate() == Fate::Note);
        lines.extend(reasons.into_iter().map(|reason| format!("{}: {}", reason.name(), sentence(reason))));
        lines.extend(self.full_servers());
        lines
    }

    fn because(&self) -> Option<String> {
        let slot = self.rehearsal.slot?;
        if let Some(flow) = self.rehearsal.flow.as_ref().filter(|flow| flow.slot == slot && !self.is_anew()) {
            let idle = span(flow.idle_millis);
            return Some(format!(
                "because it belongs to a connection in progress there ({}, last packet {idle} ago)",
                flow.state.name()
            ));
        }
        let (id, record) = self.rehearsal.service.as_ref()?;
        if let Some(entry) = self.rehearsal.persisted.filter(|entry| entry.counts && entry.slot == Some(slot))
        {
            return Some(self.by_persistence(record, &entry));
        }
        let spilled = if self.rehearsal.reasons.contains(&Reason::Spilled) {
            ", of those that are not full"
        } else {
            ""
        };
        Some(format!("because {}{spilled}", self.by_scheduler(*id, record, slot)))
    }

    /// True when the packet's flow ended with it, and it began another.
    fn is_anew(&self) -> bool {
        let anew = |reason: &Reason| matches!(reason, Reason::FlowOrphaned | Reason::HalfPair);
        self.rehearsal.reasons.iter().any(anew)
    }

    fn by_persistence(&self, record: &Service, entry: &Remembered) -> String {
        let whom = network(self.rehearsal.client.ip(), record.persist_prefix);
        let (idle, timeout) = (span(entry.idle_millis), span(entry.timeout_millis));
        if entry.proved {
            format!(
                "because of persistence: {whom} was sent there {idle} ago, which is remembered for {timeout}"
            )
        } else {
            format!("because {whom} begins a connection there, {idle} ago, which is remembered for {timeout}")
        }
    }

    fn by_scheduler(&self, id: u16, record: &Service, slot: u16) -> String {
        if self.rehearsal.sent == Sent::Ack || self.rehearsal.reasons.contains(&Reason::MidStream) {
            return "the hash of client, VIP and ports leads there: nothing else is known of the connection"
                .to_owned();
        }
        match record.pick {
            pick::ROTATE => format!(
                "it is its turn (wrr); every CPU takes turns of its own, so another connection may well go to {}",
                self.others(id, slot)
            ),
            pick::HASH_FLOW => {
                "the hash of client, VIP and ports leads there (maglev); from another port it may go elsewhere".to_owned()
            }
            pick::HASH_CLIENT => {
                "the hash of the client's address leads there (source-hash), from whichever port".to_owned()
            }
            pick::LEAST => format!(
                "it has the fewest connections for its weight (wlc): {}",
                self.occupancies(id, slot)
            ),
            pick::FIRST => "it is the first of the list that takes connections (first)".to_owned(),
            other => format!("scheduler {other} of another version chose it"),
        }
    }

    /// Slots that take new flows, in the order of the configuration.
    fn entrants(&self, id: u16) -> Vec<u16> {
        let table = self.installed.tables.get(&id);
        table.map_or_else(Vec::new, |table| table.entrants.iter().map(|entrant| entrant.slot).collect())
    }

    fn others(&self, id: u16, slot: u16) -> String {
        let mut others = self.entrants(id);
        others.retain(|other| *other != slot);
        if others.is_empty() {
            return "nobody else: there is no other".to_owned();
        }
        listed(others.into_iter().map(|other| self.name(other)), "or")
    }

    /// `PACS1 has 3 (weight 100), PACS2 has 1 (weight 50)`; the one chosen goes first.
    fn occupancies(&self, id: u16, slot: u16) -> String {
        let mut slots = self.entrants(id);
        slots.sort_by_key(|other| *other != slot);
        let said = slots.into_iter().filter_map(|slot| {
            let Occupancy { active, limits, .. } = self.rehearsal.loads.get(&slot)?;
            // A count may be below zero for a moment.
            let active = active.cast_signed().max(0);
            Some(format!("{} has {active} (weight {})", self.name(slot), limits.weight))
        });
        listed(said, "and")
    }

    /// Why the server that persistence names did not get the packet.
    fn missed_persistence(&self) -> Option<String> {
        if self.rehearsal.flow.is_some() && !self.is_anew() {
            return None;
        }
        let entry = self.rehearsal.persisted?;
        let Some(slot) = entry.slot else {
            return Some("persistence names a server that this VIP does not have".to_owned());
        };
        if entry.counts && self.rehearsal.slot == Some(slot) {
            return None;
        }
        let name = self.name(slot);
        let load = self.rehearsal.loads.get(&slot).copied().unwrap_or_default();
        Some(if entry.idle_millis >= entry.timeout_millis {
            format!("persistence named {name}, but {} ago, which is too long", span(entry.idle_millis))
        } else if load.limits.flags & load::flags::CLOSED != 0 {
            format!("persistence names {name}, which takes no new connections")
        } else if !entry.counts {
            format!("persistence names {name}, which is not in service or was not since")
        } else if self.rehearsal.reasons.contains(&Reason::Spilled) {
            format!("persistence names {name}, which is full, and remembers it")
        } else {
            format!("persistence names {name}")
        })
    }

    fn full_servers(&self) -> Option<String> {
        let full: Vec<String> = self
            .rehearsal
            .loads
            .iter()
            .filter(|(_, load)| !load::room(load.limits, load.active, load.full))
            .map(|(slot, load)| {
                let active = load.active.cast_signed().max(0);
                format!("{} ({active} of {} connections)", self.name(*slot), load.limits.max)
            })
            .collect();
        (!full.is_empty()).then(|| format!("full: {}", listed(full.into_iter(), "and")))
    }

    fn leaves(&self, treatment: Treatment, link_name: impl Fn(u32) -> String) -> Option<Leaving> {
        let ifindex = match (treatment, self.rehearsal.verdict) {
            (Treatment::Dropped | Treatment::Kernel, _) => return None,
            (Treatment::Forwarded, Verdict::Redirect) => {
                self.installed.backends.get(&self.rehearsal.slot?).map(|(_, record)| record.ifindex)?
            }
            _ => self.rehearsal.ingress,
        };
        let (src_mac, dst_mac, vlans, src, dst) = read_frame(&self.rehearsal.frame)?;
        Some(Leaving { interface: link_name(ifindex), src_mac, dst_mac, vlans, src, dst })
    }

    fn departure(&self, treatment: Treatment, leaves: &Leaving) -> String {
        let Leaving { interface, src_mac, dst_mac, vlans, src, dst } = leaves;
        let what = match (treatment, self.rehearsal.sent) {
            (Treatment::Answered, _) => "the answer",
            (_, Sent::Ack) => "an ACK",
            (_, Sent::Datagram) => "a datagram",
            (_, Sent::Syn) => "a SYN",
        };
        let vlans: Vec<String> = vlans.iter().map(|id| format!(", VLAN {id}")).collect();
        let snat = self.rehearsal.service.is_some_and(|(_, record)| record.mode == mode::SNAT);
        // Other clients' flows are not in the copy that was asked.
        let unless = if snat && self.rehearsal.flow.is_none() {
            " (or from another port, if that one is taken)"
        } else {
            ""
        };
        format!(
            "{what} leaves by {interface} from {src} to {dst}{unless}, MAC {src_mac} to {dst_mac}{}",
            vlans.concat()
        )
    }
}

/// MACs, VLANs and ends of a frame of TCP or UDP.
fn read_frame(frame: &[u8]) -> Option<(String, String, Vec<u16>, SocketAddr, SocketAddr)> {
    let (ethernet, mut rest) = Ethernet::ref_from_prefix(frame).ok()?;
    let mut ethertype = ethernet.ethertype.get();
    let mut vlans = Vec::new();
    while matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) && vlans.len() < 2 {
        let (tag, after) = Tag::ref_from_prefix(rest).ok()?;
        vlans.push(tag.tci.get() & VID_MASK);
        (ethertype, rest) = (tag.ethertype.get(), after);
    }
    let (src, dst, transport): (IpAddr, IpAddr, &[u8]) = match ethertype {
        ETHERTYPE_IPV4 => {
            let (ip, _) = Ipv4::ref_from_prefix(rest).ok()?;
            (ip4(ip.src()).into(), ip4(ip.dst()).into(), rest.get(ip.header_len()?..)?)
        }
        ETHERTYPE_IPV6 => {
            let (ip, after) = Ipv6::ref_from_prefix(rest).ok()?;
            (ip6(ip.src()).into(), ip6(ip.dst()).into(), after)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
    Some((
        ethernet.src.to_string(),
        ethernet.dst.to_string(),
        vlans,
        SocketAddr::new(src, port(0)?),
        SocketAddr::new(dst, port(2)?),
    ))
}

/// A reason's sentence as the end of a line.
fn sentence(reason: &Reason) -> String {
    let text = reason.explain().trim_end_matches('.');
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Whom a persistence entry is about: the client, or its network.
pub(crate) fn network(client: IpAddr, prefix: u8) -> String {
    let (bits, all) = match client {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    if prefix >= all {
        return client.to_string();
    }
    let kept = bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    let address: IpAddr = match client {
        IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(kept.into()),
    };
    format!("{address}/{prefix}")
}

/// `a, b and c`; the rest is counted when there are many.
fn listed(items: impl Iterator<Item = String>, last_word: &str) -> String {
    let mut items: Vec<String> = items.collect();
    if items.len() > MAX_NAMED {
        let more = items.len() - (MAX_NAMED - 1);
        items.truncate(MAX_NAMED - 1);
        items.push(format!("{more} more"));
    }
    match items.split_last() {
        None => "nobody".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, before)) => format!("{} {last_word} {last}", before.join(", ")),
    }
}

/// `12s`, `3m 4s`.
fn span(millis: u64) -> String {
    humantime::format_duration(Duration::from_secs(millis / 1000)).to_string()
}
