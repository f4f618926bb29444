//! `config/deployments/sectra.toml` as it is shipped: three web services with TLS that ends at the balancer, three servers
//! each.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use lb_ctl::model::status::{Colour, RipState, Status};
use lb_tests::lab::{
    Deployment, Mirror,
    browser::Browser,
    deployment::Site,
    lbd::{rip, vip},
    mirror::{Header, Seen},
    pki::Validity,
    require_root,
    topology::Segment,
};

/// The guide's subnet and servers.
const SITE: Site<'_> = Site {
    name: "sectra",
    segment: Segment { name: "sectra", number: 85, v4_begin: [192, 168, 85], v4_length: 24 },
    lb: 10,
    client: 50,
    servers: &[
        ("shs1", 200),
        ("shs2", 201),
        ("shs3", 202),
        ("uniview1", 210),
        ("uniview2", 211),
        ("uniview3", 212),
        ("pathology1", 220),
        ("pathology2", 221),
        ("pathology3", 222),
    ],
};

/// VIPs: name, address, the name that users know it by, how its servers' labels begin, and its check's script.
const VIPS: [(&str, &str, &str, &str, &str); 3] = [
    ("Sectra_IDS7", "192.168.85.150", "shs.example.com", "SHS_", "sectra-shs.sh"),
    ("Sectra_UniView", "192.168.85.160", "uniview.example.com", "UniView_", "sectra-uniview.sh"),
    ("Sectra_Pathology", "192.168.85.170", "pathology.example.com", "Pathology_", "sectra-pathology.sh"),
];

/// Stands in for the vendor's script: one for all services, which knows by its own name what to ask. It is given the VIP, its
/// port, the server and its port (R42).
const SCRIPT: &str = r#"#!/bin/sh
case "$(basename "$0")" in
    sectra-shs.sh) page=/health/shs ;;
    sectra-uniview.sh) page=/health/uniview ;;
    sectra-pathology.sh) page=/health/pathology ;;
    *) echo "no service is called $(basename "$0")" >&2; exit 2 ;;
esac
curl -sSf --max-time 2 -o /dev/null "http://$3:$4$page?vip=$1:$2"
"#;

/// Requests that a round robin over three servers cannot all send to one or two of them.
const ROUNDS: usize = 6;

/// A service as its users meet it.
struct Service<'a> {
    name: &'a str,
    host: &'a str,
    browser: Browser,
}

impl Service<'_> {
    /// Asks for a path over TLS, and gives what the server saw.
    #[track_caller]
    fn get(&self, browser: &Browser, path: &str) -> Seen {
        Seen::in_page(&browser.page(&format!("https://{}{path}", self.host)))
    }
}

#[test]
fn three_services_are_reached_by_their_names_and_do_without_a_server() {
    if !require_root("three_services_are_reached_by_their_names_and_do_without_a_server") {
        return;
    }
    let deployment = Deployment::new(&SITE, None);
    let mut servers: Vec<_> = SITE
        .servers
        .iter()
        .map(|(name, _)| Some(Mirror::start(deployment.server(name), 80, Header::None)))
        .collect();
    for (_, _, name, _, script) in VIPS {
        let pem = deployment.authority().issue(name, &[name], Validity::Now);
        deployment.add_file(&format!("pki/{name}.pem"), &pem);
        deployment.add_script(script, SCRIPT);
    }
    let lbd = deployment.start(&deployment.shipped_config());
    let status = lbd.wait_status("all is green", green);
    let client = deployment.client();
    let ca = deployment.ca_file(client);
    let services = VIPS.map(|(name, ip, host, label, script)| {
        assert_eq!(vip(&status, name).ip.to_string(), ip, "{name}");
        assert_eq!(rip(&status, name, &format!("{label}1")).state, RipState::Active, "{name}");
        let asked = servers.iter().flatten().flat_map(Mirror::lines).collect::<Vec<_>>();
        let page = script.trim_start_matches("sectra-").trim_end_matches(".sh");
        let line = format!("GET /health/{page}?vip={ip}:80 HTTP/1.1");
        assert!(asked.contains(&line), "{script} never asked a server for {line:?}: {asked:?}");
        let resolve = [443, 80].map(|port| format!("{host}:{port}:{ip}"));
        let browser = Browser::new(client).trusting(&ca).with(&["--resolve", &resolve[0]]);
        Service { name, host, browser: browser.with(&["--resolve", &resolve[1]]) }
    });
    let [ids7, uniview, pathology] = &services;

    // Without TLS there is the way to it and nothing else.
    for service in &services {
        let Service { host, browser, .. } = service;
        let moved = browser.get(&format!("http://{host}/start?study=7")).expect("an answer");
        let to = format!("https://{host}/start?study=7");
        assert_eq!((moved.status, moved.header("location")), (308, Some(to.as_str())), "{}", service.name);
        // Header names that break the standard, as the vendor's clients send them.
        let lenient = service.get(&browser.with(&["-H", "X Sectra: 1"]), "/");
        assert_eq!(lenient.header("X Sectra"), ["1"], "{}", service.name);
    }

    // The first service's requests are shared out, and its servers are told how users came.
    let seen: Vec<_> = (0..ROUNDS).map(|_| ids7.get(&ids7.browser, "/")).collect();
    assert_eq!(servers_of(&seen), ["shs1", "shs2", "shs3"]);
    assert_eq!(seen[0].header("x-forwarded-proto"), ["https"]);
    assert_eq!(seen[0].header("host"), ["192.168.85.150:443"]);
    assert_eq!(uniview.get(&uniview.browser, "/").header("host"), ["uniview.example.com"]);

    // A browser stays with its server by the second's cookie.
    let sessions: Vec<_> = (0..ROUNDS).map(|at| uniview.browser.keeping(&format!("session{at}"))).collect();
    let round = || sessions.iter().map(|session| uniview.get(session, "/")).collect::<Vec<_>>();
    let first = round();
    assert_eq!(servers_of(&first), ["uniview1", "uniview2", "uniview3"]);
    assert_eq!(names(&round()), names(&first), "sessions stay");

    // And all tiles of a slide come from one server of the third.
    let slide = |number: usize| {
        let path = format!("/tile?x=1&shardKey=a-slide-with-a-name-of-forty-letters-{number}&y=2");
        pathology.get(&pathology.browser, &path)
    };
    let slides = || (0..3 * ROUNDS).map(slide).collect::<Vec<_>>();
    let chosen = slides();
    assert_eq!(servers_of(&chosen), ["pathology1", "pathology2", "pathology3"]);
    assert_eq!(names(&slides()), names(&chosen), "slides stay");

    // One server of each service stops.
    for stopped in [0, 3, 6] {
        servers[stopped] = None;
    }
    let status = lbd.wait_status("one of each is down", |status| {
        VIPS.iter()
            .all(|(name, _, _, label, _)| rip(status, name, &format!("{label}1")).state == RipState::Down)
    });
    for (name, ..) in VIPS {
        assert_eq!(vip(&status, name).colour, Colour::Yellow, "{name}");
    }
    let seen: Vec<_> = (0..ROUNDS).map(|_| ids7.get(&ids7.browser, "/")).collect();
    assert_eq!(servers_of(&seen), ["shs2", "shs3"]);
    for (before, after) in first.iter().zip(round()).chain(chosen.iter().zip(slides())) {
        let (was, is) = (before.server.as_str(), after.server.as_str());
        if was.ends_with('1') {
            assert!(is.ends_with('2') || is.ends_with('3'), "{was} is dead, and {is} answers");
        } else {
            assert_eq!(was, is, "who was not concerned is not moved");
        }
    }

    for stopped in [0, 3, 6] {
        servers[stopped] = Some(Mirror::start(deployment.server(SITE.servers[stopped].0), 80, Header::None));
    }
    lbd.wait_status("all is green again", green);
    let seen: Vec<_> = (0..ROUNDS).map(|_| ids7.get(&ids7.browser, "/")).collect();
    assert_eq!(servers_of(&seen), ["shs1", "shs2", "shs3"]);

    // With no server left, users are told so.
    servers[3..6].fill_with(|| None);
    lbd.wait_status("the second service is down", |status| vip(status, uniview.name).colour == Colour::Red);
    let sorry = uniview.browser.get("https://uniview.example.com/").expect("an answer");
    assert_eq!(sorry.status, 503, "{sorry:?}");
    assert!(sorry.header("retry-after").is_some(), "{sorry:?}");
    assert_eq!(ids7.get(&ids7.browser, "/").line, "GET / HTTP/1.1", "the others are not concerned");
}

/// The servers that answered, each once.
fn servers_of(seen: &[Seen]) -> Vec<&str> {
    let once: BTreeSet<_> = seen.iter().map(|seen| seen.server.as_str()).collect();
    once.into_iter().collect()
}

/// The servers that answered, in the order of the requests.
fn names(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.server.as_str()).collect()
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}
