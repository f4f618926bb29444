//! The one task that owns the configuration and the operator's word. Commands, network facts and verdicts come in;
//! what should be checked, watched and installed goes out.
#![forbid(unsafe_code)]

#[cfg(test)]
pub(crate) mod disk;
mod drains;
mod log;
mod ramps;
mod targets;
#[cfg(test)]
mod timing_tests;
mod words;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use lb_common::settings::Settings;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use self::{drains::Drains, ramps::Ramps};

use crate::{
    compile::{self, Compiled, Inputs, Notes},
    config::Texts,
    dataplane::FlowCensus,
    model::{
        command::{Command, Edit, Outcome},
        config::{Config, Vip},
        desired::DesiredState,
        health::{HealthMap, RipId, SynRepeatCounts, Targets},
        history::{Cause, Version, VersionHead},
        net::{NetFacts, Watched},
        operator::Words,
        proxied::{Proxied, Proxies, Takes},
    },
    operator::OperatorFile,
    predict,
    reconcile::{Goal, Reconciled},
    shutdown::Shutdown,
    state_file::StateError,
};

/// Where configurations come from and go to. Calls block on the disk.
pub trait ConfigStore: Send + Sync + 'static {
    /// Reads and checks the files.
    ///
    /// # Errors
    ///
    /// Every fault, rendered for people.
    fn load(&self) -> Result<LoadedConfig, Refused>;

    /// Edits the files, unless the result would be refused; on disk when this returns, but for a dry run.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    fn edit(&self, edit: &Edit, dry_run: bool) -> Result<LoadedConfig, Refused>;

    /// Keeps a configuration that came into force, if it differs from the one kept last.
    ///
    /// # Errors
    ///
    /// Why it is not kept.
    fn keep(&self, loaded: &LoadedConfig, cause: Cause) -> Result<(), Refused>;

    /// Configurations that are kept, the newest last.
    ///
    /// # Errors
    ///
    /// When one cannot be read.
    fn history(&self) -> Result<Vec<VersionHead>, Refused>;

    /// One of them, whole.
    ///
    /// # Errors
    ///
    /// When it is not there, or cannot be read.
    fn version(&self, number: u64) -> Result<Version, Refused>;

    /// Puts the files back as they were in a version (`None` = the one before the present), on disk when this returns,
    /// but for a dry run. With `force`, edits that are not in force are lost. Gives the version's number too.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    fn roll_back(&self, to: Option<u64>, force: bool, dry_run: bool) -> Result<(u64, LoadedConfig), Refused>;

    /// What changes from one configuration to another, a line each.
    fn diff(&self, from: &Config, to: &Config) -> Vec<String>;

    /// A configuration as TOML.
    fn show(&self, config: &Config) -> String;
}

/// A configuration that can be put into force.
#[derive(Clone, Debug)]
pub struct LoadedConfig {
    /// What it means.
    pub config: Config,
    /// What is worth knowing though nothing is wrong, a line each.
    pub warnings: Vec<String>,
    /// What changes beside the configuration: files of certificates, a line each.
    pub files: Vec<String>,
    /// The files it was read from.
    pub texts: Texts,
}

/// Why a request is not met.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// What was asked cannot be done.
    #[error("{0}")]
    Invalid(String),
    /// This machine could not do it.
    #[error("{0}")]
    Failed(String),
}

impl From<StateError> for Refused {
    fn from(error: StateError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What other tasks ask for. The answer is on disk; whether it has reached the data plane is for
/// [`Reconciled`] to say.
#[derive(Debug)]
pub enum Request {
    /// Change something.
    Command(Box<Command>, Reply<Done>),
    /// What `apply` would change, and what becomes of traffic.
    Diff(Reply<Outcome>),
    /// Configurations that were in force.
    History(Reply<Vec<VersionHead>>),
    /// The configuration in force, as TOML.
    Show(Reply<String>),
    /// One that was in force.
    Version(u64, Reply<Version>),
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// Answer to a command.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// For people.
    pub outcome: Outcome,
    /// Goal that carries the change.
    pub goal: u64,
}

/// What is in force, for those who show it.
#[derive(Clone, Debug)]
pub struct View {
    /// Configuration.
    pub config: Arc<Config>,
    /// Servers of which the operator said anything.
    pub operator: Words,
    /// What became of every server.
    pub notes: Notes,
    /// What the data plane should hold.
    pub goal: Arc<Goal>,
    /// Why the configuration on disk is not the one in force.
    pub config_problem: Option<String>,
    /// What time should have made of the operator's word, and why it has not.
    pub operator_problem: Option<String>,
}

/// Tells the time of day.
pub type WallClock = Box<dyn Fn() -> SystemTime + Send + Sync>;

/// What the task is connected to.
pub struct Connections {
    /// Requests, from the API and from signals.
    pub requests: mpsc::Receiver<Request>,
    /// From netlink.
    pub facts: watch::Receiver<NetFacts>,
    /// From checks.
    pub health: watch::Receiver<HealthMap>,
    /// From the reconciler: connections of each server, about once a second.
    pub census: watch::Receiver<Arc<FlowCensus>>,
    /// From the reconciler: what the kernel holds.
    pub reconciled: watch::Receiver<Arc<Reconciled>>,
    /// From the companion proxy, about once a second.
    pub proxied: watch::Receiver<Arc<Proxied>>,
    /// What deadlines go by.
    pub clock: WallClock,
    /// To the reconciler.
    pub goal: watch::Sender<Arc<Goal>>,
    /// To checks.
    pub targets: watch::Sender<Targets>,
    /// To netlink.
    pub watched: watch::Sender<Watched>,
    /// To the API.
    pub view: watch::Sender<Arc<View>>,
    /// To checks.
    pub syn_repeats: watch::Sender<Arc<SynRepeatCounts>>,
}

/// The task.
pub struct Controller {
    store: Arc<dyn ConfigStore>,
    operator: OperatorFile,
    drains: Drains,
    ramps: Ramps,
    /// VIPs whose server in use is to be forgotten when they are compiled next.
    forgotten: BTreeSet<String>,
    /// Servers of layer-7 VIPs that take new connections as things are.
    carried: BTreeSet<RipId>,
    settings: Settings,
    config: Arc<Config>,
    config_problem: Option<String>,
    operator_problem: Option<String>,
    /// When a change of the operator's word that the disk refused is tried again.
    retry_at: Option<Instant>,
    /// The last one published; number 0 holds what the data plane held before.
    goal: Arc<Goal>,
    notes: Notes,
    to: Connections,
}

impl Controller {
    /// Starts from a configuration and from what the data plane and the proxy held before.
    pub fn new(
        store: Arc<dyn ConfigStore>,
        config: Config,
        operator: OperatorFile,
        (before, carried): (DesiredState, BTreeSet<RipId>),
        settings: Settings,
        to: Connections,
    ) -> Self {
        Self {
            store,
            operator,
            drains: Drains::default(),
            ramps: Ramps::default(),
            forgotten: BTreeSet::new(),
            carried,
            settings,
            config: Arc::new(config),
            config_problem: None,
            operator_problem: None,
            retry_at: None,
            goal: Arc::new(Goal { number: 0, state: before, proxies: Arc::default() }),
            notes: Notes::default(),
            to,
        }
    }

    /// A view before anything is known.
    #[must_use]
    pub fn first_view(config: &Config) -> View {
        View {
            config: Arc::new(config.clone()),
            operator: Words::new(),
            notes: Notes::default(),
            goal: Arc::default(),
            config_problem: None,
            operator_problem: None,
        }
    }

    /// Runs until shutdown.
    ///
    /// # Errors
    ///
    /// When a task that it needs is gone, or the state directory cannot be written at the start.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        self.operator.prune(&self.config).await?;
        // Deadlines that passed while no daemon ran.
        self.advance().await;
        self.announce();
        self.compile();
        loop {
            let due = self.due();
            tokio::select! {
                biased;
                () = &mut ended => return Ok(()),
                changed = self.to.facts.changed() => {
                    changed?;
                    self.aim(&self.to.facts.borrow());
                    self.compile();
                }
                changed = self.to.health.changed() => {
                    changed?;
                    self.compile();
                }
                request = self.to.requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return Ok(()),
                },
                changed = self.to.proxied.changed() => {
                    changed?;
                    self.to.proxied.borrow_and_update();
                }
                changed = self.to.census.changed() => {
                    changed?;
                    self.take_census();
                    if self.advance().await {
                        self.compile();
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.advance().await;
                    self.compile();
                }
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        // Who asked may have gone away meanwhile; what was done stays done.
        match request {
            Request::Command(command, reply) => drop(reply.send(self.command(*command).await)),
            Request::Diff(reply) => {
                let outcome = match self.blocking(|store| store.load()).await {
                    Ok(loaded) => Ok(self.forecast(&loaded).await),
                    Err(refused) => Err(refused),
                };
                drop(reply.send(outcome));
            }
            Request::History(reply) => drop(reply.send(self.blocking(|store| store.history()).await)),
            Request::Show(reply) => drop(reply.send(Ok(self.store.show(&self.config)))),
            Request::Version(number, reply) => {
                drop(reply.send(self.blocking(move |store| store.version(number)).await));
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<Done, Refused> {
        let outcome = match command {
            Command::Apply => {
                let loaded = self.blocking(|store| store.load()).await;
                self.config_problem = loaded.is_err().then(|| {
                    "the configuration on disk has errors, the one before is in force: see `lbctl config check`".to_owned()
                });
                if loaded.is_err() {
                    self.publish_view();
                }
                self.put_into_force(loaded?, Cause::Apply).await
            }
            Command::Edit { edit, dry_run } => {
                let loaded = self.blocking(move |store| store.edit(&edit, dry_run)).await?;
                if dry_run {
                    self.forecast(&loaded).await
                } else {
                    self.put_into_force(loaded, Cause::Edit).await
                }
            }
            Command::Rollback { to, force, dry_run } => self.roll_back(to, force, dry_run).await?,
            Command::SetState { rips, state } => self.set_state(&rips, state).await?,
            Command::Force { rips, forced } => self.force(&rips, forced).await?,
            Command::Forget { vip } => self.forget(vip)?,
        };
        let goal = self.compile();
        Ok(Done { outcome, goal })
    }

    fn outcome(&self, loaded: &LoadedConfig) -> Outcome {
        let mut warnings = loaded.warnings.clone();
        let (old, new) = (&self.config.node, &loaded.config.node);
        if [old.flows_v4, old.flows_v6, old.half_open] != [new.flows_v4, new.flows_v6, new.half_open] {
            warnings.push(
                "flow tables keep their size while they exist: to resize them, stop lbd, run `lbd --detach` (this ends \
                 all connections) and start it again"
                    .to_owned(),
            );
        }
        let mut changes = self.store.diff(&self.config, &loaded.config);
        changes.extend(loaded.files.iter().cloned());
        Outcome { changes, warnings, ..Outcome::default() }
    }

    /// What a configuration would change, and what would become of traffic.
    async fn forecast(&self, loaded: &LoadedConfig) -> Outcome {
        let mut outcome = self.outcome(loaded);
        let facts = self.to.facts.borrow().clone();
        if !facts.complete {
            let unknown = "the network's state is not known yet: what becomes of traffic cannot be said";
            outcome.warnings.push(unknown.to_owned());
            return outcome;
        }
        let (config, settings) = (loaded.config.clone(), self.settings);
        let supposed = predict::suppose(&self.config, &config, &facts, &self.to.health.borrow());
        let operator = self.operator.words().clone();
        let ramps = self.ramps.percents(&config, Instant::now());
        let (goal, carried) = (Arc::clone(&self.goal), self.carried.clone());
        let installed = Arc::clone(&self.to.reconciled.borrow().installed);
        let census = Arc::clone(&self.to.census.borrow());
        let proxied = Arc::clone(&self.to.proxied.borrow());
        // Tables of many VIPs take a while to be filled and compared.
        let predicted = tokio::task::spawn_blocking(move || {
            let compiled = compile::compile(&Inputs {
                config: &config,
                operator: &operator,
                health: &supposed.health,
                facts: &supposed.facts,
                before: &goal.state,
                settings: &settings,
                ramps: &ramps,
                forget: &BTreeSet::new(),
                carried: &carried,
            });
            let mut lines = predict::predict(&installed, &compiled.desired, &census, &supposed.new);
            lines.extend(predict::predict_proxies(&goal.proxies, &compiled.proxies, &proxied));
            lines
        });
        outcome.traffic =
            predicted.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        outcome
    }

    async fn roll_back(&mut self, to: Option<u64>, force: bool, dry_run: bool) -> Result<Outcome, Refused> {
        let (to, loaded) = self.blocking(move |store| store.roll_back(to, force, dry_run)).await?;
        if dry_run {
            return Ok(self.forecast(&loaded).await);
        }
        let mut outcome = self.put_into_force(loaded, Cause::Rollback { to }).await;
        if outcome.changes.is_empty() {
            outcome.changes.push(format!("the files are those of version {to}, which says what is in force"));
        }
        Ok(outcome)
    }

    /// Keeps what came into force; gives what is to be said when it is not.
    async fn keep(&self, loaded: &LoadedConfig, cause: Cause) -> Option<String> {
        let loaded = loaded.clone();
        let kept = self.blocking(move |store| store.keep(&loaded, cause)).await;
        kept.err().map(|refused| format!("in force, but not kept in the history: {refused}"))
    }

    async fn put_into_force(&mut self, loaded: LoadedConfig, cause: Cause) -> Outcome {
        let mut outcome = self.outcome(&loaded);
        outcome.warnings.extend(self.keep(&loaded, cause).await);
        if let Err(error) = self.operator.prune(&loaded.config).await {
            // What it keeps too much does no harm; a configuration that is on disk but not in force would.
            outcome.warnings.push(error.to_string());
        }
        self.config = Arc::new(loaded.config);
        self.config_problem = None;
        for change in &outcome.changes {
            tracing::info!("configuration: {change}");
        }
        self.announce();
        outcome
    }

    fn find_vip(&self, name: &str) -> Result<&Vip, Refused> {
        self.config.vips.iter().find(|v| v.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.config.vips.iter().map(|v| v.name.as_str()).collect();
            Refused::Invalid(format!("no VIP {name}: there are {}", listed(&names)))
        })
    }

    fn must_exist(&self, id: &RipId) -> Result<(), Refused> {
        let vip = self.find_vip(&id.vip)?;
        if vip.rips.iter().any(|r| r.name == id.rip) {
            return Ok(());
        }
        let names: Vec<&str> = vip.rips.iter().map(|r| r.name.as_str()).collect();
        Err(Refused::Invalid(format!(
            "VIP {} has no real server {}: it has {}",
            id.vip,
            id.rip,
            listed(&names)
        )))
    }

    /// Tells checks and netlink what there is now.
    fn announce(&self) {
        self.aim(&self.to.facts.borrow());
        self.to.watched.send_if_modified(|watched| replace(watched, compile::watched(&self.config)));
    }

    /// Tells checks whom to ask, and by which way.
    fn aim(&self, facts: &NetFacts) {
        self.to.targets.send_if_modified(|targets| replace(targets, targets::of(&self.config, facts)));
    }

    /// Compiles what is known, and publishes what differs. Gives the number of the goal that holds it.
    fn compile(&mut self) -> u64 {
        let facts = self.to.facts.borrow_and_update().clone();
        let health = self.to.health.borrow_and_update().clone();
        if !facts.complete {
            // Half a picture of the network would take servers and links away: what is in the kernel goes on.
            self.publish_view();
            return self.goal.number + 1;
        }
        let now = Instant::now();
        let mut compiled = self.compiled(&facts, &health, now);
        if self.ramps.follow(&compiled.notes, &self.config, now) {
            // Who came up begins with a part of its weight.
            compiled = self.compiled(&facts, &health, now);
        }
        self.forgotten.clear();
        log::transitions(&self.notes, &compiled.notes, &health);
        self.notes = compiled.notes;
        self.carried = carried(&compiled.proxies);
        let (state, proxies) = (compiled.desired, compiled.proxies);
        if self.goal.number == 0 || self.goal.state != state || *self.goal.proxies != proxies {
            let number = self.goal.number + 1;
            self.goal = Arc::new(Goal { number, state, proxies: Arc::new(proxies) });
            self.to.goal.send_replace(Arc::clone(&self.goal));
        }
        self.publish_view();
        self.goal.number
    }

    fn compiled(&self, facts: &NetFacts, health: &HealthMap, now: Instant) -> Compiled {
        compile::compile(&Inputs {
            config: &self.config,
            operator: self.operator.words(),
            health,
            facts,
            before: &self.goal.state,
            settings: &self.settings,
            ramps: &self.ramps.percents(&self.config, now),
            forget: &self.forgotten,
            carried: &self.carried,
        })
    }

    fn publish_view(&self) {
        self.to.view.send_replace(Arc::new(View {
            config: Arc::clone(&self.config),
            operator: self.operator.words().clone(),
            notes: self.notes.clone(),
            goal: Arc::clone(&self.goal),
            config_problem: self.config_problem.clone(),
            operator_problem: self.operator_problem.clone(),
        }));
    }

    async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn ConfigStore) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let store = Arc::clone(&self.store);
        let called = tokio::task::spawn_blocking(move || call(store.as_ref())).await;
        called.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Servers of layer-7 VIPs that take new connections.
fn carried(proxies: &Proxies) -> BTreeSet<RipId> {
    let ids = proxies.vips.iter().flat_map(|desired| {
        let takes = desired.servers.iter().filter(|(_, service)| service.takes == Takes::Everything);
        takes.map(|(rip, _)| RipId { vip: desired.vip.name.clone(), rip: rip.clone() })
    });
    ids.collect()
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}
