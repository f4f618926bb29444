//! Tells people when servers and VIPs fail and come back (R44, R82): by mail, by webhooks, in the system's log.
//!
//! What is told follows from what is so and what was told (`situation`, `teller`), in words (`message`), and is on
//! disk (`spool`) before it counts as told (`ledger`). Sending (`outbox`) is beside all that: a mail server that is away
//! keeps nobody from deciding.
#![forbid(unsafe_code)]

mod ledger;
mod mail;
mod message;
mod mx;
mod outbox;
mod situation;
mod spool;
mod syslog;
mod teller;
mod test;
#[cfg(test)]
mod tests;
mod trust;
mod watches;
mod webhook;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use self::{
    ledger::Ledger,
    message::Context,
    outbox::Outbox,
    situation::{Situation, epoch_secs},
    spool::{Content, Destination, Parcel, Spool},
    teller::{Event, Now, Pace, Teller},
    watches::Watches,
};
use crate::{
    control::View,
    model::{
        alerts::Alerts,
        config::Config,
        health::HealthMap,
        net::{ForeignAnswers, NetFacts},
        proxied::Proxied,
        tls::Validity,
    },
    observe,
    reconcile::Reconciled,
    shutdown::Shutdown,
};

/// Pause from one look to the next: checks may speak thousands of times a second.
const PAUSE: Duration = Duration::from_millis(200);
/// Time after a start in which somebody who answers for an address of ours may not have been heard yet.
const LISTENING: Duration = Duration::from_secs(90);
/// Pause before what the disk refused is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(10);
/// Time that messages under way have at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Tests at a time; more are refused.
const MAX_TESTS: usize = 4;

/// What is wrong with sending, a line each with its cure.
pub type Problems = Vec<String>;

/// What one way of telling answered to a test: its name, and how it went.
pub type Tested = Vec<(String, Result<String, String>)>;

/// Asks for a message to everybody.
#[derive(Debug)]
pub struct TestRequest {
    /// Gets what came of it.
    pub reply: oneshot::Sender<Tested>,
}

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// The configuration in force, and what became of servers.
    pub view: watch::Receiver<Arc<View>>,
    /// Verdicts.
    pub health: watch::Receiver<HealthMap>,
    /// Who else answers for VIPs.
    pub foreign: watch::Receiver<Arc<ForeignAnswers>>,
    /// Names of interfaces, and whose a MAC is.
    pub facts: watch::Receiver<NetFacts>,
    /// What the data plane refuses.
    pub reconciled: watch::Receiver<Arc<Reconciled>>,
    /// What the companion proxy refuses.
    pub proxied: watch::Receiver<Arc<Proxied>>,
    /// How long certificates last.
    pub validities: watch::Receiver<Option<Arc<Vec<Validity>>>>,
    /// Tests.
    pub tests: mpsc::Receiver<TestRequest>,
    /// To those who show it.
    pub problems: watch::Sender<Problems>,
}

/// Tells until shutdown. What is not told then is kept in `state_dir`.
///
/// # Errors
///
/// When the state directory cannot be used.
pub async fn run(connections: Connections, state_dir: PathBuf, shutdown: Shutdown) -> anyhow::Result<()> {
    let opened = tokio::task::spawn_blocking(move || open(&state_dir)).await?;
    let (ledger, teller, outbox) = opened?;
    let Connections { view, health, foreign, facts, reconciled, proxied, validities, tests, problems } =
        connections;
    let messenger = Messenger {
        watches: Watches { view, health, foreign, facts, reconciled, proxied, validities },
        requests: tests,
        problems,
        host: observe::host_name(),
        started: Instant::now(),
        ledger,
        teller,
        outbox,
        tests: JoinSet::new(),
        log_problem: None,
        unkept: None,
    };
    messenger.run(shutdown).await
}

fn open(state_dir: &Path) -> anyhow::Result<(Ledger, Teller, Outbox)> {
    let (mut ledger, told) = Ledger::open(state_dir)?;
    let (spool, waiting) = Spool::open(state_dir, ledger.committed())?;
    ledger.begin(waiting.last().map_or(0, |parcel| parcel.number))?;
    Ok((ledger, Teller::new(told), Outbox::new(spool, waiting)))
}

/// The task.
struct Messenger {
    watches: Watches,
    requests: mpsc::Receiver<TestRequest>,
    problems: watch::Sender<Problems>,
    /// Name of this machine, where the configuration gives none.
    host: String,
    started: Instant,
    ledger: Ledger,
    teller: Teller,
    outbox: Outbox,
    tests: JoinSet<()>,
    /// Why the system's log does not take lines.
    log_problem: Option<String>,
    unkept: Option<Unkept>,
}

impl Messenger {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        let mut alerts = self.watches.config().alerts.clone();
        loop {
            let config = self.watches.config();
            if config.alerts != alerts {
                alerts = config.alerts.clone();
                self.outbox.hurry(Instant::now());
            }
            let looked = Instant::now();
            let due = self.look(&config).await;
            let over = self.outbox.clear_out(&config, epoch_secs(SystemTime::now()));
            self.forget(over).await;
            self.outbox.start(&config, Instant::now());
            self.publish();
            let again = self.outbox.due();
            tokio::select! {
                () = &mut ended => break,
                () = self.watches.changed(looked + PAUSE) => {}
                () = until(due) => {}
                () = until(again) => {}
                ended = self.outbox.next() => {
                    let (now, epoch_secs) = (Instant::now(), epoch_secs(SystemTime::now()));
                    let taken = self.outbox.finish(ended, now, epoch_secs);
                    self.forget(taken.into_iter().collect()).await;
                }
                Some(TestRequest { reply }) = self.requests.recv() => self.test(reply),
                Some(tested) = self.tests.join_next() => {
                    if let Err(error) = tested {
                        tracing::error!("a test of alerts ended badly: {error}");
                    }
                }
            }
        }
        // What is not taken by then is on disk.
        let _ = timeout(FAREWELL, self.finish_under_way()).await;
        Ok(())
    }
}

impl Messenger {
    /// Tells what is to be told now; gives the time of the next look if nothing happens.
    async fn look(&mut self, config: &Config) -> Option<Instant> {
        let Alerts { group, repeat, .. } = config.alerts;
        if !has_a_way(&config.alerts) {
            return None;
        }
        let (pace, now) = (Pace { group, repeat }, now());
        let heard = self.started + LISTENING;
        let situation = self.watches.situation(heard <= now.steady);
        let has_forgotten = self.teller.look(&situation, now);
        let events = self.teller.tell(&situation, pace, now);
        if !events.is_empty() {
            self.tell(config, &situation, &events, now).await;
        } else if has_forgotten || self.unkept.as_ref().is_some_and(|unkept| unkept.again <= now.steady) {
            self.keep(Vec::new()).await;
        }
        let listened = Some(heard).filter(|heard| *heard > now.steady);
        let again = self.unkept.as_ref().map(|unkept| unkept.again);
        self.teller.due(&situation, pace, now).into_iter().chain(listened).chain(again).min()
    }

    async fn tell(&mut self, config: &Config, situation: &Situation, events: &[Event], now: Now) {
        let node = config.node.name.clone().unwrap_or_else(|| self.host.clone());
        let context = Context { node: &node, epoch_secs: now.epoch_secs, situation, config };
        let content = |subject, text, all| Content { node: node.clone(), subject, text, all };
        let mut parcels = Vec::new();
        let Alerts { mail, webhooks, syslog, .. } = &config.alerts;
        if let Some(mail) = mail {
            for (to, events) in message::by_recipients(events, config, &mail.to) {
                let subject = message::subject_line(&node, &events);
                let content = content(subject, message::body(&context, &events), to.clone());
                parcels.extend(parcels_of(
                    self.ledger.next_number(),
                    now.epoch_secs,
                    to.into_iter().map(Destination::Mail),
                    &content,
                ));
            }
        }
        if !webhooks.is_empty() {
            let number = self.ledger.next_number();
            match message::json(&context, events, number) {
                Ok(json) => {
                    let content = content(message::subject_line(&node, events), json, Vec::new());
                    let urls = webhooks.iter().map(|webhook| Destination::Webhook(webhook.url.clone()));
                    parcels.extend(parcels_of(number, now.epoch_secs, urls, &content));
                }
                Err(error) => tracing::error!("{error}"),
            }
        }
        if *syslog {
            let written =
                syslog::write(Path::new(syslog::SOCKET), &message::log_lines(events, now.epoch_secs));
            self.log_problem = written.err().map(|error| cannot_log(&error));
        }
        self.keep(parcels).await;
    }

    /// Keeps what was told and sends the messages by which it is: these are on disk before it counts. A disk that refuses
    /// keeps nobody from being told.
    async fn keep(&mut self, parcels: Vec<Parcel>) {
        let told = self.teller.told().map(|(subject, told)| (subject.clone(), told.clone())).collect();
        let (spool, ledger) = (self.outbox.spool().clone(), self.ledger.clone());
        let kept = spawn_blocking(move || {
            let kept = spool.keep(&parcels).and_then(|()| ledger.store(told));
            (kept, parcels)
        });
        let (kept, parcels) = kept.await;
        self.unkept = kept.err().map(|error| {
            tracing::error!("alerts are not kept: {error}");
            Unkept {
                why: format!("alerts are sent, but would be lost in a restart: {error}"),
                again: Instant::now() + KEEP_AGAIN,
            }
        });
        let dropped = self.outbox.add(parcels);
        self.forget(dropped).await;
    }

    /// Removes files of messages.
    async fn forget(&self, parcels: Vec<Parcel>) {
        if parcels.is_empty() {
            return;
        }
        let spool = self.outbox.spool().clone();
        let removed = spawn_blocking(move || parcels.iter().try_for_each(|parcel| spool.remove(parcel)));
        if let Err(error) = removed.await {
            tracing::error!("an alert that is done with may be sent again after a restart: {error}");
        }
    }

    fn test(&mut self, reply: oneshot::Sender<Tested>) {
        if self.tests.len() >= MAX_TESTS {
            let busy = format!("{MAX_TESTS} tests are under way: wait for them");
            // Who asked may have gone.
            let _ = reply.send(vec![("alerts".to_owned(), Err(busy))]);
            return;
        }
        let (config, host) = (self.watches.config(), self.host.clone());
        self.tests.spawn(async move {
            let tested = test::every_way(config, host).await;
            let _ = reply.send(tested);
        });
    }

    fn publish(&self) {
        let mut problems = self.outbox.problems();
        problems.extend(self.log_problem.clone());
        problems.extend(self.unkept.as_ref().map(|unkept| unkept.why.clone()));
        self.problems.send_if_modified(|published| {
            let is_new = *published != problems;
            *published = problems;
            is_new
        });
    }

    async fn finish_under_way(&mut self) {
        while self.outbox.is_sending() {
            let ended = self.outbox.next().await;
            let taken = self.outbox.finish(ended, Instant::now(), epoch_secs(SystemTime::now()));
            self.forget(taken.into_iter().collect()).await;
        }
    }
}

/// Why the state directory does not take what was told.
#[derive(Debug)]
struct Unkept {
    why: String,
    again: Instant,
}

const fn has_a_way(alerts: &Alerts) -> bool {
    alerts.mail.is_some() || !alerts.webhooks.is_empty() || alerts.syslog
}

fn parcels_of(
    number: u64,
    at_epoch_secs: u64,
    destinations: impl Iterator<Item = Destination>,
    content: &Content,
) -> impl Iterator<Item = Parcel> {
    let parcel = move |(part, destination)| Parcel {
        number,
        part,
        at_epoch_secs,
        destination,
        content: content.clone(),
    };
    (0..).zip(destinations).map(parcel)
}

fn cannot_log(error: &std::io::Error) -> String {
    format!(
        "alerts cannot be written to {}: {error}: check that a system log runs, or set `alerts.syslog = false`",
        syslog::SOCKET
    )
}

fn now() -> Now {
    Now { steady: Instant::now(), epoch_secs: epoch_secs(SystemTime::now()) }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
