//! Servers that die, addresses that are taken.

use std::{net::SocketAddr, time::Duration};

use lb_ctl::model::{
    health::FailureReason,
    status::{Colour, RipState},
};
use lb_tests::lab::{
    Lab, Lbd, UdpEcho,
    lbd::{rip, vip},
    require_root, scu,
    servers::Spread,
    topology::{Plan, VIP4},
    udp, wait_until,
};

use crate::{ARCHIVE, DICOM, archives, green, start_green, store_each};

#[test]
fn a_dead_server_is_taken_down_with_its_reason_and_comes_back() {
    if !require_root("a_dead_server_is_taken_down_with_its_reason_and_comes_back") {
        return;
    }
    let lab = Lab::new();
    let mut archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    let client = lab.host("client");
    let mut stored = store_each(client, ARCHIVE, 4);

    archives[0].kill();
    let status =
        lbd.wait_status("PACS1 is down", |status| rip(status, "DICOM", "PACS1").state == RipState::Down);
    let dead = rip(&status, "DICOM", "PACS1");
    assert_eq!(dead.reason, Some(FailureReason::ConnectRefused), "{dead:?}");
    assert!(dead.detail.contains("refused"), "{dead:?}");
    assert_eq!(vip(&status, "DICOM").colour, Colour::Yellow);
    let overview = lbd.ctl(&["status"]).expect_code(3).stdout;
    assert!(overview.contains(&dead.detail), "the overview must say why:\n{overview}");
    stored.extend(store_each(client, ARCHIVE, 10));

    archives[0].start_again();
    lbd.wait_status("all is green again", green);
    lbd.ctl(&["status"]).expect_code(0);
    stored.extend(store_each(client, ARCHIVE, 4));

    let spread = Spread::of(&archives.each_ref().map(|archive| archive.instances()), &stored);
    assert!(spread.exact(), "{spread:?}");
    assert!(spread.counts[0] > 0 && spread.counts[1] > 10, "{spread:?}");
}

#[test]
fn a_vip_whose_servers_are_all_down_is_red_and_takes_no_connection() {
    if !require_root("a_vip_whose_servers_are_all_down_is_red_and_takes_no_connection") {
        return;
    }
    let lab = Lab::new();
    let mut archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    for archive in &mut archives {
        archive.kill();
    }
    lbd.wait_status("DICOM is red", |status| vip(status, "DICOM").colour == Colour::Red);
    scu::echo(lab.host("client"), ARCHIVE).expect_code(1);
    archives[1].start_again();
    lbd.wait_status("DICOM is yellow", |status| vip(status, "DICOM").colour == Colour::Yellow);
    scu::echo(lab.host("client"), ARCHIVE).expect_success();
}

#[test]
fn a_program_that_something_takes_off_is_put_back_and_told() {
    if !require_root("a_program_that_something_takes_off_is_put_back_and_told") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    let (client, lb) = (lab.host("client"), lab.host("lb"));
    store_each(client, ARCHIVE, 2);

    let before = lbd.attachment();
    lb.run("bpftool", &["link", "detach", "id", &before.link.to_string()]).expect_success();
    let status = lbd.wait_status("the loss is told", |status| {
        green(status) && status.problems.iter().any(|problem| problem.contains("took the program off eth0"))
    });
    assert!(status.problems.iter().any(|problem| problem.contains("put back")), "{:?}", status.problems);
    let after = lbd.attachment();
    assert_eq!(after.program, before.program);
    assert_ne!(after.link, before.link);
    store_each(client, ARCHIVE, 2);
    lbd.ctl(&["status"]).expect_success();
}

#[test]
fn an_address_that_another_host_has_is_left_to_it() {
    if !require_root("an_address_that_another_host_has_is_left_to_it") {
        return;
    }
    let hosts = [("client", 50), ("lb", 2), ("pacs1", 11), ("pacs2", 12), ("other", 99)];
    let lab = Lab::build(&Plan { hosts: &hosts, kept_as: None });
    let _archives = archives(&lab);
    let other = lab.host("other");
    other.netns.ip("addr add 10.10.0.100/32 dev eth0");
    let _service = UdpEcho::start(other, VIP4, 9000);

    let mac = lb_tests::lab::topology::spell_mac(other.mac);
    let toml = format!(
        "{DICOM}[vip.FREE]\nmode = \"l4-dr\"\nip = \"10.10.0.101\"\nports = [9000]\ncheck = \"off\"\n\
         servers = {{ A = \"10.10.0.11\" }}\n"
    );
    let lbd = Lbd::start(&lab, "lb", &toml);
    let status = lbd.wait_status("the conflict names the other host", |status| {
        vip(status, "DICOM").problem.as_ref().is_some_and(|problem| problem.contains(&mac))
    });
    let problem = vip(&status, "DICOM").problem.clone().unwrap_or_default();
    assert!(problem.contains("10.10.0.100"), "{problem}");
    assert_eq!(problem.lines().count(), 1, "{problem}");
    assert_eq!(vip(&status, "DICOM").colour, Colour::Red);

    lbd.wait_status("the other VIP is served", |status| vip(status, "FREE").colour == Colour::Green);

    let held = lab.host("lb").run("ip", &["addr"]).expect_success().stdout;
    assert!(!held.contains("10.10.0.100"), "{held}");
    let to = SocketAddr::new(VIP4, 9000);
    let mut answer = String::new();
    wait_until(Duration::from_secs(5), "the other host still answers", || {
        answer = udp::ask(lab.host("client"), to, "still there").unwrap_or_default();
        !answer.is_empty()
    });
    assert_eq!(answer, "other");
}
