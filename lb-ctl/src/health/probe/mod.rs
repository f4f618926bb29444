//! One check of one server: the steps, the deadline over all of them, and what went wrong.
#![forbid(unsafe_code)]

mod agent;
mod association;
mod command_set;
mod connect;
mod dicom_echo;
mod element;
mod hl7;
mod http;
mod mllp;
mod offspring;
mod parts;
pub(super) mod path;
mod pdu;
mod ping;
mod query;
mod script;
pub(super) mod tls;
mod unprivileged;

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::model::{
    check::CheckKind,
    health::{Advice, CheckResult, DirectPath, Failure, FailureReason, HealthMap, Step, Target, Verdict},
};

/// Whom a check asks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Peer {
    /// The server's address and the port to ask.
    pub(super) addr: SocketAddr,
    /// Address to ask from.
    pub(super) source: Option<IpAddr>,
    /// The VIP's address and first port: scripts get them, so for scripts alone the answer depends on the VIP.
    pub(super) vip: Option<SocketAddr>,
}

impl Peer {
    pub(super) fn of(target: &Target) -> Self {
        let vip = target.check.kind.runs_script().then_some(target.vip);
        Self { addr: target.addr, source: target.check.source, vip }
    }
}

/// What is asked on the wire.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most subjects are servers: a box would save nothing")]
pub(super) enum Subject {
    /// A server.
    Server(Peer, CheckKind),
    /// A VIP at a server.
    Path(Arc<DirectPath>),
}

/// What all checks share.
#[derive(Debug)]
pub(super) struct Tools {
    /// Certificates and authorities.
    pub(super) tls: tls::Store,
    /// Packet sockets.
    pub(super) wires: path::Wires,
    /// Verdicts, for checks that go by another VIP's.
    pub(super) health: watch::Receiver<HealthMap>,
}

impl Tools {
    pub(super) fn new(health: watch::Receiver<HealthMap>) -> Self {
        Self { tls: tls::Store::default(), wires: path::Wires::default(), health }
    }
}

/// Checks a target once, now, whatever its interval, rise and fall say. Takes no longer than its timeout. A target
/// whose check is off passes without a step. The VIP's path is not tried.
pub async fn run_once(target: &Target) -> CheckResult {
    let peer = Peer::of(target);
    let (_nobody, health) = watch::channel(HealthMap::new());
    let subject = Subject::Server(peer, target.check.kind.clone());
    ask(&subject, target.check.timeout, &Tools::new(health)).await
}

/// Tries the VIP at a server once, now, over a packet socket of its own. Takes no longer than `timeout`.
pub async fn try_path(path: &DirectPath, timeout: Duration) -> CheckResult {
    let (_nobody, health) = watch::channel(HealthMap::new());
    ask(&Subject::Path(Arc::new(path.clone())), timeout, &Tools::new(health)).await
}

/// Asks once; everything together ends within `timeout`.
pub(super) async fn ask(subject: &Subject, timeout: Duration, tools: &Tools) -> CheckResult {
    let mut clock = Stopwatch::start(timeout);
    let outcome = match subject {
        Subject::Server(peer, kind) => server(peer, kind, tools, &mut clock).await,
        Subject::Path(path) => Box::pin(path::probe(path, &tools.wires, &mut clock)).await,
    };
    clock.finish(outcome.err())
}

/// What most servers are asked stands in place. The others' state is boxed: it is kilobytes, and would be moved about for
/// every connection.
async fn server(peer: &Peer, kind: &CheckKind, tools: &Tools, clock: &mut Stopwatch) -> Result<(), Failure> {
    match kind {
        CheckKind::Off => Ok(()),
        CheckKind::Connect => connect::probe(peer, clock).await,
        CheckKind::Http(http) => Box::pin(http::probe(peer, http, tools, clock)).await,
        CheckKind::DicomEcho(dicom) => Box::pin(dicom_echo::probe(peer, dicom, tools, clock)).await,
        CheckKind::Mllp(mllp) => Box::pin(mllp::probe(peer, mllp, clock)).await,
        CheckKind::Ping => Box::pin(ping::probe(peer, clock)).await,
        CheckKind::Script(script) => Box::pin(script::probe(peer, script, clock)).await,
        CheckKind::Agent => Box::pin(agent::probe(peer, clock)).await,
        CheckKind::Track { vip } => {
            let outcome = tracked(vip, &tools.health.borrow());
            clock.mark("track");
            outcome
        }
        CheckKind::All(parts) => Box::pin(parts::all(peer, parts, tools, clock)).await,
        CheckKind::Any(parts) => Box::pin(parts::any(peer, parts, tools, clock)).await,
    }
}

/// By the verdicts on another VIP's servers. As long as there is none, nothing is decided: at a start, this check would
/// else be the one to say that a server is down which nobody has asked yet.
fn tracked(vip: &str, health: &HealthMap) -> Result<(), Failure> {
    let verdicts: Vec<Verdict> =
        health.iter().filter(|(id, _)| id.vip == vip).map(|(_, health)| health.verdict).collect();
    if verdicts.contains(&Verdict::Up) {
        Ok(())
    } else if verdicts.is_empty() {
        Err(failure(
            FailureReason::Local,
            format!("track: not tried, no server of VIP {vip} is checked here"),
        ))
    } else if verdicts.contains(&Verdict::Unknown) {
        Err(failure(FailureReason::Local, format!("track: not tried, no verdict on VIP {vip} yet")))
    } else {
        Err(failure(FailureReason::TrackedDown, format!("track: no server of VIP {vip} is up")))
    }
}

/// The time of a check: its one deadline, and what its steps took.
struct Stopwatch {
    started: Instant,
    step_started: Instant,
    timeout: Duration,
    steps: Vec<Step>,
    /// What goes into the result beside steps and failure; a probe fills it in.
    output: Option<String>,
    note: Option<String>,
    advice: Advice,
}

impl Stopwatch {
    fn start(timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            step_started: now,
            timeout,
            steps: Vec::new(),
            output: None,
            note: None,
            advice: Advice::default(),
        }
    }

    fn deadline(&self) -> Instant {
        self.started + self.timeout
    }

    fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }

    /// Ends the running step: it took from the end of the one before until now.
    fn mark(&mut self, name: &str) {
        let now = Instant::now();
        let took = now.duration_since(self.step_started);
        self.step_started = now;
        self.steps.push(Step {
            name: name.to_owned(),
            took_micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// Runs a step under the deadline. When that passes first, the step fails for `late`, and the text says
    /// `{name}: no answer{from} within 3 s`.
    async fn step<T>(
        &mut self,
        name: &str,
        late: FailureReason,
        from: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let outcome = timeout_at(self.deadline(), work).await.unwrap_or_else(|_elapsed| {
            Err(failure(late, format!("{name}: no answer{from} within {}", in_words(self.timeout))))
        });
        self.mark(name);
        outcome
    }

    /// Adds to what is worth knowing though nothing failed.
    fn note(&mut self, note: String) {
        match &mut self.note {
            Some(before) => {
                before.push_str("; ");
                before.push_str(&note);
            }
            None => self.note = Some(note),
        }
    }

    fn finish(self, failure: Option<Failure>) -> CheckResult {
        CheckResult {
            at: SystemTime::now(),
            took: self.started.elapsed(),
            steps: self.steps,
            failure,
            output: self.output,
            note: self.note,
            advice: self.advice,
        }
    }
}

const fn failure(reason: FailureReason, text: String) -> Failure {
    Failure { reason, text }
}

/// What another machine said, for a line in front of people: no control characters, no more than so many others.
fn legible(text: &str, max_chars: usize) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut line: String = text.chars().take(max_chars).map(clean).collect();
    if text.chars().nth(max_chars).is_some() {
        line.push_str("...");
    }
    line
}

/// What another machine said, for a result: its first bytes, without what a terminal would take for orders.
fn output(said: &[u8]) -> Option<String> {
    let first = said.get(..CheckResult::MAX_OUTPUT_BYTES).unwrap_or(said);
    let clean = |c: char| if c.is_control() && !matches!(c, '\n' | '\t') { '?' } else { c };
    let mut text: String = String::from_utf8_lossy(first).replace("\r\n", "\n").chars().map(clean).collect();
    // What stands for broken bytes is longer than they were.
    text.truncate(text.floor_char_boundary(CheckResult::MAX_OUTPUT_BYTES));
    (!text.is_empty()).then_some(text)
}

/// `3 s`, `1.5 s`, `250 ms`: the way people write a time-out.
fn in_words(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", (duration.as_secs_f64() * 1000.0).round() / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::{Health, RipId};

    #[test]
    fn timeouts_read_as_people_write_them() {
        assert_eq!(in_words(Duration::from_secs(3)), "3 s");
        assert_eq!(in_words(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(in_words(Duration::from_millis(250)), "250 ms");
    }

    #[test]
    fn a_tracked_vip_decides_once_there_is_a_verdict_on_it() {
        use Verdict::{Down, Unknown, Up};
        let reason = |verdicts: &[Verdict]| {
            let of = |(n, verdict): (usize, &Verdict)| {
                let id = RipId { vip: "PACS".to_owned(), rip: n.to_string() };
                (id, Health::new(*verdict, SystemTime::UNIX_EPOCH))
            };
            let other = RipId { vip: "WEB".to_owned(), rip: "A".to_owned() };
            let mut health: HealthMap = verdicts.iter().enumerate().map(of).collect();
            health.insert(other, Health::new(Up, SystemTime::UNIX_EPOCH));
            tracked("PACS", &health).err().map(|failure| failure.reason)
        };
        assert_eq!(reason(&[Down, Unknown, Up]), None);
        assert_eq!(reason(&[Down, Down]), Some(FailureReason::TrackedDown));
        assert_eq!(reason(&[Down, Unknown]), Some(FailureReason::Local));
        assert_eq!(reason(&[]), Some(FailureReason::Local));
    }

    #[test]
    fn what_others_say_gives_a_terminal_no_orders_and_has_an_end() {
        assert_eq!(legible("up\x1b[0m\n", 10), "up?[0m?");
        assert_eq!(legible("äöü", 2), "äö...");
        assert_eq!(output(b"a\r\nb\tc\x07"), Some("a\nb\tc?".to_owned()));
        assert_eq!(output(b""), None);
        let broken = output(&[0xff; 2 * CheckResult::MAX_OUTPUT_BYTES]).unwrap();
        assert!(broken.len() <= CheckResult::MAX_OUTPUT_BYTES);
    }
}
