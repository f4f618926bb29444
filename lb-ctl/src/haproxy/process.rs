//! The proxy's process: a master that lbd starts, that its workers answer to, and that outlives lbd.
#![forbid(unsafe_code)]

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::process::{Resource, Signal, WaitOptions, getrlimit, kill_process, waitpid};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    blame::{first_alert, last_alert},
    files,
    render::{self, Places},
    rules,
    runtime::{Master, Workers, pid},
    version,
};
use crate::{companion::Companion, model::proxied::Proxies};

/// Time that the proxy has to begin, or to begin anew: certificates and thousands of ports are read in it.
const BEGIN: Duration = Duration::from_secs(15);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// Time that it has to end when it is told to.
const END: Duration = Duration::from_secs(5);
/// A process that is reloaded earlier than this after it began forgets its stick tables: it asks the process before it for
/// them, and gives them on only once that is over (measured with 2.6: lost at 3 s, kept at 6 s).
const TABLES_SETTLE: Duration = Duration::from_secs(6);
/// Whole seconds after a reload in which a new process may not have heard yet who is remembered.
const LEARNS_SECS: u64 = 2;
/// What its log may grow to; only what it said last is of use.
const LOG_BYTES: u64 = 1 << 20;

/// What the proxy runs by.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// Everything.
    pub(super) proxies: Arc<Proxies>,
    /// All of it that a running proxy cannot be told.
    pub(super) neutral: String,
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.neutral == other.neutral
    }
}

/// The one proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    places: Places,
    master: Master,
    process: Option<Identity>,
    /// The process, when it is a child of ours; another daemon may have started it.
    child: Option<Child>,
    /// Workers whose master is gone: they may be ours to wait for.
    orphans: Vec<i32>,
    workers: Vec<i32>,
    began: Instant,
}

/// A process that cannot be taken for another that has got its number since.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    pid: i32,
    started: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold anything, also a parenthesis; fields 3 and 22 of proc_pid_stat(5) come after it.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, started })
    }

    fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) -> io::Result<()> {
        match pid(self.pid).filter(|_| self.lives()) {
            Some(pid) => Ok(kill_process(pid, signal)?),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Proxy {
    pub(super) fn new(places: Places) -> Self {
        let master = Master::new(&places);
        Self {
            places,
            master,
            process: None,
            child: None,
            orphans: Vec::new(),
            workers: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Takes over a proxy that a daemon before this one has left, and gives what it runs by.
    pub(super) async fn adopt(&mut self) -> Option<Config> {
        let workers = self.master.workers().await.ok()?;
        workers.present?;
        self.process = Some(Identity::of(workers.master)?);
        self.note(&workers);
        let neutral = fs::read_to_string(self.places.running()).unwrap_or_default();
        tracing::info!("took over haproxy, process {}", workers.master);
        Some(Config { proxies: Arc::default(), neutral })
    }

    /// Which processes there are now.
    pub(super) async fn workers(&mut self) -> io::Result<Workers> {
        let workers = self.master.workers().await?;
        self.note(&workers);
        Ok(workers)
    }

    fn note(&mut self, workers: &Workers) {
        self.workers = workers.all().map(|worker| worker.pid).collect();
    }

    /// Waits for workers that came to us when their master was killed, so that they do not stay as the dead that nobody
    /// has asked for.
    fn reap(&mut self) {
        self.orphans.retain(|worker| {
            let waited = pid(*worker).map(|worker| waitpid(Some(worker), WaitOptions::NOHANG));
            matches!(waited, Some(Ok(None)))
        });
    }

    /// Ends whatever still runs by our files and does not answer.
    async fn evict(&self) -> Result<(), String> {
        let Some(left) = found(&self.places) else { return Ok(()) };
        end(left).await.map_err(|error| format!("haproxy, process {}, does not end: {error}", left.pid))
    }

    fn write_config(&self, text: &str) -> Result<(), String> {
        let path = self.places.config();
        files::write(&path, text.as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// Notes what the process runs by, for the daemon after this one.
    fn write_running(&self, config: &Config) {
        let path = self.places.running();
        if let Err(error) = files::write(&path, config.neutral.as_bytes()) {
            tracing::warn!("cannot write {}: {error}; the next lbd will reload haproxy once", path.display());
        }
    }

    fn said(&self) -> String {
        fs::read(self.places.start_log()).map_or_else(
            |error| format!("[ALERT] () : {}: {error}", self.places.start_log().display()),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn why(&self) -> String {
        let said = self.said();
        first_alert(&said).map_or_else(|| "it said nothing".to_owned(), ToOwned::to_owned)
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(self.places.start_log())?;
        log.set_len(0)?;
        let mut socket = self.places.master_socket().into_os_string();
        socket.push(",mode,600");
        // A session of its own: what ends a terminal, or the daemon's process group, is nothing to it.
        let mut command = Command::new("setsid");
        command.arg(version::PROGRAM).arg("-W").arg("-S").arg(socket);
        command.arg("-f").arg(self.places.config()).arg("-p").arg(self.places.pid());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
        // What is meant for lbd (its place with systemd, its log filter) is not for what it starts.
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.spawn()
    }
}

/// Waits until a master that was started has a worker.
async fn begun(master: &Master, child: &mut Child) -> Result<Workers, String> {
    let number = child.id().and_then(|id| i32::try_from(id).ok());
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("it ended ({status})"));
        }
        if let Ok(workers) = master.workers().await
            && Some(workers.master) == number
            && workers.present.is_some()
        {
            return Ok(workers);
        }
        sleep(LOOK).await;
    }
}

/// Waits until a master has another worker, or has tried in vain; `None` = it is gone. Its socket is closed for a moment
/// while it begins anew.
async fn reloaded(master: &Master, process: Identity, before: &Workers) -> Option<Workers> {
    while process.lives() {
        if let Ok(now) = master.workers().await {
            let another = now.present.is_some() && now.present != before.present;
            if another || (now.reloads > before.reloads && now.failed > 0) {
                return Some(now);
            }
        }
        sleep(LOOK).await;
    }
    None
}

impl Companion for Proxy {
    type Config = Config;

    async fn check(&mut self, config: &Config) -> Result<(), String> {
        version::installed().await?;
        let path = self.places.candidate();
        let text = render::render(&config.proxies, &self.places).text;
        if let Some(fault) = rules::faults(&text).first() {
            return Err(fault.to_string());
        }
        // First what only we look for: a raw line that begins a section would have the proxy blame another one.
        if let Some(fault) = rules::faults(&text).first() {
            return Err(fault.to_string());
        }
        files::write(&path, text.as_bytes())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        let mut command = Command::new(version::PROGRAM);
        command.arg("-c").arg("-f").arg(&path).stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(BEGIN, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(format!("haproxy cannot be run: {error}")),
            Err(_elapsed) => {
                return Err(format!("`haproxy -c` did not end within {} s", BEGIN.as_secs()));
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(first_alert(&said)
            .map_or_else(|| format!("`haproxy -c` failed: {}", output.status), ToOwned::to_owned))
    }

    async fn start(&mut self, config: &Config) -> Result<(), String> {
        self.evict().await?;
        self.write_config(&render::render(&config.proxies, &self.places).text)?;
        let mut child = self.spawn().map_err(|error| format!("haproxy cannot be started: {error}"))?;
        let begun = timeout(BEGIN, begun(&self.master, &mut child)).await;
        match begun {
            Ok(Ok(workers)) => {
                self.process = Identity::of(workers.master);
                self.note(&workers);
                self.child = Some(child);
                self.began = Instant::now();
                self.write_running(config);
                tracing::info!("haproxy runs, process {}", workers.master);
                Ok(())
            }
            Ok(Err(ended)) => Err(format!("haproxy does not start: {}; {ended}", self.why())),
            Err(_elapsed) => {
                // It hangs; whoever comes next begins with an empty table.
                let _ = child.kill().await;
                Err(format!("haproxy does not start within {} s: {}", BEGIN.as_secs(), self.why()))
            }
        }
    }

    async fn reload(&mut self, config: &Config) -> Result<(), String> {
        let before =
            self.master.workers().await.map_err(|error| format!("haproxy does not answer: {error}"))?;
        let process = self.process.ok_or_else(|| "haproxy is gone".to_owned())?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let learns_until = now.as_secs() + LEARNS_SECS;
        self.write_config(&render::successor(&config.proxies, &self.places, learns_until).text)?;
        let said = self.said().len();
        process.signal(Signal::USR2).map_err(|error| format!("haproxy cannot be told to reload: {error}"))?;
        let done = timeout(BEGIN, reloaded(&self.master, process, &before)).await;
        match done {
            Ok(Some(workers)) if workers.present != before.present => {
                self.note(&workers);
                self.began = Instant::now();
                self.write_running(config);
                Ok(())
            }
            Ok(Some(_)) => {
                let all = self.said();
                let why =
                    first_alert(all.get(said..).unwrap_or(&all)).unwrap_or("it does not say why").to_owned();
                Err(format!("haproxy goes on as before, the reload failed: {why}"))
            }
            Ok(None) => Err(format!("haproxy ended at a reload: {}", self.why())),
            Err(_elapsed) => Err(format!("haproxy has not reloaded within {} s", BEGIN.as_secs())),
        }
    }

    async fn retire(&mut self) {
        let Some(process) = self.process.take() else { return };
        // Connections that it has are finished first.
        if let Err(error) = process.signal(Signal::USR1) {
            tracing::warn!("haproxy, process {}, cannot be told to end: {error}", process.pid);
        }
        self.child = None;
        for path in [self.places.pid(), self.places.master_socket(), self.places.running()] {
            if let Err(error) = files::remove(&path) {
                tracing::warn!("cannot remove {}: {error}", path.display());
            }
        }
        tracing::info!(
            "haproxy, process {}, ends with its last connection: no layer-7 VIP is left",
            process.pid
        );
    }

    fn runs(&mut self) -> bool {
        self.reap();
        // A child that has ended is waited for here.
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
        if self.process.is_some_and(Identity::lives) {
            return true;
        }
        self.orphans.append(&mut self.workers);
        (self.process, self.child) = (None, None);
        false
    }

    async fn last_words(&self) -> String {
        let said = self.said();
        last_alert(&said)
            .map_or_else(|| "haproxy was killed".to_owned(), |words| format!("haproxy ended: {words}"))
    }

    async fn patience(&mut self) -> Duration {
        let rest = TABLES_SETTLE.saturating_sub(self.began.elapsed());
        if rest.is_zero() || self.remembers_nobody().await { Duration::ZERO } else { rest }
    }
}

impl Proxy {
    /// True when no table of any process holds an entry.
    async fn remembers_nobody(&self) -> bool {
        let Ok(workers) = self.master.workers().await else { return false };
        for worker in workers.all() {
            let Ok(text) = self.master.ask(worker.pid, &["show table"]).await else { return false };
            let mut tables = text.lines().filter(|line| line.starts_with("# table:"));
            if tables.any(|table| !table.trim_end().ends_with("used:0")) {
                return false;
            }
        }
        true
    }

    /// Keeps the log from growing for ever: the proxy tells each change of a server.
    pub(super) fn trim_log(&self) {
        let path = self.places.start_log();
        let trimmed = fs::metadata(&path).and_then(|found| {
            if found.len() > LOG_BYTES {
                fs::File::options().write(true).open(&path)?.set_len(0)
            } else {
                Ok(())
            }
        });
        if let Err(error) = trimmed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot shorten {}: {error}", path.display());
        }
    }
}

/// The most connections, up to those that are wanted, that this machine lets the proxy have. The proxy insists on two
/// descriptors for each of them and one for each port; some are for pipes and sockets.
pub(super) fn connections_allowed(proxies: &Proxies) -> u32 {
    const OTHERS: u64 = 200;
    let wanted = proxies.settings.max_connections;
    let ports: u64 = proxies.vips.iter().map(|desired| desired.vip.ports.keys().count() as u64 + 1).sum();
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if may_raise_limits() {
        return wanted;
    }
    let room = allowed.saturating_sub(ports + OTHERS) / 2;
    u32::try_from(room).map_or(wanted, |room| room.min(wanted))
}

/// CAP_SYS_RESOURCE (capabilities(7)) lifts limits.
fn may_raise_limits() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok())
        .is_some_and(|held| held >> SYS_RESOURCE & 1 == 1)
}

/// A master that runs by our files, by its pid file.
fn found(places: &Places) -> Option<Identity> {
    let number: i32 = fs::read_to_string(places.pid()).ok()?.trim().parse().ok()?;
    let arguments = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let config = places.config();
    let ours =
        arguments.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes());
    if ours { Identity::of(number) } else { None }
}

/// Ends a process, at the latest by force.
async fn end(process: Identity) -> io::Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        match process.signal(signal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        let gone = async {
            while process.lives() {
                sleep(LOOK).await;
            }
        };
        if timeout(END, gone).await.is_ok() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Ends a proxy that a daemon has left, and removes its files.
pub(super) async fn detach(places: &Places) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    let answering = Master::new(places).workers().await.ok().and_then(|workers| Identity::of(workers.master));
    if let Some(process) = answering.or_else(|| found(places)) {
        end(process)
            .await
            .map_err(|error| anyhow::anyhow!("haproxy, process {}, does not end: {error}", process.pid))?;
        removed.push(format!("ended haproxy, process {}", process.pid));
    }
    match fs::remove_dir_all(places.dir()) {
        Ok(()) => removed.push(format!("removed {}", places.dir().display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => anyhow::bail!("cannot remove {}: {error}", places.dir().display()),
    }
    Ok(removed)
}
