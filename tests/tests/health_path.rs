//! The VIP tried at a server by the way that clients' packets go: what each thing that can be wrong there is called, and
//! that nothing is left behind.

#![forbid(unsafe_code)]

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use lb_common::net::Mac;
use lb_ctl::{
    health::try_path,
    model::{
        check::DicomCheck,
        health::{CheckResult, DirectPath, FailureReason},
    },
};
use lb_tests::lab::{
    Host, Lab, Orthanc, require_root,
    topology::{VIP4, VIP6},
    wait_until,
};
use tokio::task::JoinSet;

/// Deadline of tries that end by themselves long before.
const PATIENT: Duration = Duration::from_secs(5);
/// Deadline of tries that nobody answers.
const HASTY: Duration = Duration::from_millis(700);

/// The usual lab, with the VIPs on the balancer and nothing yet on the servers.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.host("lb").netns.ip(&format!(
        "addr add {VIP4}/32 dev eth0
         addr add {VIP6}/128 dev eth0 nodad preferred_lft 0"
    ));
    lab
}

/// The way to a VIP's port at `pacs1`.
fn path(lab: &Lab, vip: IpAddr, port: u16) -> DirectPath {
    let (lb, server) = (lab.host("lb"), lab.host("pacs1"));
    DirectPath {
        ifindex: ifindex(lb, "eth0"),
        interface: "eth0".to_owned(),
        source_mac: Mac(lb.mac),
        source: lb.address_like(vip),
        server_mac: Mac(server.mac),
        server: server.address_like(vip),
        vip: SocketAddr::new(vip, port),
        echo: None,
    }
}

fn ifindex(host: &Host, dev: &str) -> u32 {
    let list = host.run("ip", &["-o", "link", "show", "dev", dev]).expect_success().stdout;
    list.split(':').next().and_then(|index| index.parse().ok()).unwrap_or_else(|| panic!("no index: {list}"))
}

/// Tries it once from the balancer.
fn try_from_lb(lab: &Lab, path: &DirectPath, timeout: Duration) -> CheckResult {
    lab.host("lb").netns.enter(|| runtime().block_on(try_path(path, timeout)))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn listen(host: &Host, at: impl Into<SocketAddr>) -> TcpListener {
    let at = at.into();
    host.netns
        .enter(|| TcpListener::bind(at).unwrap_or_else(|error| panic!("cannot listen on {at}: {error}")))
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from(([0_u16; 8], port))
}

fn steps(result: &CheckResult) -> Vec<&str> {
    result.steps.iter().map(|step| step.name.as_str()).collect()
}

/// Connections of a host with the balancer, in any state.
fn connections(host: &Host) -> usize {
    host.run("ss", &["-Htan", "state", "all", "exclude", "listening"]).expect_success().stdout.lines().count()
}

#[track_caller]
fn fails(result: &CheckResult, reason: FailureReason, words: &[&str]) {
    let failure = result.failure.as_ref().unwrap_or_else(|| panic!("it passes: {result:?}"));
    assert_eq!(failure.reason, reason, "{failure:?}");
    for word in words {
        assert!(failure.text.contains(word), "{word} is missing: {}", failure.text);
    }
    assert_eq!(failure.text.lines().count(), 1, "{}", failure.text);
}

#[test]
fn a_vip_that_answers_passes_unseen_by_the_application() {
    if !require_root("a_vip_that_answers_passes_unseen_by_the_application") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    let service = listen(server, everywhere(104));
    service.set_nonblocking(true).expect("non-blocking");
    for vip in [VIP4, VIP6] {
        server.carry_vip(vip);
        let result = try_from_lb(&lab, &path(&lab, vip, 104), PATIENT);
        assert_eq!((&result.failure, &result.note), (&None, &None), "{vip}");
        assert_eq!(steps(&result), ["vip connect"]);
        wait_until(PATIENT, "the server has forgotten the connection", || connections(server) == 0);
        let seen = service.accept().map(|(_, from)| from);
        assert_eq!(seen.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn a_vip_that_is_missing_is_told_whether_the_server_drops_or_routes() {
    if !require_root("a_vip_that_is_missing_is_told_whether_the_server_drops_or_routes") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    let _service = listen(server, everywhere(104));
    let path4 = path(&lab, VIP4, 104);
    let dropped = try_from_lb(&lab, &path4, HASTY);
    let cure = "lbctl arp-help linux --vip 10.10.0.100";
    fails(
        &dropped,
        FailureReason::PathUnanswered,
        &["10.10.0.100:104", "10.10.0.11", "02:00:0a:0a:00:0b", "eth0", "loopback", cure],
    );

    server.netns.sysctls(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]);
    for vip in [VIP4, VIP6] {
        let started = Instant::now();
        let routed = try_from_lb(&lab, &path(&lab, vip, 104), PATIENT);
        fails(&routed, FailureReason::PathUnanswered, &["routes", "02:00:0a:0a:00:0b", "arp-help"]);
        assert!(started.elapsed() < PATIENT, "known at once, not at the deadline: {routed:?}");
    }
}

#[test]
fn a_service_that_is_not_bound_to_the_vip_is_refused() {
    if !require_root("a_service_that_is_not_bound_to_the_vip_is_refused") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    for vip in [VIP4, VIP6] {
        server.carry_vip(vip);
        let _service = listen(server, (server.address_like(vip), 104));
        let refused = try_from_lb(&lab, &path(&lab, vip, 104), PATIENT);
        fails(&refused, FailureReason::PathRefused, &["refused", "bind the service"]);
    }
}

#[test]
fn firewalls_are_named_when_they_say_that_they_are_there() {
    if !require_root("firewalls_are_named_when_they_say_that_they_are_there") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    server.carry_vip(VIP4);
    server.carry_vip(VIP6);
    let _service = listen(server, everywhere(104));
    let firewall = |rule: &str| {
        let table = format!(
            "add table inet t; flush table inet t; add chain inet t c {{ type filter hook input priority 0; }}; \
             add rule inet t c tcp dport 104 {rule}"
        );
        server.run("nft", &[&table]).expect_success();
    };
    let path4 = path(&lab, VIP4, 104);
    firewall("drop");
    fails(&try_from_lb(&lab, &path4, HASTY), FailureReason::PathUnanswered, &["firewall"]);
    firewall("reject with icmpx admin-prohibited");
    let prohibited = try_from_lb(&lab, &path4, PATIENT);
    fails(&prohibited, FailureReason::PathUnanswered, &["firewall", "10.10.0.11", "prohibited"]);
    let prohibited = try_from_lb(&lab, &path(&lab, VIP6, 104), PATIENT);
    fails(&prohibited, FailureReason::PathUnanswered, &["firewall", "fd10:10::11", "prohibited"]);
    firewall("reject");
    fails(&try_from_lb(&lab, &path4, PATIENT), FailureReason::PathUnanswered, &["port unreachable"]);
}

#[test]
fn an_answer_from_another_address_is_none_and_one_from_another_mac_is_noted() {
    if !require_root("an_answer_from_another_address_is_none_and_one_from_another_mac_is_noted") {
        return;
    }
    let lab = lab();
    let (server, other) = (lab.host("pacs1"), lab.host("pacs2"));
    let _services = [server, other].map(|host| listen(host, everywhere(104)));
    other.carry_vip(VIP4);
    server.netns.sysctls(&[("net/ipv4/ip_forward", "1")]);
    server.netns.ip(&format!("route add {VIP4} via {}", other.v4));
    server
        .netns
        .sysctls(&[("net/ipv4/conf/all/send_redirects", "0"), ("net/ipv4/conf/eth0/send_redirects", "0")]);
    let elsewhere = try_from_lb(&lab, &path(&lab, VIP4, 104), PATIENT);
    assert_eq!(elsewhere.failure, None);
    assert!(elsewhere.note.as_ref().is_some_and(|note| note.contains("02:00:0a:0a:00:0c")), "{elsewhere:?}");

    server.netns.ip(&format!("route del {VIP4}"));
    server.carry_vip(VIP4);
    let rewrite = "add table ip t; add chain ip t c { type filter hook postrouting priority 0; }; \
                   add rule ip t c ip saddr 10.10.0.100 ip saddr set 10.10.0.11";
    server.run("nft", &[rewrite]).expect_success();
    let own = try_from_lb(&lab, &path(&lab, VIP4, 104), PATIENT);
    fails(&own, FailureReason::PathOwnAddress, &["answers from 10.10.0.11:104"]);
}

#[test]
fn an_archive_is_echoed_by_its_vip() {
    if !require_root("an_archive_is_echoed_by_its_vip") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    server.carry_vip(VIP4);
    let _archive = Orthanc::start(&lab, "pacs1", 104);
    let echoed = DirectPath { echo: Some(DicomCheck::new("LBD", "ORTHANC")), ..path(&lab, VIP4, 104) };
    let result = try_from_lb(&lab, &echoed, PATIENT);
    assert_eq!(result.failure, None);
    assert_eq!(steps(&result), ["vip connect", "vip associate", "vip echo", "vip release"]);
    wait_until(PATIENT, "the archive has closed the connection", || {
        let open = ["-Htan", "state", "established", "state", "close-wait", "( sport = :104 )"];
        server.run("ss", &open).expect_success().stdout.is_empty()
    });
}

#[test]
fn a_server_that_hangs_costs_the_timeout_and_keeps_no_connection() {
    if !require_root("a_server_that_hangs_costs_the_timeout_and_keeps_no_connection") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    server.carry_vip(VIP4);
    let _mute = listen(server, everywhere(104));
    let echoed = DirectPath { echo: Some(DicomCheck::new("LBD", "ORTHANC")), ..path(&lab, VIP4, 104) };
    let result = try_from_lb(&lab, &echoed, HASTY);
    fails(&result, FailureReason::AssociateTimeout, &["associate", "10.10.0.100:104", "10.10.0.11"]);
    wait_until(PATIENT, "the server's connection is reset", || connections(server) == 0);
}

#[test]
fn a_thousand_tries_leave_nothing_behind() {
    if !require_root("a_thousand_tries_leave_nothing_behind") {
        return;
    }
    let lab = lab();
    let server = lab.host("pacs1");
    server.carry_vip(VIP4);
    let service = listen(server, everywhere(104));
    service.set_nonblocking(true).expect("non-blocking");
    let path = path(&lab, VIP4, 104);
    let passed = lab.host("lb").netns.enter(|| {
        runtime().block_on(async {
            let mut passed = 0;
            for _ in 0..20 {
                let mut tries = JoinSet::new();
                for _ in 0..50 {
                    let path = path.clone();
                    tries.spawn(async move { try_path(&path, PATIENT).await });
                }
                let results = tries.join_all().await;
                passed += results.iter().filter(|result| result.failure.is_none()).count();
            }
            passed
        })
    });
    assert_eq!(passed, 1000);
    wait_until(PATIENT, "the server has forgotten every connection", || connections(server) == 0);
    assert_eq!(service.accept().map(drop).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    let packet_sockets = || {
        let list = || fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
        lab.host("lb").netns.enter(list).lines().skip(1).count()
    };
    // The kernel waits for packets on their way before it lets go of one.
    wait_until(PATIENT, "every packet socket is closed", || packet_sockets() == 0);
}
