//! What an operator does while patients are being imaged: drain, halt, online, add, change, delete.

use std::{net::SocketAddr, time::Duration};

use lb_ctl::model::status::RipState;
use lb_tests::lab::{
    EchoLoop, Host, Lab, StoreScp,
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

    let (first, second) = ("PACS1=10.10.0.11", "PACS2=10.10.0.12");
    lbd.ctl(&[
        "vip",
        "add",
        "SECOND",
        "--mode",
        "l4-dr",
        "--ip",
        "10.10.0.101",
        "--ports",
        "11112",
        "--rip",
        first,
    ])
    .expect_success();
    lbd.ctl(&["rip", "add", "SECOND", second, "--weight", "50"]).expect_success();
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
    let refused = lbd.ctl(&[
        "vip",
        "add",
        "THIRD",
        "--mode",
        "l4-dr",
        "--ip",
        "10.10.0.101",
        "--ports",
        "11112",
        "--rip",
        first,
    ]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
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
