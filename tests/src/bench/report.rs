//! Figures of the rounds, for people and as JSON.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use super::rows::Row;

/// One row of `target/bench.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Row.
    pub name: String,
    /// Flows driven; for `dr4_new` flows that fill the table.
    pub flows: u32,
    /// Servers behind each VIP.
    pub servers: u16,
    /// VIPs.
    pub vips: u16,
    /// Nanoseconds per packet, the driver's included: the least, the middle and the most of the rounds.
    pub ns_min: f64,
    /// See [`Self::ns_min`].
    pub ns_median: f64,
    /// See [`Self::ns_min`].
    pub ns_max: f64,
    /// `ns_median` divided by that of the floor over as many flows.
    pub ratio_to_floor: f64,
    /// Instructions of the program as the verifier left them.
    pub insns: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// `target/bench.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every row.
    pub rows: Vec<Figures>,
}

impl Report {
    /// The figures of all rows; the floors among them are what the others are divided by.
    ///
    /// # Panics
    ///
    /// When a row has no round, or no floor with its number of flows.
    #[must_use]
    pub fn new(rows: &mut [Row]) -> Self {
        let floors: Vec<(u32, f64)> =
            rows.iter().filter(|r| r.name == "floor").map(|r| (r.flows, median(&r.rounds))).collect();
        let figures = |row: &mut Row| {
            let ns_median = median(&row.rounds);
            let (_, floor) = floors
                .iter()
                .find(|(flows, _)| *flows == row.flows)
                .expect("a floor for every number of flows");
            let (insns, jited_bytes) = row.size();
            Figures {
                name: row.name.to_owned(),
                flows: row.flows,
                servers: row.servers,
                vips: row.vips,
                ns_min: rounded(row.rounds.iter().copied().fold(f64::INFINITY, f64::min)),
                ns_median: rounded(ns_median),
                ns_max: rounded(row.rounds.iter().copied().fold(0.0, f64::max)),
                ratio_to_floor: rounded(ns_median / floor),
                insns,
                jited_bytes,
            }
        };
        Self { rows: rows.iter_mut().map(figures).collect() }
    }

    /// The table for people.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written.
    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<18} {:>8} {:>7} {:>5} {:>9} {:>9} {:>9} {:>9} {:>6} {:>7}",
            "row", "flows", "servers", "vips", "ns min", "median", "max", "to floor", "insns", "bytes"
        )?;
        for r in &self.rows {
            writeln!(
                out,
                "{:<18} {:>8} {:>7} {:>5} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>6} {:>7}",
                r.name,
                r.flows,
                r.servers,
                r.vips,
                r.ns_min,
                r.ns_median,
                r.ns_max,
                r.ratio_to_floor,
                r.insns,
                r.jited_bytes
            )?;
        }
        Ok(())
    }
}

/// Puts figures under a key of the report at `path`, and leaves what else is there.
///
/// # Errors
///
/// When the file is not a report, or cannot be written.
pub fn keep(path: &Path, key: &str, figures: &impl Serialize) -> Result<()> {
    let mut report: Map<String, Value> = match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is no report of a benchmark; remove it", path.display()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    report.insert(key.to_owned(), serde_json::to_value(figures)?);
    fs::write(path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_beside_what_is_there() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("bench.json");
        keep(&path, "rows", &[1]).unwrap();
        keep(&path, "live", &"x").unwrap();
        keep(&path, "rows", &[2]).unwrap();
        let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(report, serde_json::json!({ "rows": [2], "live": "x" }));
        fs::write(&path, "[]").unwrap();
        assert!(keep(&path, "rows", &[3]).unwrap_err().to_string().contains("no report"));
    }

    #[test]
    fn the_median_is_the_middle_of_an_odd_number() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[5.0]), 5.0);
    }
}
