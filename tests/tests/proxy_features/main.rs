//! What a layer-7 VIP does with connections and requests, a feature each: the whole product in a lab, real clients before
//! it, and servers behind it that tell what they were asked.
#![forbid(unsafe_code)]

mod dicom;
mod encrypted;
mod fallback;
mod headers;
mod limits;
mod persistence;
mod places;
mod proxy_protocol;
mod requests;
mod switching;
mod transparent;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use lb_ctl::model::status::{Colour, Status};
use lb_tests::lab::{
    Host, Lab, Lbd, Mirror,
    browser::{Browser, Page},
    mirror::{Header, Seen},
    topology::VIP4,
};

/// Port of the web servers.
const WEB: u16 = 8080;

/// Both servers of the usual lab as web servers.
const BOTH: &str = r#"{ PACS1 = "10.10.0.11:8080", PACS2 = "10.10.0.12:8080" }"#;

/// Starts a mirror on both servers.
fn mirrors(lab: &Lab) -> [Mirror; 2] {
    ["pacs1", "pacs2"].map(|host| Mirror::start(lab.host(host), WEB, Header::None))
}

/// A VIP at the usual address as a person would write it; `more` is its further lines.
fn vip(name: &str, mode: &str, port: u16, servers: &str, more: &str) -> String {
    format!(
        "[vip.{name}]\nmode = \"{mode}\"\nip = \"{VIP4}\"\nports = [{port}]\nscheduler = \"wrr\"\ncheck = \"off\"\n\
         servers = {servers}\n{more}\n"
    )
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

/// A port of the usual VIP.
const fn at(port: u16) -> SocketAddr {
    SocketAddr::new(VIP4, port)
}

/// What a path is called there, by `http`.
fn url(port: u16, path: &str) -> String {
    format!("http://{}{path}", at(port))
}

/// Asks by curl, with further options, and gives the one answer.
#[track_caller]
fn get(client: &Host, options: &[&str], url: &str) -> Page {
    let answer = Browser::new(client).with(options).get(url);
    answer.unwrap_or_else(|run| {
        panic!("`{}` came to {:?}: {}{}", run.command, run.code, run.stdout, run.stderr)
    })
}

/// What a mirror saw when it was asked for `/` there.
#[track_caller]
fn seen(client: &Host, port: u16, options: &[&str]) -> Seen {
    Seen::in_page(&get(client, options, &url(port, "/")))
}

/// Asserts that a connection stands and nothing is said on it for a while.
#[track_caller]
fn assert_silent(stream: &TcpStream, time: Duration) {
    stream.set_read_timeout(Some(time)).expect("a timeout");
    let found = loop {
        match stream.peek(&mut [0; 16]) {
            // A read that has a time limit is not begun again by the kernel after a signal (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            found => break found,
        }
    };
    let silent =
        found.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    assert!(silent, "not silent, or closed: {found:?}");
}
