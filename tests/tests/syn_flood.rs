//! A flood from invented addresses costs nobody who is connected anything, and lets new clients through.

use std::{collections::BTreeMap, thread};

use lb_common::{
    counter::Reason,
    flow::KEY_V4,
    limits::{DEFAULT_FLOWS_V4, DEFAULT_FLOWS_V6, DEFAULT_HALF_OPEN, map},
    net::PROTO_TCP,
    service::Service,
};
use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, leave_this_cpu},
        case::{at, bench},
        dut::{Dut, Options, Runner, XDP_DROP, XDP_TX},
        frame::{
            Frame,
            flags::{ACK, SYN},
        },
    },
    random::Random,
};

const VIP: &str = "10.0.0.100:104";
const CONNECTED: u32 = 100_000;
const FLOOD: u32 = 2_000_000;

/// A load balancer of default size with eight servers in turn.
fn default_sizes() -> Bench {
    let sizes = Options {
        flows_v4: DEFAULT_FLOWS_V4,
        flows_v6: DEFAULT_FLOWS_V6,
        half_open: DEFAULT_HALF_OPEN,
        ..Options::default()
    };
    let mut bench = bench(sizes, 8);
    bench.serve(0, Service::default(), &[(at(VIP), PROTO_TCP)], &[0, 1, 2, 3, 4, 5, 6, 7]);
    bench
}

/// Sends segments of one kind; only who sends them changes.
struct Sender<'a> {
    runner: Runner<'a>,
    frame: Vec<u8>,
    out: Vec<u8>,
}

impl<'a> Sender<'a> {
    fn new(runner: Runner<'a>, flags: u8) -> Self {
        let frame = Frame::tcp(at("192.0.2.1:1"), at(VIP), flags).bytes();
        Self { runner, frame, out: Vec::new() }
    }

    /// Sends one and says which server gets it.
    fn send(&mut self, client: [u8; 4], port: u16) -> u16 {
        assert_eq!(self.verdict(client, port), XDP_TX);
        u16::from_be_bytes([self.out[4], self.out[5]])
    }

    /// One from an address that nobody has. True when it was dropped.
    fn spoof(&mut self, random: &mut Random) -> bool {
        let word = random.any().to_le_bytes();
        let verdict = self.verdict([11, word[0], word[1], word[2]], u16::from_le_bytes([word[3], word[4]]));
        assert!([XDP_TX, XDP_DROP].contains(&verdict), "{verdict}");
        verdict == XDP_DROP
    }

    fn verdict(&mut self, client: [u8; 4], port: u16) -> u32 {
        self.frame[26..30].copy_from_slice(&client);
        self.frame[34..36].copy_from_slice(&port.to_be_bytes());
        self.runner.run(&self.frame, &mut self.out)
    }
}

/// The n-th client that is connected.
const fn client(n: u32) -> ([u8; 4], u16) {
    ([10, 1, (n >> 8) as u8, n as u8], 1024 + (n >> 16) as u16)
}

/// Established flows: addresses and ports to decision, as they stand in the entry.
fn established(dut: &Dut) -> BTreeMap<(u64, u64), u64> {
    dut.entries_v4(map::FLOWS_V4).iter().map(|words| ((words[1], words[2]), words[1 + KEY_V4])).collect()
}

/// Sends segments of this kind from invented addresses, from two CPUs where there are two. Says how many were dropped: two
/// that look like one flow while both CPUs write its entry.
fn flood(dut: &Dut, flags: u8, packets: u32) -> u64 {
    thread::scope(|scope| {
        let halves: Vec<_> = (0..2)
            .map(|half| {
                let mut sender = Sender::new(dut.runner(), flags);
                scope.spawn(move || {
                    leave_this_cpu();
                    let mut random = Random::new(half);
                    (0..packets / 2).filter(|_| sender.spoof(&mut random)).count() as u64
                })
            })
            .collect();
        halves
            .into_iter()
            .map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum()
    })
}

#[test]
fn a_flood_leaves_every_established_flow_with_its_server() {
    if !require_root("syn_flood") {
        return;
    }
    let mut bench = default_sizes();
    let (mut syn, mut ack) = (Sender::new(bench.dut.runner(), SYN), Sender::new(bench.dut.runner(), ACK));
    let mut servers = Vec::new();
    for n in 0..CONNECTED {
        let (address, port) = client(n);
        let server = syn.send(address, port);
        assert_eq!(ack.send(address, port), server);
        servers.push(server);
    }
    let before = established(&bench.dut);
    let refused = bench.counted().reasons.get(&Reason::FlowTableFull).copied().unwrap_or(0);
    assert_eq!(before.len() as u64, u64::from(CONNECTED) - refused);
    assert!(
        refused < 100,
        "{refused} of {CONNECTED} flows met a full bucket in a table that is a tenth full"
    );

    let mut dropped = 0;
    for (what, flags, packets) in [("SYNs", SYN, FLOOD), ("segments out of nowhere", ACK, FLOOD / 2)] {
        dropped += flood(&bench.dut, flags, packets);
        assert!(established(&bench.dut) == before, "{packets} {what} changed the established flows");
    }
    let counted = bench.counted();
    assert_eq!(counted.reasons.get(&Reason::TwinPacket).copied().unwrap_or(0), dropped);
    assert!(dropped < 100, "{dropped} packets of the flood took each other for their twins");
    let overwritten = counted.reasons[&Reason::HalfOpenOverwritten];
    assert!(overwritten > u64::from(FLOOD), "the flood went through the half-open table: {overwritten}");
    assert_eq!(counted.reasons.get(&Reason::FlowTableFull).copied().unwrap_or(0), refused);

    let mut ack = Sender::new(bench.dut.runner(), ACK);
    let mut moved = 0;
    for (n, server) in servers.iter().enumerate() {
        let (address, port) = client(n as u32);
        moved += u64::from(ack.send(address, port) != *server);
    }
    assert!(moved <= refused, "{moved} flows changed their server, {refused} had no entry");
    let mid_stream = bench.counted().reasons[&Reason::MidStream] - counted.reasons[&Reason::MidStream];
    assert!(mid_stream <= refused, "{mid_stream} established flows were unknown");
}

#[test]
fn clients_that_connect_during_a_flood_get_one_server_each() {
    if !require_root("syn_flood") {
        return;
    }
    let bench = default_sizes();
    flood(&bench.dut, SYN, 100_000);
    let mut random = Random::new(7);
    let (mut syn, mut ack) = (Sender::new(bench.dut.runner(), SYN), Sender::new(bench.dut.runner(), ACK));
    let mut spoofed = Sender::new(bench.dut.runner(), SYN);
    for n in 0..40 {
        let (address, port) = client(n);
        let server = syn.send(address, port);
        // From far too few for the entry to be lost to far too many.
        for _ in 0..n * 750 {
            spoofed.spoof(&mut random);
        }
        for segment in 0..3 {
            assert_eq!(ack.send(address, port), server, "client {n}, segment {segment}");
        }
    }
    assert_eq!(established(&bench.dut).len(), 40);
}
