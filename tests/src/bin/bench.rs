//! Measures what a packet costs and writes `target/bench.json`.
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{io, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use lb_common::service::{mode, pick};
use lb_tests::bench::{
    report::{Report, keep},
    rows::{Direction, Row},
};

/// Nanoseconds per packet, by BPF_PROG_TEST_RUN over lists of flows, all rows in turn in every round.
#[derive(Parser)]
struct Args {
    /// Fewer and shorter rounds: for a look while working, not for a figure to quote.
    #[arg(long)]
    quick: bool,
    /// Only rows whose name contains this (and the floors).
    #[arg(long)]
    only: Option<String>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

const FLOWS: [u32; 4] = [1, 1000, 65_536, 1_000_000];

fn main() -> Result<()> {
    let args = Args::parse();
    let (rounds, frames) = if args.quick { (5, 200_000) } else { (21, 1_000_000) };
    let wanted = |name: &str| name == "floor" || args.only.as_ref().is_none_or(|only| name.contains(only));
    let mut rows = Vec::new();
    for flows in FLOWS {
        let routed = |name, mode, direction| Row::routed_v4(name, flows, mode, direction);
        let plan: [(&str, &dyn Fn() -> Row); 9] = [
            ("floor", &|| Row::floor(flows)),
            ("dr4_established", &|| Row::established_v4("dr4_established", flows, 16, 1)),
            ("dr6_established", &|| Row::established_v6("dr6_established", flows)),
            ("nat4_forward", &|| routed("nat4_forward", mode::NAT, Direction::Forward)),
            ("nat4_reply", &|| routed("nat4_reply", mode::NAT, Direction::Reply)),
            ("snat4_forward", &|| routed("snat4_forward", mode::SNAT, Direction::Forward)),
            ("snat4_reply", &|| routed("snat4_reply", mode::SNAT, Direction::Reply)),
            ("dr4_new", &|| Row::fresh_v4("dr4_new", flows)),
            ("pass4", &|| Row::pass_v4("pass4", flows)),
        ];
        rows.extend(plan.iter().filter(|(name, _)| wanted(name)).map(|(_, make)| make()));
    }
    if wanted("flat") {
        for (servers, vips) in [(1, 1), (512, 1), (1, 500)] {
            for flows in [1000, 65_536] {
                rows.push(Row::established_v4("flat", flows, servers, vips));
            }
        }
    }
    for (name, by, servers) in
        [("dr4_wrr", pick::ROTATE, 16), ("dr4_wlc", pick::LEAST, 16), ("dr4_wlc", pick::LEAST, 64)]
    {
        if wanted(name) {
            rows.push(Row::begun_v4(name, by, servers));
        }
    }
    for _ in 0..rounds {
        for row in &mut rows {
            row.round(frames);
        }
    }
    let report = Report::new(&mut rows);
    report.write_table(&mut io::stdout())?;
    keep(&args.json, "rows", &report.rows)?;
    println!("{} rounds of {frames} packets; figures are in {}", rounds, args.json.display());
    Ok(())
}
