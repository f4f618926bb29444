//! Rounds over all ways in turn, and their figures.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    generator::{ENDLESS, FIRST, WITHIN},
    ways::{Street, Way},
};

/// Packets lost on the way that a figure may have, of a hundred.
const MAX_LOSS_PERCENT: f64 = 1.0;

/// One way over so many flows.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the way.
    pub name: &'static str,
    /// Flows in turn; `None` = every packet begins one.
    pub flows: Option<u32>,
    /// Per packet, the generator's share included: the least, the middle and the most of the rounds. Nanoseconds, or
    /// instructions on a machine whose clock ticks once per instruction.
    pub min: f64,
    /// See [`Self::min`].
    pub median: f64,
    /// See [`Self::min`].
    pub max: f64,
    /// Packets lost, of a hundred.
    pub lost_percent: f64,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds over all ways.
    pub rounds: usize,
    /// Packets of each way in a round.
    pub packets: u64,
}

/// Measures every way over each number of flows, all in turn in every round.
///
/// # Panics
///
/// When packets of ours did not take the path that they are to measure.
#[must_use]
pub fn measure(ways: &[Way], flows: &[Option<u32>], extent: Extent) -> Vec<Row> {
    let mut streets: Vec<Street> = ways.iter().map(|way| Street::new(*way)).collect();
    let mut rows = Vec::new();
    for &flows in flows {
        let (number, control) = flows.map_or((ENDLESS, FIRST), |flows| (flows, WITHIN));
        for street in &mut streets {
            // Twice, so that each flow is established; and what is allocated on demand is there.
            street.generator.send(number, control, u64::from(flows.unwrap_or(0)) * 2 + 4096);
        }
        let mut samples = vec![Vec::new(); streets.len()];
        for _ in 0..extent.rounds {
            for (street, samples) in streets.iter_mut().zip(&mut samples) {
                let before = street.forwarded();
                let sample = street.generator.send(number, control, extent.packets);
                if let (Some(before), Some(after)) = (before, street.forwarded()) {
                    assert_eq!(after - before, sample.arrived, "packets of {} forwarded", street.way.name());
                }
                samples.push(sample);
            }
        }
        for (street, samples) in streets.iter().zip(samples) {
            let mut costs: Vec<f64> = samples.iter().map(|sample| sample.ns_per_packet()).collect();
            costs.sort_by(f64::total_cmp);
            let sent: u64 = samples.iter().map(|sample| sample.sent).sum();
            let arrived: u64 = samples.iter().map(|sample| sample.arrived).sum();
            let lost_percent = sent.saturating_sub(arrived) as f64 * 100.0 / sent as f64;
            rows.push(Row {
                name: street.way.name(),
                flows,
                min: rounded(costs[0]),
                median: rounded(costs[costs.len() / 2]),
                max: rounded(costs[costs.len() - 1]),
                lost_percent: rounded(lost_percent),
            });
        }
    }
    rows
}

/// Median of a way over so many flows.
#[must_use]
pub fn median_of(rows: &[Row], way: Way, flows: Option<u32>) -> Option<f64> {
    rows.iter().find(|row| row.name == way.name() && row.flows == flows).map(|row| row.median)
}

/// The table for people; what is measured is called `unit`.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write_table(rows: &[Row], unit: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<18} {:>8} {:>12} {:>9} {:>9} {:>9} {:>7}",
        "way",
        "flows",
        format!("{unit} min"),
        "median",
        "max",
        "to tx",
        "lost %"
    )?;
    for row in rows {
        let floor = median_of(rows, Way::Reflect, row.flows).unwrap_or(f64::NAN);
        let flows = row.flows.map_or_else(|| "new".to_owned(), |flows| flows.to_string());
        let mark = if row.lost_percent > MAX_LOSS_PERCENT { " lossy" } else { "" };
        writeln!(
            out,
            "{:<18} {:>8} {:>12.1} {:>9.1} {:>9.1} {:>9.2} {:>7.2}{mark}",
            row.name,
            flows,
            row.min,
            row.median,
            row.max,
            row.median / floor,
            row.lost_percent
        )?;
    }
    Ok(())
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
