//! Connections per second and bulk transfer between real programs at both ends of a line.
//!
//! Client and server share the machine with the box and are most of the cost; what differs between the ways is
//! smaller here than in the cost of a packet. Offloads are off at both ends: with them the kernel's own ways move
//! frames of 64 KiB where XDP sees each of 1,500 bytes, and the figure would be one of segmentation offload.

use std::{
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use aya::Ebpf;
use lb_common::service::mode;
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    line::{ENTRY, EXIT, FAR, Line, NEAR, SERVER_PORT, VIP, VIP_PORT, ethtool},
    ways::{PASS, Way, attached, by_the_kernel, ours},
};
use crate::{
    lab::{
        Netns, Proc,
        proc::{Finished, finish, wait_until},
    },
    packet::dut::Dut,
};

/// Figures of a way.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Name of the way.
    pub name: &'static str,
    /// Connections per second, one request on each: median of the rounds.
    pub connections_per_second: f64,
    /// Gigabits per second over one connection: median of the rounds.
    pub gbit_per_second: f64,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds over all ways.
    pub rounds: usize,
    /// Seconds of each way in a round, for connections and for bulk.
    pub seconds: u32,
}

/// The cable by which replies of direct routing go past the box, at either end.
const PAST: &str = "past";

/// Measures these ways, all in turn in every round.
///
/// # Panics
///
/// When a part does not start, or a program reports an error.
#[must_use]
pub fn measure(ways: &[Way], extent: Extent) -> Vec<Figures> {
    let mut roads: Vec<Road> = ways.iter().map(|way| Road::new(*way)).collect();
    roads.iter_mut().for_each(Road::serve_http);
    let connections = rounds(&roads, extent, Road::connections_per_second);
    roads.iter_mut().for_each(Road::serve_bulk);
    let gbits = rounds(&roads, extent, Road::gbit_per_second);
    roads
        .iter()
        .zip(connections.into_iter().zip(gbits))
        .map(|(road, (connections_per_second, gbit_per_second))| Figures {
            name: road.way.name(),
            connections_per_second,
            gbit_per_second,
        })
        .collect()
}

fn rounds(roads: &[Road], extent: Extent, figure: impl Fn(&Road, u32) -> f64) -> Vec<f64> {
    let mut figures = vec![Vec::new(); roads.len()];
    for _ in 0..extent.rounds {
        for (road, figures) in roads.iter().zip(&mut figures) {
            figures.push(figure(road, extent.seconds));
        }
    }
    figures
        .into_iter()
        .map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        })
        .collect()
}

/// A line with programs at its ends. Fields are dropped in this order.
struct Road {
    way: Way,
    server: Option<Proc>,
    _proxy: Option<Proc>,
    _ours: Option<Dut>,
    /// At both ends, and where the kernel forwards: what a veth needs to take frames from XDP.
    _pass: Vec<Ebpf>,
    line: Line,
    dir: TempDir,
}

impl Road {
    fn new(way: Way) -> Self {
        let line = Line::new();
        let dir = TempDir::new().unwrap_or_else(|e| panic!("cannot make a directory: {e}"));
        for netns in [&line.near, &line.middle] {
            netns.sysctls(&[("net/ipv4/ip_local_port_range", "1024 65535"), ("net/ipv4/tcp_tw_reuse", "1")]);
        }
        line.near.ip(&format!("route add default via {}", ENTRY.ip));
        line.far.ip(&format!("route add default via {}", EXIT.ip));
        let mut pass =
            vec![attached(PASS, "pass", &line.near, &[NEAR]), attached(PASS, "pass", &line.far, &[FAR])];
        let mut proxy = None;
        let mut dut = None;
        match way {
            Way::Direct => {
                line.far.ip(&format!("addr add {VIP}/32 dev lo"));
                past_the_box(&line);
                dut = Some(ours(&line, mode::DR, EXIT, &[ENTRY]));
            }
            Way::Nat => dut = Some(ours(&line, mode::NAT, EXIT, &[ENTRY, EXIT])),
            Way::Snat => dut = Some(ours(&line, mode::SNAT, EXIT, &[ENTRY, EXIT])),
            Way::Route | Way::Nftables => {
                line.far.ip(&format!("addr add {VIP}/32 dev lo"));
                by_the_kernel(&line, way);
            }
            Way::Haproxy => proxy = Some(haproxy(&line.middle, dir.path())),
            Way::Drop | Way::Reflect | Way::Touch | Way::NatBack | Way::IpvsDirect | Way::IpvsNat => {
                panic!("no connection is made through {}", way.name())
            }
        }
        if dut.is_none() {
            pass.push(attached(PASS, "pass", &line.middle, &[ENTRY, EXIT]));
        }
        Self { way, server: None, _proxy: proxy, _ours: dut, _pass: pass, line, dir }
    }

    /// Port that the server sees.
    const fn port(&self) -> u16 {
        if matches!(self.way, Way::Direct | Way::Route) { VIP_PORT } else { SERVER_PORT }
    }

    fn serve_http(&mut self) {
        let conf = self.dir.path().join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; user root; pid {0}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; server {{ listen {1} backlog=4096; location / {{ return 200 ok; }} }} }}\n",
            self.dir.path().display(),
            self.port()
        );
        fs::write(&conf, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", conf.display()));
        let mut command = self.line.far.command("nginx");
        command.arg("-e").arg("stderr").arg("-p").arg(self.dir.path()).arg("-c").arg(&conf);
        let mut server = Proc::spawn("nginx", &self.line.far, self.dir.path(), &mut command);
        let vip = SocketAddr::from((VIP, VIP_PORT));
        server.wait_ready(|_| {
            self.line.near.enter(|| TcpStream::connect_timeout(&vip, Duration::from_millis(200)).is_ok())
        });
        self.server = Some(server);
    }

    fn serve_bulk(&mut self) {
        self.server = None;
        let mut command = self.line.far.command("iperf3");
        command.args(["-s", "--forceflush", "-p", &self.port().to_string()]);
        let mut server = Proc::spawn("iperf3", &self.line.far, self.dir.path(), &mut command);
        // It takes whoever connects for a client that measures, so it is not asked.
        server.wait_ready(|server| server.log_text().contains("Server listening"));
        self.server = Some(server);
    }

    fn connections_per_second(&self, seconds: u32) -> f64 {
        let said = self.ask(
            "wrk",
            &["-t1", "-c64", &format!("-d{seconds}s"), "-H", "Connection: close", &format!("http://{VIP}/")],
        );
        let rate =
            said.stdout.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("{}: no rate in what wrk said:\n{}", self.way.name(), said.stdout))
    }

    fn gbit_per_second(&self, seconds: u32) -> f64 {
        let port = VIP_PORT.to_string();
        let said =
            self.ask("iperf3", &["-c", &VIP.to_string(), "-p", &port, "-t", &seconds.to_string(), "-J"]);
        let report: Value = serde_json::from_str(&said.stdout)
            .unwrap_or_else(|e| panic!("{}: iperf3 speaks no JSON: {e}", self.way.name()));
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        bits.unwrap_or_else(|| panic!("{}: no rate in what iperf3 said:\n{}", self.way.name(), said.stdout))
            / 1e9
    }

    fn ask(&self, program: &str, args: &[&str]) -> Finished {
        let mut command = self.line.near.command("timeout");
        finish(command.args(["-k", "1", "30", program]).args(args)).expect_success()
    }
}

/// A cable between client and server that replies take.
fn past_the_box(line: &Line) {
    line.far.ip(&format!(
        "link add {PAST} address 02:00:09:00:01:04 type veth peer name {PAST} address 02:00:09:00:01:01 netns {}",
        line.near.name()
    ));
    for netns in [&line.near, &line.far] {
        ethtool(netns, PAST, "tx off tso off gso off gro off");
        netns.ip(&format!("link set {PAST} up"));
    }
    line.far.ip(&format!(
        "route add {0}/32 dev {PAST}
         neigh replace {0} lladdr 02:00:09:00:01:01 dev {PAST} nud permanent",
        NEAR.ip
    ));
}

fn haproxy(netns: &Netns, dir: &Path) -> Proc {
    netns.ip(&format!("addr add {VIP}/32 dev lo"));
    let conf = dir.join("haproxy.cfg");
    let text = format!(
        "global\n    maxconn 4000\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 30s\n    \
         timeout server 30s\nlisten vip\n    bind {VIP}:{VIP_PORT}\n    server far {}:{SERVER_PORT}\n",
        FAR.ip
    );
    fs::write(&conf, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", conf.display()));
    let mut command = netns.command("haproxy");
    command.arg("-db").arg("-f").arg(&conf);
    let mut proxy = Proc::spawn("haproxy", netns, dir, &mut command);
    let vip = SocketAddr::from((VIP, VIP_PORT));
    wait_until(Duration::from_secs(10), "haproxy listens", || {
        assert!(proxy.ended().is_none(), "haproxy ended:\n{}", proxy.log_text());
        netns.enter(|| TcpStream::connect_timeout(&vip, Duration::from_millis(200)).is_ok())
    });
    proxy
}

/// The table for people.
///
/// # Errors
///
/// When `out` cannot be written.
pub fn write_table(figures: &[Figures], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<18} {:>14} {:>10}", "way", "connections/s", "Gbit/s")?;
    for way in figures {
        writeln!(out, "{:<18} {:>14.0} {:>10.2}", way.name, way.connections_per_second, way.gbit_per_second)?;
    }
    Ok(())
}
