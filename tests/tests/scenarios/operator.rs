//! What an operator does while patients are being imaged: drain, halt, online, add, change, delete.

use std::{net::SocketAddr, thread, time::Duration};

use lb_ctl::model::status::RipState;
use lb_tests::lab::{
    EchoLoop, Finished, Host, Lab, Lbd, StoreScp,
    lbd::{rip, vip},
    proc::wait_for,
    require_root, scu, wait_until,
};

use crate::{ARCHIVE, DICOM, archives, green, start_green, store_each};

/// Associations in flight, spread over both servers.
const ASSOCIATIONS: usize = 8;

#[test]
fn drain_spares_associations_in_flight_and_halt_ends_them() {
    if !require_root("drain_spares_associations_in_flight_and_halt_ends_them") {
        return;
    }
    let lab = Lab::new();
    let archives = archives(&lab);
    let mut lbd = start_green(&lab, DICOM);
    let client = lab.host("client");
    let associations: [EchoLoop; ASSOCIATIONS] =
        std::array::from_fn(|_| EchoLoop::start(client, ARCHIVE, Duration::from_millis(20)));
    let alive = || associations.iter().filter(|association| !association.has_ended()).count();
    let all_echo_on = |rounds: u64, living: usize| {
        let goals = associations.each_ref().map(|association| association.echoes() + rounds);
        wait_until(Duration::from_secs(10), "every living association echoes on", || {
            let reached = |(association, goal): (&EchoLoop, u64)| association.echoes() >= goal;
            associations.iter().zip(goals).filter(|pair| reached(*pair)).count() >= living
        });
    };
    all_echo_on(2, ASSOCIATIONS);
    let (on_first, on_second) = (served_by(lab.host("pacs1")), served_by(lab.host("pacs2")));
    assert_eq!(on_first + on_second, ASSOCIATIONS);
    assert!(on_first > 0 && on_second > 0, "{on_first} and {on_second} associations");

    lbd.ctl(&["rip", "drain", "DICOM/PACS1"]).expect_success();
    lbd.wait_status("PACS1 drains", |status| rip(status, "DICOM", "PACS1").state == RipState::Drain);
    store_each(client, ARCHIVE, 6);
    all_echo_on(5, ASSOCIATIONS);
    assert_eq!(archives[0].instances().len(), 0, "a draining server takes nothing new");

    // What an operator said outlives the daemon.
    lbd.stop();
    lbd.start_again();
    lbd.wait_status("PACS1 still drains", |status| rip(status, "DICOM", "PACS1").state == RipState::Drain);
    all_echo_on(5, ASSOCIATIONS);

    lbd.ctl(&["rip", "halt", "DICOM/PACS1"]).expect_success();
    lbd.wait_status("PACS1 is halted", |status| rip(status, "DICOM", "PACS1").state == RipState::Halt);
    let counts = || {
        let servers = ["pacs1", "pacs2"].map(|host| served_by(lab.host(host)));
        format!("{} of {ASSOCIATIONS} associations live; the servers have {servers:?}", alive())
    };
    let what = || format!("the {on_first} associations with PACS1 end, no other; instead {}", counts());
    wait_for(Duration::from_secs(10), what, || (alive() == on_second).then_some(()));
    all_echo_on(5, on_second);

    lbd.ctl(&["rip", "online", "DICOM/PACS1"]).expect_success();
    lbd.wait_status("all is green", green);
    store_each(client, ARCHIVE, 6);
    assert!(!archives[0].instances().is_empty(), "back in service, it takes new ones");
    assert_eq!(alive(), on_second);
}

#[test]
fn a_drain_that_halts_then_waits_for_the_association_in_flight() {
    if !require_root("a_drain_that_halts_then_waits_for_the_association_in_flight") {
        return;
    }
    let lab = Lab::new();
    let archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    let client = lab.host("client");
    let associations: [EchoLoop; ASSOCIATIONS] =
        std::array::from_fn(|_| EchoLoop::start(client, ARCHIVE, Duration::from_millis(20)));
    assert!(served_by(lab.host("pacs1")) > 0, "no association is with PACS1");

    let patch = ["rip", "drain", "DICOM/PACS1", "--migrate", "--timeout", "10m", "--then", "halt"];
    lbd.ctl(&patch).expect_success();
    lbd.wait_status("PACS1 drains, and says what it waits for", |status| {
        let pacs1 = rip(status, "DICOM", "PACS1");
        let waits = pacs1.connections > 0 && pacs1.detail.contains("halts in 10 min");
        pacs1.state == RipState::Drain && waits
    });
    store_each(client, ARCHIVE, 6);
    assert_eq!(archives[0].instances().len(), 0, "a draining server takes nothing new");
    let goals = associations.each_ref().map(|association| association.echoes() + 100);
    wait_until(Duration::from_secs(10), "every association echoes on", || {
        associations.iter().zip(goals).all(|(association, goal)| association.echoes() >= goal)
    });
    assert_eq!(rip(&lbd.status(), "DICOM", "PACS1").state, RipState::Drain);
    let ended = thread::scope(|scope| {
        let waiting = scope.spawn(|| lbd.ctl(&[&patch[..], &["--wait"]].concat()));
        for association in associations {
            let report = association.finish();
            assert!(report.broken.is_none(), "{report:?}");
        }
        waiting.join().expect("lbctl runs")
    });
    let printed = ended.expect_success().stdout;
    assert!(printed.lines().any(|line| line == "DICOM/PACS1: halted"), "{printed}");
    assert_eq!(rip(&lbd.status(), "DICOM", "PACS1").state, RipState::Halt);
    let log = lbd.log_text();
    assert!(log.contains("DICOM/PACS1: drain ended, no connection left: halted"), "{log}");
    store_each(client, ARCHIVE, 3);
    lbd.ctl(&["server", "online", "10.10.0.11"]).expect_success();
    lbd.wait_status("all is green", green);
}

#[test]
fn a_verdict_can_be_forced_for_a_while_and_the_check_decides_again() {
    if !require_root("a_verdict_can_be_forced_for_a_while_and_the_check_decides_again") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    lbd.ctl(&["check", "force", "DICOM/PACS1", "down", "--for", "8s"]).expect_success();
    let status = lbd.status();
    let forced = rip(&status, "DICOM", "PACS1");
    assert_eq!(forced.state, RipState::Down);
    assert!(forced.detail.starts_with("forced down until "), "{}", forced.detail);
    assert!(forced.detail.contains(" UTC (the check says: c-echo "), "{}", forced.detail);
    lbd.wait_status("all is green, by itself", green);
    assert!(lbd.log_text().contains("DICOM/PACS1: forced down no longer: the check decides"));
}

/// Associations through the VIP that a server has open, as its own kernel tells.
fn served_by(server: &Host) -> usize {
    let sockets = ["-Htn", "state", "established", "src", "10.10.0.100"];
    server.run("ss", &sockets).expect_success().stdout.lines().count()
}

#[test]
fn a_vip_added_while_running_is_served_at_once_and_kept_with_the_files_comments() {
    if !require_root("a_vip_added_while_running_is_served_at_once_and_kept_with_the_files_comments") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let _second = ["pacs1", "pacs2"].map(|host| StoreScp::start(&lab, host, 11112));
    let address = "10.10.0.101".parse().expect("an address");
    for host in ["pacs1", "pacs2"] {
        lab.host(host).carry_vip(address);
    }
    let mut lbd = start_green(&lab, DICOM);
    let client = lab.host("client");
    let association = EchoLoop::start(client, ARCHIVE, Duration::from_millis(20));

    let add = |lbd: &Lbd, name: &str| {
        typed(
            lbd,
            &format!("vip add {name} --mode l4-dr --ip 10.10.0.101 --ports 11112 --rip PACS1=10.10.0.11"),
        )
    };
    add(&lbd, "SECOND").expect_success();
    typed(&lbd, "rip add SECOND PACS2=10.10.0.12 --weight 50").expect_success();
    let served = |status: &_| green(status) && vip(status, "SECOND").rips.len() == 2;
    lbd.wait_status("SECOND is served", served);
    let to = SocketAddr::new(address, 11112);
    scu::echo(client, to).expect_success();

    let file = lbd.config();
    for line in DICOM.lines() {
        assert!(file.lines().any(|kept| kept == line), "{line:?} is gone from the file:\n{file}");
    }
    lbd.stop();
    lbd.start_again();
    let status = lbd.wait_status("SECOND is still served", served);
    assert_eq!(rip(&status, "SECOND", "PACS2").weight, 50);

    // A refusal changes nothing and says why.
    let refused = add(&lbd, "THIRD").expect_code(2);
    assert!(
        refused.stderr.contains("SECOND"),
        "the refusal must name the VIP that has the address: {refused:?}"
    );

    lbd.ctl(&["vip", "delete", "SECOND"]).expect_success();
    lbd.wait_status("SECOND is gone", |status| status.vips.len() == 1);
    assert_eq!(lbd.config().trim_end(), DICOM.trim_end());
    let held = lab.host("lb").run("ip", &["addr"]).expect_success().stdout;
    assert!(!held.contains("10.10.0.101"), "{held}");
    let report = association.finish();
    assert!(report.broken.is_none(), "{report:?}");
}

/// A configuration that a person wrote, before its first VIP.
const EMPTY: &str = "\
# Radiology, ground floor.
[node]            # this machine
name = \"lb1\"      # on the label
";

#[test]
fn a_vip_typed_as_in_the_manual_is_served_at_once_and_in_the_file() {
    if !require_root("a_vip_typed_as_in_the_manual_is_served_at_once_and_in_the_file") {
        return;
    }
    let lab = Lab::new();
    for (host, octet) in [("client", 50), ("lb", 2), ("pacs1", 110)] {
        lab.host(host).netns.ip(&format!("addr add 10.12.1.{octet}/24 dev eth0"));
    }
    let address = "10.12.1.100".parse().expect("an address");
    lab.host("pacs1").carry_vip(address);
    let _services = [104, 11112].map(|port| StoreScp::start(&lab, "pacs1", port));
    let lbd = Lbd::start(&lab, "lb", EMPTY);

    let line = "vip add DICOM --mode l4-dr --ip 10.12.1.100 --ports 104,11112 --rip DICOM1=10.12.1.110";
    let answer = typed(&lbd, line).expect_success();
    assert!(answer.stdout.contains("DICOM") && answer.stderr.is_empty(), "{answer:?}");
    let held = lab.host("lb").run("ip", &["addr"]).expect_success().stdout;
    assert!(held.contains("10.12.1.100/32"), "answered before the address was there:\n{held}");

    let file = lbd.config();
    assert!(file.starts_with(EMPTY), "comments and layout must stay:\n{file}");
    let vip_text = "[vip.DICOM]\nmode = \"l4-dr\"\nip = \"10.12.1.100\"\nports = [104, 11112]\n";
    assert!(file.contains(vip_text) && file.contains("10.12.1.110"), "{file}");

    lbd.wait_status("DICOM is served", |status| green(status) && vip(status, "DICOM").ports == "104,11112");
    for port in [104, 11112] {
        scu::echo(lab.host("client"), SocketAddr::new(address, port)).expect_success();
    }
    lbd.wait_status("finished associations are no connections", |status| {
        let vip = vip(status, "DICOM");
        (vip.connections, vip.closing) == (0, 2)
    });
}

/// Runs `lbctl` with the words of a line.
fn typed(lbd: &Lbd, line: &str) -> Finished {
    lbd.ctl(&line.split(' ').collect::<Vec<_>>())
}
