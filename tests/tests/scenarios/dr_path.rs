//! The VIP at the servers, tried in the way of clients' packets: what is wrong is told, keeps the server out of service, and
//! ends with the cure that is told with it.

use std::net::{IpAddr, SocketAddr, TcpListener};

use lb_ctl::model::{
    health::FailureReason,
    status::{RipState, RipStatus, Status},
};
use lb_tests::lab::{
    Host, Lab, Lbd, StoreScp,
    lbd::rip,
    require_root,
    topology::{VIP4, VIP6},
};

use crate::{ARCHIVE, DICOM, green, start_green, store_each};

/// A service of which no more is asked than that it listens.
const WEB: &str = r#"[vip.WEB]
mode = "l4-dr"
ip = "10.10.0.100"
ports = [9000]
scheduler = "wrr"
check = { type = "connect", interval = "500ms", timeout = "400ms" }
servers = { PACS1 = "10.10.0.11", PACS2 = "10.10.0.12" }
"#;

fn listen(host: &Host, ip: IpAddr) -> TcpListener {
    let at = SocketAddr::new(ip, 9000);
    host.netns
        .enter(|| TcpListener::bind(at).unwrap_or_else(|error| panic!("cannot listen on {at}: {error}")))
}

fn listen_everywhere(host: &Host) -> TcpListener {
    listen(host, IpAddr::from([0_u16; 8]))
}

fn pacs1<'a>(status: &'a Status, vip: &str) -> &'a RipStatus {
    rip(status, vip, "PACS1")
}

/// Waits until PACS1 is down, and gives what is said of it; PACS2 stays in service.
#[track_caller]
fn told(lbd: &Lbd, vip: &str, reason: FailureReason) -> String {
    let status = lbd.wait_status(&format!("PACS1 is down for {reason:?}"), |status| {
        pacs1(status, vip).state == RipState::Down && pacs1(status, vip).reason == Some(reason)
    });
    assert_eq!(rip(&status, vip, "PACS2").state, RipState::Active, "{status:?}");
    let detail = pacs1(&status, vip).detail.clone();
    let overview = lbd.ctl(&["status"]).stdout;
    assert!(overview.contains(&detail), "the overview must say why:\n{overview}");
    detail
}

/// Runs on a host what `lbctl arp-help` prints for a VIP.
#[track_caller]
fn cure(lbd: &Lbd, host: &Host, vip: &str) {
    let printed = lbd.ctl(&["arp-help", "linux", "--vip", vip]).expect_success().stdout;
    host.paste(&printed);
}

#[test]
fn a_server_without_the_vip_gets_no_client_until_the_printed_cure_was_run() {
    if !require_root("a_server_without_the_vip_gets_no_client_until_the_printed_cure_was_run") {
        return;
    }
    let lab = Lab::new();
    lab.host("pacs2").carry_vip(VIP4);
    let archives = ["pacs1", "pacs2"].map(|host| StoreScp::start(&lab, host, 104));
    let lbd = Lbd::start(&lab, "lb", DICOM);
    let detail = told(&lbd, "DICOM", FailureReason::PathUnanswered);
    for word in [
        "10.10.0.100:104",
        "10.10.0.11",
        "02:00:0a:0a:00:0b",
        "eth0",
        "lbctl arp-help linux --vip 10.10.0.100",
    ] {
        assert!(detail.contains(word), "{word} is missing: {detail}");
    }
    store_each(lab.host("client"), ARCHIVE, 6);
    let stored = archives.each_ref().map(|archive| archive.instances().len());
    assert_eq!(stored, [0, 6], "instances in each archive");

    cure(&lbd, lab.host("pacs1"), "10.10.0.100");
    let status = lbd.wait_status("all is green", green);
    let steps: Vec<&str> = pacs1(&status, "DICOM").steps.iter().map(|step| step.name.as_str()).collect();
    assert!(steps.ends_with(&["vip connect", "vip associate", "vip echo", "vip release"]), "{steps:?}");
    store_each(lab.host("client"), ARCHIVE, 6);
    assert!(!archives[0].instances().is_empty());
}

#[test]
fn a_server_without_the_ipv6_vip_is_cured_too() {
    if !require_root("a_server_without_the_ipv6_vip_is_cured_too") {
        return;
    }
    let lab = Lab::new();
    lab.host("pacs2").carry_vip(VIP6);
    let _services = ["pacs1", "pacs2"].map(|host| listen_everywhere(lab.host(host)));
    let lbd = Lbd::start(&lab, "lb", &WEB.replace("10.10.0.1", "fd10:10::1"));
    let detail = told(&lbd, "WEB", FailureReason::PathUnanswered);
    assert!(detail.contains("[fd10:10::100]:9000"), "{detail}");
    cure(&lbd, lab.host("pacs1"), "WEB");
    lbd.wait_status("all is green", green);
}

#[test]
fn a_firewall_that_drops_the_vip_is_told_and_its_end_noticed() {
    if !require_root("a_firewall_that_drops_the_vip_is_told_and_its_end_noticed") {
        return;
    }
    let lab = Lab::new();
    crate::carry(&lab, VIP4);
    let _services = ["pacs1", "pacs2"].map(|host| listen_everywhere(lab.host(host)));
    let lbd = start_green(&lab, WEB);
    let firewall = "add table ip t; add chain ip t c { type filter hook input priority 0; }; \
                    add rule ip t c ip daddr 10.10.0.100 drop";
    lab.host("pacs1").run("nft", &[firewall]).expect_success();
    let detail = told(&lbd, "WEB", FailureReason::PathUnanswered);
    assert!(detail.contains("firewall"), "{detail}");
    lab.host("pacs1").run("nft", &["delete table ip t"]).expect_success();
    lbd.wait_status("all is green", green);
}

#[test]
fn a_service_that_listens_beside_the_vip_is_told_to_be_bound_to_it() {
    if !require_root("a_service_that_listens_beside_the_vip_is_told_to_be_bound_to_it") {
        return;
    }
    let lab = Lab::new();
    crate::carry(&lab, VIP4);
    let _services =
        [listen(lab.host("pacs1"), lab.host("pacs1").v4.into()), listen_everywhere(lab.host("pacs2"))];
    let lbd = Lbd::start(&lab, "lb", WEB);
    let detail = told(&lbd, "WEB", FailureReason::PathRefused);
    assert!(detail.contains("bind the service"), "{detail}");
    let _bound = listen(lab.host("pacs1"), VIP4);
    lbd.wait_status("all is green", green);
}

#[test]
fn a_server_that_passes_the_vip_on_to_another_is_found_out_by_the_others_answer() {
    if !require_root("a_server_that_passes_the_vip_on_to_another_is_found_out_by_the_others_answer") {
        return;
    }
    let lab = Lab::new();
    let (first, second) = (lab.host("pacs1"), lab.host("pacs2"));
    let _services = [first, second].map(listen_everywhere);
    second.carry_vip(VIP4);
    first.netns.ip(&format!("route add {VIP4} via {}", second.v4));
    first.netns.sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/eth0/send_redirects", "0"),
    ]);
    let lbd = Lbd::start(&lab, "lb", WEB);
    let detail = told(&lbd, "WEB", FailureReason::PathOtherServer);
    assert!(detail.contains("PACS2 (02:00:0a:0a:00:0c) answers for 10.10.0.100:9000"), "{detail}");
    cure(&lbd, first, "WEB");
    lbd.wait_status("all is green", green);
}
