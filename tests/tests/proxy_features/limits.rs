//! Time limits, the most connections of a VIP, and raw lines.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use lb_tests::lab::{Host, Lab, MllpLink, MllpServer, browser::Page, mirror::SILENT, require_root};

use crate::{BOTH, assert_silent, at, get, green, mirrors, start_green, url, vip};

/// An answer is there within this, also on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn silence_ends_connections_when_its_time_is_over() {
    if !require_root("silence_ends_connections_when_its_time_is_over") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let feed = MllpServer::start(lab.host("pacs1"), 2575);
    // Nobody has this address: connections to it are neither taken nor refused.
    lab.host("lb").netns.ip("neigh add 10.10.0.77 lladdr 02:00:0a:0a:00:4d dev eth0 nud permanent");
    let servers = "{ PACS1 = \"10.10.0.11:2575\" }";
    let toml = vip("SHORT", "l7-tcp", 2575, servers, "timeouts = { client = \"1s\", server = \"1s\" }")
        + &vip("LONG", "l7-tcp", 2576, servers, "timeouts = { client = \"12h\", server = \"12h\" }")
        + &vip("HASTY", "l7-http", 80, BOTH, "timeouts = { server = \"1s\" }")
        + &vip(
            "NOBODY",
            "l7-http",
            81,
            "{ NOBODY = \"10.10.0.77:80\" }",
            "timeouts = { connect = \"500ms\" }\nfallback = \"off\"",
        );
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");

    let open = |port| {
        let mut link = MllpLink::open(client, at(port)).expect("the VIP takes connections");
        link.exchange().expect("an acknowledgement");
        link
    };
    let (mut long, mut short) = (open(2576), open(2575));
    assert!(short.end_within(SOON).is_some(), "a silent connection outlives its time");
    assert_eq!(long.end_within(Duration::from_millis(500)), None, "one with more time ended");
    long.exchange().expect("the connection stands");
    assert_eq!(feed.connections().len(), 2);

    let silent = get(client, &[], &url(80, SILENT));
    assert_eq!(silent.status, 504, "{silent:?}");
    let nobody = get(client, &[], &url(81, "/"));
    assert_eq!(nobody.status, 503, "{nobody:?}");
}

#[test]
fn a_vip_serves_so_many_connections_at_a_time_and_the_next_one_waits() {
    if !require_root("a_vip_serves_so_many_connections_at_a_time_and_the_next_one_waits") {
        return;
    }
    let lab = Lab::new();
    let feed = MllpServer::start(lab.host("pacs1"), 2575);
    let servers = "{ PACS1 = \"10.10.0.11:2575\" }";
    let toml = vip("FULL", "l7-tcp", 2575, servers, "max_connections = 3")
        + &vip("BESIDE", "l7-tcp", 2576, servers, "");
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let mut held: Vec<_> = (0..3)
        .map(|_| {
            let mut link = MllpLink::open(client, at(2575)).expect("the VIP takes connections");
            link.exchange().expect("an acknowledgement");
            link
        })
        .collect();
    lbd.wait_status("three connections are counted", |status| {
        status.vips.iter().any(|vip| vip.name == "FULL" && vip.connections == 3)
    });

    let mut fourth = begin_message(client, 2575);
    assert_silent(&fourth, Duration::from_millis(700));
    // Other VIPs have room of their own.
    let mut beside = MllpLink::open(client, at(2576)).expect("the VIP takes connections");
    beside.exchange().expect("an acknowledgement");
    assert_eq!(feed.connections().len(), 4);

    held.pop();
    fourth.set_read_timeout(Some(SOON)).expect("a timeout");
    let length = fourth.read(&mut [0; 16]).expect("an acknowledgement once there is room");
    assert!(length > 0, "the connection that waited is closed");
    for link in &mut held {
        link.exchange().expect("those that were there are not disturbed");
    }
}

/// Sends a message and does not wait for its acknowledgement.
fn begin_message(client: &Host, port: u16) -> TcpStream {
    let stream = client.netns.enter(|| TcpStream::connect_timeout(&at(port), SOON));
    let mut stream = stream.expect("the kernel takes the connection");
    stream.write_all(b"\x0bMSH|^~\\&|A|B|C|D|1||ORU^R01|M1|P|2.5\r\x1c\r").expect("the connection stands");
    stream
}

#[test]
fn raw_lines_do_what_they_say() {
    if !require_root("raw_lines_do_what_they_say") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let extra = r#"haproxy_extra = [
        "http-request deny deny_status 403 if { path_beg /admin }",
        "http-response set-header X-Extra \"a raw line\"",
    ]"#;
    let toml = vip("RAW", "l7-http", 80, BOTH, extra) + &vip("OTHER", "l7-http", 81, BOTH, "");
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let found = |port, path: &str| -> Page { get(client, &[], &url(port, path)) };
    assert_eq!(found(80, "/admin/users").status, 403);
    assert_eq!(found(80, "/").header("x-extra"), Some("a raw line"));
    assert_eq!(found(81, "/admin/users").status, 200, "of this VIP only");

    // A line that the proxy does not understand changes nothing, and is named.
    let broken = toml.replace("http-response set-header X-Extra", "http-response set-haeder X-Extra");
    lbd.write_config(&broken);
    let told = lbd.ctl(&["config", "apply"]).expect_success().stderr;
    assert!(told.contains("VIP RAW: haproxy refuses it") && told.contains("set-haeder"), "{told}");
    assert_eq!(found(80, "/").header("x-extra"), Some("a raw line"));
    lbd.wait_status("the refusal is shown", |status| !green(status));
    lbd.write_config(&toml.replace("deny_status 403", "deny_status 410"));
    lbd.ctl(&["config", "apply"]).expect_success();
    assert_eq!(found(80, "/admin/users").status, 410);
    lbd.wait_status("all is green", green);
}
