//! The server that takes new flows when no other one does. It is not checked: it counts as up while the way to it is
//! known.

use std::net::IpAddr;

use lb_common::{
    load::{self, Limits},
    service::mode,
};

use super::{Inputs, Notes, paths};
use crate::model::{
    config::Vip,
    desired::{DesiredBackend, DesiredService, Entrant, FALLBACK},
};

/// Adds it to a service whose other servers are there. Gives what is worth knowing of the VIP while it is needed.
pub(super) fn put(
    vip: &Vip,
    before: Option<&DesiredService>,
    inputs: &Inputs<'_>,
    service: &mut DesiredService,
    notes: &mut Notes,
) -> Option<String> {
    let (ip, port) = vip.fallback_server()?;
    let there = before.and_then(|service| service.backends.values().find(|b| b.ip == ip));
    let was = there.and_then(|backend| backend.forward);
    let (forward, concern) = match (paths::forward(ip, inputs.facts), was) {
        (paths::Way::Known(forward), _) => (Some(forward), None),
        (paths::Way::Unknown(_), Some(forward)) => (Some(forward), None),
        (paths::Way::Unknown(why), None) => (None, Some(why)),
        (paths::Way::None(why), _) => {
            // Told before it is needed: nobody would notice otherwise.
            notes.problems.push(format!("VIP {}: {}", vip.name, unreachable(ip, &why)));
            (None, Some(why))
        }
    };
    let waits = service.record.mode == mode::SNAT && service.sources.count == 0;
    let needed = service.entrants.is_empty() && !waits;
    let limits = if needed && forward.is_some() {
        service.entrants.push(Entrant { name: FALLBACK.to_owned(), weight: 1 });
        Limits { weight: 1, ..Limits::default() }
    } else {
        // Clients that it served come back to the servers as soon as there is one.
        Limits { flags: load::flags::CLOSED, ..Limits::default() }
    };
    service.backends.insert(FALLBACK.to_owned(), DesiredBackend { ip, port, forward, limits });
    needed.then(|| match concern {
        None => format!("no server is in service: new connections go to the fallback server {ip}"),
        Some(why) => format!("no server is in service, and {}", unreachable(ip, &why)),
    })
}

fn unreachable(ip: IpAddr, why: &str) -> String {
    format!("the fallback server {ip} cannot be reached: {why}")
}
