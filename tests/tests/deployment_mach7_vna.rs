//! `config/deployments/mach7-vna.toml` as it is shipped: an archive, an interface engine and a worklist, each on a pair of
//! machines of its own.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_ctl::model::status::{Colour, RipState, Status};
use lb_tests::lab::{
    Deployment, EchoLoop, MllpLink, MllpServer, Orthanc, Worklist,
    deployment::Site,
    dicom,
    lbd::{rip, vip},
    require_root, scu,
    servers::Spread,
    topology::Segment,
    wait_until, worklist,
};

/// The guide's subnet and machines.
const SITE: Site<'_> = Site {
    name: "mach7-vna",
    segment: Segment { name: "vna", number: 13, v4_begin: [192, 168, 0], v4_length: 24 },
    lb: 10,
    client: 70,
    servers: &[
        ("vna1", 40),
        ("vna2", 42),
        ("corepoint1", 50),
        ("corepoint2", 51),
        ("mwl1", 60),
        ("mwl2", 61),
    ],
};

/// Where the VIPs are.
const DICOM: SocketAddr = at(188, 11112);
const HL7: SocketAddr = at(189, 6667);
const DMWL: SocketAddr = at(184, 5104);

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

#[test]
fn each_pair_serves_and_one_of_it_is_serviced_without_a_broken_study() {
    if !require_root("each_pair_serves_and_one_of_it_is_serviced_without_a_broken_study") {
        return;
    }
    let deployment = Deployment::new(&SITE, None);
    let mut archives = ["vna1", "vna2"].map(|name| Orthanc::start(deployment.lab(), name, 11112));
    let _engines = ["corepoint1", "corepoint2"].map(|name| MllpServer::start(deployment.server(name), 6667));
    let mut worklists = ["mwl1", "mwl2"].map(|name| Worklist::start(deployment.lab(), name, 5104));
    let lbd = deployment.start(&deployment.shipped_config());
    let status = lbd.wait_status("all is green", green);
    assert_eq!(status.vips.len(), 3);
    for (name, rips) in [
        ("VNA_DICOM", [("VNA1", "192.168.0.40"), ("VNA2", "192.168.0.42")]),
        ("HL7", [("Corepoint1", "192.168.0.50"), ("Corepoint2", "192.168.0.51")]),
        ("DMWL", [("MWL1", "192.168.0.60"), ("MWL2", "192.168.0.61")]),
    ] {
        for (label, ip) in rips {
            assert_eq!(rip(&status, name, label).ip.to_string(), ip, "{name}/{label}");
        }
    }
    let client = deployment.client();

    let mut link = MllpLink::open(client, HL7).expect("the feed is served");
    let engine = link.exchange_many(3).expect("acknowledged");
    assert!(engine.starts_with("corepoint"), "{engine}");
    let before = store(&deployment, 4);
    let spread = Spread::of(&archives.each_ref().map(Orthanc::instances), &before);
    assert!(spread.exact() && spread.counts.contains(&0), "one modality, one archive: {spread:?}");
    let used = usize::from(spread.counts[0] == 0);

    // An archive is to be serviced: it takes nothing new, and what is in progress there goes on.
    let study = EchoLoop::start(client, DICOM, Duration::from_millis(20));
    let label = format!("VNA_DICOM/VNA{}", used + 1);
    lbd.ctl(&["rip", "drain", &label]).expect_success();
    let later = store(&deployment, 2);
    let held = archives[1 - used].instances();
    assert!(later.iter().all(|uid| held.contains(uid)), "a drained archive gets new images");
    let echoes = study.echoes();
    wait_until(PATIENCE, "the association in progress echoes on", || study.echoes() > echoes + 10);
    assert_eq!(vip(&lbd.status(), "VNA_DICOM").colour, Colour::Yellow);
    let report = study.finish();
    assert!(report.broken.is_none(), "{report:?}");
    lbd.ctl(&["rip", "online", &label]).expect_success();
    lbd.wait_status("all is green", green);

    // One of each pair fails.
    let scheduled = worklist::find(client, DMWL);
    let failing = usize::from(scheduled == "mwl2");
    worklists[failing].kill();
    archives[1 - used].kill();
    lbd.wait_status("archive and worklist are down", |status| {
        rip(status, "DMWL", &format!("MWL{}", failing + 1)).state == RipState::Down
            && rip(status, "VNA_DICOM", &format!("VNA{}", 2 - used)).state == RipState::Down
    });
    let status = lbd.status();
    assert_eq!(
        ["VNA_DICOM", "HL7", "DMWL"].map(|name| vip(&status, name).colour),
        [Colour::Yellow, Colour::Green, Colour::Yellow]
    );
    assert_eq!(worklist::find(client, DMWL), format!("mwl{}", 2 - failing));
    let stored = store(&deployment, 2);
    let held = archives[used].instances();
    assert!(stored.iter().all(|uid| held.contains(uid)), "{stored:?} are not all among {held:?}");
    assert_eq!(link.exchange().expect("the feed is not concerned"), engine);

    worklists[failing].start_again();
    archives[1 - used].start_again();
    lbd.wait_status("all is green again", green);
    scu::echo(client, DICOM).expect_success();
}

/// Stores so many instances, each in an association of its own.
#[track_caller]
fn store(deployment: &Deployment, count: usize) -> Vec<String> {
    let client = deployment.client();
    let store = |instance: dicom::Instance| {
        scu::store(client, DICOM, &[&instance.path]).expect_success();
        instance.uid
    };
    dicom::generate(&client.dir(), count, 64).into_iter().map(store).collect()
}

const fn at(octet: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, octet)), port)
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}
