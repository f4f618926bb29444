//! Measures live frames from end to end.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{io, path::PathBuf};

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::{
    bench::{
        live::{
            connections::{self, Figures},
            report::{Extent, Row, measure, median_of, write_table},
            ways::Way,
        },
        report::keep,
    },
    packet::bench::{leave_this_cpu, stay_on_this_cpu},
};
use serde::Serialize;

/// Nanoseconds per packet of live frames through veths, or instructions where the clock counts those.
#[derive(Parser)]
struct Args {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// The clock ticks once per instruction: one round of each way, IPVS too, against the instructions that a packet may take.
    #[arg(long, conflicts_with = "quick")]
    instructions: bool,
    /// The report that the figures are added to.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.instructions { instructions() } else { nanoseconds(&args) }
}

/// What the report gets.
#[derive(Serialize)]
struct Live {
    packets: Vec<Row>,
    connections: Vec<Figures>,
    ratios: Vec<Ratio>,
}

/// A ratio that stands for a goal.
#[derive(Serialize)]
struct Ratio {
    what: String,
    is: f64,
    goal: String,
}

/// Flows in turn. Goals are those of the first number; the second does not fit the caches.
const FLOWS: [Option<u32>; 2] = [Some(1024), Some(65_536)];

fn nanoseconds(args: &Args) -> Result<()> {
    let ways =
        [Way::Drop, Way::Reflect, Way::Touch, Way::Direct, Way::Nat, Way::Snat, Way::Route, Way::Nftables];
    let extent = if args.quick {
        Extent { rounds: 5, packets: 100_000 }
    } else {
        Extent { rounds: 21, packets: 300_000 }
    };
    // Everything that is polled runs on the CPU of whoever sent it.
    stay_on_this_cpu();
    let packets = measure(&ways, &FLOWS, extent);
    leave_this_cpu();
    write_table(&packets, "ns", &mut io::stdout())?;
    println!();

    let ways = [Way::Direct, Way::Nat, Way::Snat, Way::Route, Way::Nftables, Way::Haproxy];
    let extent = if args.quick {
        connections::Extent { rounds: 1, seconds: 1 }
    } else {
        connections::Extent { rounds: 3, seconds: 2 }
    };
    let connections = connections::measure(&ways, extent);
    connections::write_table(&connections, &mut io::stdout())?;
    println!();

    let ratios = ratios(&packets, &connections);
    for Ratio { what, is, goal } in &ratios {
        println!("{what}: {is:.2} (goal: {goal})");
    }
    keep(&args.json, "live", &Live { packets, connections, ratios })
}

fn ratios(packets: &[Row], connections: &[Figures]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for flows in FLOWS {
        let cost = |way| median_of(packets, way, flows).unwrap_or(f64::NAN);
        let count = flows.unwrap_or(0);
        ratios.push(Ratio {
            what: format!("cost of a packet, our direct routing to a bare XDP_TX, {count} flows"),
            is: cost(Way::Direct) / cost(Way::Reflect),
            goal: "at most 1.2".to_owned(),
        });
        ratios.push(Ratio {
            what: format!("cost of a packet, nftables to our NAT, {count} flows"),
            is: cost(Way::Nftables) / cost(Way::Nat),
            goal: "at least 4".to_owned(),
        });
    }
    let rate = |way: Way| {
        connections.iter().find(|f| f.name == way.name()).map_or(f64::NAN, |f| f.connections_per_second)
    };
    for way in [Way::Direct, Way::Nat, Way::Snat] {
        ratios.push(Ratio {
            what: format!("connections per second, {} to HAProxy", way.name()),
            is: rate(way) / rate(Way::Haproxy),
            goal: "above 1".to_owned(),
        });
    }
    ratios
}

/// The most instructions that a packet of an established flow may take, generator and veths included. Each leaves some
/// room above what is measured, so that what fails here is a change of the program and not of the kernel.
const MOST: [(Way, f64); 3] = [(Way::Direct, 1500.0), (Way::NatBack, 1600.0), (Way::Nat, 1700.0)];

fn instructions() -> Result<()> {
    stay_on_this_cpu();
    let ways = [
        Way::Drop,
        Way::Reflect,
        Way::Touch,
        Way::Direct,
        Way::NatBack,
        Way::Nat,
        Way::Snat,
        Way::Route,
        Way::IpvsDirect,
        Way::IpvsNat,
        Way::Nftables,
    ];
    let rows = measure(&ways, &[Some(1), None], Extent { rounds: 1, packets: 20_000 });
    write_table(&rows, "insns", &mut io::stdout())?;
    println!("{}", serde_json::to_string(&rows)?);
    for (way, most) in MOST {
        let is = median_of(&rows, way, Some(1)).unwrap_or(f64::NAN);
        ensure!(is <= most, "{} takes {is:.0} instructions a packet, more than {most}", way.name());
    }
    Ok(())
}
