//! What waits to be sent, and the sending: beside everything else, one message at a time for each destination, in order,
//! again and again with growing pauses until it is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout},
};

use super::{
    mail::{self, Letter},
    spool::{Content, Destination, Parcel, Spool},
    webhook,
};
use crate::model::{
    alerts::{Alerts, MailRoute},
    config::Config,
    operator::utc,
};

/// Pause after a first failure; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Time after which a message is given up.
const MAX_AGE_SECS: u64 = 2 * 24 * 3600;
/// Messages that wait; the oldest give way to more.
const MAX_WAITING: usize = 1000;
/// Messages under way at a time.
const MAX_UNDER_WAY: usize = 64;
/// Time that a mail may take: servers are slow to greet and to take.
const MAIL_DEADLINE: Duration = Duration::from_secs(60);

/// Messages by where they go.
#[derive(Debug)]
pub(super) struct Outbox {
    spool: Spool,
    queues: BTreeMap<Destination, Queue>,
    under_way: JoinSet<Result<String, String>>,
    whose: HashMap<Id, Destination>,
}

#[derive(Debug, Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    is_busy: bool,
    trouble: Option<Trouble>,
}

/// Why a destination does not get what waits for it.
#[derive(Clone, Debug)]
struct Trouble {
    since_epoch_secs: u64,
    why: String,
    pause: Duration,
    again: Instant,
}

impl Outbox {
    /// One with these messages waiting, the oldest first.
    pub(super) fn new(spool: Spool, waiting: Vec<Parcel>) -> Self {
        let mut outbox =
            Self { spool, queues: BTreeMap::new(), under_way: JoinSet::new(), whose: HashMap::new() };
        for parcel in waiting {
            outbox.put(parcel);
        }
        outbox
    }

    /// The files behind it.
    pub(super) const fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Takes messages that are on disk. Those that had to give way are to be forgotten.
    pub(super) fn add(&mut self, parcels: Vec<Parcel>) -> Vec<Parcel> {
        for parcel in parcels {
            self.put(parcel);
        }
        let mut dropped = Vec::new();
        while self.queues.values().map(|queue| queue.parcels.len()).sum::<usize>() > MAX_WAITING {
            let Some(parcel) = self.take_oldest() else { break };
            tracing::error!(
                "more than {MAX_WAITING} alerts wait to be sent: the oldest one to {} is lost: {}",
                parcel.destination,
                parcel.content.subject
            );
            dropped.push(parcel);
        }
        dropped
    }

    fn put(&mut self, parcel: Parcel) {
        self.queues.entry(parcel.destination.clone()).or_default().parcels.push_back(parcel);
    }

    /// Takes out the oldest message that is not under way.
    fn take_oldest(&mut self) -> Option<Parcel> {
        let first_idle = |queue: &Queue| usize::from(queue.is_busy);
        let oldest = self
            .queues
            .values_mut()
            .filter(|queue| queue.parcels.len() > first_idle(queue))
            .min_by_key(|queue| queue.parcels.get(first_idle(queue)).map(|parcel| parcel.number))?;
        oldest.parcels.remove(first_idle(oldest))
    }

    /// Takes out what is too old, or goes where nothing goes any more. It is to be forgotten.
    pub(super) fn clear_out(&mut self, config: &Config, epoch_secs: u64) -> Vec<Parcel> {
        let wanted = destinations(config);
        let mut dropped = Vec::new();
        for (destination, queue) in self.queues.iter_mut().filter(|(_, queue)| !queue.is_busy) {
            let is_wanted = wanted.contains(destination);
            let is_over = |parcel: &Parcel| {
                !is_wanted || parcel.at_epoch_secs.saturating_add(MAX_AGE_SECS) < epoch_secs
            };
            let (over, left) = queue.parcels.drain(..).partition(is_over);
            queue.parcels = left;
            let over: VecDeque<Parcel> = over;
            for parcel in &over {
                let Content { subject, .. } = &parcel.content;
                match &queue.trouble {
                    _ if !is_wanted => tracing::warn!(
                        "an alert is not sent, since {destination} is no longer configured: {subject}"
                    ),
                    Some(trouble) => tracing::error!(
                        "an alert to {destination} is given up after two days ({}): {subject}",
                        trouble.why
                    ),
                    None => {
                        tracing::error!("an alert to {destination} of two days ago is given up: {subject}")
                    }
                }
            }
            dropped.extend(over);
        }
        self.queues.retain(|_, queue| !queue.parcels.is_empty());
        dropped
    }

    /// Sends what is due.
    pub(super) fn start(&mut self, config: &Arc<Config>, now: Instant) {
        for (destination, queue) in &mut self.queues {
            if self.under_way.len() >= MAX_UNDER_WAY {
                return;
            }
            let is_due = queue.trouble.as_ref().is_none_or(|trouble| trouble.again <= now);
            if queue.is_busy || !is_due {
                continue;
            }
            let Some(parcel) = queue.parcels.front().cloned() else { continue };
            queue.is_busy = true;
            let config = Arc::clone(config);
            let sending = self.under_way.spawn(async move { send(&parcel, &config.alerts).await });
            self.whose.insert(sending.id(), destination.clone());
        }
    }

    /// When something is due that is not now.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.queues.values().filter(|queue| !queue.is_busy && !queue.parcels.is_empty());
        waiting.filter_map(|queue| Some(queue.trouble.as_ref()?.again)).min()
    }

    /// Tries everything again at once: what was in the way may have been put right.
    pub(super) fn hurry(&mut self, now: Instant) {
        for trouble in self.queues.values_mut().filter_map(|queue| queue.trouble.as_mut()) {
            trouble.again = now;
            trouble.pause = FIRST_PAUSE;
        }
    }

    /// True while messages are under way.
    pub(super) fn is_sending(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Waits for a message to be taken, or not; for ever when none is under way. What was taken is to be forgotten.
    pub(super) async fn next(&mut self) -> Ended {
        match self.under_way.join_next_with_id().await {
            Some(ended) => Ended(ended),
            None => std::future::pending().await,
        }
    }

    /// Takes notice of it.
    pub(super) fn finish(&mut self, Ended(ended): Ended, now: Instant, epoch_secs: u64) -> Option<Parcel> {
        let (id, sent) = match ended {
            Ok((id, sent)) => (id, sent),
            Err(error) => (error.id(), Err(format!("sending it panicked ({error}): please report this"))),
        };
        let destination = self.whose.remove(&id)?;
        let queue = self.queues.get_mut(&destination)?;
        queue.is_busy = false;
        match sent {
            Ok(how) => {
                let parcel = queue.parcels.pop_front();
                if let Some(trouble) = queue.trouble.take() {
                    let since = utc(trouble.since_epoch_secs);
                    tracing::info!("alerts reach {destination} again, which they had not since {since}");
                }
                if queue.parcels.is_empty() {
                    self.queues.remove(&destination);
                }
                tracing::debug!("alert to {destination}: {how}");
                parcel
            }
            Err(why) => {
                let last = queue.trouble.as_ref();
                if last.is_none_or(|last| last.why != why) {
                    tracing::warn!("an alert cannot be sent to {destination}: {why}");
                }
                let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
                let since_epoch_secs = last.map_or(epoch_secs, |last| last.since_epoch_secs);
                queue.trouble = Some(Trouble { since_epoch_secs, why, pause, again: now + pause });
                None
            }
        }
    }

    /// What cannot be sent, a line for each cause.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut by_cause: BTreeMap<&str, Vec<(&Destination, u64, usize)>> = BTreeMap::new();
        for (destination, queue) in &self.queues {
            if let Some(trouble) = &queue.trouble {
                let one = (destination, trouble.since_epoch_secs, queue.parcels.len());
                by_cause.entry(&trouble.why).or_default().push(one);
            }
        }
        let line = |(why, whom): (&str, Vec<(&Destination, u64, usize)>)| {
            let names: Vec<String> = whom.iter().map(|(destination, ..)| destination.to_string()).collect();
            let since = whom.iter().map(|(_, since, _)| *since).min().unwrap_or_default();
            let waiting: usize = whom.iter().map(|(.., waiting)| waiting).sum();
            format!(
                "alerts cannot be sent to {} since {}, {waiting} waiting: {why}",
                names.join(", "),
                utc(since)
            )
        };
        by_cause.into_iter().map(line).collect()
    }
}

/// What became of a message under way.
#[derive(Debug)]
pub(super) struct Ended(Result<(Id, Result<String, String>), JoinError>);

/// Everywhere that a configuration sends something.
pub(super) fn destinations(config: &Config) -> BTreeSet<Destination> {
    let Alerts { mail, webhooks, .. } = &config.alerts;
    let own = config.vips.iter().flat_map(|vip| &vip.alert_to);
    let addresses = mail.iter().flat_map(|mail| mail.to.iter().chain(own.clone()));
    let addresses = addresses.map(|to| Destination::Mail(to.clone()));
    addresses.chain(webhooks.iter().map(|webhook| Destination::Webhook(webhook.url.clone()))).collect()
}

/// Sends one message, and says who took it.
///
/// # Errors
///
/// Why nobody did, with the cure.
pub(super) async fn send(parcel: &Parcel, alerts: &Alerts) -> Result<String, String> {
    let Parcel { number, at_epoch_secs, destination, content, .. } = parcel;
    match destination {
        Destination::Mail(to) => {
            let Some(mail) = &alerts.mail else {
                return Err("mail is not configured: set `alerts.from`".to_owned());
            };
            let letter = Letter { to, number: *number, at_epoch_secs: *at_epoch_secs, content };
            timeout(MAIL_DEADLINE, mail::send(mail, letter)).await.unwrap_or_else(|_elapsed| {
                let nobody = match &mail.route {
                    MailRoute::Relay { host, port, .. } => format!("relay {host}:{port} did not take"),
                    MailRoute::Mx => "no mail server of the domain took".to_owned(),
                };
                let secs = MAIL_DEADLINE.as_secs();
                Err(format!("{nobody} it within {secs} s: check that it answers, and the way there"))
            })
        }
        Destination::Webhook(url) => {
            let Some(webhook) = alerts.webhooks.iter().find(|webhook| webhook.url == *url) else {
                return Err("it is not configured any more".to_owned());
            };
            let name = destination.to_string();
            webhook::post(url, &name, webhook.ca.as_ref(), content.text.clone()).await
        }
    }
}
