//! Checks by ICMP of real machines: namespaces whose kernels answer, or not.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_ctl::{
    health::run_once,
    model::{
        check::{Check, CheckKind, Part},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use lb_tests::lab::{
    Netns,
    netns::{Lifetime, test_name},
    proc::wait_until,
    require_root,
};
use tokio::task::JoinSet;

const TIMEOUT: Duration = Duration::from_millis(600);

/// The balancer and a server, a cable between them.
struct Pair {
    lb: Netns,
    server: Netns,
}

impl Pair {
    fn new(number: u32) -> Self {
        let make = |role| Netns::new(&test_name(number, role), Lifetime::WithProgram);
        let (lb, server) = (make("lb"), make("server"));
        lb.ip(&format!("link add eth0 type veth peer name eth0 netns {}", server.name()));
        for (netns, octet) in [(&lb, 1), (&server, 2)] {
            netns.ip(&format!(
                "addr add 10.7.0.{octet}/24 dev eth0
                 addr add fd07::{octet}/64 dev eth0 nodad
                 link set eth0 up"
            ));
        }
        lb.ip("addr add 10.7.0.9/24 dev eth0");
        // A new cable may lose the first solicitations.
        wait_until(Duration::from_secs(20), "the server is a known neighbour", || {
            ["10.7.0.2", "fd07::2"].iter().all(|ip| lb.run("ping", &["-c", "1", "-W", "1", ip]).success())
        });
        Self { lb, server }
    }

    fn ask(&self, targets: &[Target]) -> Vec<CheckResult> {
        self.lb.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut asked = JoinSet::new();
                for target in targets {
                    let target = target.clone();
                    asked.spawn(async move { run_once(&target).await });
                }
                asked.join_all().await
            })
        })
    }

    fn ping(&self, addr: &str) -> CheckResult {
        self.ask(&[target(addr, None)]).remove(0)
    }
}

fn target(addr: &str, source: Option<&str>) -> Target {
    let id = RipId { vip: "PACS".to_owned(), rip: "A".to_owned() };
    let addr = SocketAddr::new(addr.parse().unwrap(), 104);
    let source: Option<IpAddr> = source.map(|source| source.parse().unwrap());
    Target::new(id, addr, Check { kind: CheckKind::Ping, timeout: TIMEOUT, source, ..Check::default() })
}

#[test]
fn a_machine_that_answers_passes_and_one_that_does_not_is_told_from_one_that_cannot_be_reached() {
    if !require_root("a_machine_that_answers_passes") {
        return;
    }
    let pair = Pair::new(1);
    for server in ["10.7.0.2", "fd07::2"] {
        let result = pair.ping(server);
        assert_eq!(result.failure, None, "{server}");
        assert_eq!(result.steps.len(), 1);
        assert_eq!(result.steps[0].name, "ping");
    }
    let failed = |addr: &str| {
        let failure = pair.ping(addr).failure.unwrap();
        (failure.reason, failure.text)
    };
    let nowhere = (FailureReason::Unreachable, "ping: no route to 10.8.0.2".to_owned());
    assert_eq!(failed("10.8.0.2"), nowhere);
    pair.server.sysctls(&[("net/ipv4/icmp_echo_ignore_all", "1"), ("net/ipv6/icmp/echo_ignore_all", "1")]);
    for server in ["10.7.0.2", "fd07::2"] {
        let silent = (FailureReason::PingTimeout, format!("ping: no answer from {server} within 600 ms"));
        assert_eq!(failed(server), silent);
    }
}

#[test]
fn checks_of_many_servers_at_once_do_not_take_each_others_answers() {
    if !require_root("checks_of_many_servers_at_once_do_not_take_each_others_answers") {
        return;
    }
    let pair = Pair::new(2);
    // Every second one has an address; nobody answers for the others.
    for octet in (100..140).step_by(2) {
        pair.server.ip(&format!("addr add 10.7.0.{octet}/24 dev eth0"));
    }
    let targets: Vec<_> = (100..140).map(|octet| target(&format!("10.7.0.{octet}"), None)).collect();
    let passed = pair.ask(&targets).iter().filter(|result| result.failure.is_none()).count();
    assert_eq!(passed, 20);
    let same: Vec<_> = (0..50).map(|_| target("10.7.0.2", Some("10.7.0.9"))).collect();
    let failed: Vec<_> = pair.ask(&same).into_iter().filter_map(|result| result.failure).collect();
    assert_eq!(failed, [], "one server, asked by many from an address of choice");
}

#[test]
fn a_part_beside_one_that_hangs_is_asked_all_the_same() {
    if !require_root("a_part_beside_one_that_hangs_is_asked_all_the_same") {
        return;
    }
    let pair = Pair::new(3);
    let part = |kind| Part { kind, port: None };
    let asked = |kind| {
        let mut target = target("10.7.0.2", None);
        target.check.kind = kind;
        pair.ask(&[target]).remove(0)
    };
    let parts = || vec![part(CheckKind::Connect), part(CheckKind::Ping)];
    let result = asked(CheckKind::Any(parts()));
    assert_eq!(result.failure, None);
    let note = "connect: connection refused by 10.7.0.2:104";
    assert_eq!(result.note.as_deref(), Some(note));
    let names: Vec<_> = result.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["connect", "ping"]);
    let failure = asked(CheckKind::All(parts())).failure.unwrap();
    assert_eq!((failure.reason, failure.text.as_str()), (FailureReason::ConnectRefused, note));
}
