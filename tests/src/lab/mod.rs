//! A small hospital network on one machine: namespaces joined by a bridge, real DICOM servers and clients, and the
//! balancer between them.
//!
//! The lab panics: a step that fails is a test that fails, and the panic carries the command, its output and, as the
//! stack unwinds, the tail of every log. Everything made here is taken away by `Drop`, in an order that `Drop` cannot
//! get wrong: a [`netns::Netns`] is deleted when the last [`proc::Proc`] in it is gone. Names carry the process id, so
//! any number of labs run side by side; what a killed run left behind is swept by the next one.

#![forbid(unsafe_code)]

pub mod app;
pub mod archive;
pub mod association;
pub mod bpffs;
pub mod browser;
pub mod capture;
pub mod crowd;
pub mod deployment;
pub mod dicom;
pub mod ge_ccw;
pub mod http;
pub mod icmp;
pub mod iperf;
pub mod lbd;
pub mod mail;
pub mod mirror;
pub mod mllp;
pub mod netns;
pub mod persisted;
pub mod pki;
pub mod proc;
pub mod proxy_header;
pub mod relay;
pub mod routed;
pub mod scu;
pub mod servers;
pub mod stream;
pub mod topology;
pub mod traffic;
pub mod udp;
pub mod web;
pub mod worklist;

pub use self::{
    app::App,
    archive::Archive,
    association::EchoLoop,
    browser::{Browser, Page},
    capture::Capture,
    deployment::{Deployment, Site},
    dicom::Instance,
    iperf::IperfServer,
    lbd::Lbd,
    mirror::Mirror,
    mllp::{MllpLink, MllpServer},
    netns::Netns,
    persisted::Persisted,
    proc::{Finished, Proc, wait_until},
    relay::Relay,
    routed::{Arms, Routed, Way},
    servers::{Orthanc, StoreScp},
    stream::StoreStream,
    topology::{Host, Lab},
    traffic::{Course, Everything},
    udp::UdpEcho,
    web::{Nginx, Payload, Web},
    worklist::Worklist,
};

/// True when the test may go on. Without root it says loudly that the test is skipped, and returns false.
///
/// # Panics
///
/// Without root when `LB_REQUIRE_ROOT` is set: there, a skipped test would be a hole nobody sees.
#[must_use]
#[expect(clippy::print_stderr, reason = "a skipped test has to be seen by the person who runs it")]
pub fn require_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("LB_REQUIRE_ROOT").is_none(),
        "{test} needs root, and LB_REQUIRE_ROOT is set: run the tests as root"
    );
    eprintln!("\n==== SKIPPED (needs root): {test} ====\n");
    false
}
