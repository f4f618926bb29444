//! What must hold when the whole product runs: real servers, real clients, `lbd` between them, `lbctl` beside it.
//!
//! One program for all scenarios, so that the long one (`continuity`) runs beside the short ones; those that load the
//! machine wait for it.

#![forbid(unsafe_code)]

mod arp_watch;
mod bad_input;
mod continuity;
mod detection;
mod direct_routing;
mod dr_path;
mod failures;
mod last_hop;
mod lifecycle;
mod modes;
mod operator;
mod persistence;
mod reload;
mod resets;
mod stand;
mod sticking;
mod tables;
mod translation;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use lb_ctl::model::status::{Colour, Status};
use lb_tests::lab::{Host, Instance, Lab, Lbd, Orthanc, dicom, scu, topology::VIP4};

/// Held by scenarios that load the machine, and by the one that counts every frame: a veth's ring holds 256 frames and
/// drops what comes while its receiver waits for a processor.
static LOAD: Mutex<()> = Mutex::new(());

/// Waits until no other scenario loads the machine or counts frames.
fn load() -> MutexGuard<'static, ()> {
    LOAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A DICOM service on both servers of the usual lab, checked twice a second.
const DICOM: &str = r#"# The archives of the lab.
[vip.DICOM]
mode = "l4-dr"
ip = "10.10.0.100"            # on loopback of both
ports = [104]
scheduler = "wrr"
check = { type = "dicom-echo", calling_aet = "LBD", called_aet = "ORTHANC", interval = "500ms", timeout = "500ms" }
servers = { PACS1 = "10.10.0.11", PACS2 = "10.10.0.12" }
"#;

/// The DICOM port of the VIP.
const ARCHIVE: SocketAddr = SocketAddr::new(VIP4, 104);

/// Both servers with the VIP on loopback and an archive.
fn archives(lab: &Lab) -> [Orthanc<'_>; 2] {
    carry(lab, VIP4);
    ["pacs1", "pacs2"].map(|host| Orthanc::start(lab, host, 104))
}

/// Puts a VIP on loopback of both servers.
fn carry(lab: &Lab, vip: IpAddr) {
    for host in ["pacs1", "pacs2"] {
        lab.host(host).carry_vip(vip);
    }
}

/// Starts the daemon and waits until every server is in service.
#[track_caller]
fn start_green(lab: &Lab, toml: &str) -> Lbd {
    let lbd = Lbd::start(lab, "lb", toml);
    lbd.wait_status("all is green", green);
    lbd
}

fn green(status: &Status) -> bool {
    status.health == Colour::Green
}

/// Stores `count` new instances, each in an association of its own; every one must succeed.
#[track_caller]
fn store_each(client: &Host, to: SocketAddr, count: usize) -> Vec<String> {
    let store = |instance: Instance| {
        scu::store(client, to, &[&instance.path]).expect_success();
        instance.uid
    };
    dicom::generate(&client.dir(), count, 64).into_iter().map(store).collect()
}
