//! Builds the tasks, connects them, and watches over them: each is critical, and the daemon ends with the first
//! that ends.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, anyhow};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    alert,
    api::{
        server::{self, Api},
        tables::Explaining,
    },
    claims::{AddressBook, Owned},
    control::{ConfigStore, Connections, Controller, LoadedConfig, Request},
    dataplane::{Counters, Error, FlowCensus, Reader, Writer},
    fallback_page, haproxy,
    health::{self, journal::Journal},
    model::{
        command::Command,
        desired::DesiredState,
        health::{HealthMap, RipId, SynRepeatCounts, Targets},
        net::{ForeignAnswers, NetFacts, Watched},
        proxied::Proxied,
    },
    net::foreign,
    observe::{self, Observer},
    operator::OperatorFile,
    reconcile::{self, Goal, Reconciled, Reconciler},
    reset::{Post, Resets},
    routing,
    shutdown::{self, Asked, Shutdown, Signals, Trigger},
    telemetry::Telemetry,
    tls,
};

/// Requests that may wait for the controller; more wait at the socket.
const QUEUE: usize = 64;
/// Changes of verdicts that may wait to be written down: more than servers that a configuration can have.
const TRANSITIONS: usize = 1 << 16;
/// Time that tasks have to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the daemon is made of.
pub struct Parts<A, P, N, H, R, F, L, X> {
    /// Where configurations come from.
    pub store: Arc<dyn ConfigStore>,
    /// The first one.
    pub loaded: LoadedConfig,
    /// Operator's word.
    pub operator: OperatorFile,
    /// Addresses that earlier daemons added.
    pub owned: Owned,
    /// Where the API is served.
    pub listener: UnixListener,
    /// Data plane.
    pub writer: Box<dyn Writer>,
    /// Data plane.
    pub reader: Box<dyn Reader>,
    /// Puts addresses onto interfaces.
    pub book: A,
    /// Puts frames on the wire.
    pub post: P,
    /// Task that resolves addresses and publishes facts, until shutdown.
    pub network: N,
    /// Task that checks targets and publishes verdicts, until shutdown.
    pub checks: H,
    /// Keeps the changes of verdicts.
    pub journal: Journal,
    /// Task that finds out who else answers for addresses of ours, until shutdown.
    pub foreign: F,
    /// Task that tells people, until shutdown.
    pub alerts: L,
    /// Servers that a running proxy leads connections to.
    pub carried: BTreeSet<RipId>,
    /// Task that runs the companion proxy, until shutdown.
    pub proxy: X,
    /// Task that makes the machine the router that servers need, until shutdown.
    pub routing: R,
}

/// The running daemon.
pub struct App {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    trigger: Trigger,
    requests: mpsc::Sender<Request>,
    reconciled: watch::Receiver<Arc<Reconciled>>,
}

impl App {
    /// Spawns every task. Must be called on a Tokio runtime.
    pub fn start<A, P, N, NF, H, HF, R, RF, F, FF, L, LF, X, XF>(parts: Parts<A, P, N, H, R, F, L, X>) -> Self
    where
        A: AddressBook,
        P: Post,
        N: FnOnce(watch::Receiver<Watched>, watch::Sender<NetFacts>, Shutdown) -> NF,
        NF: Future<Output = anyhow::Result<()>> + Send + 'static,
        H: FnOnce(health::Connections, Shutdown) -> HF,
        HF: Future<Output = anyhow::Result<()>> + Send + 'static,
        R: FnOnce(routing::Connections, Shutdown) -> RF,
        RF: Future<Output = anyhow::Result<()>> + Send + 'static,
        F: FnOnce(foreign::Connections, Shutdown) -> FF,
        FF: Future<Output = anyhow::Result<()>> + Send + 'static,
        L: FnOnce(alert::Connections, Shutdown) -> LF,
        LF: Future<Output = anyhow::Result<()>> + Send + 'static,
        X: FnOnce(haproxy::Connections, Shutdown) -> XF,
        XF: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (trigger, shutdown) = shutdown::channel();
        let (requests, requests_in) = mpsc::channel(QUEUE);
        let (listings, listings_in) = mpsc::channel(QUEUE);
        let (ended, ended_in) = mpsc::channel(QUEUE);
        let (chores, chores_in) = mpsc::channel(QUEUE);
        let (problems, problems_in) = watch::channel(routing::Problems::default());
        let (watched, watched_in) = watch::channel(Watched::default());
        let (facts, facts_in) = watch::channel(NetFacts::default());
        let (targets, targets_in) = watch::channel(Targets::default());
        let (health, health_in) = watch::channel(HealthMap::default());
        let (syn_repeats, syn_repeats_in) = watch::channel(Arc::new(SynRepeatCounts::default()));
        let (runs, runs_in) = mpsc::channel(QUEUE);
        let (transitions, transitions_in) = mpsc::channel(TRANSITIONS);
        let (histories, histories_in) = mpsc::channel(QUEUE);
        let (foreign, foreign_in) = watch::channel(Arc::new(ForeignAnswers::default()));
        let (alert_tests, alert_tests_in) = mpsc::channel(QUEUE);
        let (proxied, proxied_in) = watch::channel(Arc::new(Proxied::default()));
        let (asks, asks_in) = mpsc::channel(QUEUE);
        let (page, page_in) = watch::channel(fallback_page::Problems::default());
        let (validities, validities_in) = watch::channel(None);
        let (unsent, unsent_in) = watch::channel(alert::Problems::default());
        let (goal, goal_in) = watch::channel(Arc::new(Goal::default()));
        let (census, census_in) = watch::channel(Arc::new(FlowCensus::default()));
        let (counters, counters_in) = watch::channel(Arc::new(Counters::default()));
        let (view, view_in) = watch::channel(Arc::new(Controller::first_view(&parts.loaded.config)));
        let installed = parts.writer.installed().clone();
        let mut before = DesiredState::from_installed(&installed);
        before.addresses = parts.owned.addresses().iter().map(|&a| (a, a.ifindex)).collect();
        let (published, reconciled) =
            watch::channel(Arc::new(Reconciled { installed: Arc::new(installed), ..Reconciled::default() }));

        for warning in &parts.loaded.warnings {
            tracing::warn!("configuration: {warning}");
        }
        let controller = Controller::new(
            parts.store,
            parts.loaded.config,
            parts.operator,
            (before, parts.carried),
            parts.writer.settings(),
            Connections {
                requests: requests_in,
                facts: facts_in.clone(),
                health: health_in.clone(),
                census: census_in.clone(),
                reconciled: reconciled.clone(),
                proxied: proxied_in.clone(),
                clock: Box::new(SystemTime::now),
                goal,
                targets,
                watched,
                view,
                syn_repeats,
            },
        );
        let explainer = parts.writer.explainer();
        let resets = Resets::new(parts.writer.pairs(), ended_in, facts_in.clone(), parts.post);
        let router = routing::Connections { view: view_in.clone(), facts: facts_in.clone(), problems };
        let proxy = haproxy::Connections { goal: goal_in.clone(), published: proxied, asks: asks_in };
        let lasting = tls::lasting::Connections { view: view_in.clone(), validities };
        let fallback = fallback_page::Connections { view: view_in.clone(), problems: page };
        let reconciler = Reconciler::new(
            parts.writer,
            parts.book,
            parts.owned,
            reconcile::Connections {
                goal: goal_in,
                facts: facts_in.clone(),
                published,
                census,
                ended,
                chores: chores_in,
            },
        );
        let checked = targets_in.clone();
        let checks = health::Connections {
            targets: targets_in,
            health,
            syn_repeats: syn_repeats_in,
            runs: runs_in,
            transitions,
        };
        let answers = foreign::Connections { view: view_in.clone(), facts: facts_in.clone(), foreign };
        let alerts = alert::Connections {
            view: view_in.clone(),
            health: health_in.clone(),
            foreign: foreign_in.clone(),
            facts: facts_in.clone(),
            reconciled: reconciled.clone(),
            proxied: proxied_in.clone(),
            validities: validities_in.clone(),
            tests: alert_tests_in,
            problems: unsent,
        };
        let telemetry = Telemetry::new(parts.reader, counters, listings_in);
        let api = Api {
            observer: Observer {
                host: observe::host_name(),
                started: Instant::now(),
                view: view_in,
                health: health_in,
                facts: facts_in,
                routing: problems_in,
                foreign: foreign_in,
                alerts: unsent_in,
                proxied: proxied_in.clone(),
                fallback_page: page_in,
                validities: validities_in,
                reconciled: reconciled.clone(),
                census: census_in,
                counters: counters_in,
            },
            requests: requests.clone(),
            listings,
            targets: checked.clone(),
            runs,
            histories,
            alert_tests,
            chores,
            asks,
            proxied: proxied_in,
            explaining: Explaining::new(explainer),
            reconciled: reconciled.clone(),
        };

        let mut tasks = Tasks(JoinSet::new());
        tasks.spawn("network", (parts.network)(watched_in, facts, shutdown.clone()));
        tasks.spawn("checks", (parts.checks)(checks, shutdown.clone()));
        tasks.spawn("journal", parts.journal.run(transitions_in, histories_in, checked, shutdown.clone()));
        tasks.spawn("foreign answers", (parts.foreign)(answers, shutdown.clone()));
        tasks.spawn("alerts", (parts.alerts)(alerts, shutdown.clone()));
        tasks.spawn("controller", controller.run(shutdown.clone()));
        tasks.spawn("reconciler", reconciler.run(shutdown.clone()));
        tasks.spawn("resets", resets.run(shutdown.clone()));
        tasks.spawn("routing", (parts.routing)(router, shutdown.clone()));
        tasks.spawn("proxy", (parts.proxy)(proxy, shutdown.clone()));
        tasks.spawn("certificates", tls::lasting::run(lasting, shutdown.clone()));
        tasks.spawn("fallback page", fallback_page::run(fallback, shutdown.clone()));
        tasks.spawn("telemetry", telemetry.run(shutdown.clone()));
        tasks.spawn("api", server::serve(parts.listener, api, shutdown));
        Self { tasks: tasks.0, trigger, requests, reconciled }
    }

    /// Runs until SIGTERM or SIGINT, and leaves the data plane forwarding. Tells `notify` when the first
    /// configuration has been tried on the data plane (`READY=1`), and at the end (`STOPPING=1`).
    ///
    /// # Errors
    ///
    /// When a task ends of itself.
    pub async fn run(mut self, mut signals: Signals, notify: impl Fn(&str)) -> anyhow::Result<()> {
        let mut reload = JoinSet::new();
        let mut reconciled = self.reconciled.clone();
        let mut ready = std::pin::pin!(async move { reconciled.wait_for(|r| r.number > 0).await.is_ok() });
        let mut told = false;
        let ended = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Reload => {
                        reload.spawn(apply(self.requests.clone()));
                    }
                    Asked::Stop => break Ok(()),
                },
                Some(_done) = reload.join_next() => {}
                reached = &mut ready, if !told => {
                    told = true;
                    if reached {
                        notify("READY=1");
                    }
                }
                ended = self.tasks.join_next() => break Err(why(ended)),
            }
        };
        notify("STOPPING=1");
        self.stop().await;
        ended
    }

    /// Ends every task; what does not end in time is dropped, and said.
    pub async fn stop(mut self) {
        self.trigger.pull();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((name, Err(error))) => tracing::debug!("task {name} ended: {error:#}"),
                    Ok((_, Ok(()))) => {}
                    Err(error) => tracing::error!("a task ended badly: {error}"),
                }
            }
        };
        if timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("some tasks did not end within {} s", FAREWELL.as_secs());
        }
    }
}

struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (name, task.await) });
    }
}

/// Why the daemon ends though nobody asked it to.
fn why(ended: Option<Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, Ok(())))) => anyhow!("task {name} ended of itself"),
        Some(Ok((name, Err(error)))) => error.context(format!("task {name} failed")),
        Some(Err(error)) => anyhow!(error).context("a task panicked"),
        None => anyhow!("no task is left"),
    }
}

/// SIGHUP: what `lbctl config apply` does, told in the log.
async fn apply(requests: mpsc::Sender<Request>) {
    let (reply, answer) = oneshot::channel();
    if requests.send(Request::Command(Box::new(Command::Apply), reply)).await.is_err() {
        return;
    }
    match answer.await {
        Ok(Ok(done)) => {
            for warning in &done.outcome.warnings {
                tracing::warn!("configuration: {warning}");
            }
            tracing::info!("configuration read again: {} changes", done.outcome.changes.len());
        }
        Ok(Err(error)) => tracing::error!("the running configuration stays in force: {error}"),
        Err(_gone) => {}
    }
}

/// Takes away everything that daemons made: addresses first, then what `dataplane` removes. Gives a line for each
/// thing removed.
///
/// # Errors
///
/// Names what could not be removed, after trying all.
pub async fn detach<A: AddressBook>(
    book: &A,
    mut owned: Owned,
    dataplane: impl FnOnce() -> Result<Vec<String>, Error> + Send + 'static,
) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut gone = Vec::new();
    let mut failed = Vec::new();
    for &address in owned.addresses() {
        match book.remove(address).await {
            Ok(()) => {
                removed.push(format!("removed address {}", address.ip));
                gone.push(address);
            }
            Err(text) => failed.push(text),
        }
    }
    if let Err(error) = owned.change([], gone).await {
        failed.push(error.to_string());
    }
    match tokio::task::spawn_blocking(dataplane).await.context("removal panicked")? {
        Ok(lines) => removed.extend(lines),
        Err(error) => failed.push(error.line()),
    }
    if failed.is_empty() {
        return Ok(removed);
    }
    Err(anyhow!("{}", failed.join("\n")).context("not everything could be removed"))
}

/// Opens what a state directory holds.
///
/// # Errors
///
/// When a file cannot be read or understood.
pub fn open_state(state_dir: &Path) -> anyhow::Result<(OperatorFile, Owned)> {
    Ok((OperatorFile::open(state_dir)?, Owned::open(state_dir)?))
}

#[cfg(test)]
mod tests;
