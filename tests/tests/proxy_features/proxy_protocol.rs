//! PROXY headers: from a load balancer in front, and to the servers.

use std::net::SocketAddr;

use lb_tests::lab::{
    Lab, Mirror,
    browser::{Browser, Page},
    http,
    mirror::{Header, Seen},
    pki::{self, Authority, Validity},
    proxy_header, require_root,
};

use crate::{BOTH, at, get, mirrors, seen, start_green, url, vip};

/// Port of servers that want PROXY headers.
const ANNOUNCED: u16 = 8088;

/// A client that a load balancer in front speaks of.
const FAR_CLIENT: &str = "192.0.2.77:40000";

#[test]
fn a_load_balancer_in_front_announces_its_clients() {
    if !require_root("a_load_balancer_in_front_announces_its_clients") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("HTTP", "l7-http", 80, BOTH, "accept_proxy = true")
        + &vip("TCP", "l7-tcp", 81, BOTH, "accept_proxy = true");
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let far: SocketAddr = FAR_CLIENT.parse().expect("an address");
    let request = b"GET / HTTP/1.1\r\nHost: pacs\r\nConnection: close\r\n\r\n";
    let ask = |port, header: &[u8]| {
        let text = http::send_raw(client, at(port), &[header, request].concat()).unwrap_or_default();
        Page::read(&text).map(|page| (page.status, page))
    };
    let front: SocketAddr = "198.51.100.1:80".parse().expect("an address");

    for header in [proxy_header::v1(far, front), proxy_header::v2(far, front)] {
        let (_, page) = ask(80, &header).expect("an answer");
        assert_eq!(Seen::in_page(&page).header("x-forwarded-for"), [far.ip().to_string()]);
        // The header is the balancer's, and the server's request begins with the request.
        let (_, page) = ask(81, &header).expect("an answer");
        assert_eq!(Seen::in_page(&page).line, "GET / HTTP/1.1");
    }
    // A client that comes by itself is not let in under its own name or any other.
    for port in [80, 81] {
        let found = ask(port, b"").map(|(status, _)| status);
        assert!(!matches!(found, Some(200..=399)), "port {port}: {found:?}");
    }
    // Persistence goes by the announced client too: many clients behind one balancer spread over the servers.
    let of_client = |last: u8| {
        let header = proxy_header::v2(SocketAddr::from(([192, 0, 2, last], 40_000)), front);
        Seen::in_page(&ask(81, &header).expect("an answer").1).server
    };
    let spread: Vec<_> = (1..=6).map(of_client).collect();
    assert!(["pacs1", "pacs2"].iter().all(|server| spread.iter().any(|found| found == server)), "{spread:?}");
    assert_eq!((1..=6).map(of_client).collect::<Vec<_>>(), spread, "each comes back to its own");
}

#[test]
fn servers_are_told_of_the_client_and_its_tls() {
    if !require_root("servers_are_told_of_the_client_and_its_tls") {
        return;
    }
    let lab = Lab::new();
    let _told = Mirror::start(lab.host("pacs1"), ANNOUNCED, Header::Proxy);
    let authority = Authority::new("Hospital CA");
    let dir = lab.host("lb").dir();
    let _files = [
        pki::write(&dir, "web.pem", &authority.issue("vip", &["10.10.0.100"], Validity::Now)),
        pki::write(&dir, "ca.pem", &authority.pem()),
    ];
    let ct = pki::write(lab.dir(), "ct.pem", &authority.issue("CT scanner 1", &[], Validity::Now));
    let one = format!("{{ PACS1 = \"10.10.0.11:{ANNOUNCED}\" }}");
    let tls = |port: u16| format!("\ntls = {{ port = {port}, cert = \"web\", client_ca = \"hospital\" }}");
    let toml = "[pki.cert.web]\npem = \"web.pem\"\n[pki.ca.hospital]\nmembers = { root = \"ca.pem\" }\n"
        .to_owned()
        + &vip("LINE", "l7-tcp", 80, &one, "send_proxy = \"v1\"")
        + &vip("BINARY", "l7-http", 81, &one, "send_proxy = \"v2\"")
        + &vip("TLS", "l7-http", 82, &one, &format!("send_proxy = \"v2-ssl\"{}", tls(443)))
        + &vip("NAME", "l7-tcp", 83, &one, &format!("send_proxy = \"v2-ssl-cn\"{}", tls(444)));
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");

    for (port, version) in [(80, 1), (81, 2)] {
        let seen = seen(client, port, &["--local-port", "40500-40599"]);
        let (found, from, to) = seen.announced.expect("a PROXY header");
        assert_eq!((found, from.ip().to_string(), to), (version, client.v4.to_string(), at(port)));
        assert!((40500..=40599).contains(&from.port()), "{from}");
        assert_eq!(seen.announced_tls, (None, None));
        assert_eq!(seen.peer.ip().to_string(), "10.10.0.2");
    }
    let cert = ct.display().to_string();
    for (port, name) in [(443, None), (444, Some("CT scanner 1"))] {
        let seen = Seen::in_page(&get(client, &["-k", "--cert", &cert], &format!("https://{}/", at(port))));
        assert_eq!(seen.announced.expect("a PROXY header").2, at(port));
        assert_eq!(seen.announced_tls, (Some("TLSv1.3".to_owned()), name.map(str::to_owned)), "{port}");
    }
    assert!(Browser::new(client).get(&url(82, "/")).is_err(), "no side door");
}
