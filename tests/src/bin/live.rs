//! Measures live frames from end to end.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::io;

use anyhow::{Result, ensure};
use clap::Parser;
use lb_tests::{
    bench::live::{
        report::{Extent, measure, median_of, write_table},
        ways::Way,
    },
    packet::bench::stay_on_this_cpu,
};

/// Nanoseconds per packet of live frames through veths, or instructions where the clock counts those.
#[derive(Parser)]
struct Args {
    /// Fewer and shorter rounds.
    #[arg(long)]
    quick: bool,
    /// The clock ticks once per instruction: one round of each way, IPVS too, against the instructions that a packet may take.
    #[arg(long)]
    instructions: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    stay_on_this_cpu();
    if args.instructions { instructions() } else { nanoseconds(args.quick) }
}

fn nanoseconds(quick: bool) -> Result<()> {
    let ways = [Way::Drop, Way::Reflect, Way::Touch, Way::Direct, Way::Route, Way::Nftables];
    let extent =
        if quick { Extent { rounds: 5, packets: 100_000 } } else { Extent { rounds: 21, packets: 300_000 } };
    let rows = measure(&ways, &[Some(1024), Some(65_536)], extent);
    write_table(&rows, "ns", &mut io::stdout())?;
    Ok(())
}

/// The most instructions that a packet of ours may take, generator and veth included.
const MAX_DIRECT: f64 = 1500.0;

fn instructions() -> Result<()> {
    let ways = [Way::Drop, Way::Touch, Way::Direct, Way::Route, Way::IpvsDirect, Way::IpvsNat, Way::Nftables];
    let rows = measure(&ways, &[Some(1), None], Extent { rounds: 1, packets: 20_000 });
    write_table(&rows, "insns", &mut io::stdout())?;
    println!("{}", serde_json::to_string(&rows)?);
    let direct = median_of(&rows, Way::Direct, Some(1)).unwrap_or(f64::NAN);
    ensure!(
        direct <= MAX_DIRECT,
        "direct routing takes {direct} instructions a packet, more than {MAX_DIRECT}"
    );
    Ok(())
}
