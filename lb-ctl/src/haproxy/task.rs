//! The task: what is wanted becomes a configuration and commands, and what the proxy does becomes [`Proxied`].
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{
    Ask, Connections, Forget,
    certs::{self, Gathered},
    choice::Choice,
    files,
    process::{Config, Proxy, connections_allowed},
    render,
    render::Places,
    runtime::{Master, Workers},
    states::{self, Server, Told},
    stats, tables,
};
use crate::{
    companion::{Stepped, Supervisor},
    model::{
        config::Vip,
        proxied::{Proxied, ProxiedVip, Proxies},
    },
    shutdown::Shutdown,
};

/// Between two looks whether the proxy runs.
const LOOK: Duration = Duration::from_millis(100);
/// Looks from one reading of the counters to the next.
const LOOKS_PER_COUNT: u32 = 10;
/// Looks from one reading of the certificates to the next.
const LOOKS_PER_GATHERING: u32 = 50;

/// Does it until shutdown.
pub(super) async fn run(to: Connections, places: Places, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut proxy = Proxy::new(places.clone());
    let running = proxy.adopt().await;
    let mut task = Task {
        master: Master::new(&places),
        places,
        supervisor: Supervisor::new(proxy, running),
        number: 0,
        wanted: Arc::default(),
        choice: Choice::default(),
        told: Told::new(),
        told_to: None,
        vips: BTreeMap::new(),
        problems: Problems::default(),
    };
    let Connections { mut goal, published, mut asks } = to;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0_u32;
    let mut ended = std::pin::pin!(shutdown.requested());
    loop {
        tokio::select! {
            () = &mut ended => return Ok(()),
            changed = goal.changed() => {
                changed?;
                let new = Arc::clone(&goal.borrow_and_update());
                (task.number, task.wanted) = (new.number, Arc::clone(&new.proxies));
                task.take().await?;
                task.step().await?;
                // What is shown is what came of it.
                task.count().await;
            }
            Some(ask) = asks.recv() => {
                task.answer(ask).await;
                continue;
            }
            _ = look.tick() => {
                looks = looks.wrapping_add(1);
                let renewed = task.step().await?;
                if renewed {
                    task.tell_states().await;
                } else if !looks.is_multiple_of(LOOKS_PER_COUNT) {
                    continue;
                }
                if looks.is_multiple_of(LOOKS_PER_GATHERING) && task.gather().await? {
                    task.step().await?;
                }
                task.count().await;
            }
        }
        let number = published.borrow().number;
        published.send_replace(Arc::new(task.proxied(number)));
    }
}

/// What is wrong, by what it is wrong with.
#[derive(Debug, Default)]
struct Problems {
    /// The configuration as a whole.
    config: Option<String>,
    /// Open files.
    room: Option<String>,
    /// Files of certificates.
    files: Option<String>,
    /// The running proxy.
    runtime: Option<String>,
}

struct Task {
    places: Places,
    master: Master,
    supervisor: Supervisor<Proxy>,
    number: u64,
    /// What should be.
    wanted: Arc<Proxies>,
    /// What of it can be.
    choice: Choice,
    /// What the worker `told_to` was told.
    told: Told,
    told_to: Option<i32>,
    vips: BTreeMap<String, ProxiedVip>,
    problems: Problems,
}

impl Task {
    /// What is shown. A goal that still waits for its reload is not there yet; `before` was.
    fn proxied(&self, before: u64) -> Proxied {
        let arrived = self.supervisor.settled()
            || self.supervisor.trouble().is_some()
            || self.problems.config.is_some();
        let trouble = self.supervisor.trouble().map(|why| format!("layer-7 VIPs: {why}; lbd keeps trying"));
        let problems = [
            &trouble,
            &self.problems.config,
            &self.problems.room,
            &self.problems.files,
            &self.problems.runtime,
        ];
        Proxied {
            number: if arrived { self.number } else { before },
            problems: problems.into_iter().flatten().cloned().collect(),
            refused: self.choice.refused().clone(),
            vips: self.vips.clone(),
        }
    }

    /// Makes what is wanted what the proxy should run by.
    async fn take(&mut self) -> anyhow::Result<()> {
        if self.wanted.vips.is_empty() {
            self.choice = Choice::default();
            self.problems = Problems::default();
            // Nothing is nothing that could be refused.
            let _ = self.supervisor.want(None).await;
            return Ok(());
        }
        self.gather().await.map(|_changed| ())
    }

    /// Reads the certificates, and makes of them and of what is wanted what the proxy should run by. True when a reload
    /// may be due for it.
    async fn gather(&mut self) -> anyhow::Result<bool> {
        if self.wanted.vips.is_empty() {
            return Ok(false);
        }
        let (wanted, places) = (Arc::clone(&self.wanted), self.places.clone());
        let (gathered, written) = spawn_blocking(move || {
            let gathered = certs::gather(&wanted);
            let written = files::put_certificates(&places, &gathered);
            (gathered, written)
        })
        .await?;
        self.problems.files = None;
        match written {
            Ok(changed) if changed.is_empty() => {}
            Ok(changed) => {
                // What was refused with the old ones may do with these.
                self.choice.judge_anew();
                self.swap(&changed, &gathered).await;
            }
            Err(error) => {
                let text =
                    format!("cannot write certificates below {}: {error}", self.places.dir().display());
                self.problems.files = Some(text);
            }
        }
        self.choose(&gathered).await;
        Ok(!self.supervisor.settled())
    }

    /// Offers the proxy what is wanted, without the VIPs that it refuses: those go on as they were, or are left out.
    async fn choose(&mut self, gathered: &Gathered) {
        self.choice.begin(&gathered.refused, &self.wanted);
        // Each round leaves a VIP out, or puts its former self in its place.
        for _ in 0..=self.wanted.vips.len() * 2 {
            let mut chosen = self.choice.chosen(&self.wanted);
            self.problems.room = lower_connections(&mut chosen);
            let chosen = Arc::new(chosen);
            if chosen.vips.is_empty() {
                self.problems.config = None;
                let _ = self.supervisor.want(None).await;
                return;
            }
            let neutral = render::neutral(&chosen, &self.places);
            let config = Config { proxies: Arc::clone(&chosen), neutral };
            let Err(why) = self.supervisor.want(Some(config)).await else {
                self.choice.accepted(&chosen);
                self.problems.config = None;
                return;
            };
            let text = render::render(&chosen, &self.places).text;
            if !self.choice.refuse(&why, &text, &chosen) {
                let goes_on = if self.supervisor.is_running() { "; it goes on as before" } else { "" };
                self.problems.config = Some(format!("layer-7 VIPs: {why}{goes_on}"));
                return;
            }
        }
    }

    /// Does what is due with the process. True when it has begun anew.
    async fn step(&mut self) -> anyhow::Result<bool> {
        if self.number == 0 {
            // Nothing is known to be wanted yet, which is not the same as nothing: a proxy that was taken over goes on.
            return Ok(false);
        }
        match self.supervisor.step().await {
            Stepped::Nothing => Ok(false),
            Stepped::Retired => {
                (self.told, self.told_to) = (Told::new(), None);
                self.vips.clear();
                Ok(false)
            }
            Stepped::Renewed => {
                let (wanted, places) = (Arc::clone(&self.wanted), self.places.clone());
                let removed =
                    spawn_blocking(move || files::remove_certificates_but_those_of(&wanted, &places)).await?;
                if let Err(error) = removed {
                    tracing::warn!("cannot remove certificates that nothing names any more: {error}");
                }
                Ok(true)
            }
        }
    }

    /// What each server of the running proxy may do: as wanted, if the proxy runs by it already.
    fn states(&self) -> Option<Told> {
        let running = self.supervisor.running()?;
        let mut states = states::wanted(&running.proxies);
        let wanted = states::wanted(&self.wanted);
        for (server, service) in &mut states {
            if let Some(now) = wanted.get(server) {
                *service = *now;
            }
        }
        Some(states)
    }

    async fn tell_states(&mut self) {
        self.problems.runtime = match self.try_to_tell_states().await {
            Ok(()) => None,
            Err(error) => Some(format!(
                "haproxy does not take what its servers should do: {error}; lbd keeps trying, see {}",
                self.places.start_log().display()
            )),
        };
    }

    async fn try_to_tell_states(&mut self) -> io::Result<()> {
        let Some(states) = self.states() else { return Ok(()) };
        let same_worker = self.told_to.is_some();
        if same_worker && self.told == states {
            return Ok(());
        }
        let workers = self.supervisor.program().workers().await?;
        let Some(present) = workers.present else { return Ok(()) };
        if self.told_to != Some(present.pid) {
            (self.told, self.told_to) = (Told::new(), None);
        }
        self.master.order(present.pid, &states::commands(&self.told, &states)).await?;
        let ending: Vec<Server> = states::ending(&self.told, &states).cloned().collect();
        self.end_sessions(&workers, &ending).await?;
        let forgotten: BTreeSet<Server> = states::forgotten(&self.told, &states).cloned().collect();
        self.forget_servers(present.pid, &forgotten).await?;
        (self.told, self.told_to) = (states, Some(present.pid));
        Ok(())
    }

    /// Ends connections to servers, in every process.
    async fn end_sessions(&self, workers: &Workers, servers: &[Server]) -> io::Result<()> {
        if servers.is_empty() {
            return Ok(());
        }
        if let Some(present) = workers.present {
            let commands: Vec<String> = servers
                .iter()
                .map(|(section, name)| format!("shutdown sessions server {section}/{name}"))
                .collect();
            self.master.order(present.pid, &commands).await?;
        }
        for old in &workers.old {
            // An old worker takes its servers for switched off, so each session is named. One may have ended by now, with
            // its worker.
            let Ok(text) = self.master.ask(old.pid, &["show sess"]).await else { continue };
            let commands: Vec<String> = servers
                .iter()
                .flat_map(|server| states::sessions(&text, server))
                .map(|session| format!("shutdown session {session}"))
                .collect();
            if let Err(error) = self.master.order(old.pid, &commands).await {
                tracing::debug!("old haproxy worker {}: {error}", old.pid);
            }
        }
        Ok(())
    }

    /// Forgets who was sent to servers that take nothing any more.
    async fn forget_servers(&self, worker: i32, servers: &BTreeSet<Server>) -> io::Result<()> {
        for desired in self.supervisor.running().into_iter().flat_map(|config| &config.proxies.vips) {
            let vip = &desired.vip;
            for rip in &vip.rips {
                let server = (render::section_name(&vip.name, rip.pool.as_deref()), rip.name.clone());
                if servers.contains(&server) {
                    tables::forget(&self.master, worker, vip, Some(&rip.name), None).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads the counters of every process, and tells again what did not arrive.
    async fn count(&mut self) {
        self.supervisor.program().trim_log();
        if self.supervisor.running().is_none() {
            self.vips.clear();
            return;
        }
        self.tell_states().await;
        match self.try_to_count().await {
            Ok(()) => {}
            Err(error) => {
                self.vips.clear();
                self.problems.runtime = Some(format!(
                    "haproxy does not say what it does: {error}; see {}",
                    self.places.start_log().display()
                ));
            }
        }
    }

    async fn try_to_count(&mut self) -> io::Result<()> {
        let workers = self.supervisor.program().workers().await?;
        let Some(present) = workers.present else { return Err(io::Error::other("it has no worker")) };
        let here = stats::parse(&self.master.ask(present.pid, &["show stat"]).await?);
        let mut old = Vec::new();
        for worker in &workers.old {
            // One that has just finished says nothing, and has nothing left.
            let text = self.master.ask(worker.pid, &["show stat"]).await.unwrap_or_default();
            old.push(stats::parse(&text));
        }
        let running = self.supervisor.running().map(|config| Arc::clone(&config.proxies)).unwrap_or_default();
        self.vips = stats::fold(&running.vips, &here, &old);
        if self.told_to == Some(present.pid) {
            let lasting = self.sessions_that_should_end(&running);
            self.end_sessions(&workers, &lasting).await?;
        } else {
            self.told_to = None;
        }
        Ok(())
    }

    /// Servers whose connections were ended, and that have some all the same: they were about to begin.
    fn sessions_that_should_end(&self, running: &Proxies) -> Vec<Server> {
        let mut lasting = Vec::new();
        for desired in &running.vips {
            let Some(shown) = self.vips.get(&desired.vip.name) else { continue };
            for rip in &desired.vip.rips {
                let server = (render::section_name(&desired.vip.name, rip.pool.as_deref()), rip.name.clone());
                let ends = self.told.get(&server).is_some_and(|service| service.ends_sessions);
                if ends && shown.servers.get(&rip.name).is_some_and(|server| server.connections > 0) {
                    lasting.push(server);
                }
            }
        }
        lasting
    }

    /// Gives the running proxy certificates that have changed. What it does not take is for a reload.
    async fn swap(&mut self, changed: &[PathBuf], gathered: &Gathered) {
        if self.supervisor.running().is_none() {
            return;
        }
        for name in changed {
            let Some(bytes) = gathered.files.get(name) else { continue };
            match self.try_to_swap(name, bytes).await {
                Ok(()) => tracing::info!("haproxy has taken the new {}", name.display()),
                Err(error) => {
                    tracing::warn!(
                        "haproxy does not take the new {} as it runs: {error}; it is reloaded",
                        name.display()
                    );
                    self.supervisor.renew();
                }
            }
        }
    }

    async fn try_to_swap(&mut self, name: &PathBuf, bytes: &[u8]) -> io::Result<()> {
        let Some(present) = self.supervisor.program().workers().await?.present else {
            return Err(io::Error::other("it has no worker"));
        };
        let kind = if name.starts_with("ca") { "ca-file" } else { "cert" };
        let file = self.places.dir().join(name);
        let payload = String::from_utf8_lossy(bytes);
        let given =
            self.master.give(present.pid, &format!("set ssl {kind} {}", file.display()), &payload).await?;
        if !given.to_ascii_lowercase().contains("transaction ") {
            return Err(io::Error::other(given.trim().to_owned()));
        }
        let done = self.master.ask(present.pid, &[format!("commit ssl {kind} {}", file.display())]).await?;
        if done.contains("Success!") { Ok(()) } else { Err(io::Error::other(done.trim().to_owned())) }
    }

    async fn answer(&mut self, ask: Ask) {
        // Who has gone away does not want the answer any more.
        match ask {
            Ask::Entries(vip, reply) => {
                let answer = match self.remembering(&vip).await {
                    Ok((vip, worker)) => tables::entries(&self.master, worker, &vip).await.map_err(silent),
                    Err(why) => Err(why),
                };
                let _ = reply.send(answer);
            }
            Ask::Forget(Forget { vip, rip, key }, reply) => {
                let answer = match self.remembering(&vip).await {
                    Ok((vip, worker)) => {
                        let (rip, key) = (rip.as_deref(), key.as_deref());
                        tables::forget(&self.master, worker, &vip, rip, key).await.map_err(silent)
                    }
                    Err(why) => Err(why),
                };
                let _ = reply.send(answer);
            }
        }
    }

    /// A VIP as it is served, and the worker that knows whom it remembers.
    async fn remembering(&mut self, name: &str) -> Result<(Vip, i32), String> {
        let not_served = || format!("VIP {name} is not in the proxy: see `lbctl status`");
        let running = self.supervisor.running().ok_or_else(not_served)?;
        let vip = running.proxies.vip(name).ok_or_else(not_served)?.vip.clone();
        let workers = self.supervisor.program().workers().await.map_err(silent)?;
        let present = workers.present.ok_or_else(not_served)?;
        Ok((vip, present.pid))
    }
}

/// Lowers the number of connections to what the machine allows. Says so.
fn lower_connections(proxies: &mut Proxies) -> Option<String> {
    let (wanted, allowed) = (proxies.settings.max_connections, connections_allowed(proxies));
    if allowed >= wanted {
        return None;
    }
    proxies.settings.max_connections = allowed;
    Some(format!(
        "layer-7 VIPs have at most {allowed} connections instead of {wanted}: raise the limit of open files (LimitNOFILE of lbd.service), or lower max_connections in [proxy]"
    ))
}

fn silent(error: io::Error) -> String {
    format!("haproxy does not answer: {error}; see `lbctl status`")
}
