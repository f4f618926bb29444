//! Clients that come back to their server: by cookie, by address, by a parameter of the URL.

use std::collections::BTreeSet;

use lb_tests::lab::{Host, Lab, browser::Browser, http::values, mirror::Seen, require_root};

use crate::{BOTH, at, get, green, mirrors, seen, start_green, url, vip};

/// Requests that a round robin over two servers cannot all send to one of them.
const ROUNDS: usize = 6;

#[test]
fn a_cookie_leads_back_to_its_server_until_that_takes_nothing() {
    if !require_root("a_cookie_leads_back_to_its_server_until_that_takes_nothing") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("USUAL", "l7-http", 80, BOTH, "persist = \"cookie\"")
        + &vip(
            "NAMED",
            "l7-http",
            81,
            BOTH,
            r#"persist = { type = "cookie", name = "VIEWER", max_idle = "30m", max_life = "12h" }"#,
        );
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    // All in one jar.
    let browser = Browser::new(client).keeping("jar");
    let server = |browser: &Browser| Seen::in_page(&browser.page(&url(80, "/"))).server;

    let first = server(&browser);
    assert!((0..ROUNDS).all(|_| server(&browser) == first), "a browser with the cookie stays with {first}");
    assert_eq!(spread(client, 80, &[]).len(), 2, "without it every request is a new one");

    let set = |port| {
        let page = get(client, &[], &url(port, "/"));
        let cookies = values(&page.headers, "set-cookie").join("\n");
        (cookies, Seen::in_page(&page).server)
    };
    for (port, name) in [(80, "SERVERID"), (81, "VIEWER")] {
        let (cookie, _) = set(port);
        assert!(cookie.starts_with(&format!("{name}=")) && cookie.contains("HttpOnly"), "{cookie:?}");
        // What a patient's browser keeps names no machine of the hospital.
        let lower = cookie.to_ascii_lowercase();
        assert!(!lower.contains("pacs") && !lower.contains("10.10"), "{cookie:?}");
    }
    // The cookie is between browser and balancer.
    let passed = Seen::in_page(&browser.with(&["-H", "Cookie: theme=dark"]).page(&url(80, "/")));
    let told = passed.header("cookie").join("; ");
    assert!(told.contains("theme=dark") && !told.contains("SERVERID"), "{told:?}");

    let (held, other) = match first.as_str() {
        "pacs1" => ("USUAL/PACS1", "pacs2"),
        _ => ("USUAL/PACS2", "pacs1"),
    };
    // A drain that keeps persistence keeps who has the cookie; a halt keeps nobody.
    lbd.ctl(&["rip", "drain", held, "--keep-persistent"]).expect_success();
    assert!((0..ROUNDS).all(|_| server(&browser) == first), "a drain spares whom it is told to spare");
    assert_eq!(spread(client, 80, &[]), [other.to_owned()].into(), "new ones go elsewhere");
    lbd.ctl(&["rip", "drain", held, "--migrate"]).expect_success();
    assert!((0..ROUNDS).all(|_| server(&browser) == other), "a drain that migrates leads away");
    lbd.ctl(&["rip", "online", held]).expect_success();
    lbd.wait_status("all is green", green);
    assert!((0..ROUNDS).all(|_| server(&browser) == other), "its cookie is the other's now");
}

#[test]
fn a_source_address_or_its_network_stays_with_its_server() {
    if !require_root("a_source_address_or_its_network_stays_with_its_server") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("DEFAULT", "l7-tcp", 80, BOTH, "")
        + &vip(
            "NETWORK",
            "l7-tcp",
            81,
            BOTH,
            r#"persist = { type = "source-ip", prefix = 28, timeout = "1h" }"#,
        )
        + &vip("NONE", "l7-tcp", 82, BOTH, "persist = \"none\"")
        + &vip("TWO", "l7-tcp", 83, BOTH, "").replace("[83]", "[83, 84]");
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    // .200 to .207 are in one network of 28 bits, .208 to .211 in the next.
    let addresses: Vec<String> = (200..212).map(|octet| format!("10.10.0.{octet}")).collect();
    for address in &addresses {
        client.netns.ip(&format!("addr add {address}/24 dev eth0"));
    }
    let from = |port, address: &String| seen(client, port, &["--interface", address]).server;

    let chosen: Vec<_> = addresses.iter().map(|address| from(80, address)).collect();
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 2, "all clients have one server: {chosen:?}");
    let again: Vec<_> = addresses.iter().map(|address| from(80, address)).collect();
    assert_eq!(again, chosen, "each comes back to its own");

    for network in [&addresses[..8], &addresses[8..]] {
        let servers: BTreeSet<_> = network.iter().map(|address| from(81, address)).collect();
        assert_eq!(servers.len(), 1, "a network has one server");
    }
    assert_eq!(spread(client, 82, &[]).len(), 2, "nobody is remembered");
    // All ports of a VIP share what is remembered: a viewer's second connection meets its session.
    for address in &addresses {
        assert_eq!(from(83, address), from(84, address), "{address}");
    }
    // What a server is not to serve any more, it does not serve because of the past either.
    let held = chosen[0].to_uppercase();
    lbd.ctl(&["rip", "halt", &format!("DEFAULT/{held}")]).expect_success();
    let moved = from(80, &addresses[0]);
    assert_ne!(moved, chosen[0]);
    lbd.ctl(&["rip", "online", &format!("DEFAULT/{held}")]).expect_success();
    lbd.wait_status("all is green", green);
    assert_eq!(from(80, &addresses[0]), moved, "it stays with the server that it was moved to");
}

#[test]
fn a_parameter_of_the_url_leads_to_one_server() {
    if !require_root("a_parameter_of_the_url_leads_to_one_server") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let persist = r#"persist = { type = "url-param", name = "shardKey", timeout = "30m", entries = 1024, key_len = 64 }"#;
    let _lbd = start_green(&lab, &vip("SHARDS", "l7-http", 80, BOTH, persist));
    let client = lab.host("client");
    let server = |path: &str| Seen::in_page(&get(client, &[], &url(80, path))).server;

    // Keys that differ in their forty-first letter only.
    let key = |number: usize| format!("{}{number}", "slide-of-a-patient-with-a-very-long-name-");
    let tile = |number| server(&format!("/tile?x=1&shardKey={}&y=2", key(number)));
    let chosen: Vec<_> = (0..8).map(tile).collect();
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 2, "all keys lead to one server: {chosen:?}");
    assert_eq!((0..8).map(tile).collect::<Vec<_>>(), chosen, "each key leads to its own");
    // Whichever client asks, and for whatever: the key decides.
    client.netns.ip("addr add 10.10.0.200/24 dev eth0");
    let elsewhere =
        get(client, &["--interface", "10.10.0.200"], &url(80, &format!("/other?shardKey={}", key(0))));
    assert_eq!(Seen::in_page(&elsewhere).server, chosen[0]);
    let without: BTreeSet<_> = (0..ROUNDS).map(|_| server("/tile?x=1")).collect();
    assert_eq!(without.len(), 2, "a request without the key is anybody's: {}", at(80));
}

/// The servers that answer a client's requests.
#[track_caller]
fn spread(client: &Host, port: u16, options: &[&str]) -> BTreeSet<String> {
    (0..ROUNDS).map(|_| seen(client, port, options).server).collect()
}
