//! Direct routing of real traffic.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_tests::lab::{
    Capture, EchoLoop, Lab, Relay, StoreScp, UdpEcho,
    lbd::vip,
    require_root, scu,
    servers::Spread,
    topology::{VIP4, VIP6},
    udp, wait_until,
};

use crate::{ARCHIVE, DICOM, archives, carry, start_green, store_each};

#[test]
fn every_instance_is_in_exactly_one_archive_and_replies_bypass_the_balancer() {
    if !require_root("every_instance_is_in_exactly_one_archive_and_replies_bypass_the_balancer") {
        return;
    }
    let lab = Lab::new();
    let archives = archives(&lab);
    let _second_port = ["pacs1", "pacs2"].map(|host| StoreScp::start(&lab, host, 11112));
    let lbd = start_green(&lab, &DICOM.replace("[104]", "[104, 11112]"));
    let client = lab.host("client");

    let capture = Capture::start(&lab, lab.host("lb"), &[VIP4]);
    let stored = store_each(client, ARCHIVE, 20);
    scu::echo(client, SocketAddr::new(VIP4, 11112)).expect_success();
    let crossing = capture.finish();

    let spread = Spread::of(&archives.each_ref().map(|archive| archive.instances()), &stored);
    assert!(spread.exact() && !spread.counts.contains(&0), "{spread:?}");
    assert!(crossing.frames_in(VIP4) > 20 * 5, "{crossing:?}");
    assert_eq!(crossing.differences(VIP4), Vec::<String>::new());
    assert_eq!(crossing.frames_from(VIP4), 0, "replies crossed the balancer");

    // Counters reach the overview a little later.
    lbd.wait_status("a flow is counted for each association", |status| {
        vip(status, "DICOM").flows_total == 21
    });
    // A port that the VIP does not serve is nobody's.
    scu::echo(client, SocketAddr::new(VIP4, 105)).expect_code(1);
}

#[test]
fn dicom_goes_through_an_ipv6_vip() {
    if !require_root("dicom_goes_through_an_ipv6_vip") {
        return;
    }
    let lab = Lab::new();
    carry(&lab, VIP6);
    let servers = ["pacs1", "pacs2"].map(|host| StoreScp::start(&lab, host, 11104));
    let to_v4 = |host: &str, port| SocketAddr::new(lab.host(host).v4.into(), port);
    let any = SocketAddr::from(([0_u16; 8], 104));
    let _server_ends = ["pacs1", "pacs2"].map(|host| Relay::start(lab.host(host), any, to_v4(host, 11104)));
    let toml = DICOM.replace("10.10.0.1", "fd10:10::1");
    let _lbd = start_green(&lab, &toml);

    let client = lab.host("client");
    let client_end = Relay::start(client, to_v4("client", 0), SocketAddr::new(VIP6, 104));
    let echoes = EchoLoop::start(client, SocketAddr::new(VIP6, 104), Duration::from_millis(5));
    let capture = Capture::start(&lab, lab.host("lb"), &[VIP6]);
    let stored = store_each(client, client_end.address(), 10);
    wait_until(Duration::from_secs(5), "echoes are answered", || echoes.echoes() > 10);
    let report = echoes.finish();
    let crossing = capture.finish();

    assert!(report.broken.is_none(), "{report:?}");
    let spread = Spread::of(&servers.each_ref().map(StoreScp::instances), &stored);
    assert!(spread.exact() && !spread.counts.contains(&0), "{spread:?}");
    assert_eq!(crossing.differences(VIP6), Vec::<String>::new());
    assert_eq!(crossing.frames_from(VIP6), 0, "replies crossed the balancer");
}

#[test]
fn datagrams_reach_every_server_and_answers_come_from_the_vip() {
    if !require_root("datagrams_reach_every_server_and_answers_come_from_the_vip") {
        return;
    }
    let lab = Lab::new();
    let mut toml = String::new();
    for (name, vip) in [("V4", VIP4), ("V6", VIP6)] {
        carry(&lab, vip);
        let servers = ["pacs1", "pacs2"].map(|host| lab.host(host).address_like(vip));
        toml.push_str(&format!(
            "[vip.{name}]\nmode = \"l4-dr\"\nip = \"{vip}\"\nports = [9000]\nprotocol = \"udp\"\ncheck = \"off\"\n\
             scheduler = \"wrr\"\nservers = {{ A = \"{}\", B = \"{}\" }}\n",
            servers[0], servers[1]
        ));
    }
    let _services: Vec<_> = [VIP4, VIP6]
        .into_iter()
        .flat_map(|vip| ["pacs1", "pacs2"].map(|host| UdpEcho::start(lab.host(host), vip, 9000)))
        .collect();
    let _lbd = start_green(&lab, &toml);

    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip, 9000);
        let answered: BTreeSet<String> = (0..20)
            .map(|number| {
                udp::ask(lab.host("client"), to, &format!("datagram {number}"))
                    .unwrap_or_else(|error| panic!("datagram {number} to {to}: {error}"))
            })
            .collect();
        assert_eq!(answered, ["pacs1", "pacs2"].map(str::to_owned).into(), "servers that answered for {vip}");
    }
}
