//! Random packets and random operations through program and model, which must agree about every verdict, every
//! byte, every counter and everything that is remembered. `LB_SEED` repeats a run, `LB_PACKETS` makes it longer.

mod frames;
mod universe;

use std::{
    collections::VecDeque,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use lb_tests::{
    lab::require_root,
    packet::{
        bench::{Bench, Op, pin_to_cpu},
        dut::Options,
    },
    random::Random,
};

use universe::World;

/// Operations that are printed when program and model disagree.
const LAST: usize = 40;
/// Packets between two comparisons of counters, and of the tables.
const COUNTERS_EVERY: u64 = 64;
const MEMORY_EVERY: u64 = 512;
/// Packets after which a worker begins with another data plane.
const ROUND: u64 = 125_000;

#[test]
fn program_and_model_agree_about_random_packets_and_operations() {
    if !require_root("packet_random") {
        return;
    }
    let seed = from_env("LB_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64)
    });
    let packets = from_env("LB_PACKETS").unwrap_or(1_000_000);
    println!("LB_SEED={seed} LB_PACKETS={packets}");
    let set = rustix::thread::sched_getaffinity(None).expect("this thread runs somewhere");
    let cpus: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).take(4).collect();
    let (rounds, workers) = (packets.div_ceil(ROUND), cpus.len() as u64);
    thread::scope(|scope| {
        for (worker, cpu) in (0..).zip(cpus) {
            scope.spawn(move || {
                pin_to_cpu(cpu);
                for round in (worker..rounds).step_by(workers as usize) {
                    // A run of one round, with the seed that is printed, repeats what went wrong.
                    run(seed.wrapping_add(round), ROUND.min(packets - round * ROUND));
                }
            });
        }
    });
}

fn run(seed: u64, packets: u64) {
    // Sizes differ, so that a table taken for another shows.
    let mut bench = Bench::new(Options {
        flows_v4: 64,
        flows_v6: 32,
        half_open: 16,
        seed: seed ^ 0x5eed,
        persist: 5,
        fragment_ticks: 50,
        ..Options::default()
    });
    let mut random = Random::new(seed);
    let mut world = World::default();
    let mut last: VecDeque<Op> = VecDeque::new();
    for op in universe::beginning(&mut random, &mut world) {
        bench.set(&op);
    }
    let mut sent = 0;
    while sent < packets {
        let op = universe::next(&mut random, &mut world);
        let is_frame = matches!(op, Op::Frame(_));
        sent += u64::from(is_frame);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(op.clone());
        let mut agreed = bench.apply(&op);
        if is_frame {
            world.came_out(&bench.output);
        }
        if agreed.is_ok() && sent.is_multiple_of(COUNTERS_EVERY) {
            agreed = bench.compare();
        }
        if agreed.is_ok() && sent.is_multiple_of(MEMORY_EVERY) {
            agreed = bench.compare_memory();
        }
        if let Err(difference) = agreed {
            let last: Vec<String> = last.iter().map(|op| format!("  {op:?}\n")).collect();
            panic!("LB_SEED={seed}: packet {sent}: {difference}\nthe last operations:\n{}", last.concat());
        }
    }
    println!("seed {seed}: {:?}", bench.counted().reasons);
}

/// A number from the environment.
fn from_env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text} is not a number: {e}")))
}
