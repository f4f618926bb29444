//! Several checks that make one. All are asked at the same time, so that one that hangs takes no time from the others,
//! and each to its end, so that no association is left half open; what they found is put together in their order.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, pin::Pin};

use futures_util::future::join_all;

use super::{Peer, Stopwatch, Tools, failure, server};
use crate::model::{
    check::Part,
    health::{Failure, FailureReason, Step},
};

/// Passes when every part passes. A part that this machine could not even try decides nothing, as long as no other
/// fails.
pub(super) async fn all(
    peer: &Peer,
    parts: &[Part],
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let failures = ask(peer, parts, tools, clock).await;
    let (untried, failed): (Vec<_>, Vec<_>) = failures.into_iter().partition(is_local);
    failed.into_iter().chain(untried).next().map_or(Ok(()), Err)
}

/// Passes when one part passes. While one could not be tried, it is not known that none would.
pub(super) async fn any(
    peer: &Peer,
    parts: &[Part],
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let failures = ask(peer, parts, tools, clock).await;
    let text = failures.iter().map(|failure| failure.text.as_str()).collect::<Vec<_>>().join("; ");
    if failures.len() < parts.len() {
        if !failures.is_empty() {
            clock.note(text);
        }
        return Ok(());
    }
    let reason = failures.iter().find(|failure| is_local(failure)).or(failures.first());
    reason.map_or(Ok(()), |first| Err(failure(first.reason, text)))
}

fn is_local(failure: &Failure) -> bool {
    failure.reason == FailureReason::Local
}

/// Asks all parts; the failures come in the parts' order, and everything else goes to the clock.
async fn ask(peer: &Peer, parts: &[Part], tools: &Tools, clock: &mut Stopwatch) -> Vec<Failure> {
    let asked = parts.iter().map(|part| one(peer, part, tools, clock.for_part()));
    let outcomes = join_all(asked).await;
    let mut failures = Vec::new();
    for (label, (part, outcome)) in labels(parts).into_iter().zip(outcomes) {
        clock.take_in(part, &label);
        if let Err(Failure { reason, text }) = outcome {
            failures.push(failure(reason, labelled(&label, text, ": ")));
        }
    }
    failures
}

/// What a part found, on its way. Boxed: parts may have parts.
type Asked<'a> = Pin<Box<dyn Future<Output = (Stopwatch, Result<(), Failure>)> + Send + 'a>>;

fn one<'a>(peer: &'a Peer, part: &'a Part, tools: &'a Tools, mut clock: Stopwatch) -> Asked<'a> {
    let port = part.port.unwrap_or(peer.addr.port());
    let peer = Peer { addr: SocketAddr::new(peer.addr.ip(), port), ..*peer };
    Box::pin(async move {
        let outcome = server(&peer, &part.kind, tools, &mut clock).await;
        (clock, outcome)
    })
}

/// What parts are called: by their kind, and the port if they name one; the second of a name is `http (2)`.
fn labels(parts: &[Part]) -> Vec<String> {
    let plain = |part: &Part| match part.port {
        Some(port) => format!("{} {port}", part.kind.name()),
        None => part.kind.name().to_owned(),
    };
    let numbered = |(at, part)| {
        let label = plain(part);
        match parts.iter().take(at).filter(|earlier| plain(earlier) == label).count() {
            0 => label,
            before => format!("{label} ({})", before + 1),
        }
    };
    parts.iter().enumerate().map(numbered).collect()
}

/// What a part says, under its name; a `ping` that says `ping` has named itself.
fn labelled(label: &str, text: String, between: &str) -> String {
    match text.strip_prefix(label) {
        Some(rest) if rest.is_empty() || rest.starts_with([':', ' ']) => text,
        _ => format!("{label}{between}{text}"),
    }
}

impl Stopwatch {
    /// A stopwatch of the same deadline whose steps begin now.
    fn for_part(&self) -> Self {
        Self { started: self.started, ..Self::start(self.timeout) }
    }

    /// Takes in what a part found. Its steps ran beside those of others, so their times do not add up. The first part
    /// with an output, and the first that says something of the server, has the word.
    fn take_in(&mut self, part: Self, label: &str) {
        let named = |step: Step| Step { name: labelled(label, step.name, " "), ..step };
        self.steps.extend(part.steps.into_iter().map(named));
        self.output = self.output.take().or(part.output);
        self.advice.percent = self.advice.percent.or(part.advice.percent);
        self.advice.state = self.advice.state.or(part.advice.state);
        if let Some(note) = part.note {
            self.note(labelled(label, note, ": "));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        time::Duration,
    };

    use tokio::sync::watch;

    use super::{super::Subject, *};
    use crate::model::{
        check::CheckKind,
        health::{CheckResult, HealthMap},
    };

    const TIMEOUT: Duration = Duration::from_millis(300);

    /// Listens, and never says anything.
    fn hung() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    fn port_of(listener: &TcpListener) -> Option<u16> {
        Some(listener.local_addr().unwrap().port())
    }

    fn closed() -> Option<u16> {
        port_of(&hung())
    }

    const fn part(kind: CheckKind, port: Option<u16>) -> Part {
        Part { kind, port }
    }

    fn asked(kind: CheckKind) -> CheckResult {
        let peer = Peer { addr: (Ipv4Addr::LOCALHOST, 1).into(), source: None, vip: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_nobody, health) = watch::channel(HealthMap::new());
            super::super::ask(&Subject::Server(peer, kind), TIMEOUT, &Tools::new(health)).await
        })
    }

    fn steps(result: &CheckResult) -> Vec<&str> {
        result.steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn one_part_that_passes_is_enough_though_the_first_hangs() {
        let (hung, open) = (hung(), hung());
        let kind = CheckKind::Any(vec![
            part(CheckKind::Agent, port_of(&hung)),
            part(CheckKind::Connect, port_of(&open)),
        ]);
        let result = asked(kind);
        assert_eq!(result.failure, None);
        let (agent, connect) =
            (format!("agent {}", port_of(&hung).unwrap()), format!("connect {}", port_of(&open).unwrap()));
        assert_eq!(
            steps(&result),
            [format!("{agent} connect"), format!("{agent} agent"), format!("{connect} connect")]
        );
        assert!(
            Duration::from_micros(result.steps[2].took_micros) < TIMEOUT,
            "asked at once: {:?}",
            result.steps
        );
        assert_eq!(result.note, Some(format!("{agent}: agent: no answer within 300 ms")));
    }

    #[test]
    fn all_parts_have_to_pass_and_the_first_that_fails_is_named() {
        let (open, port) = (hung(), closed());
        let kind =
            CheckKind::All(vec![part(CheckKind::Connect, port_of(&open)), part(CheckKind::Connect, port)]);
        let failure = asked(kind).failure.unwrap();
        assert_eq!(failure.reason, FailureReason::ConnectRefused);
        let port = port.unwrap();
        assert_eq!(failure.text, format!("connect {port}: connect: connection refused by 127.0.0.1:{port}"));
    }

    #[test]
    fn none_that_passes_fails_with_all_they_said() {
        let (one, two) = (closed(), closed());
        let kind = CheckKind::Any(vec![part(CheckKind::Connect, one), part(CheckKind::Connect, two)]);
        let failure = asked(kind).failure.unwrap();
        assert_eq!(failure.reason, FailureReason::ConnectRefused);
        assert_eq!(failure.text.matches("connection refused").count(), 2, "{}", failure.text);
    }

    #[test]
    fn what_could_not_be_tried_decides_only_what_others_leave_open() {
        let open = hung();
        let untried = || part(CheckKind::Track { vip: "ELSEWHERE".to_owned() }, None);
        let (passes, fails) =
            (|| part(CheckKind::Connect, port_of(&open)), || part(CheckKind::Connect, closed()));
        let reason = |kind| asked(kind).failure.map(|failure| failure.reason);
        let (local, refused) = (Some(FailureReason::Local), Some(FailureReason::ConnectRefused));
        assert_eq!(reason(CheckKind::All(vec![untried(), passes()])), local);
        assert_eq!(reason(CheckKind::All(vec![untried(), fails()])), refused);
        assert_eq!(reason(CheckKind::Any(vec![untried(), passes()])), None);
        assert_eq!(reason(CheckKind::Any(vec![fails(), untried()])), local);
    }

    #[test]
    fn parts_of_parts_are_named_by_both() {
        let open = hung();
        let inner = CheckKind::All(vec![
            part(CheckKind::Connect, port_of(&open)),
            part(CheckKind::Connect, port_of(&open)),
        ]);
        let result = asked(CheckKind::Any(vec![part(inner, None)]));
        let port = port_of(&open).unwrap();
        assert_eq!(
            steps(&result),
            [format!("all connect {port} connect"), format!("all connect {port} (2) connect")]
        );
    }

    #[test]
    fn a_part_that_names_itself_is_not_named_twice() {
        assert_eq!(labelled("ping", "ping".to_owned(), " "), "ping");
        assert_eq!(labelled("ping", "ping: no answer".to_owned(), ": "), "ping: no answer");
        assert_eq!(labelled("http", "https".to_owned(), " "), "http https");
        assert_eq!(labelled("http 80", "request".to_owned(), " "), "http 80 request");
    }
}
