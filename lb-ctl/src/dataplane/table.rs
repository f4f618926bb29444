//! Look-up tables as a spec says. Pure: what the kernel gets, what is rehearsed and what is predicted is one filling.
#![forbid(unsafe_code)]

use lb_common::{
    limits::{MAX_SERVERS, TABLE_SLOTS},
    maglev::{self, Entrant, Walk},
    net::mapped,
    service::Table,
};

use super::{Filling, TableSpec};

/// A table that nobody stands in; too large for the stack.
#[must_use]
pub fn blank() -> Box<Table> {
    Box::new(Table { len: 0, servers: 0, slots: [0; TABLE_SLOTS], list: [0; MAX_SERVERS] })
}

/// Fills `table` as `spec` says.
pub fn fill(table: &mut Table, spec: &TableSpec) {
    let mut entrants: Vec<Entrant> = spec
        .entrants
        .iter()
        .map(|e| Entrant {
            // Where the port is the client's, as always under direct routing, a server is known by its address.
            identity: maglev::identity(&mapped(e.ip), e.port.unwrap_or(0)),
            weight: e.weight,
            slot: e.slot,
        })
        .collect();
    let mut walks = vec![Walk::default(); entrants.len()];
    table.list.fill(0);
    table.servers = 0;
    for (place, entrant) in table.list.iter_mut().zip(&entrants) {
        *place = entrant.slot;
        table.servers += 1;
    }
    table.slots.fill(0);
    table.len = match spec.filling {
        Filling::First => entrants.first().map_or(0, |first| {
            table.slots[0] = first.slot;
            1
        }),
        Filling::Maglev => {
            // Every node must go through the servers in the same order.
            entrants.sort_by_key(|e| e.identity);
            if maglev::fill_maglev(&mut table.slots, &entrants, &mut walks) { TABLE_SLOTS as u32 } else { 0 }
        }
        Filling::RoundRobin => maglev::fill_round_robin(&mut table.slots, &entrants, &mut walks),
    };
}
