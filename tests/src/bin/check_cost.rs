//! Measures what checks cost this machine: the real engine against servers in another process, beside a bare loop of the
//! same system calls, which is the floor.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command for people")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use lb_ctl::{
    health::{Connections, apart},
    model::{
        check::Check,
        health::{HealthMap, RipId, Target, Targets, Verdict},
    },
};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};

/// CPU time of connect checks, in per cent of one core.
#[derive(Parser)]
struct Args {
    /// Servers, each an address of its own on loopback (127.1.0.0 and up).
    #[arg(long, default_value_t = 2000)]
    servers: u32,
    /// Seconds between the checks of a server.
    #[arg(long, default_value_t = 1)]
    interval: u64,
    /// Seconds that are measured, after all servers are up.
    #[arg(long, default_value_t = 20)]
    secs: u64,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Listens for all servers, says on which port, and ends when its standard input does.
    Servers,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if matches!(args.role, Some(Role::Servers)) {
        return serve();
    }
    let servers = Servers::start()?;
    let floor = floor(&args, servers.port)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let engine = runtime.block_on(engine(&args, servers.port))?;
    println!("{} servers, connect every {} s, over {} s", args.servers, args.interval, args.secs);
    println!("bare loop    {:6.1} us of CPU per check", floor * 1e6);
    let Measured { cpu, checks } = engine;
    let each = cpu.as_secs_f64() / f64::from(checks);
    println!("engine       {:6.1} us of CPU per check, {checks} checks", each * 1e6);
    println!("engine       {:6.1} % of a core", cpu.as_secs_f64() * 100.0 / args.secs as f64);
    Ok(())
}

fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot listen")?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    // No check gets as far as the accept queue: the kernel answers for the server.
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// The servers' process; it ends when this is dropped, with its standard input.
struct Servers {
    child: Child,
    port: u16,
}

impl Servers {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("servers")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the servers")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output of the servers")?).read_line(&mut line)?;
        let port = line.trim().parse().context("the servers' port")?;
        Ok(Self { child, port })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing is left to do about a process that cannot be waited for.
        let _ended = self.child.wait();
    }
}

fn addr(n: u32, port: u16) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + n), port).into()
}

/// Seconds of CPU that one connection costs which is opened and reset the way that checks do it, and nothing else.
fn floor(args: &Args, port: u16) -> Result<f64> {
    let rounds = 5;
    let before = cpu();
    for n in (0..rounds).flat_map(|_| 0..args.servers) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect(&addr(n, port).into())?;
    }
    Ok((cpu() - before).as_secs_f64() / f64::from(rounds * args.servers))
}

struct Measured {
    cpu: Duration,
    checks: u32,
}

async fn engine(args: &Args, port: u16) -> Result<Measured> {
    let target = |n: u32| {
        let check = Check { interval: Duration::from_secs(args.interval), ..Check::default() };
        Target::new(RipId { vip: "BENCH".to_owned(), rip: format!("S{n}") }, addr(n, port), check)
    };
    let targets: Targets = (0..args.servers).map(target).collect();
    let (_targets, targets) = watch::channel(targets);
    let (health, mut published) = watch::channel(HealthMap::new());
    let (_syn_repeats, syn_repeats) = watch::channel(Arc::default());
    let (_runs, runs) = mpsc::channel(1);
    let (transitions, _history) = mpsc::channel(1 << 16);
    let (stop, stopped) = oneshot::channel::<()>();
    let connections = Connections { targets, health, syn_repeats, runs, transitions };
    let engine = tokio::spawn(apart::run(connections, async {
        let _sender_gone = stopped.await;
    }));
    let all_up = |map: &HealthMap| {
        map.len() == args.servers as usize && map.values().all(|health| health.verdict == Verdict::Up)
    };
    let up = tokio::time::timeout(Duration::from_secs(60), published.wait_for(all_up)).await;
    ensure!(up.is_ok(), "not all servers came up within 60 s");
    drop(up);

    let (opened_before, before, started) = (connections_opened()?, cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(args.secs)).await;
    let (opened, after, elapsed) = (connections_opened()?, cpu(), started.elapsed());
    let checks = opened - opened_before;
    let wanted = f64::from(args.servers) * elapsed.as_secs_f64() / args.interval as f64;
    ensure!(f64::from(checks) >= wanted * 0.99, "only {checks} of {wanted:.0} checks were made");
    if !all_up(&published.borrow()) {
        bail!("a server that was there went down");
    }
    drop(stop);
    engine.await??;
    Ok(Measured { cpu: after - before, checks })
}

/// CPU time of this process, user and system.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let whole = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(whole, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Connections that were opened in this network namespace since it began.
fn connections_opened() -> Result<u32> {
    let text = std::fs::read_to_string("/proc/self/net/snmp").context("cannot read /proc/self/net/snmp")?;
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
    let opened = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ActiveOpens");
    let (_, value) = opened.context("no ActiveOpens in /proc/self/net/snmp")?;
    Ok(value.parse()?)
}
