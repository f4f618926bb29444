use std::{array::from_fn, collections::BTreeSet, net::SocketAddr};

use lb_common::{
    flow::{Control, Decision, Ends, Hop, KEY_V4, Rewrite, State, kind},
    limits::MAX_BACKENDS,
    net::{Mac, PROTO_TCP, PROTO_UDP},
};
use lb_ebpf::{
    flow_table::{SharedWord, Word as _, bucket_index},
    life::TOUCH_TICKS,
};

use super::{
    paired::{Found, control_at},
    rules::{
        ALONE_SECS, BUSY_SECS, CLOSED_SECS, CLOSING_SECS, DATAGRAMS_SECS, NEW_SECS, PAIR_SWEEPS, VOID_SECS,
    },
    *,
};
use crate::model::config::Protocol;

const SETTINGS: Settings = Settings {
    abi_version: 1,
    hz: 1000,
    flow_seed: 0x5eed,
    flows: [0; 3],
    // 128 ms.
    tick_shift: 7,
};
const BUCKETS: usize = 16;
const SLOT: u16 = 5;
const SERVICE: u16 = 2;
/// A service whose flows are not reset when their server is gone.
const SILENT: u16 = 3;
const GENERATION: u16 = 9;
const NOW: u32 = 100_000;

fn rules(now: u32) -> Rules {
    let mut rules = Rules::new(&SETTINGS, now);
    rules.allow_backend(SLOT, GENERATION);
    for service in [SERVICE, SILENT] {
        rules.allow_service(service, SETTINGS.ticks(3600));
    }
    rules.reset_flows_of(SERVICE);
    rules
}

fn ago(secs: u32) -> u32 {
    NOW - SETTINGS.ticks(secs)
}

const fn decision(kind: u8) -> Decision {
    Decision::new(kind, SERVICE, SLOT, GENERATION)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A client's packet for the VIP.
fn seen(proto: u8) -> Ends {
    Ends::between(address("10.0.0.1:40000"), address("10.12.1.100:104"), proto)
}

/// The same on its way to the server.
fn sent(proto: u8) -> Ends {
    Ends::between(address("10.12.1.2:12345"), address("10.12.1.110:11112"), proto)
}

/// Both IPv4 tables.
struct World {
    established: Vec<Bucket<WORDS_V4>>,
    half_open: Vec<Bucket<WORDS_V4>>,
    watch: Watch,
}

impl World {
    fn new() -> Self {
        let table = || (0..BUCKETS).map(|_| from_fn(|_| from_fn(|_| SharedWord::new(0)))).collect();
        Self { established: table(), half_open: table(), watch: Watch::default() }
    }

    /// Puts an entry where it belongs, and gives its control word.
    fn put(&mut self, ends: &Ends, rewrite: &Rewrite, control: Control, decision: Decision) -> &SharedWord {
        let half_open = control.state() == State::New as u8;
        let table = if half_open { &self.half_open } else { &self.established };
        let [addrs, ports] = ends.key_v4();
        let key = <[u64; WORDS_V4] as Layout<KEY_V4>>::key(ends, SETTINGS.flow_seed);
        let bucket = &table[bucket_index(key.hash, BUCKETS as u32 - 1) as usize];
        let way = bucket.iter().find(|way| Control(way[0].load()).state() == State::Free as u8).unwrap();
        let words = [control.0, addrs, ports, decision.0].into_iter().chain(rewrite.words_v4());
        way.iter().zip(words).for_each(|(word, value)| word.store(value));
        &way[0]
    }

    fn direct(&mut self, state: State, last_seen: u32, decision: Decision) -> &SharedWord {
        let control = Control::new(7, 3, state, last_seen);
        self.put(&seen(PROTO_TCP), &Rewrite::default(), control, decision)
    }

    /// The entry of the client's packets.
    fn forward(&mut self, proto: u8, state: State, last_seen: u32, decision: Decision) {
        let rewrite = Rewrite::new(&seen(proto), &sent(proto), Hop::default());
        self.put(&seen(proto), &rewrite, Control::new(7, 3, state, last_seen), decision);
    }

    /// The entry of the server's packets.
    fn reply(&mut self, proto: u8, state: State, last_seen: u32) {
        self.reply_of(SERVICE, GENERATION, proto, state, last_seen);
    }

    fn reply_of(&mut self, service: u16, generation: u16, proto: u8, state: State, last_seen: u32) {
        let ends = sent(proto).reversed();
        let rewrite = Rewrite::new(&ends, &seen(proto).reversed(), Hop::default());
        let decision = Decision::new(kind::REPLY, service, SLOT, generation);
        self.put(&ends, &rewrite, Control::new(9, 4, state, last_seen), decision);
    }

    fn sweep(&mut self, rules: &Rules) -> Tally {
        let mut tally = Tally::default();
        let tables =
            Tables { established: &self.established, half_open: &self.half_open, seed: SETTINGS.flow_seed };
        sweep(&tables, rules, &mut self.watch, &mut Due::none(), &mut tally);
        self.watch.end(rules);
        tally
    }

    fn tables(&self) -> Tables<'_, WORDS_V4> {
        Tables { established: &self.established, half_open: &self.half_open, seed: SETTINGS.flow_seed }
    }

    /// Entries retired by as many sweeps as look at every pair once.
    fn retired(&mut self, now: u32) -> u64 {
        (0..PAIR_SWEEPS).map(|_| self.sweep(&rules(now)).retired).sum()
    }
}

#[test]
fn each_state_is_retired_past_its_own_time_and_not_before() {
    for (state, secs) in [
        (State::New, NEW_SECS),
        (State::Established, 3600),
        (State::Closing, CLOSING_SECS),
        (State::PeerClosing, CLOSING_SECS),
        (State::Closed, CLOSED_SECS),
        (State::Datagrams, DATAGRAMS_SECS),
    ] {
        // Time wraps in the middle, as it does after 17 years.
        let seen = u32::MAX - 10;
        let last = seen.wrapping_add(SETTINGS.ticks(secs) + TOUCH_TICKS);
        let mut world = World::new();
        world.direct(state, seen, decision(kind::DR));
        assert_eq!(world.retired(last), 0, "{state:?}");
        assert_eq!(world.retired(last.wrapping_add(1)), 1, "{state:?}");
    }
}

#[test]
fn a_flow_goes_at_once_when_its_server_or_service_no_longer_counts() {
    for decision in [
        Decision::new(kind::DR, SERVICE, SLOT, GENERATION - 1),
        Decision::new(kind::DR, SERVICE, SLOT + 1, 0),
        Decision::new(kind::DR, SERVICE + 9, SLOT, GENERATION),
        Decision::new(kind::NAT, SERVICE + 9, SLOT, GENERATION),
        Decision::new(kind::NAT, SILENT, SLOT, GENERATION - 1),
        Decision::new(kind::DR, u16::MAX, u16::MAX, u16::MAX),
    ] {
        let mut world = World::new();
        world.direct(State::Established, NOW, decision);
        assert_eq!(world.sweep(&rules(NOW)).retired, 1, "{decision:?}");
    }
}

#[test]
fn a_retired_entry_keeps_its_claim_counter() {
    let mut world = World::new();
    let decision = Decision::new(kind::DR, SERVICE, SLOT, GENERATION - 1);
    let word = std::ptr::from_ref(world.direct(State::Established, NOW, decision));
    assert_eq!(world.sweep(&rules(NOW)).retired, 1);
    let words = world.established.iter().flatten().map(|way| &way[0]);
    let freed = Control(words.into_iter().find(|w| std::ptr::from_ref(*w) == word).unwrap().load());
    assert_eq!((freed.seq(), freed.state()), (7, State::Free as u8));
}

#[test]
fn a_packet_that_comes_after_the_clock_was_read_keeps_its_flow() {
    let mut world = World::new();
    world.direct(State::New, NOW + 5, decision(kind::DR));
    assert_eq!(world.retired(NOW), 0);
}

#[test]
fn a_claim_or_a_hop_in_writing_is_freed_only_when_the_same_one_stands_from_sweep_to_sweep() {
    for state in [State::Busy, State::Moving] {
        let mut world = World::new();
        let later = NOW + SETTINGS.ticks(BUSY_SECS) + 1;
        world.direct(state, 0, decision(kind::DR));
        assert_eq!(world.sweep(&rules(NOW)).retired, 0);
        // The entry was claimed anew in between.
        let words = world.established.iter().flatten();
        let word = words.into_iter().map(|way| &way[0]).find(|w| w.load() != 0).unwrap();
        word.store(Control::new(8, 3, state, 0).0);
        assert_eq!(world.sweep(&rules(later)).retired, 0, "{state:?}");
        assert_eq!(world.sweep(&rules(later + 1)).retired, 0, "{state:?}");
        assert_eq!(world.sweep(&rules(later + SETTINGS.ticks(BUSY_SECS) + 1)).retired, 1, "{state:?}");
    }
}

#[test]
fn a_pair_stays_while_either_direction_is_in_its_time_and_goes_together() {
    use State::{Closed, Closing, Datagrams, Established, New, PeerClosing};
    for (proto, ours, theirs, retired) in [
        (PROTO_TCP, (Established, 3700), (Established, 10), 0),
        (PROTO_TCP, (Established, 10), (Established, 3700), 0),
        (PROTO_TCP, (Established, 3700), (Established, 3700), 2),
        (PROTO_TCP, (Closing, 200), (PeerClosing, 10), 0),
        (PROTO_TCP, (Closing, 200), (PeerClosing, 200), 2),
        (PROTO_TCP, (PeerClosing, 200), (Closing, 100), 0),
        (PROTO_TCP, (Closed, 40), (Closed, 10), 0),
        (PROTO_TCP, (Closed, 40), (Closed, 40), 2),
        // A client that sends and hears nothing, as log senders do.
        (PROTO_UDP, (Datagrams, 1), (Datagrams, 5000), 0),
        (PROTO_UDP, (Datagrams, 130), (Datagrams, 5000), 2),
        (PROTO_TCP, (New, 10), (New, 40), 0),
        (PROTO_TCP, (New, 40), (New, 40), 2),
        // Confirmed, but the table that it comes from was left in a hurry.
        (PROTO_TCP, (New, 40), (Established, 10), 0),
    ] {
        let mut world = World::new();
        world.forward(proto, ours.0, ago(ours.1), decision(kind::NAT));
        world.reply(proto, theirs.0, ago(theirs.1));
        assert_eq!(world.retired(NOW), retired, "{ours:?} {theirs:?}");
    }
}

#[test]
fn an_entry_alone_is_retired_when_it_is_past_its_creation() {
    let young = NOW - SETTINGS.ticks(ALONE_SECS);
    for (last_seen, retired) in [(NOW, 0), (young, 0), (young - 1, 1)] {
        let mut world = World::new();
        world.forward(PROTO_TCP, State::Established, last_seen, decision(kind::SNAT));
        assert_eq!(world.retired(NOW), retired, "client's, {last_seen}");
        let mut world = World::new();
        world.reply(PROTO_TCP, State::New, last_seen);
        assert_eq!(world.retired(NOW), retired, "server's, {last_seen}");
        // What has the right key, but was made for another flow, is nobody's sibling.
        let mut world = World::new();
        world.forward(PROTO_TCP, State::Established, last_seen, decision(kind::NAT));
        world.reply_of(SILENT, GENERATION, PROTO_TCP, State::Established, NOW);
        assert_eq!(world.retired(NOW), retired, "with a stranger, {last_seen}");
    }
}

#[test]
fn what_moved_to_the_other_table_does_not_linger_half_open() {
    let mut world = World::new();
    world.forward(PROTO_TCP, State::Established, ago(5), decision(kind::NAT));
    world.reply(PROTO_TCP, State::Established, ago(5));
    world.forward(PROTO_TCP, State::New, ago(40), decision(kind::NAT));
    world.reply(PROTO_TCP, State::New, ago(40));
    assert_eq!(world.retired(NOW), 2);
    let tally = world.sweep(&rules(NOW));
    assert_eq!((tally.established, tally.replies, tally.half_open), (1, 1, 0));
}

#[test]
fn flows_that_lost_their_server_wait_for_both_ends_to_be_told() {
    let void = GENERATION - 1;
    let mut world = World::new();
    world.forward(PROTO_TCP, State::Established, NOW, Decision::new(kind::NAT, SERVICE, SLOT, void));
    world.reply_of(SERVICE, void, PROTO_TCP, State::Established, NOW);
    let udp = Decision::new(kind::NAT, SERVICE, SLOT, void);
    world.forward(PROTO_UDP, State::Datagrams, NOW, udp);
    let tally = world.sweep(&rules(NOW));
    assert_eq!((tally.retired, tally.established, tally.replies), (1, 1, 1), "UDP has no RST");
    assert_eq!(tally.active.iter().sum::<u64>(), 0, "a server that is gone has no connections");
    let last = NOW + SETTINGS.ticks(VOID_SECS);
    assert_eq!(world.sweep(&rules(last)).retired, 0);
    assert_eq!(world.sweep(&rules(last + 1)).retired, 2);
    // The next time that this happens to the slot, the time starts anew.
    world.sweep(&rules(last + 2));
    world.reply_of(SERVICE, void, PROTO_TCP, State::Established, last);
    assert_eq!(world.sweep(&rules(last + 3)).retired, 0);
}

#[test]
fn a_sweep_counts_flows_by_their_clients_and_what_takes_room_beside_them() {
    let mut world = World::new();
    world.direct(State::Established, NOW, Decision::new(kind::DR, SERVICE, SLOT, GENERATION));
    world.forward(PROTO_UDP, State::Datagrams, NOW, decision(kind::SNAT));
    world.reply(PROTO_UDP, State::Datagrams, NOW);
    let closing = Ends { ports: 7, ..seen(PROTO_TCP) };
    let control = Control::new(1, 1, State::PeerClosing, NOW);
    world.put(&closing, &Rewrite::default(), control, decision(kind::NAT));
    let half_open = Ends { ports: 8, ..seen(PROTO_TCP) };
    let control = Control::new(1, 1, State::New, NOW);
    world.put(&half_open, &Rewrite::default(), control, decision(kind::SNAT));
    let gone = Ends { ports: 9, ..seen(PROTO_TCP) };
    world.put(&gone, &Rewrite::default(), control, Decision::new(kind::DR, SERVICE, SLOT, 0));
    world.reply(PROTO_TCP, State::New, NOW);
    let tally = world.sweep(&rules(NOW));
    assert_eq!(
        (tally.established, tally.replies, tally.half_open, tally.retired),
        (3, 1, 1, 1),
        "the server's half-open entry is no flow of its own"
    );
    assert_eq!((tally.active[usize::from(SLOT)], tally.closing[usize::from(SLOT)]), (2, 1));
    assert_eq!(tally.sources[usize::from(SERVICE)], 2, "a half-open flow holds its port too");
    assert!(tally.active.len() <= MAX_BACKENDS as usize);
}

#[test]
fn a_flow_is_described_as_people_write_it() {
    let list = |world: &World, limit| {
        let mut list =
            List { flows: Vec::new(), total: 0, limit, now: NOW + 10, tick_nanos: SETTINGS.tick_nanos() };
        list.add(&Tables { established: &world.established, half_open: &world.half_open, seed: 0 });
        (list.flows, list.total)
    };
    let mut world = World::new();
    world.direct(State::Established, NOW, decision(kind::DR));
    let direct = Flow {
        client: ([10, 0, 0, 1].into(), 40_000),
        vip: ([10, 12, 1, 100].into(), 104),
        server: None,
        source: None,
        protocol: Protocol::Tcp,
        state: State::Established,
        service: SERVICE,
        slot: SLOT,
        generation: GENERATION,
        idle_millis: 1280,
    };
    assert_eq!(list(&world, 9), (vec![direct], 1));

    let mut world = World::new();
    world.forward(PROTO_UDP, State::Datagrams, NOW, decision(kind::SNAT));
    world.reply(PROTO_UDP, State::Datagrams, NOW);
    let snat = Flow {
        server: Some(([10, 12, 1, 110].into(), 11_112)),
        source: Some(([10, 12, 1, 2].into(), 12_345)),
        protocol: Protocol::Udp,
        state: State::Datagrams,
        ..direct
    };
    assert_eq!(list(&world, 9), (vec![snat], 1), "once");
    assert_eq!(list(&world, 0), (Vec::new(), 1));
}

#[test]
fn ipv6_entries_lead_to_their_sibling_too() {
    let seen = Ends::between(address("[2001:db8::9]:40000"), address("[2001:db8::100]:104"), PROTO_TCP);
    let sent =
        Ends { src: [5, 6], ..Ends::between(address("[::1]:7"), address("[2001:db8::7]:8"), PROTO_TCP) };
    let entry = |ends: &Ends, new: &Ends, kind: u8| {
        let mut words = [0; WORDS_V6];
        words[1..6].copy_from_slice(&ends.key_v6());
        words[6] = decision(kind).0;
        words[7..14].copy_from_slice(&Rewrite::new(ends, new, Hop::default()).words_v6());
        words
    };
    let forward = entry(&seen, &sent, kind::SNAT);
    let reply = entry(&sent.reversed(), &seen.reversed(), kind::REPLY);
    assert_eq!(forward.rewrite().sibling(&forward.ends()), reply.ends());
    assert_eq!(reply.rewrite().sibling(&reply.ends()), forward.ends());
    assert_eq!((forward.decision().kind(), reply.decision().kind()), (kind::SNAT, kind::REPLY));
}

#[test]
fn connections_to_a_dead_server_are_found_once_with_both_ends_and_the_way_back() {
    let dead = BTreeSet::from([(SLOT, GENERATION)]);
    let hop = Hop { mac: Mac([2, 0, 0, 0, 0, 9]), ifindex: 4, ..Hop::default() };
    for kind in [kind::NAT, kind::SNAT] {
        let mut world = World::new();
        let rewrite = Rewrite::new(&seen(PROTO_TCP), &sent(PROTO_TCP), hop);
        let control = Control::new(7, 3, State::Established, NOW);
        world.put(&seen(PROTO_TCP), &rewrite, control, decision(kind));
        world.reply(PROTO_TCP, State::Established, NOW);
        world.forward(PROTO_UDP, State::Datagrams, NOW, decision(kind));
        let mut found = Found::new(&dead, 10);
        found.add(&world.tables(), 0);
        let [flow] = found.flows[..] else { panic!("{:?}", found.flows) };
        assert_eq!(found.total, 1);
        assert_eq!((flow.client, flow.server, flow.hop), (seen(PROTO_TCP), sent(PROTO_TCP), hop));
        assert_eq!((flow.slot, flow.generation), (SLOT, GENERATION));
        let now = control_at::<WORDS_V4>(&world.tables(), flow.place.table, flow.place.entry);
        assert_eq!(now, Some(control));
    }
}

#[test]
fn no_more_connections_are_given_than_asked_for_and_all_are_counted() {
    let mut world = World::new();
    world.forward(PROTO_TCP, State::Established, NOW, decision(kind::NAT));
    world.forward(PROTO_TCP, State::New, NOW, decision(kind::NAT));
    let older = Decision::new(kind::NAT, SERVICE, SLOT, GENERATION - 1);
    world.forward(PROTO_TCP, State::Established, NOW, older);
    world.direct(State::Established, NOW, decision(kind::DR));
    let none = BTreeSet::new();
    let mut found = Found::new(&none, 10);
    found.add(&world.tables(), 0);
    assert_eq!((found.flows.len(), found.total), (0, 0));
    let dead = BTreeSet::from([(SLOT, GENERATION)]);
    let mut found = Found::new(&dead, 1);
    found.add(&world.tables(), 0);
    assert_eq!((found.flows.len(), found.total), (1, 2));
}
