//! Shares of new clients: what weights promise, and what consistent hashing and least connections promise beyond them.
//! Every client is a packet through the real program.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::{
    backend::{Backend, state},
    limits::{TABLE_SLOTS, map},
    load::Limits,
    maglev::{Entrant, Walk, fill_maglev, fill_round_robin, identity},
    net::{PROTO_TCP, mapped},
    service::{Service, Table, mode, pick},
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::stay_on_this_cpu,
        case::{at, slot_of},
        dut::{Dut, Options, live_backend},
        frame::{
            Frame,
            flags::{ACK, FIN, RST, SYN},
        },
    },
    random::Random,
};
use zerocopy::FromZeros as _;

const VIP: &str = "10.0.0.100:104";
/// Clients of each distribution.
const CLIENTS: usize = 100_000;
/// Weights as a site with old and new machines has them.
const WEIGHTS: [u16; 6] = [100, 50, 25, 100, 50, 25];
/// A run that failed is repeated as it was.
const SEED: u64 = 0x0d15_7121;

/// The service, with a server for each weight, in slots from 0.
struct Stand {
    dut: Dut,
    weights: Vec<u16>,
}

impl Stand {
    fn new(how: u8, weights: &[u16]) -> Self {
        // Round robin and least connections keep a cursor per CPU.
        stay_on_this_cpu();
        let mut dut = Dut::load(Options { flows_v4: 1 << 16, half_open: 1 << 14, ..Options::default() });
        dut.set_service(0, Service { mode: mode::DR, pick: how, ..Service::default() });
        dut.add_key(at(VIP), PROTO_TCP, 0);
        let mut stand = Self { dut, weights: weights.to_vec() };
        for slot in 0..weights.len() as u16 {
            stand.dut.set_backend(slot, live_backend(slot));
        }
        stand.fill(how);
        stand
    }

    /// Fills the table as the controller does; servers without weight are not in it.
    fn fill(&mut self, how: u8) {
        let server = |(slot, &weight): (u16, &u16)| {
            let ip = IpAddr::from([10, 3, (slot >> 8) as u8, slot as u8]);
            Entrant { identity: identity(&mapped(ip), 0), weight, slot }
        };
        let mut entrants: Vec<Entrant> =
            (0..).zip(&self.weights).map(server).filter(|entrant| entrant.weight > 0).collect();
        let mut table = Table::new_box_zeroed().expect("memory for a table");
        for (place, entrant) in table.list.iter_mut().zip(&entrants) {
            *place = entrant.slot;
        }
        table.servers = entrants.len() as u32;
        let mut walks = vec![Walk::default(); entrants.len()];
        table.len = if how == pick::ROTATE {
            fill_round_robin(&mut table.slots, &entrants, &mut walks)
        } else {
            entrants.sort_by_key(|entrant| entrant.identity);
            assert!(fill_maglev(&mut table.slots, &entrants, &mut walks));
            TABLE_SLOTS as u32
        };
        self.dut.set_table(0, &table);
    }

    /// Sends a segment of a client's; gives the slot of the server that gets it.
    fn send(&self, client: SocketAddr, flags: u8) -> u16 {
        slot_of(&self.dut.run(&Frame::tcp(client, at(VIP), flags).bytes()))
    }

    /// The server that a client is sent to, and forgotten at.
    fn ask(&self, client: SocketAddr) -> u16 {
        let slot = self.send(client, SYN);
        assert_eq!(self.send(client, RST), slot);
        slot
    }

    /// Fails unless each server's share is within 2 % of all of what its weight promises.
    fn assert_shares(&self, what: &str, shares: &BTreeMap<u16, usize>) {
        let total: u32 = self.weights.iter().map(|weight| u32::from(*weight)).sum();
        let clients: usize = shares.values().sum();
        for (slot, weight) in (0u16..).zip(&self.weights) {
            let wanted = f64::from(*weight) / f64::from(total);
            let got = shares.get(&slot).copied().unwrap_or_default() as f64 / clients as f64;
            assert!(
                (got - wanted).abs() < 0.02,
                "{what}: server {slot} has {got:.4} for {wanted:.4}: {shares:?}"
            );
        }
    }
}

/// Clients of the whole world.
fn clients(count: usize) -> Vec<SocketAddr> {
    let mut random = Random::new(SEED);
    let mut client = || {
        let ip = Ipv4Addr::from_bits(random.any() as u32 | 1 << 24);
        SocketAddr::new(ip.into(), 1024 + random.below(60_000) as u16)
    };
    (0..count).map(|_| client()).collect()
}

#[test]
fn clients_are_shared_out_by_weight() {
    if !require_root("distribution") {
        return;
    }
    let all = clients(CLIENTS);
    for (name, how) in
        [("wrr", pick::ROTATE), ("maglev", pick::HASH_FLOW), ("source-hash", pick::HASH_CLIENT)]
    {
        let stand = Stand::new(how, &WEIGHTS);
        let mut shares = BTreeMap::new();
        all.iter().for_each(|client| *shares.entry(stand.ask(*client)).or_default() += 1);
        stand.assert_shares(name, &shares);
    }
}

#[test]
fn maglev_moves_few_clients_of_servers_that_stay() {
    if !require_root("distribution") {
        return;
    }
    const GONE: u16 = 7;
    let all = clients(CLIENTS);
    let mut stand = Stand::new(pick::HASH_FLOW, &[100; 20]);
    let before: Vec<u16> = all.iter().map(|client| stand.ask(*client)).collect();
    stand.weights[usize::from(GONE)] = 0;
    stand.fill(pick::HASH_FLOW);
    stand.dut.set_backend(GONE, Backend { state: state::DEAD, generation: 2, ..Backend::default() });
    let (mut others, mut moved) = (0, 0);
    for (client, before) in all.iter().zip(before) {
        let after = stand.ask(*client);
        assert_ne!(after, GONE);
        if before != GONE {
            others += 1;
            moved += usize::from(after != before);
        }
    }
    assert!(others > CLIENTS * 9 / 10, "{others} clients had a server that stays");
    assert!(moved * 100 <= others, "{moved} of {others} clients of servers that stay were moved");
}

/// What the loaded program keeps about how busy servers are.
fn loads(dut: &mut Dut) -> Array<MapData, [u64; 4]> {
    let used = dut.program().info().and_then(|info| info.map_ids()).expect("the kernel knows its program");
    let id = used.into_iter().flatten().find(|id| {
        let info = MapInfo::from_id(*id).expect("a map of the program");
        info.name_as_str() == Some(map::LOADS)
    });
    let data = MapData::from_id(id.expect("the program counts connections")).expect("a map of the program");
    Map::from_map_data(data).and_then(Array::try_from).expect("an array")
}

/// Sessions by least connections.
struct Sessions {
    stand: Stand,
    loads: Array<MapData, [u64; 4]>,
    /// By slot, as the test counts them.
    active: BTreeMap<u16, usize>,
}

impl Sessions {
    fn new() -> Self {
        let mut stand = Stand::new(pick::LEAST, &WEIGHTS);
        let mut loads = loads(&mut stand.dut);
        for (slot, &weight) in (0..).zip(&WEIGHTS) {
            let limits = Limits { weight, ..Limits::default() };
            loads.set(slot, [0, limits.word(), 0, 0], 0).expect("a slot");
        }
        Self { stand, loads, active: BTreeMap::new() }
    }

    fn begin(&mut self, client: SocketAddr) -> u16 {
        let slot = self.stand.send(client, SYN);
        assert_eq!(self.stand.send(client, ACK), slot);
        *self.active.entry(slot).or_default() += 1;
        slot
    }

    fn end(&mut self, client: SocketAddr, slot: u16) {
        // A reset after the end takes nothing away again, but its entry makes room.
        for flags in [FIN | ACK, FIN | ACK, RST] {
            assert_eq!(self.stand.send(client, flags), slot);
        }
        *self.active.entry(slot).or_default() -= 1;
    }

    /// Fails unless the program counts as the test does.
    fn assert_counted(&self) {
        for slot in 0..WEIGHTS.len() as u16 {
            let [active, ..] = self.loads.get(&u32::from(slot), 0).expect("a slot");
            assert_eq!(active, self.active.get(&slot).copied().unwrap_or_default() as u64, "server {slot}");
        }
    }
}

/// An address and port that no other number has.
fn distinct(number: usize) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0a40_0000 + (number / 50_000) as u32);
    SocketAddr::new(ip.into(), 1024 + (number % 50_000) as u16)
}

#[test]
fn least_connections_shares_sessions_of_one_length_by_weight() {
    if !require_root("distribution") {
        return;
    }
    const AT_A_TIME: usize = 3000;
    let mut sessions = Sessions::new();
    let mut shares = BTreeMap::new();
    let mut slots = Vec::new();
    for number in 0..CLIENTS {
        let slot = sessions.begin(distinct(number));
        *shares.entry(slot).or_default() += 1;
        slots.push(slot);
        if let Some(oldest) = number.checked_sub(AT_A_TIME) {
            sessions.end(distinct(oldest), slots[oldest]);
        }
    }
    sessions.assert_counted();
    sessions.stand.assert_shares("wlc", &shares);
}

#[test]
fn least_connections_evens_out_sessions_of_unequal_lengths() {
    if !require_root("distribution") {
        return;
    }
    let mut random = Random::new(SEED);
    let mut sessions = Sessions::new();
    // When each session ends, counted in sessions begun: most are short, some go on for hours.
    let mut ends: BinaryHeap<Reverse<(usize, usize, u16)>> = BinaryHeap::new();
    for number in 0..CLIENTS {
        while ends.peek().is_some_and(|Reverse((end, ..))| *end <= number)
            && let Some(Reverse((_, ended, slot))) = ends.pop()
        {
            sessions.end(distinct(ended), slot);
        }
        let slot = sessions.begin(distinct(number));
        let length = if random.once_in(20) { 10_000 + random.below(40_000) } else { 1 + random.below(2000) };
        ends.push(Reverse((number + length, number, slot)));
    }
    sessions.assert_counted();
    let total: usize = sessions.active.values().sum();
    let weights: u16 = WEIGHTS.iter().sum();
    let fair = total as f64 / f64::from(weights);
    assert!(total > 1000, "{total} sessions are left to compare");
    for (slot, weight) in (0u16..).zip(WEIGHTS) {
        let held = sessions.active[&slot] as f64 / f64::from(weight);
        assert!(
            (held - fair).abs() <= fair * 0.1,
            "server {slot} has {held:.3} sessions for each unit of weight, all have {fair:.3}: {:?}",
            sessions.active
        );
    }
}
