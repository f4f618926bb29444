//! iperf3: streams in both directions at once, and what arrived of them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use super::{proc::Proc, topology::Host};

/// An iperf3 server: a control connection, then data over TCP or UDP, all on one port.
#[derive(Debug)]
pub struct IperfServer {
    proc: Proc,
}

/// What arrived of a run, towards the server and towards the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// Bytes.
    pub bytes: [u64; 2],
    /// Datagrams lost, in percent; 0 for TCP.
    pub lost_percent: [f64; 2],
}

impl IperfServer {
    /// Listens on `address`; datagrams are answered from there.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(host: &Host, address: SocketAddr) -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut command = host.netns.command("iperf3");
        command.args(["-s", "--forceflush", "-B", &ip, "-p", &port]);
        // A log of its own: what it says of peers, and that it listens, must not be another's.
        let name = format!("iperf3-{}-{}", host.name, SERVERS.fetch_add(1, Ordering::Relaxed));
        let mut proc = Proc::spawn(&name, &host.netns, host.lab_dir(), &mut command);
        proc.wait_ready(|proc| proc.log_text().contains("Server listening"));
        Self { proc }
    }

    /// Addresses that control connections came from.
    #[must_use]
    pub fn peers(&self) -> Vec<IpAddr> {
        let log = self.proc.log_text();
        log.lines()
            .filter_map(|line| {
                line.strip_prefix("Accepted connection from ")?.split(',').next()?.parse().ok()
            })
            .collect()
    }
}

/// A second of TCP in both directions.
///
/// # Panics
///
/// When iperf3 fails.
#[must_use]
#[track_caller]
pub fn tcp(client: &Host, to: SocketAddr) -> Streams {
    let end = run(client, to, &[]);
    let count = |name: &str| end[name]["bytes"].as_u64().unwrap_or(0);
    Streams { bytes: [count("sum_received"), count("sum_received_bidir_reverse")], lost_percent: [0.0, 0.0] }
}

/// A second of UDP in both directions, some 400 datagrams each: few enough to wait in a socket while a busy machine
/// lets the receiver wait.
///
/// # Panics
///
/// When iperf3 fails.
#[must_use]
#[track_caller]
pub fn udp(client: &Host, to: SocketAddr) -> Streams {
    let end = run(client, to, &["-u", "-b", "4M", "-l", "1200"]);
    let sums = ["sum", "sum_bidir_reverse"].map(|name| &end[name]);
    Streams {
        bytes: sums.map(|sum| sum["bytes"].as_u64().unwrap_or(0)),
        lost_percent: sums.map(|sum| sum["lost_percent"].as_f64().unwrap_or(100.0)),
    }
}

/// The part `end` of the client's report.
#[track_caller]
fn run(client: &Host, to: SocketAddr, args: &[&str]) -> Value {
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let common = ["-c", &ip, "-p", &port, "-t", "1", "--bidir", "-J", "--connect-timeout", "5000"];
    let run = client.run("iperf3", &[&common, args].concat()).expect_success();
    let mut report: Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("`{}` gave no JSON: {error}: {}", run.command, run.stdout));
    report["end"].take()
}
