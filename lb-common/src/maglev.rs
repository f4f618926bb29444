//! Look-up tables: which backend slot stands at each place. Pure; the caller brings the memory.
//!
//! Two fillings of the same table. [`fill_maglev`] is consistent (Eisenbud et al., NSDI 2016, 3.4): nodes with the
//! same servers build the same table, and a server that comes or goes moves few places but its own.
//! [`fill_round_robin`] writes one period of smooth weighted round robin.

use crate::{hash, limits::TABLE_SLOTS};

/// One server as the fillings see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entrant {
    /// Hash of what the server *is* (address, port): the same on every node, unlike its slot.
    pub identity: u64,
    /// Relative share of new flows; 0 takes none.
    pub weight: u16,
    /// Backend slot to write.
    pub slot: u16,
}

/// Identity of a server for [`Entrant::identity`].
#[must_use]
pub fn identity(addr: &[u8; 16], port: u16) -> u64 {
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(addr);
    bytes[16..].copy_from_slice(&port.to_be_bytes());
    hash::bytes(hash::STEER_SEED, &bytes)
}

/// A server's walk through the table while it is being filled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    next: u32,
    skip: u32,
    credit: u32,
}

/// A place that no server has taken yet. Slots are below [`crate::limits::MAX_BACKENDS`], so none is this.
const EMPTY: u16 = u16::MAX;

/// Fills `table` with a weighted Maglev permutation. `walks` is scratch, one per entrant.
///
/// Returns false, and leaves the table untouched, when no entrant has weight. Entrants should come in an order
/// that does not depend on the node (by identity), since ties go to the earlier one.
///
/// # Panics
///
/// When `walks` is shorter than `entrants`.
#[must_use]
pub fn fill_maglev(table: &mut [u16; TABLE_SLOTS], entrants: &[Entrant], walks: &mut [Walk]) -> bool {
    const MASK: u32 = TABLE_SLOTS as u32 - 1;
    let Some(heaviest) = entrants.iter().map(|e| u32::from(e.weight)).max().filter(|&w| w > 0) else {
        return false;
    };
    for (walk, entrant) in walks.iter_mut().zip(entrants) {
        // The table is a power of two long, so every odd step visits every place once.
        let step = hash::finish(entrant.identity ^ hash::K1);
        *walk = Walk { next: entrant.identity as u32 & MASK, skip: step as u32 & MASK | 1, credit: 0 };
    }
    table.fill(EMPTY);
    let mut left = TABLE_SLOTS;
    loop {
        for (i, entrant) in entrants.iter().enumerate() {
            // Each round a server earns its weight and pays the heaviest server's weight for a place.
            let walk = &mut walks[i];
            walk.credit += u32::from(entrant.weight);
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            while table[walk.next as usize] != EMPTY {
                walk.next = walk.next.wrapping_add(walk.skip) & MASK;
            }
            table[walk.next as usize] = entrant.slot;
            left -= 1;
            if left == 0 {
                return true;
            }
        }
    }
}

/// Fills `table` with one period of smooth weighted round robin and returns the period's length.
///
/// The period is the sum of the weights divided by their greatest common divisor, cut at the table's length.
/// 0, with the table untouched, when no entrant has weight. `walks` is scratch, one per entrant.
///
/// # Panics
///
/// When `walks` is shorter than `entrants`.
#[must_use]
pub fn fill_round_robin(table: &mut [u16; TABLE_SLOTS], entrants: &[Entrant], walks: &mut [Walk]) -> u32 {
    let total: u32 = entrants.iter().map(|e| u32::from(e.weight)).sum();
    if total == 0 {
        return 0;
    }
    let divisor = entrants.iter().fold(0, |d, e| gcd(d, u32::from(e.weight)));
    let period = (total / divisor).min(TABLE_SLOTS as u32);
    for walk in walks.iter_mut() {
        *walk = Walk::default();
    }
    for place in &mut table[..period as usize] {
        // Every server earns its weight, the richest takes the place and pays the total. Credits are kept as
        // `credit - next` (earned and paid apart), which stays unsigned.
        let mut best = 0;
        let mut best_credit = i64::MIN;
        for (i, entrant) in entrants.iter().enumerate() {
            walks[i].credit += u32::from(entrant.weight);
            let credit = i64::from(walks[i].credit) - i64::from(walks[i].next);
            if entrant.weight > 0 && credit > best_credit {
                (best, best_credit) = (i, credit);
            }
        }
        walks[best].next += total;
        *place = entrants[best].slot;
    }
    period
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(n: u16, weight: u16) -> Entrant {
        let mut addr = [0; 16];
        addr[14..].copy_from_slice(&n.to_be_bytes());
        Entrant { identity: identity(&addr, 104), weight, slot: n }
    }

    fn maglev(entrants: &[Entrant]) -> Box<[u16; TABLE_SLOTS]> {
        let mut table = Box::new([0; TABLE_SLOTS]);
        let mut walks = vec![Walk::default(); entrants.len()];
        assert!(fill_maglev(&mut table, entrants, &mut walks));
        table
    }

    fn share(table: &[u16], slot: u16) -> f64 {
        table.iter().filter(|&&s| s == slot).count() as f64 / table.len() as f64
    }

    #[test]
    fn maglev_shares_follow_the_weights() {
        let servers: Vec<_> = (0..20).map(|n| server(n, if n < 10 { 100 } else { 50 })).collect();
        let table = maglev(&servers);
        for s in &servers {
            let want = f64::from(s.weight) / 1500.0;
            let got = share(&*table, s.slot);
            assert!((got - want).abs() < want * 0.02, "slot {}: {got} for {want}", s.slot);
        }
    }

    #[test]
    fn removing_one_of_twenty_servers_moves_at_most_one_percent_of_the_others() {
        let servers: Vec<_> = (0..20).map(|n| server(n, 100)).collect();
        let before = maglev(&servers);
        let after = maglev(&servers.iter().copied().filter(|s| s.slot != 7).collect::<Vec<_>>());
        let moved = before.iter().zip(&*after).filter(|(b, a)| **b != 7 && b != a).count();
        assert!(moved * 100 <= TABLE_SLOTS, "{moved} of {TABLE_SLOTS}");
        assert!(!after.contains(&7));
    }

    #[test]
    fn the_slot_number_does_not_decide_where_a_server_stands() {
        let here: Vec<_> = (0..5).map(|n| server(n, 100)).collect();
        let there: Vec<_> = here.iter().map(|s| Entrant { slot: s.slot + 100, ..*s }).collect();
        let (a, b) = (maglev(&here), maglev(&there));
        assert!(a.iter().zip(&*b).all(|(x, y)| x + 100 == *y));
    }

    #[test]
    fn no_weight_no_table() {
        let mut table = Box::new([9; TABLE_SLOTS]);
        assert!(!fill_maglev(&mut table, &[server(1, 0)], &mut [Walk::default()]));
        assert!(!fill_maglev(&mut table, &[], &mut []));
        assert_eq!(fill_round_robin(&mut table, &[server(1, 0)], &mut [Walk::default()]), 0);
        assert!(table.iter().all(|&s| s == 9));
    }

    #[test]
    fn round_robin_is_exact_and_smooth() {
        let mut table = Box::new([0; TABLE_SLOTS]);
        let servers = [server(1, 50), server(2, 10), server(3, 10)];
        let len = fill_round_robin(&mut table, &servers, &mut [Walk::default(); 3]);
        assert_eq!(len, 7);
        assert_eq!(&table[..7], &[1, 1, 2, 1, 3, 1, 1]);
    }

    #[test]
    fn round_robin_with_awkward_weights_fits_the_table() {
        let mut table = Box::new([0; TABLE_SLOTS]);
        let servers: Vec<_> = (0..600).map(|n| server(n, if n == 0 { 255 } else { 256 })).collect();
        let len = fill_round_robin(&mut table, &servers, &mut vec![Walk::default(); 600]);
        assert_eq!(len as usize, TABLE_SLOTS);
        for s in &servers {
            assert!((share(&*table, s.slot) * 600.0 - 1.0).abs() < 0.02);
        }
    }
}
