//! The deployment guide for GE HealthCare Centricity Cardio Workflow with real servers in the places of the
//! application's: everything its fifteen VIPs are for is done once, then an application server dies and comes back.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_ctl::model::status::{Colour, RipState};
use lb_tests::lab::{
    Deployment, Lbd, MllpLink, Proc, dicom,
    ge_ccw::{self, ARCHIVES, BALANCER_NAME, FEEDS, OPEN, RECEIVERS, SECURED, Servers, User, WEB},
    lbd::{Programs, rip},
    proc::wait_until,
    scu,
    servers::{self, Spread},
};

use crate::stage::{DIR, NAME, end, overview, tell};

/// Images stored through each DICOM service.
const IMAGES: usize = 6;
/// Messages sent by each feed.
const MESSAGES: u64 = 5;
/// Width and height of an image: 4 KiB each.
const SIDE: u16 = 64;

/// The story. Panics, as the lab does, when a step does not hold.
pub(crate) fn show(programs: Programs, keep: bool) {
    tell(
        "GE HealthCare Centricity Cardio Workflow, as its deployment guide has it: fifteen VIPs, two of its web",
    );
    tell("servers, two archives, an interface engine and the EMR, each a network namespace on one segment.");
    let deployment = ge_ccw::deployment(Some((NAME, Path::new(DIR))));
    let mut servers = Servers::start(&deployment);
    let _receivers = receivers(&deployment);
    let user = User::new(&deployment);

    tell(
        "lbd starts with config/deployments/ge-ccw.toml as it is shipped, and starts HAProxy for its layer-7 VIPs.",
    );
    let mut lbd = deployment.prepare(&deployment.shipped_config(), programs);
    lbd.start_again();
    lbd.wait_status("every server is in service", |status| status.health == Colour::Green);
    overview(&lbd);

    web(&deployment, &user);
    images(&deployment, &servers);
    messages(&deployment);
    outage(&deployment, &mut servers, &user, &lbd);

    let client = deployment.client();
    let at = |file: &str| client.dir().join(file).display().to_string();
    let shell = format!("ip netns exec {}", client.netns.name());
    end(
        keep,
        &lbd,
        &format!(
            "  {shell} curl --cacert {} --cert {} https://{WEB}/\n  {shell} echoscu -v -aec LB-SCP {} 104",
            at("ca.pem"),
            at("workstation.pem"),
            ge_ccw::DICOM
        ),
    );
}

/// Who receives HL7 messages, each a process of its own, so that it can be left running.
fn receivers(deployment: &Deployment) -> Vec<Proc> {
    let own: PathBuf = std::env::current_exe()
        .unwrap_or_else(|error| panic!("the demonstration does not find itself: {error}"));
    RECEIVERS
        .iter()
        .map(|&(name, port)| {
            let host = deployment.server(name);
            let mut command = host.netns.command(&own);
            command.args(["--receive-hl7", name, &port.to_string()]);
            let mut receiver =
                Proc::spawn(&format!("hl7-{name}-{port}"), &host.netns, host.lab_dir(), &mut command);
            receiver.wait_ready(|_| servers::listens(host, port));
            receiver
        })
        .collect()
}

/// Opens every web service, with the certificate, without, and by the side door.
fn web(deployment: &Deployment, user: &User) {
    tell(
        "A workstation opens the web services, showing its certificate; TLS ends at the balancer and begins anew",
    );
    tell("towards the servers, which are shown the balancer's own certificate.");
    let lb = deployment.lb().v4.to_string();
    for service in SECURED {
        let page = user.browser.page(&format!("https://{WEB}:{}/", service.tls));
        assert_eq!(page.says("certificate"), format!("CN={BALANCER_NAME}"), "{}", service.vip);
        assert_eq!(page.says("peer"), lb, "{}", service.vip);
        tell(&format!("  {:<16} port {:<5} answered by {}", service.vip, service.tls, page.server()));
    }
    let answers = OPEN.1.map(|port| user.stranger.page(&format!("http://{WEB}:{port}/")).server().to_owned());
    assert!(answers.iter().all(|server| *server == answers[0]), "one client, several servers: {answers:?}");
    tell(&format!("  {} answered by {} on all three ports, in clear", OPEN.0, answers[0]));

    for service in SECURED {
        let secured = format!("https://{WEB}:{}/", service.tls);
        let side_door = format!("http://{WEB}:{}/", service.cleartext);
        for url in [secured, side_door] {
            let refused = user.stranger.get(&url);
            assert!(refused.is_err(), "{url} needs no certificate: {refused:?}");
        }
    }
    tell(
        "  A browser without the certificate is turned away by all four, and finds nothing on the guide's ports in",
    );
    tell("  clear (444, 8444, 4431, 4430): they would lead past the certificates.");
}

/// Stores images through every DICOM service.
fn images(deployment: &Deployment, servers: &Servers<'_>) {
    tell(&format!(
        "Modalities store {IMAGES} images through each DICOM service, an association for each image."
    ));
    let client = deployment.client();
    for (at, (vip, port)) in ARCHIVES.into_iter().enumerate() {
        let instances = dicom::generate(&client.dir(), IMAGES, SIDE);
        for instance in &instances {
            scu::store(client, ge_ccw::dicom(port), &[&instance.path]).expect_success();
        }
        let spread = Spread::of(&servers.instances(at), instances.iter().map(|instance| &instance.uid));
        assert!(spread.exact() && !spread.counts.contains(&0), "{vip}: {spread:?}");
        let [first, second] = [spread.counts[0], spread.counts[1]];
        tell(&format!("  {vip:<19} port {port:<4} {first} at dicom1, {second} at dicom2"));
    }
    for archive in &servers.archives {
        let seen = archive.remote_address(&archive.instances()[0]);
        assert_eq!(seen, client.v4, "whom an archive sees");
    }
    tell("  Each image is in exactly one archive, and the archives saw the modality's own address.");
}

/// Sends messages by every feed.
fn messages(deployment: &Deployment) {
    tell(&format!("Every HL7 feed carries {MESSAGES} messages over one connection."));
    for feed in FEEDS {
        let by = open(deployment, feed.port).exchange_many(MESSAGES);
        let by = by.unwrap_or_else(|error| panic!("{}: {error}", feed.vip));
        assert_eq!(by, feed.host, "{}", feed.vip);
        tell(&format!("  {:<16} port {} acknowledged by {by}:{}", feed.vip, feed.port, feed.server_port));
    }
}

/// Kills a web server and brings it back, while a feed stays connected.
fn outage(deployment: &Deployment, servers: &mut Servers<'_>, user: &User, lbd: &Lbd) {
    let notification = format!("https://{WEB}:44300/");
    let mut feed = open(deployment, FEEDS[0].port);
    assert_eq!(user.browser.page(&notification).server(), "app1", "the first of the list has it");

    let unlucky = user.of_app(deployment, "app1");

    tell("Web server app1 dies.");
    let died = Instant::now();
    servers.apps[0].kill();
    let page = unlucky.page(&format!("https://{WEB}:{}/", SECURED[0].tls));
    assert_eq!(page.server(), "app2", "who was led to app1 is served");
    tell(&format!(
        "  Whom persistence leads to it waits {:.1} s for a page, and gets it from app2.",
        died.elapsed().as_secs_f32()
    ));
    lbd.wait_status("app1 is out of service everywhere", |status| {
        status
            .vips
            .iter()
            .flat_map(|vip| &vip.rips)
            .filter(|rip| rip.name == APP_1)
            .all(|rip| rip.state == RipState::Down)
    });
    tell(&format!(
        "  {:.1} s later it is out of service in all five services that it had a part in:",
        died.elapsed().as_secs_f32()
    ));
    overview(lbd);
    for service in SECURED {
        let page = user.browser.page(&format!("https://{WEB}:{}/", service.tls));
        assert_eq!(page.server(), "app2", "{}", service.vip);
    }
    tell("  All of them are served by app2.");

    tell("It comes back.");
    servers.apps[0].start_again();
    lbd.wait_status("app1 is in service again", |status| status.health == Colour::Green);
    assert_eq!(user.browser.page(&notification).server(), "app2", "nobody is sent back");
    tell(
        "  All is green. CCW_NOTIFICATION stays with app2: \"last successful\" sends nobody back until that is wanted:",
    );
    tell("  lbctl table clear CCW_NOTIFICATION");
    lbd.ctl(&["table", "clear", "CCW_NOTIFICATION"]).expect_success();
    wait_until(Duration::from_secs(5), "app1 has it again", || {
        user.browser.page(&notification).server() == "app1"
    });
    tell("  app1 has it again.");
    let by = feed.exchange().unwrap_or_else(|error| panic!("the feed that stayed connected: {error}"));
    assert_eq!(by, FEEDS[0].host);
    tell("  The feed that stayed connected all the while noticed nothing.");
    assert_eq!(rip(&lbd.status(), "CCW_NOTIFICATION", APP_1).state, RipState::Active);
}

/// The web server that dies, as the balancer calls it.
const APP_1: &str = "CCW_App_Server_1";

fn open(deployment: &Deployment, port: u16) -> MllpLink {
    MllpLink::open(deployment.client(), ge_ccw::web(port))
        .unwrap_or_else(|error| panic!("nobody answers at port {port}: {error}"))
}
