//! Tells both ends of a connection that it is over: its server is gone (NAT and SNAT; the VIP's `reset`), or an operator
//! killed it.
//!
//! The packet path answers whatever comes along such a flow with a RST that carries the right
//! numbers. But an end that is silent learns nothing, and a sender of HL7 may be silent for hours. So each end is made
//! to speak: it gets one bare ACK, as if from the other end, with a sequence number outside its window, to which
//! TCP answers with an acknowledgement (RFC 9293, 3.10.7.4), and that meets the packet path.
//!
//! The reconciler says who died or which flows were killed. The task finds a dead server's flows in the kernel's tables,
//! sends at a bounded rate, and asks up to three times, with other numbers: the number may be inside a window by chance, and frames get lost.
#![forbid(unsafe_code)]

pub mod frame;
mod pace;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use lb_common::{
    backend::{Backend, state},
    service::{flags, mode},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use self::{
    frame::{Segment, Way},
    pace::Pace,
};
use crate::{
    dataplane::{Installed, MAX_KILLED_PAIRS, Op, PairedFlow, Pairs},
    model::net::NetFacts,
    shutdown::Shutdown,
};

/// How often both ends of a flow are asked to speak.
const TRIES: u32 = 3;
/// Pause from one try to the next.
const PAUSE: Duration = Duration::from_millis(300);
/// Flows told in one try. Void flows stay in the tables for ten seconds, which is as long as the packet path
/// answers: three times this many, both ends, take that long.
const MAX_FLOWS: usize = MAX_KILLED_PAIRS;

/// Connections that are over, both ends of which are to be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// Those of servers that died.
    Servers(Vec<Death>),
    /// Those that an operator killed.
    Flows(Vec<PairedFlow>, Servers),
}

/// Records of live servers by slot: how frames reach them.
pub type Servers = BTreeMap<u16, Backend>;

/// A server that died with flows of NAT or SNAT to it, both ends of which are to be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Death {
    /// `VIP/server`, for the log.
    pub who: String,
    /// Its slot.
    pub slot: u16,
    /// Its record while it lived: how frames reach it, and the generation that its flows carry.
    pub backend: Backend,
}

/// Who dies by an op that is about to be applied.
#[must_use]
pub fn death(op: &Op, installed: &Installed) -> Option<Death> {
    let (slot, next) = if let Op::PutBackend { slot, backend, .. } = op {
        (*slot, Some(backend))
    } else if let Op::ClearBackend { slot } = op {
        (*slot, None)
    } else {
        return None;
    };
    let (identity, backend) = installed.backends.get(&slot)?;
    let lives_on = |next: &Backend| next.state == state::LIVE && next.generation == backend.generation;
    if backend.state != state::LIVE || next.is_some_and(lives_on) {
        return None;
    }
    let (service, record) = installed.services.get(&identity.service)?;
    let told = record.mode != mode::DR && record.flags & flags::RESET != 0;
    told.then(|| Death { who: format!("{}/{}", service.name, identity.name), slot, backend: *backend })
}

/// Puts frames on the wire.
pub trait Post: Send + 'static {
    /// Sends one frame, Ethernet header included, out of an interface.
    fn send(&mut self, ifindex: u32, frame: &[u8]) -> impl Future<Output = Result<(), String>> + Send;
}

/// The task.
pub struct Resets<P> {
    pairs: Arc<dyn Pairs>,
    ended: mpsc::Receiver<Ended>,
    facts: watch::Receiver<NetFacts>,
    post: P,
    pace: Pace,
}

/// Servers by slot and generation, each with its name and its record.
type Dead = BTreeMap<(u16, u16), Death>;

/// Flows that are told together.
#[derive(Debug)]
struct Job {
    whose: Whose,
    tried: u32,
    due: Instant,
}

#[derive(Debug)]
enum Whose {
    /// Flows of these are looked for at each try.
    Dead(Dead),
    /// These.
    Killed(Vec<PairedFlow>, Servers),
}

impl Job {
    /// How frames reach a flow's server.
    fn server(&self, flow: &PairedFlow) -> Option<&Backend> {
        match &self.whose {
            Whose::Dead(dead) => dead.get(&(flow.slot, flow.generation)).map(|death| &death.backend),
            Whose::Killed(_, servers) => servers.get(&flow.slot),
        }
    }

    /// Why its flows are over, for the log.
    fn reason(&self) -> String {
        match &self.whose {
            Whose::Dead(dead) => {
                let who: Vec<&str> = dead.values().map(|death| death.who.as_str()).collect();
                format!("{} is gone", who.join(", "))
            }
            Whose::Killed(..) => "an operator ended them".to_owned(),
        }
    }
}

impl<P: Post> Resets<P> {
    /// A task that is told what ended, finds flows by `pairs`, and sends by `post`.
    pub fn new(
        pairs: Arc<dyn Pairs>,
        ended: mpsc::Receiver<Ended>,
        facts: watch::Receiver<NetFacts>,
        post: P,
    ) -> Self {
        Self { pairs, ended, facts, post, pace: Pace::new() }
    }

    /// Runs until shutdown.
    ///
    /// # Errors
    ///
    /// When nobody is left who could tell of anything.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut stopped = std::pin::pin!(shutdown.requested());
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            let next = jobs.iter().map(|job| job.due).min();
            tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                ended = self.ended.recv() => {
                    let ended = ended.ok_or_else(|| anyhow::anyhow!("the reconciler is gone"))?;
                    take_on(&mut jobs, ended);
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let at = jobs.iter().position(|job| Some(job.due) == next);
                    let Some(job) = at.map(|at| jobs.swap_remove(at)) else { continue };
                    tokio::select! {
                        () = &mut stopped => return Ok(()),
                        again = self.attempt(job) => jobs.extend(again),
                    }
                }
            }
        }
    }

    /// One try. Gives the job back when there is another to come.
    async fn attempt(&mut self, mut job: Job) -> Option<Job> {
        let (flows, total) = flows(&job, Arc::clone(&self.pairs)).await;
        if flows.is_empty() {
            return None;
        }
        if job.tried == 0 {
            let reason = job.reason();
            tracing::info!("telling both ends of {} connections that {reason}", flows.len());
            if let Some(rest) = total.checked_sub(flows.len() as u64).filter(|rest| *rest > 0) {
                tracing::warn!(
                    "the ends of {rest} more connections are not told that {reason}: at most {MAX_FLOWS} are at a time; \
                     they learn of it when they send"
                );
            }
        }
        let mut failure = None;
        for flow in &flows {
            for segment in self.segments(flow, &job) {
                self.pace.permit().await;
                // The client may have begun anew from the same port: that connection is not to be disturbed.
                if !self.pairs.stands(flow) {
                    break;
                }
                let ifindex = segment.way.ifindex;
                failure = self.post.send(ifindex, &segment.frame()).await.err().or(failure);
            }
        }
        if let Some(error) = failure {
            tracing::warn!("some ends of connections could not be told that their server is gone: {error}");
        }
        job.tried += 1;
        job.due = Instant::now() + PAUSE;
        (job.tried < TRIES).then_some(job)
    }

    /// What makes either end speak, as far as the way there is known.
    fn segments(&self, flow: &PairedFlow, job: &Job) -> impl Iterator<Item = Segment> + use<P> {
        let facts = self.facts.borrow();
        let link = facts.links.get(&u32::from(flow.hop.ifindex));
        let to_client = link.map(|link| Way::by_hop(&flow.hop, link.mac));
        let to_server = job.server(flow).map(Way::to_backend);
        let tried = job.tried;
        let ends = [(to_client, flow.client.reversed()), (to_server, flow.server)];
        ends.into_iter().filter_map(move |(way, ends)| Some(Segment::out_of_window(way?, ends, tried)))
    }
}

/// Flows whose ends are to be told, and how many there are in all.
async fn flows(job: &Job, pairs: Arc<dyn Pairs>) -> (Vec<PairedFlow>, u64) {
    match &job.whose {
        Whose::Dead(dead) => {
            let wanted: BTreeSet<(u16, u16)> = dead.keys().copied().collect();
            let found = tokio::task::spawn_blocking(move || pairs.flows_of(&wanted, MAX_FLOWS)).await;
            found.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        }
        Whose::Killed(flows, _) => (flows.clone(), flows.len() as u64),
    }
}

/// Makes a job of what ended. Servers that die one after the other are told of together.
fn take_on(jobs: &mut Vec<Job>, ended: Ended) {
    let whose = match ended {
        Ended::Servers(deaths) => {
            let dead = deaths.into_iter().map(|d| ((d.slot, d.backend.generation), d));
            let waiting = jobs.iter_mut().filter(|job| job.tried == 0);
            let mut waiting = waiting.filter_map(|job| match &mut job.whose {
                Whose::Dead(dead) => Some(dead),
                Whose::Killed(..) => None,
            });
            if let Some(others) = waiting.next() {
                others.extend(dead);
                return;
            }
            Whose::Dead(dead.collect())
        }
        Ended::Flows(flows, servers) => Whose::Killed(flows, servers),
    };
    jobs.push(Job { whose, tried: 0, due: Instant::now() });
}

#[cfg(test)]
mod tests;
