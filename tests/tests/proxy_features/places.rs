//! Where connections come from and go to: source addresses, ports, address families, and who gets the next one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use lb_tests::lab::{
    Lab, Mirror,
    browser::Browser,
    mirror::{Header, Seen},
    pki::{self, Authority, Validity},
    require_root,
    topology::VIP6,
};

use crate::{BOTH, get, green, mirrors, seen, start_green, vip};

#[test]
fn servers_see_the_source_address_that_is_asked_for() {
    if !require_root("servers_see_the_source_address_that_is_asked_for") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    lab.host("lb").netns.ip("addr add 10.10.0.9/24 dev eth0");
    let toml = vip("OWN", "l7-http", 80, BOTH, "")
        + &vip("VIP", "l7-http", 81, BOTH, "source = \"vip\"")
        + &vip("CHOSEN", "l7-tcp", 82, BOTH, "source = [\"10.10.0.9\"]");
    let _lbd = start_green(&lab, &toml);
    for (port, source) in [(80, "10.10.0.2"), (81, "10.10.0.100"), (82, "10.10.0.9")] {
        let peer = seen(lab.host("client"), port, &[]).peer.ip();
        assert_eq!(peer.to_string(), source, "port {port}");
    }
}

#[test]
fn a_server_without_a_port_is_asked_on_the_vips() {
    if !require_root("a_server_without_a_port_is_asked_on_the_vips") {
        return;
    }
    let lab = Lab::new();
    let ports = [8070, 8071, 8075, 8076];
    let _mirrors = ports.map(|port| Mirror::start(lab.host("pacs1"), port, Header::None));
    let certificate = Authority::new("Hospital CA").issue("vip", &["10.10.0.100"], Validity::Now);
    let _file = pki::write(&lab.host("lb").dir(), "web.pem", &certificate);
    let servers = "{ PACS1 = \"10.10.0.11\" }";
    let toml = "[pki.cert.web]\npem = \"web.pem\"\n".to_owned()
        + &vip("MANY", "l7-tcp", 8070, servers, "").replace("[8070]", "[8070, \"8075-8076\"]")
        + &vip("ONE", "l7-http", 8071, servers, "tls = { port = 443, cert = \"web\" }");
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    for port in ports {
        assert_eq!(seen(client, port, &[]).port, port);
    }
    // Where TLS ends, the server's port is not that of TLS: there the server may speak TLS itself, or nothing at all.
    let by_tls = get(client, &["-k"], "https://10.10.0.100/");
    assert_eq!(Seen::in_page(&by_tls).port, 8071);
}

#[test]
fn ipv6_is_served_like_ipv4() {
    if !require_root("ipv6_is_served_like_ipv4") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let (client, servers) = (lab.host("client"), ["pacs1", "pacs2"].map(|name| lab.host(name).v6));
    let six = format!("{{ PACS1 = \"[{}]:8080\", PACS2 = \"[{}]:8080\" }}", servers[0], servers[1]);
    let family = |toml: String| toml.replace("ip = \"10.10.0.100\"", &format!("ip = \"{VIP6}\""));
    let rules = "headers = [{ set = \"Host\", value = \"%fi:443\" }]\npersist = \"cookie\"";
    let toml = family(vip("HTTP", "l7-http", 80, &six, rules)) + &family(vip("TCP", "l7-tcp", 81, &six, ""));
    let _lbd = start_green(&lab, &toml);
    let at = |ip: IpAddr, port| format!("http://{}/", SocketAddr::new(ip, port));

    let seen = Seen::in_page(&Browser::new(client).page(&at(VIP6, 80)));
    assert_eq!(seen.header("host"), [format!("[{VIP6}]:443")]);
    assert_eq!(seen.header("x-forwarded-for"), [client.v6.to_string()]);
    assert_eq!(seen.peer.ip(), IpAddr::V6(lab.host("lb").v6));
    let chosen: BTreeSet<_> =
        (0..4).map(|_| Seen::in_page(&Browser::new(client).page(&at(VIP6, 81))).server).collect();
    assert_eq!(chosen.len(), 1, "one client, one server: {chosen:?}");
}

#[test]
fn the_next_connection_goes_where_the_scheduler_says() {
    if !require_root("the_next_connection_goes_where_the_scheduler_says") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let weighted = r#"{ PACS1 = { ip = "10.10.0.11", port = 8080, weight = 150 }, PACS2 = { ip = "10.10.0.12", port = 8080, weight = 50 } }"#;
    let by = |name: &str, port, servers: &str, scheduler: &str| {
        vip(name, "l7-http", port, servers, "").replace("\"wrr\"", &format!("\"{scheduler}\""))
    };
    let toml = by("WRR", 80, weighted, "wrr")
        + &by("WLC", 81, BOTH, "wlc")
        + &by("FIRST", 82, BOTH, "first")
        + &by("HASH", 83, BOTH, "source-hash");
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let count = |port| (0..16).filter(|_| seen(client, port, &[]).server == "pacs1").count();

    assert_eq!(count(80), 12, "three parts of four");
    assert!((6..=10).contains(&count(81)), "idle servers get as many each");
    assert_eq!(count(82), 16, "the first gets all");
    let hashed = count(83);
    assert!(hashed == 0 || hashed == 16, "one client, one server: {hashed}");

    lbd.ctl(&["rip", "halt", "FIRST/PACS1"]).expect_success();
    assert_eq!(count(82), 0, "the first is halted");
    lbd.ctl(&["rip", "online", "FIRST/PACS1"]).expect_success();
    lbd.wait_status("all is green", green);
    assert_eq!(count(82), 16, "the first is back");
    // A weight of 0 takes nothing new; a changed one counts at once.
    lbd.ctl(&["rip", "set", "WRR/PACS1", "weight=0"]).expect_success();
    assert_eq!(count(80), 0);
    lbd.ctl(&["rip", "set", "WRR/PACS1", "weight=50"]).expect_success();
    assert_eq!(count(80), 8);
}
