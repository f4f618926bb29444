//! Machines that answer for a VIP beside the balancer: told by name, and silent after the cure that is told with it.

use std::{net::UdpSocket, time::Duration};

use lb_ctl::model::status::Status;
use lb_tests::lab::{
    Host, Lab, Lbd, require_root,
    topology::{Plan, VIP4, VIP6},
    wait_until,
};

use crate::{DICOM, archives, green, start_green};

/// An IPv6 VIP beside [`DICOM`].
const BESIDE: &str = r#"[vip.SIX]
mode = "l4-dr"
ip = "fd10:10::100"
ports = [9000]
protocol = "udp"
check = "off"
servers = { PACS1 = "fd10:10::11" }
"#;

fn says(status: &Status, words: &[&str]) -> bool {
    status.problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)))
}

#[track_caller]
fn cure(lbd: &Lbd, host: &Host, vip: &str) {
    let printed = lbd.ctl(&["arp-help", "linux", "--vip", vip]).expect_success().stdout;
    host.paste(&printed);
}

#[test]
fn a_server_that_answers_arp_for_the_vip_is_named_until_it_is_quiet() {
    if !require_root("a_server_that_answers_arp_for_the_vip_is_named_until_it_is_quiet") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let mut lbd = start_green(&lab, DICOM);
    assert!(!says(&lbd.status(), &["answers ARP"]), "own and quiet machines are not named");
    let server = lab.host("pacs1");
    server.netns.sysctls(&[("net/ipv4/conf/all/arp_ignore", "0"), ("net/ipv4/conf/all/arp_announce", "0")]);
    lbd.stop();
    lbd.start_again();
    lbd.wait_status("PACS1 is named", |status| {
        says(
            status,
            &[
                "PACS1 answers ARP for 10.10.0.100",
                "02:00:0a:0a:00:0b on eth0",
                "lbctl arp-help linux --vip DICOM",
            ],
        )
    });
    cure(&lbd, server, "DICOM");
    lbd.wait_status("nobody is named", |status| !says(status, &["answers ARP"]));
    assert!(lbd.log_text().contains("02:00:0a:0a:00:0b no longer answers for 10.10.0.100 on eth0"));
}

#[test]
fn a_server_that_speaks_as_the_vip_is_heard_without_being_asked() {
    if !require_root("a_server_that_speaks_as_the_vip_is_heard_without_being_asked") {
        return;
    }
    let hosts = [("client", 50), ("lb", 2), ("pacs1", 11), ("pacs2", 12), ("other", 99)];
    let lab = Lab::build(&Plan { hosts: &hosts, kept_as: None });
    let _archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    // It keeps quiet when asked, and asks for another with the VIP as its own address (arp_announce = 0).
    let other = lab.host("other");
    other.netns.sysctls(&[("net/ipv4/conf/all/arp_ignore", "1")]);
    other.carry_vip_loudly(VIP4);
    let speaks =
        || UdpSocket::bind((VIP4, 0)).and_then(|socket| socket.send_to(b"?", (lab.host("pacs2").v4, 9)));
    other.netns.enter(speaks).expect("a datagram from the VIP");
    lbd.wait_status("another machine is named", |status| {
        says(status, &["another machine answers ARP for 10.10.0.100 (02:00:0a:0a:00:63 on eth0)"])
    });
    lbd.wait_status("it is forgotten", |status| !says(status, &["another machine"]));
}

#[test]
fn servers_that_have_the_vips_for_themselves_are_named_and_cured_before_they_are_served() {
    if !require_root("servers_that_have_the_vips_for_themselves_are_named_and_cured_before_they_are_served") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.host("pacs1"), lab.host("pacs2"));
    second.carry_vip(VIP4);
    first.carry_vip_loudly(VIP4);
    first.netns.ip(&format!("addr add {VIP6}/128 dev eth0 nodad"));
    let _archives = ["pacs1", "pacs2"].map(|host| lb_tests::lab::Orthanc::start(&lab, host, 104));
    let lbd = Lbd::start(&lab, "lb", &format!("{DICOM}{BESIDE}"));
    lbd.wait_status("PACS1 is named for both", |status| {
        says(status, &["PACS1 answers ARP for 10.10.0.100"])
            && says(status, &["PACS1 answers neighbour discovery for fd10:10::100"])
    });
    cure(&lbd, first, "DICOM");
    cure(&lbd, first, "SIX");
    // A refused address is tried again after fifteen seconds.
    wait_until(Duration::from_secs(45), "both VIPs are served, and nobody is named", || {
        let status = lbd.status();
        green(&status) && !says(&status, &["answers"])
    });
}
