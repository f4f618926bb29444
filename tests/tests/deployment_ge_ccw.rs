//! `config/deployments/ge-ccw.toml` as it is shipped: fifteen VIPs with real servers behind them and real clients
//! before them.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use lb_ctl::model::status::{Colour, RipState, Status};
use lb_tests::lab::{
    App, Deployment, MllpLink, MllpServer, StoreScp, dicom,
    ge_ccw::{self, ARCHIVES, BALANCER_NAME, FEEDS, HEALTH, OPEN, RECEIVERS, SECURED, Servers, User, WEB},
    lbd::{rip, vip},
    netns, require_root, scu,
    servers::Spread,
};

/// Both web applications, as the balancer calls them.
const APPS: [(&str, &str); 2] = [("CCW_App_Server_1", "app1"), ("CCW_App_Server_2", "app2")];

#[test]
fn without_the_balancer_every_server_serves_whom_it_should() {
    if !require_root("without_the_balancer_every_server_serves_whom_it_should") {
        return;
    }
    let deployment = ge_ccw::deployment(None);
    let servers = Servers::start(&deployment);
    let _receivers = ge_ccw::receivers(&deployment);
    let (user, client) = (User::new(&deployment), deployment.client());

    let app = deployment.server("app1").v4;
    for service in SECURED {
        let url = format!("https://{app}:{}", service.tls);
        let page = user.browser.page(&format!("{url}/"));
        assert_eq!((page.server(), page.says("port")), ("app1", &*service.tls.to_string()));
        assert_eq!(page.says("certificate"), format!("CN={}", ge_ccw::CLIENT_NAME));
        assert_eq!(page.says("peer"), client.v4.to_string());
        assert_eq!(user.stranger.get(&url).expect("nginx tells why").status, 400);
        assert_eq!(user.browser.page(&format!("{url}{}", HEALTH.0)).body, HEALTH.1);
    }
    for port in OPEN.1 {
        assert_eq!(user.stranger.page(&format!("http://{app}:{port}/")).server(), "app1");
    }
    for (host, port) in RECEIVERS {
        let to = SocketAddr::new(deployment.server(host).v4.into(), port);
        let mut link = MllpLink::open(client, to).expect("a receiver listens");
        assert_eq!(link.exchange_many(3).expect("acknowledged"), host);
    }
    for (at, (_, port)) in ARCHIVES.into_iter().enumerate() {
        let to = SocketAddr::new(deployment.server("dicom2").v4.into(), port);
        scu::echo(client, to).expect_success();
        let uids = store_each(&deployment, to, 1);
        assert_eq!(servers.instances(at), [vec![], uids]);
    }
}

#[test]
fn every_vip_is_reached_by_a_real_client_the_way_the_guide_wants() {
    if !require_root("every_vip_is_reached_by_a_real_client_the_way_the_guide_wants") {
        return;
    }
    let deployment = ge_ccw::deployment(None);
    let servers = Servers::start(&deployment);
    let receivers = ge_ccw::receivers(&deployment);
    let user = User::new(&deployment);
    let mut lbd = deployment.start(&deployment.shipped_config());
    assert_eq!(lbd.wait_status("all is green", green).vips.len(), 15);

    only_clients_with_the_certificate_reach_the_secured_services(&deployment, &user);
    the_handshake_names_the_authority_and_refuses_what_is_old(&deployment, &user);
    clients_stay_where_they_are_sent_to(&deployment, &user);
    images_are_stored_once(&deployment, &servers);
    messages_are_acknowledged_by_whom_they_are_for(&deployment, &receivers);

    lbd.stop();
    lbd.detach().expect_success();
    let left = netns::inhabitants(deployment.lb().netns.name());
    assert!(left.is_empty(), "processes that a detached daemon leaves: {left:?}");
}

fn only_clients_with_the_certificate_reach_the_secured_services(deployment: &Deployment, user: &User) {
    let impostor = user.impostor(deployment);
    for service in SECURED {
        let url = format!("https://{WEB}:{}/", service.tls);
        let page = user.browser.page(&url);
        assert_eq!(page.says("port"), service.tls.to_string(), "{}", service.vip);
        assert_eq!(page.says("certificate"), format!("CN={BALANCER_NAME}"), "{}", service.vip);
        assert_eq!(page.says("peer"), deployment.lb().v4.to_string(), "{}", service.vip);

        for (who, browser) in [("a client without", &user.stranger), ("a client with another's", &impostor)] {
            let refused = browser.get(&url);
            assert!(refused.is_err(), "{}: {who} certificate gets {refused:?}", service.vip);
        }
        for url in [format!("http://{WEB}:{}/", service.tls), format!("https://{WEB}:{}/", service.cleartext)]
        {
            let refused = user.browser.get(&url);
            assert!(
                refused.as_ref().is_err() || refused.as_ref().is_ok_and(|page| page.server().is_empty()),
                "{url}: {refused:?}"
            );
        }
        // The guide serves this port without TLS: whoever finds it needs no certificate.
        let to = ge_ccw::web(service.cleartext);
        let open = deployment.client().netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE));
        assert_eq!(open.expect_err("a side door").kind(), ErrorKind::ConnectionRefused, "{}", service.vip);
    }
}

/// What a TLS client is told before it shows anything: whose certificates count, and which versions are spoken.
fn the_handshake_names_the_authority_and_refuses_what_is_old(deployment: &Deployment, user: &User) {
    let to = ge_ccw::web(SECURED[0].tls).to_string();
    let ca = user.ca.display().to_string();
    let shake = |more: &[&str]| {
        let common = ["s_client", "-connect", &to, "-CAfile", &ca, "-verify_return_error"];
        deployment.client().run("openssl", &[&common, more].concat())
    };
    let talk = shake(&[]).stdout;
    let (_, asked) =
        talk.split_once("Acceptable client certificate CA names").expect("it asks for a certificate");
    assert!(asked.contains("CN = Hospital"), "{talk}");
    assert!(talk.contains(&format!("subject=CN = {BALANCER_NAME}")), "{talk}");
    for old in ["-tls1", "-tls1_1"] {
        let talk = shake(&[old, "-cipher", "DEFAULT@SECLEVEL=0"]);
        assert!(
            !talk.success() && talk.stdout.contains("no peer certificate available"),
            "{old}: {}",
            talk.stdout
        );
    }
}

fn clients_stay_where_they_are_sent_to(deployment: &Deployment, user: &User) {
    let clients: Vec<Ipv4Addr> = (60..66).map(|octet| deployment.another_client(octet)).collect();
    let [first, second, third] = OPEN.1.map(|port| format!("http://{WEB}:{port}/"));
    let by_address = [
        (&user.browser, vec![tls_url("CCW_WEB_443")]),
        (&user.browser, vec![tls_url("CCW_WEB_44301")]),
        (&user.stranger, vec![first, second, third]),
    ];
    for (browser, urls) in by_address {
        let sent_to = clients.iter().map(|client| {
            let browser = browser.from(client);
            one_server(
                &urls
                    .iter()
                    .cycle()
                    .take(4)
                    .map(|url| browser.page(url).server().to_owned())
                    .collect::<Vec<_>>(),
            )
        });
        assert_eq!(sent_to.collect::<BTreeSet<_>>().len(), 2, "{urls:?}: clients are shared out");
    }

    let url = tls_url("CCW_WEB_8443");
    let sent_to = (0..4).map(|session| {
        let browser = user.browser.keeping(&session.to_string());
        let first = browser.page(&url);
        let cookie = first.header("set-cookie").expect("a cookie");
        assert!(
            APPS.iter().all(|(label, host)| !cookie.contains(label) && !cookie.contains(host)),
            "{cookie}"
        );
        let later = (0..4).map(|_| browser.page(&url).server().to_owned());
        one_server(&later.chain([first.server().to_owned()]).collect::<Vec<_>>())
    });
    assert_eq!(sent_to.collect::<BTreeSet<_>>().len(), 2, "sessions are shared out");

    for client in &clients {
        let page = user.browser.from(client).page(&tls_url("CCW_NOTIFICATION"));
        assert_eq!(page.server(), "app1", "all clients go to the first of the list");
    }
}

fn images_are_stored_once(deployment: &Deployment, servers: &Servers<'_>) {
    for (at, (name, port)) in ARCHIVES.into_iter().enumerate() {
        let uids = store_each(deployment, ge_ccw::dicom(port), 6);
        let spread = Spread::of(&servers.instances(at), &uids);
        assert!(spread.exact() && !spread.counts.contains(&0), "{name}: {spread:?}");
    }
    for archive in &servers.archives {
        let uid = &archive.instances()[0];
        assert_eq!(archive.remote_address(uid), IpAddr::V4(deployment.client().v4), "servers see the client");
    }
}

fn messages_are_acknowledged_by_whom_they_are_for(deployment: &Deployment, receivers: &[MllpServer]) {
    for feed in FEEDS {
        let mut link = link(deployment, feed.port);
        assert_eq!(link.exchange_many(5).expect("acknowledged"), feed.host, "{}", feed.vip);
        let at = RECEIVERS.iter().position(|&known| known == (feed.host, feed.server_port));
        let seen = receivers[at.expect("a receiver")].connections();
        let carried = seen.iter().find(|connection| connection.messages >= 5).expect("the connection");
        assert_eq!(carried.peer.ip(), IpAddr::V4(deployment.lb().v4), "{}", feed.vip);
    }
}

#[test]
fn a_server_that_stops_is_told_and_missed_by_nobody_until_it_is_back() {
    if !require_root("a_server_that_stops_is_told_and_missed_by_nobody_until_it_is_back") {
        return;
    }
    let deployment = ge_ccw::deployment(None);
    let mut servers = Servers::start(&deployment);
    let mut receivers = ge_ccw::receivers(&deployment);
    let user = User::new(&deployment);
    let lbd = deployment.start(&deployment.shipped_config());
    lbd.wait_status("all is green", green);
    let mut bystander = link(&deployment, 2102);
    assert_eq!(bystander.exchange().expect("acknowledged"), "engine");
    assert_eq!(user.browser.page(&tls_url("CCW_NOTIFICATION")).server(), "app1");

    let unlucky = user.of_app(&deployment, "app1");

    // An application, an engine's port and one service of an archive stop at once.
    servers.apps[0].kill();
    drop(receivers.remove(0));
    servers.receivers[1][0].kill();
    let page = unlucky.page(&tls_url("CCW_WEB_443"));
    assert_eq!(
        page.server(),
        "app2",
        "whoever was sent to it before it is known to be dead is served as well"
    );
    let status = lbd.wait_status("three servers are down", |status| {
        rip(status, "CCG_IB_2101", "CCW_INT_5001").state == RipState::Down
            && rip(status, "CCW_DICOM_1115", "DICOM_Server_1").state == RipState::Down
            && web_vips().all(|name| rip(status, name, APPS[0].0).state == RipState::Down)
    });
    let colour_of = |name: &str| match name {
        "CCG_IB_2101" | "PORT_CCG_IB_2103" => Colour::Red,
        "CCW_DICOM_1115" => Colour::Yellow,
        name if web_vips().any(|web| web == name) => Colour::Yellow,
        _ => Colour::Green,
    };
    for vip in &status.vips {
        assert_eq!(vip.colour, colour_of(&vip.name), "{}", vip.name);
    }

    for name in SECURED.map(|service| service.vip) {
        assert_eq!(user.browser.page(&tls_url(name)).server(), "app2", "{name}");
    }
    for port in OPEN.1 {
        assert_eq!(user.stranger.page(&format!("http://{WEB}:{port}/")).server(), "app2");
    }
    let uids = store_each(&deployment, ge_ccw::dicom(1115), 2);
    assert_eq!(BTreeSet::from_iter(servers.instances(2)[1].clone()), BTreeSet::from_iter(uids));
    for port in [2101, 2103] {
        assert_closed_at_once(&deployment, port);
    }
    assert_eq!(bystander.exchange_many(3).expect("the engine's other port is not concerned"), "engine");

    servers.apps[0].start_again();
    let _engine = MllpServer::start(deployment.server("engine"), 5001);
    let _archive = StoreScp::start(deployment.lab(), "dicom1", 1115);
    lbd.wait_status("all is green again", green);
    assert_eq!(link(&deployment, 2101).exchange().expect("acknowledged"), "engine");
    assert_eq!(bystander.exchange().expect("never broken"), "engine");

    // Nobody is sent back before it is wanted (11.3 of the guide).
    assert_eq!(user.browser.page(&tls_url("CCW_NOTIFICATION")).server(), "app2");
    lbd.ctl(&["table", "clear", "CCW_NOTIFICATION"]).expect_success();
    assert_eq!(user.browser.page(&tls_url("CCW_NOTIFICATION")).server(), "app1");
}

#[test]
fn a_sick_application_loses_what_it_is_sick_of_and_with_the_last_one_gone_clients_are_told() {
    if !require_root(
        "a_sick_application_loses_what_it_is_sick_of_and_with_the_last_one_gone_clients_are_told",
    ) {
        return;
    }
    let deployment = ge_ccw::deployment(None);
    let mut servers = Servers::start(&deployment);
    let _receivers = ge_ccw::receivers(&deployment);
    let user = User::new(&deployment);
    let lbd = deployment.start(&deployment.shipped_config());
    lbd.wait_status("all is green", green);

    servers.apps[0].set_page(HEALTH.0, "someServicesOperative");
    let status = lbd.wait_status("it is told by its health page", |status| {
        vip(status, "CCW_NOTIFICATION").colour == Colour::Yellow
    });
    assert_eq!(rip(&status, "CCW_NOTIFICATION", APPS[0].0).state, RipState::Down);
    assert_eq!(vip(&status, "CCW_WEB_443").colour, Colour::Green, "its port still answers");
    assert_eq!(user.browser.page(&tls_url("CCW_NOTIFICATION")).server(), "app2");

    servers.apps.iter_mut().for_each(App::kill);
    let status = lbd.wait_status("no application is left", |status| {
        web_vips().all(|name| vip(status, name).colour == Colour::Red)
    });
    assert_eq!(status.health, Colour::Red);
    for name in SECURED.map(|service| service.vip) {
        let sorry = user.browser.get(&tls_url(name)).expect("the fallback page");
        assert_eq!((sorry.status, sorry.server()), (503, ""), "{name}: {sorry:?}");
        assert!(sorry.header("retry-after").is_some(), "{name}: {sorry:?}");
        assert!(user.stranger.get(&tls_url(name)).is_err(), "{name}: not even the page is for strangers");
    }
    assert_closed_at_once(&deployment, OPEN.1[0]);
    assert_eq!(link(&deployment, 2101).exchange().expect("feeds are not concerned"), "engine");
}

/// A link to a feed of the balancer.
#[track_caller]
fn link(deployment: &Deployment, port: u16) -> MllpLink {
    MllpLink::open(deployment.client(), ge_ccw::web(port)).expect("the feed is served")
}

/// A feed whose fallback is off says so by closing, and not by silence.
#[track_caller]
fn assert_closed_at_once(deployment: &Deployment, port: u16) {
    match MllpLink::open(deployment.client(), ge_ccw::web(port)) {
        Ok(mut link) => {
            assert!(link.end_within(PATIENCE).is_some(), "port {port} stays open without a server")
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
    }
}

/// Stores instances, each in an association of its own; every one must succeed.
#[track_caller]
fn store_each(deployment: &Deployment, to: SocketAddr, count: usize) -> Vec<String> {
    let client = deployment.client();
    let instances = dicom::generate(&client.dir(), count, 64);
    instances
        .into_iter()
        .map(|instance| {
            scu::store(client, to, &[&instance.path]).expect_success();
            instance.uid
        })
        .collect()
}

/// The one server that all of these are.
#[track_caller]
fn one_server(servers: &[String]) -> String {
    assert!(servers.iter().all(|server| *server == servers[0]), "a client is sent about: {servers:?}");
    servers[0].clone()
}

fn tls_url(vip: &str) -> String {
    let service = SECURED.into_iter().find(|service| service.vip == vip).expect("a secured service");
    format!("https://{WEB}:{}/", service.tls)
}

/// All services of the web applications.
fn web_vips() -> impl Iterator<Item = &'static str> {
    SECURED.into_iter().map(|service| service.vip).chain([OPEN.0])
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
