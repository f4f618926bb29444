//! The one owner of the data plane's reader: counters and events every second, listings of flows and persistence on request.
#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use lb_common::event::{Event, EventKind};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    dataplane::{Counters, Error, Flow, Persisted, Reader},
    lent::Lent,
    shutdown::Shutdown,
};

const POLL: Duration = Duration::from_secs(1);
/// Events read per second; the rest waits, and what finds the ring full is counted by the kernel.
const EVENTS_PER_POLL: usize = 256;
/// Pause between two lines about events of one kind.
const QUIET: Duration = Duration::from_secs(10);

/// Asks for what stands in the kernel's tables.
#[derive(Debug)]
pub struct TableRequest<T> {
    /// At most this many.
    pub limit: usize,
    /// Gets them, and how many there are in all.
    pub reply: oneshot::Sender<Result<(Vec<T>, u64), Error>>,
}

/// What can be asked for.
#[derive(Debug)]
pub enum Listing {
    /// Flows.
    Flows(TableRequest<Flow>),
    /// Persistence entries.
    Persistence(TableRequest<Persisted>),
}

/// The actor.
pub struct Telemetry {
    reader: Lent<Box<dyn Reader>>,
    counters: watch::Sender<Arc<Counters>>,
    requests: mpsc::Receiver<Listing>,
    journal: Journal,
    /// Why the last reading of counters failed, if it did: told once, not every second.
    blind: Option<String>,
}

impl Telemetry {
    /// An actor that publishes what `reader` tells.
    pub fn new(
        reader: Box<dyn Reader>,
        counters: watch::Sender<Arc<Counters>>,
        requests: mpsc::Receiver<Listing>,
    ) -> Self {
        let journal = Journal::default();
        Self { reader: Lent::new(reader), counters, requests, journal, blind: None }
    }

    /// Runs until shutdown.
    ///
    /// # Errors
    ///
    /// Never for what the data plane says: that is logged.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut ended => return Ok(()),
                _ = poll.tick() => self.poll().await,
                request = self.requests.recv() => match request {
                    // Who asked may have gone away meanwhile.
                    Some(Listing::Flows(TableRequest { limit, reply })) => {
                        drop(reply.send(self.reader.with(move |reader| reader.flows(limit)).await));
                    }
                    Some(Listing::Persistence(TableRequest { limit, reply })) => {
                        drop(reply.send(self.reader.with(move |reader| reader.persistence(limit)).await));
                    }
                    None => return Ok(()),
                }
            }
        }
    }

    async fn poll(&mut self) {
        let (counters, events) =
            self.reader.with(|reader| (reader.counters(), reader.events(EVENTS_PER_POLL))).await;
        match counters {
            Ok(counters) => {
                self.blind = None;
                drop(self.counters.send_replace(Arc::new(counters)));
            }
            Err(error) => {
                let line = error.line();
                if self.blind.as_ref() != Some(&line) {
                    tracing::error!("{line}");
                }
                self.blind = Some(line);
            }
        }
        self.journal.write(&events, Instant::now());
    }
}

/// Events as log lines: the first of a kind at once, then one line for all of ten seconds.
#[derive(Debug, Default)]
struct Journal {
    kinds: [(Option<Instant>, u64); EventKind::COUNT as usize],
}

impl Journal {
    fn write(&mut self, events: &[Event], now: Instant) {
        for event in events {
            // A kind that this build does not know comes from a newer program: it is counted there.
            if let Some(kind) = EventKind::from_u32(event.kind) {
                self.kinds[kind as usize].1 += 1;
            }
        }
        for kind in (0..EventKind::COUNT).filter_map(EventKind::from_u32) {
            let (last, count) = &mut self.kinds[kind as usize];
            if *count > 0 && last.is_none_or(|last| now >= last + QUIET) {
                tracing::warn!("{} ({count} times seen)", text(kind));
                (*last, *count) = (Some(now), 0);
            }
        }
    }
}

const fn text(kind: EventKind) -> &'static str {
    match kind {
        EventKind::FlowTableFull => {
            "a bucket of the flow table is full, new connections are steered without an entry: raise `node.flows_v4` or `flows_v6`"
        }
        EventKind::NoServer => "a VIP had no server for a new connection: see `lbctl status`",
        EventKind::HalfOpenOverwritten => {
            "half-open connections are being overwritten: a SYN flood, or `node.half_open` is too small"
        }
        EventKind::NoSourcePort => {
            "a SNAT VIP had no source port for a new connection: give it more `source` addresses or ports"
        }
        EventKind::FlowRefused => {
            "a NAT or SNAT VIP had no room for a new connection and refused it: raise `node.flows_v4` or `flows_v6`"
        }
    }
}
