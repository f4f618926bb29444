//! The task that tells people, by itself in a namespace: what other tasks would say is said by the test.

use std::{
    collections::BTreeMap, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration, time::SystemTime,
};

use lb_ctl::{
    alert::{self, Connections, TestRequest, Tested},
    compile::Notes,
    control::View,
    model::{
        alerts::{Alerts, Login, Mail, MailRoute, RelayTls, Webhook},
        check::CaFamily,
        config::{Config, Mode, Node, Ports, Rip, Vip},
        health::{CheckResult, Failure, FailureReason, Health, HealthMap, RipId, Verdict},
        net::{ForeignAnswers, NetFacts},
        operator::Words,
        proxied::Proxied,
        tls::Validity,
    },
    reconcile::{Goal, Reconciled},
    shutdown::{self, Trigger},
};
use lb_tests::lab::{
    mail::Identity,
    proc::wait_for,
    topology::{Host, VIP4},
};
use tokio::sync::{mpsc, oneshot, watch};

/// Time for anything that is told, pauses of what is tried again included.
pub(crate) const SETTLE: Duration = Duration::from_secs(30);

/// Ends of channels that say nothing here.
type Others = (
    watch::Sender<Arc<ForeignAnswers>>,
    watch::Sender<NetFacts>,
    watch::Sender<Arc<Reconciled>>,
    watch::Sender<Arc<Proxied>>,
    watch::Sender<Option<Arc<Vec<Validity>>>>,
);

/// The running task. Dropped, it ends as at a shutdown.
pub(crate) struct Bell {
    view: watch::Sender<Arc<View>>,
    health: watch::Sender<HealthMap>,
    _others: Others,
    tests: mpsc::Sender<TestRequest>,
    problems: watch::Receiver<alert::Problems>,
    trigger: Trigger,
    thread: Option<JoinHandle<()>>,
}

impl Bell {
    /// Starts it, with what an earlier one left in its state directory. Nothing has been checked yet.
    pub(crate) fn start(host: &Host, config: Config) -> Self {
        let (view, view_in) = watch::channel(view(config));
        let (health, health_in) = watch::channel(HealthMap::new());
        let (foreign, foreign_in) = watch::channel(Arc::default());
        let (facts, facts_in) = watch::channel(NetFacts::default());
        let (reconciled, reconciled_in) = watch::channel(Arc::default());
        let (proxied, proxied_in) = watch::channel(Arc::default());
        let (validities, validities_in) = watch::channel(None);
        let (tests, tests_in) = mpsc::channel(8);
        let (unsent, problems) = watch::channel(Vec::new());
        let (trigger, shutdown) = shutdown::channel();
        let connections = Connections {
            view: view_in,
            health: health_in,
            foreign: foreign_in,
            facts: facts_in,
            reconciled: reconciled_in,
            proxied: proxied_in,
            validities: validities_in,
            tests: tests_in,
            problems: unsent,
        };
        let (netns, state_dir) = (host.netns.clone(), state_dir(host));
        let thread = std::thread::spawn(move || {
            netns.enter(|| {
                // Threads of the runtime are born in the namespace of the one that makes it.
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(alert::run(connections, state_dir, shutdown)).expect("alerts run");
            });
        });
        let others = (foreign, facts, reconciled, proxied, validities);
        Self { view, health, _others: others, tests, problems, trigger, thread: Some(thread) }
    }

    /// Puts another configuration into force.
    pub(crate) fn configure(&self, config: Config) {
        self.view.send_replace(view(config));
    }

    /// Says of servers, by number, that their checks pass, or fail for a reason.
    pub(crate) fn say(&self, servers: std::ops::Range<usize>, failure: Option<&str>) {
        self.health.send_modify(|health| {
            for n in servers {
                health.insert(RipId { vip: "DICOM".into(), rip: rip_name(n) }, health_of(failure));
            }
        });
    }

    /// Waits until exactly this is wrong with sending; each line is told by a part of it.
    #[track_caller]
    pub(crate) fn wait_problems(&self, parts: &[&str]) -> Vec<String> {
        wait_for(
            SETTLE,
            || format!("problems with {parts:?}; instead {:?}", *self.problems.borrow()),
            || {
                let problems = self.problems.borrow().clone();
                let holds = |(line, part): (&String, &&str)| line.contains(*part);
                let all = problems.len() == parts.len() && problems.iter().zip(parts).all(holds);
                all.then_some(problems)
            },
        )
    }

    /// Sends a test by every way.
    pub(crate) fn test(&self) -> BTreeMap<String, Result<String, String>> {
        let (reply, answer) = oneshot::channel();
        self.tests.blocking_send(TestRequest { reply }).expect("the task takes tests");
        let tested: Tested = answer.blocking_recv().expect("the task answers");
        tested.into_iter().collect()
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.trigger.pull();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Where the task keeps what must outlive it.
pub(crate) fn state_dir(host: &Host) -> PathBuf {
    host.dir().join("state")
}

/// A VIP called DICOM with `servers` servers.
pub(crate) fn config(servers: usize, alerts: Alerts) -> Config {
    let rips =
        (0..servers).map(|n| Rip::new(rip_name(n), format!("10.10.1.{n}").parse().expect("an address")));
    let vip = Vip {
        rips: rips.collect(),
        ..Vip::new("DICOM", Mode::L4Dr, VIP4, Ports::Ranges(std::iter::once(104..=104).collect()))
    };
    let node = Node { name: Some("lb1".into()), ..Node::default() };
    Config { node, alerts, vips: vec![vip], ..Config::default() }
}

/// Alerts by this mail, at once.
pub(crate) fn by_mail(mail: Mail) -> Alerts {
    Alerts { mail: Some(mail), group: Duration::from_millis(500), ..Alerts::default() }
}

/// Alerts by these webhooks, at once.
pub(crate) fn by_webhooks(urls: &[String], ca: Option<&Identity>) -> Alerts {
    let webhooks = urls.iter().map(|url| Webhook { url: url.clone(), ca: ca.map(family) }).collect();
    Alerts { webhooks, group: Duration::from_millis(500), ..Alerts::default() }
}

/// Mail to one address by a relay.
pub(crate) fn relay(
    host: &Host,
    port: u16,
    tls: RelayTls,
    login: Option<Login>,
    ca: Option<&Identity>,
) -> Mail {
    Mail {
        from: "lb@hospital.example".into(),
        to: vec!["pacs@hospital.example".into()],
        route: MailRoute::Relay { host: host.v4.to_string(), port, tls, login },
        ca: ca.map(family),
    }
}

fn family(identity: &Identity) -> CaFamily {
    CaFamily { name: "lab".into(), pems: vec![identity.authority.clone()] }
}

fn rip_name(n: usize) -> String {
    format!("PACS{n:02}")
}

fn health_of(failure: Option<&str>) -> Health {
    let now = SystemTime::now();
    let verdict = if failure.is_some() { Verdict::Down } else { Verdict::Up };
    let failure =
        failure.map(|text| Failure { reason: FailureReason::ConnectRefused, text: text.to_owned() });
    let result = CheckResult::new(now, Duration::ZERO, Vec::new(), failure);
    Health { last: Some(result), ..Health::new(verdict, now) }
}

fn view(config: Config) -> Arc<View> {
    Arc::new(View {
        config: Arc::new(config),
        operator: Words::new(),
        notes: Notes::default(),
        goal: Arc::new(Goal::default()),
        config_problem: None,
        operator_problem: None,
    })
}
