//! What clients get when no server is left.

use std::{fs, time::Duration};

use lb_ctl::model::status::RipState;
use lb_tests::lab::{
    Lab, Lbd, Mirror,
    browser::Browser,
    http,
    mirror::{Header, Seen},
    require_root, wait_until,
};

use crate::{BOTH, at, get, green, mirrors, seen, start_green, url, vip};

/// Anything that was asked for has happened within this, also on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// Names of the VIPs here.
const VIPS: [&str; 4] = ["PAGE", "OFF", "OWN", "PLAIN"];

#[test]
fn without_a_server_clients_get_what_the_vip_has_for_them() {
    if !require_root("without_a_server_clients_get_what_the_vip_has_for_them") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let sorry = Mirror::start(lab.host("pacs2"), 8090, Header::None);
    let pages = lab.host("lb").dir().join("pages");
    fs::create_dir_all(&pages).expect("a directory");
    fs::write(pages.join("sorry.html"), "<h1>Radiology calls back: 4711</h1>").expect("a page");
    let own = vip("OWN", "l7-http", 82, BOTH, "fallback = \"10.10.0.12:8090\"\npersist = \"cookie\"");
    let toml = vip("PAGE", "l7-http", 80, BOTH, "")
        + &vip("OFF", "l7-http", 81, BOTH, "fallback = \"off\"")
        + &own
        + &vip("PLAIN", "l7-tcp", 83, BOTH, "")
        + "[proxy]\nfallback_page = \"pages/sorry.html\"\n";
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    for port in [80, 81, 82, 83] {
        assert!(["pacs1", "pacs2"].contains(&seen(client, port, &[]).server.as_str()), "port {port}");
    }
    assert_eq!(sorry.connections(), 0, "nobody is sorry while servers are there");

    halt_all(&lbd);
    let page = get(client, &[], &url(80, "/any/path?of=any"));
    assert_eq!((page.status, page.body.trim()), (503, "<h1>Radiology calls back: 4711</h1>"));
    assert!(page.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok()), "{page:?}");
    let off = get(client, &[], &url(81, "/"));
    assert_eq!(off.status, 503);
    assert!(!off.body.contains("Radiology"), "{off:?}");
    let own = seen(client, 82, &[]);
    assert_eq!((own.server.as_str(), own.port), ("pacs2", 8090));
    // Who speaks no HTTP gets no page either: the connection ends at once.
    assert_eq!(http::send_raw(client, at(83), b"").unwrap_or_default(), "");

    // Nobody who was sent there is kept there.
    let jar = Browser::new(client).keeping("fallback");
    assert_eq!(Seen::in_page(&jar.page(&url(82, "/"))).port, 8090);
    for vip in VIPS {
        lbd.ctl(&["rip", "online", &format!("{vip}/PACS1")]).expect_success();
    }
    lbd.wait_status("PACS1 serves again", |status| {
        status.vips.iter().all(|vip| vip.rips.iter().any(|rip| rip.state == RipState::Active))
    });
    for port in [80, 81, 82, 83] {
        assert_eq!(seen(client, port, &[]).port, 8080, "port {port}");
    }
    assert_eq!(Seen::in_page(&jar.page(&url(82, "/"))).port, 8080);
    for vip in VIPS {
        lbd.ctl(&["rip", "online", &format!("{vip}/PACS2")]).expect_success();
    }
    lbd.wait_status("all is green", green);
}

#[test]
fn the_page_goes_where_the_configuration_says_and_lbd_has_one_of_its_own() {
    if !require_root("the_page_goes_where_the_configuration_says_and_lbd_has_one_of_its_own") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("PAGE", "l7-http", 80, BOTH, "");
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    lbd.ctl(&["rip", "halt", "PAGE/PACS1"]).expect_success();
    lbd.ctl(&["rip", "halt", "PAGE/PACS2"]).expect_success();
    let page = get(client, &[], &url(80, "/"));
    assert_eq!(page.status, 503);
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
    assert!(page.body.contains("<html"), "{page:?}");

    // To another port, while the page is needed.
    lbd.write_config(&format!("{toml}[proxy]\nfallback_listen = \"127.0.0.1:9999\"\n"));
    lbd.ctl(&["config", "apply"]).expect_success();
    wait_until(SOON, "the page is at its new place", || {
        let moved = lab
            .host("lb")
            .run("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9999/"]);
        moved.stdout == "503"
    });
    wait_until(SOON, "clients get it from there", || get(client, &[], &url(80, "/")).body == page.body);
}

/// Takes every server out of service.
#[track_caller]
fn halt_all(lbd: &Lbd) {
    for vip in VIPS {
        for rip in ["PACS1", "PACS2"] {
            lbd.ctl(&["rip", "halt", &format!("{vip}/{rip}")]).expect_success();
        }
    }
}
