//! `config/deployments/mach7.toml` as it is shipped: four services, all of which both of two machines have.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use lb_ctl::model::status::{Colour, RipState, Status};
use lb_tests::lab::{
    App, Deployment, MllpLink, MllpServer, Orthanc, Worklist,
    app::Listen,
    browser::Browser,
    deployment::Site,
    dicom,
    lbd::{rip, vip},
    require_root, scu,
    servers::Spread,
    topology::Segment,
    worklist,
};

/// The guide's subnet, and both machines.
const SITE: Site<'_> = Site {
    name: "mach7",
    segment: Segment { name: "mach7", number: 110, v4_begin: [192, 168, 110], v4_length: 24 },
    lb: 10,
    client: 50,
    servers: &[("first", 150), ("second", 151)],
};

/// VIPs: name, last octet, port, and what it calls its server on either machine.
const VIPS: [(&str, u8, u16, [&str; 2]); 4] = [
    ("DICOM", 100, 11112, ["DICOM1", "DICOM2"]),
    ("HL7", 101, 6667, ["HL71", "HL72"]),
    ("DMWL", 102, 5104, ["DMWL1", "DMWL2"]),
    ("HTTPS", 103, 443, ["HTTPS2", "HTTPS"]),
];

/// Everything on one machine.
struct Machine<'lab> {
    name: &'lab str,
    archive: Orthanc<'lab>,
    feed: Option<MllpServer>,
    worklist: Worklist,
    web: App,
}

impl<'lab> Machine<'lab> {
    fn start(deployment: &'lab Deployment, name: &'lab str) -> Self {
        let host = deployment.server(name);
        let pem = deployment.cert_file(host, "mach7.example", &["192.168.110.103"]);
        let listen = Listen { tls: &[443], pem: Some(&pem), ..Listen::default() };
        Self {
            name,
            archive: Orthanc::start(deployment.lab(), name, 11112),
            feed: Some(MllpServer::start(host, 6667)),
            worklist: Worklist::start(deployment.lab(), name, 5104),
            web: App::start(host, &listen),
        }
    }

    /// The power goes.
    fn kill(&mut self) {
        self.archive.kill();
        self.feed = None;
        self.worklist.kill();
        self.web.kill();
    }

    fn start_again(&mut self, deployment: &Deployment) {
        self.archive.start_again();
        self.feed = Some(MllpServer::start(deployment.server(self.name), 6667));
        self.worklist.start_again();
        self.web.start_again();
    }
}

#[test]
fn four_services_go_on_without_one_of_two_machines() {
    if !require_root("four_services_go_on_without_one_of_two_machines") {
        return;
    }
    let deployment = Deployment::new(&SITE, None);
    let names = ["first", "second"];
    let mut machines = names.map(|name| Machine::start(&deployment, name));
    let lbd = deployment.start(&deployment.shipped_config());
    let status = lbd.wait_status("all is green", green);
    assert_eq!(status.vips.len(), VIPS.len());
    for (name, octet, _, rips) in VIPS {
        assert_eq!(vip(&status, name).ip, IpAddr::V4(Ipv4Addr::new(192, 168, 110, octet)), "{name}");
        let address = |at: usize| rip(&status, name, rips[at]).ip.to_string();
        assert_eq!([address(0), address(1)], ["192.168.110.150", "192.168.110.151"], "{name}");
    }
    let client = deployment.client();

    // A modality's images of a study are in one archive, whichever; the others of its kind use the other one too.
    let before = store(&deployment, 6);
    let spread = Spread::of(&machines.each_ref().map(|machine| machine.archive.instances()), &before);
    assert!(spread.exact() && spread.counts.contains(&0), "{spread:?}");
    let browser = Browser::new(client).trusting(&deployment.ca_file(client));
    let users: Vec<_> = (60..68).map(|octet| browser.from(deployment.another_client(octet))).collect();
    let chosen: Vec<_> = users.iter().map(web).collect();
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 2, "users are shared out: {chosen:?}");
    assert_eq!(users.iter().map(web).collect::<Vec<_>>(), chosen, "each comes back to its own");
    let mut link = MllpLink::open(client, at(1)).expect("the feed is served");
    let engine = link.exchange_many(3).expect("acknowledged");
    let scheduled = worklist::find(client, at(2));
    assert_eq!(worklist::find(client, at(2)), scheduled, "a scanner comes back to its worklist");
    assert!(names.contains(&engine.as_str()) && names.contains(&scheduled.as_str()));

    // The machine that serves the feed stops.
    let (gone, left) = if engine == "first" { (0, 1) } else { (1, 0) };
    machines[gone].kill();
    let status = lbd.wait_status("one machine is down for every service", |status| {
        VIPS.iter().all(|(name, .., rips)| rip(status, name, rips[gone]).state == RipState::Down)
    });
    for (name, ..) in VIPS {
        assert_eq!(vip(&status, name).colour, Colour::Yellow, "{name}");
    }
    let stored = store(&deployment, 3);
    let held = machines[left].archive.instances();
    assert!(stored.iter().all(|uid| held.contains(uid)), "{stored:?} are not all among {held:?}");
    let mut link = MllpLink::open(client, at(1)).expect("the feed is served");
    assert_eq!(link.exchange_many(3).expect("acknowledged"), names[left]);
    assert_eq!(worklist::find(client, at(2)), names[left]);
    assert!(users.iter().all(|user| web(user) == names[left]), "a user meets a dead machine");

    machines[gone].start_again(&deployment);
    lbd.wait_status("all is green again", green);
    link.exchange_many(3).expect("a connection in progress stays where it is");
    assert!(users.iter().all(|user| web(user) == names[left]), "nobody is moved without need");
}

/// Stores so many instances, each in an association of its own.
#[track_caller]
fn store(deployment: &Deployment, count: usize) -> Vec<String> {
    let client = deployment.client();
    let store = |instance: dicom::Instance| {
        scu::store(client, at(0), &[&instance.path]).expect_success();
        instance.uid
    };
    dicom::generate(&client.dir(), count, 64).into_iter().map(store).collect()
}

/// The machine whose viewer a user meets.
#[track_caller]
fn web(user: &Browser) -> String {
    user.page("https://192.168.110.103/").server().to_owned()
}

/// Where a VIP of the list is.
const fn at(index: usize) -> SocketAddr {
    let (_, octet, port, _) = VIPS[index];
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 110, octet)), port)
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}
