//! `config/deployments/medical-imaging.toml` as it is shipped: archive and registry by direct routing, an HL7 feed and a
//! viewer through the proxy, on one segment.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_ctl::model::status::{Colour, RipState, Status};
use lb_tests::lab::{
    App, Deployment, MllpLink, MllpServer, StoreScp,
    app::Listen,
    browser::Browser,
    deployment::Site,
    dicom,
    lbd::{rip, vip},
    proc::wait_for,
    require_root, scu,
    topology::Segment,
};

/// The guide's subnet.
const SITE: Site<'_> = Site {
    name: "medical-imaging",
    segment: Segment { name: "imaging", number: 12, v4_begin: [10, 12, 1], v4_length: 24 },
    lb: 10,
    client: 50,
    servers: &[("dicom1", 110), ("hl71", 130), ("xds1", 150), ("viewer1", 170), ("viewer2", 171)],
};

/// Addresses of the VIPs.
const DICOM: Ipv4Addr = Ipv4Addr::new(10, 12, 1, 100);
const HL7: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 12, 1, 120)), 2575);
const XDS: Ipv4Addr = Ipv4Addr::new(10, 12, 1, 140);
const VIEWER: &str = "https://10.12.1.160/";

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// All that the guide puts behind the balancer.
struct Servers {
    archives: [StoreScp; 2],
    feed: Option<MllpServer>,
    _registry: App,
    viewers: [App; 2],
}

impl Servers {
    fn start(deployment: &Deployment) -> Self {
        deployment.server("dicom1").carry_vip(IpAddr::V4(DICOM));
        deployment.server("xds1").carry_vip(IpAddr::V4(XDS));
        let plain = Listen { plain: &[17035], ..Listen::default() };
        Self {
            archives: [104, 11112].map(|port| StoreScp::start(deployment.lab(), "dicom1", port)),
            feed: Some(MllpServer::start(deployment.server("hl71"), HL7.port())),
            _registry: App::start(deployment.server("xds1"), &plain),
            viewers: ["viewer1", "viewer2"].map(|name| {
                let host = deployment.server(name);
                // Both have the name that users know, with the VIP's address.
                let pem = deployment.cert_file(host, "viewer.example", &["10.12.1.160"]);
                App::start(host, &Listen { tls: &[443], pem: Some(&pem), ..Listen::default() })
            }),
        }
    }
}

#[test]
fn every_service_is_reached_by_a_real_client_and_a_stopped_server_is_told() {
    if !require_root("every_service_is_reached_by_a_real_client_and_a_stopped_server_is_told") {
        return;
    }
    let deployment = Deployment::new(&SITE, None);
    let mut servers = Servers::start(&deployment);
    let lbd = deployment.start(&deployment.shipped_config());
    let status = lbd.wait_status("all is green", green);
    let names: Vec<_> = status.vips.iter().map(|vip| vip.name.as_str()).collect();
    assert_eq!(names, ["DICOM-Modalities", "XDS-Registry", "HL7", "HTTPS-Viewer"]);
    let client = deployment.client();

    // Modalities store by both ports, and a registry sees who asks.
    for (archive, port) in servers.archives.iter().zip([104, 11112]) {
        let image = dicom::generate(&client.dir(), 1, 64).remove(0);
        scu::store(client, SocketAddr::new(DICOM.into(), port), &[&image.path]).expect_success();
        let what = || format!("{} is stored by port {port}", image.uid);
        wait_for(PATIENCE, what, || archive.instances().contains(&image.uid).then_some(()));
    }
    let registry = Browser::new(client).page(&format!("http://{XDS}:17035/"));
    assert_eq!((registry.server(), registry.says("peer")), ("xds1", client.v4.to_string().as_str()));

    // A feed keeps one connection; its server sees the balancer.
    let mut link = MllpLink::open(client, HL7).expect("the feed is served");
    assert_eq!(link.exchange_many(5).expect("acknowledged"), "hl71");
    let feed = servers.feed.as_ref().map(MllpServer::connections).unwrap_or_default();
    let carried = feed.iter().find(|connection| connection.messages == 5).expect("the connection");
    assert_eq!(carried.peer.ip(), IpAddr::V4(deployment.lb().v4));

    // TLS of the viewer passes through, so that users meet its own certificate; each stays with the one it came to.
    let trusting = Browser::new(client).trusting(&deployment.ca_file(client));
    let users: Vec<_> = (60..68).map(|octet| trusting.from(deployment.another_client(octet))).collect();
    let viewer = |user: &Browser| user.page(VIEWER).server().to_owned();
    let chosen: Vec<_> = users.iter().map(viewer).collect();
    assert_eq!(BTreeSet::from_iter(&chosen).len(), 2, "users are shared out: {chosen:?}");
    assert_eq!(users.iter().map(viewer).collect::<Vec<_>>(), chosen, "each comes back to its own");

    // A viewer and the feed's only server stop.
    servers.viewers[0].kill();
    servers.feed = None;
    let status = lbd.wait_status("viewer and feed are down", |status| {
        vip(status, "HTTPS-Viewer").colour == Colour::Yellow && vip(status, "HL7").colour == Colour::Red
    });
    assert_eq!(rip(&status, "HTTPS-Viewer", "VIEWER1").state, RipState::Down);
    assert_eq!(vip(&status, "DICOM-Modalities").colour, Colour::Green);
    assert_eq!(status.health, Colour::Red);
    for user in &users {
        assert_eq!(viewer(user), "viewer2");
    }
    // The sender hears of it at once, and not at its next message.
    assert!(link.end_within(PATIENCE).is_some(), "a connection to a dead server stays open");
    match MllpLink::open(client, HL7) {
        Ok(mut link) => assert!(link.end_within(PATIENCE).is_some(), "a feed without a server is open"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused),
    }

    servers.viewers[0].start_again();
    servers.feed = Some(MllpServer::start(deployment.server("hl71"), HL7.port()));
    lbd.wait_status("all is green again", green);
    let mut link = MllpLink::open(client, HL7).expect("the feed is served again");
    assert_eq!(link.exchange().expect("acknowledged"), "hl71");
    assert!(users.iter().all(|user| viewer(user) == "viewer2"), "nobody is moved without need");
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}
