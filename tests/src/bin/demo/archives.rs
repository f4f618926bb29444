//! Two archives and one service: a client stores studies through the VIP, an archive is killed and comes back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use lb_ctl::model::status::{Colour, RipState};
use lb_tests::lab::{
    Capture, Host, Lab, Lbd, Orthanc, StoreScp, StoreStream, dicom,
    lbd::{Programs, rip},
    scu,
    servers::Spread,
    topology::Plan,
};

use crate::stage::{DIR, NAME, end, overview, tell};

/// The same places as in config/demo.toml.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 0, 100));
const ARCHIVE: SocketAddr = SocketAddr::new(VIP, 104);
const RECEIVER: SocketAddr = SocketAddr::new(VIP, 11112);
const HOSTS: [(&str, u8); 4] = [("client", 50), ("lb", 2), ("pacs1", 11), ("pacs2", 12)];
/// Instances that the story is about.
const INSTANCES: usize = 20;
/// Width and height of an image: 64 KiB each.
const SIDE: u16 = 256;

/// The story. Panics, as the lab does, when a step does not hold.
pub(crate) fn show(programs: Programs, toml: &str, keep: bool) {
    tell("A client, the balancer and two servers: four network namespaces on one Ethernet segment.");
    let lab = Lab::build(&Plan { hosts: &HOSTS, kept_as: Some((NAME, Path::new(DIR))) });
    let client = lab.host("client");

    tell("Both servers carry the VIP 10.10.0.100 on loopback and keep quiet about it on the segment.");
    tell("Each runs an archive (Orthanc, port 104) and a plain receiver (storescp, port 11112).");
    let mut archives = ["pacs1", "pacs2"].map(|name| {
        lab.host(name).carry_vip(VIP);
        Orthanc::start(&lab, name, ARCHIVE.port())
    });
    let receivers = ["pacs1", "pacs2"].map(|name| StoreScp::start(&lab, name, RECEIVER.port()));

    tell("lbd starts on the balancer with config/demo.toml; it checks the archives with C-ECHO.");
    let mut lbd = Lbd::prepare(&lab, lab.host("lb"), toml, programs);
    lbd.start_again();
    lbd.wait_status("every server is in service", |status| status.health == Colour::Green);
    overview(&lbd);

    let stored = store_beside_another(&lab, client, &archives, &receivers);
    outage(client, &mut archives, &lbd, stored);
    end(keep, &lbd, &format!("  ip netns exec {} echoscu -v 10.10.0.100 104", client.netns.name()));
}

/// Stores the instances while another storescu runs, and looks where they are and which way the replies went.
fn store_beside_another(
    lab: &Lab,
    client: &Host,
    archives: &[Orthanc<'_>; 2],
    receivers: &[StoreScp; 2],
) -> Vec<String> {
    tell(&format!("The client stores {INSTANCES} images through 10.10.0.100:104, an association for each,"));
    tell("while another storescu keeps sending to 10.10.0.100:11112.");
    let capture = Capture::start(lab, lab.host("lb"), &[VIP]);
    let other = StoreStream::start(client, RECEIVER, SIDE);
    other.wait_for_more(2);
    let stored = store_each(client, INSTANCES);
    other.wait_for_more(2);
    let others = other.finish();
    let crossing = capture.finish();

    assert!(others.failures.is_empty(), "the other storescu failed: {}", others.failures.join("\n"));
    let spread = Spread::of(&archives.each_ref().map(Orthanc::instances), &stored);
    assert!(spread.exact(), "not every instance is in exactly one archive: {spread:?}");
    assert!(!spread.counts.contains(&0), "an archive got nothing: {spread:?}");
    let beside = Spread::of(&receivers.each_ref().map(StoreScp::instances), &others.uids);
    assert!(
        beside.exact(),
        "not every instance of the other storescu is at exactly one receiver: {beside:?}"
    );
    tell(&format!(
        "  PACS1 has {}, PACS2 has {}: every instance is in exactly one archive. The other storescu stored {} beside.",
        spread.counts[0],
        spread.counts[1],
        others.uids.len()
    ));

    let lost = crossing.differences(VIP);
    assert!(lost.is_empty(), "the balancer lost or changed packets: {lost:?}");
    let (requests, replies) = (crossing.frames_in(VIP), crossing.frames_from(VIP));
    assert!(requests > 0 && replies == 0, "{requests} requests and {replies} replies crossed the balancer");
    tell(&format!(
        "  {requests} frames to the VIP crossed the balancer, none was lost, and no reply came that way: servers \
         answer the client directly."
    ));
    stored
}

/// Kills an archive in mid-run, and brings it back.
fn outage(client: &Host, archives: &mut [Orthanc<'_>; 2], lbd: &Lbd, mut stored: Vec<String>) {
    tell("The archive on PACS1 is killed while a stream of stores runs.");
    let stream = StoreStream::start(client, ARCHIVE, SIDE);
    stream.wait_for_more(4);
    let killed = Instant::now();
    archives[0].kill();
    let status =
        lbd.wait_status("PACS1 is down", |status| rip(status, "DICOM", "PACS1").state == RipState::Down);
    let noticed = killed.elapsed();
    stream.wait_for_more(4);
    let during = stream.finish();
    tell(&format!(
        "  {} ms later PACS1 is out of service: {}. {} stores of the stream met the dead archive, {} went well.",
        noticed.as_millis(),
        rip(&status, "DICOM", "PACS1").detail,
        during.failures.len(),
        during.uids.len(),
    ));
    overview(lbd);
    stored.extend(during.uids);
    stored.extend(store_each(client, INSTANCES / 2));
    tell(&format!("  The next {} stores all succeeded.", INSTANCES / 2));

    tell("The archive comes back.");
    archives[0].start_again();
    lbd.wait_status("PACS1 is in service again", |status| status.health == Colour::Green);
    stored.extend(store_each(client, INSTANCES / 2));
    let spread = Spread::of(&archives.each_ref().map(|archive| archive.instances()), &stored);
    // The kill may have fallen between an archive's writing and its answer: such an instance is there, though its
    // client was told nothing.
    let unsure = during.failures.len();
    assert!(
        spread.missing.is_empty() && spread.doubled.is_empty(),
        "instances are missing or doubled: {spread:?}"
    );
    assert!(spread.strange.len() <= unsure, "instances that nobody stored: {spread:?}");
    tell(&format!("  Both are in service. Stored in all: {}, each in exactly one archive.", stored.len()));
    overview(lbd);
}

/// Stores new instances, each in an association of its own; every one must succeed.
fn store_each(client: &Host, count: usize) -> Vec<String> {
    let dir = client.dir();
    dicom::generate(&dir, count, SIDE)
        .into_iter()
        .map(|instance| {
            scu::store(client, ARCHIVE, &[&instance.path]).expect_success();
            instance.uid
        })
        .collect()
}
