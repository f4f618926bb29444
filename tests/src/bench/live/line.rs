//! Two hosts with a box between them: `near` - `entry`, `exit` - `far`.

use std::{
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use lb_common::net::Mac;

use crate::lab::{
    netns::{Lifetime, Netns, test_name},
    proc::finish,
};

/// An interface of a line: every line has the same, each line in namespaces of its own.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Name.
    pub name: &'static str,
    /// Index, the same in every line.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its address, in a /24.
    pub ip: Ipv4Addr,
}

/// The host that sends.
pub const NEAR: Port = port("near", 10, 1, Ipv4Addr::new(10, 9, 1, 1));
/// The box's interface towards it.
pub const ENTRY: Port = port("entry", 11, 2, Ipv4Addr::new(10, 9, 1, 2));
/// The box's interface towards the server.
pub const EXIT: Port = port("exit", 12, 3, Ipv4Addr::new(10, 9, 2, 2));
/// The server.
pub const FAR: Port = port("far", 13, 4, Ipv4Addr::new(10, 9, 2, 1));
/// The balanced address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// The balanced port.
pub const VIP_PORT: u16 = 80;
/// The server's port behind address translation.
pub const SERVER_PORT: u16 = 8080;

const fn port(name: &'static str, ifindex: u32, number: u8, ip: Ipv4Addr) -> Port {
    Port { name, ifindex, mac: Mac([2, 0, 9, 0, 0, number]), ip }
}

/// The three namespaces.
#[derive(Clone, Debug)]
pub struct Line {
    /// Holds [`NEAR`].
    pub near: Netns,
    /// Holds [`ENTRY`] and [`EXIT`].
    pub middle: Netns,
    /// Holds [`FAR`].
    pub far: Netns,
}

impl Line {
    /// A line with addresses and neighbours set, and no offload that an interface made of wire would not have.
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn new() -> Self {
        static LINES: AtomicU32 = AtomicU32::new(0);
        let number = LINES.fetch_add(1, Ordering::Relaxed);
        let [near, middle, far] =
            ["near", "middle", "far"].map(|role| Netns::new(&test_name(number, role), Lifetime::WithProgram));
        for netns in [&near, &middle, &far] {
            // Nothing but what is sent may arrive: no host talks about itself.
            netns.sysctls(&[("net/ipv6/conf/default/disable_ipv6", "1")]);
        }
        let line = Self { near, middle, far };
        line.connect(&line.near, NEAR, ENTRY);
        line.connect(&line.far, FAR, EXIT);
        line
    }

    fn connect(&self, host: &Netns, there: Port, here: Port) {
        self.middle.ip(&format!(
            "link add {} index {} address {} type veth peer name {} index {} address {} netns {}",
            here.name,
            here.ifindex,
            here.mac,
            there.name,
            there.ifindex,
            there.mac,
            host.name()
        ));
        for (netns, port, peer) in [(&self.middle, here, there), (host, there, here)] {
            // A frame that reaches XDP must carry its whole checksum, and be one frame.
            ethtool(netns, port.name, "tx off tso off gso off gro off");
            netns.ip(&format!(
                "link set {0} up
                 addr add {1}/24 dev {0}
                 neigh replace {2} lladdr {3} dev {0} nud permanent",
                port.name, port.ip, peer.ip, peer.mac
            ));
        }
    }

    /// Lets the kernel route in the middle.
    pub fn route(&self) {
        self.middle.sysctls(&[("net/ipv4/ip_forward", "1")]);
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets features of an interface.
pub(super) fn ethtool(netns: &Netns, dev: &str, features: &str) {
    finish(netns.command("ethtool").args(["-K", dev]).args(features.split(' '))).expect_success();
}

/// Runs a program with a text on its standard input.
///
/// # Panics
///
/// When it fails.
pub(super) fn feed(netns: &Netns, program: &str, args: &[&str], text: &str) {
    use std::io::Write as _;
    let mut command: Command = netns.command(program);
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}; `cargo xtask setup` installs it"));
    let mut input = child.stdin.take().expect("a pipe was asked for");
    input.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("{program} does not read: {error}"));
    drop(input);
    let status = child.wait().unwrap_or_else(|error| panic!("cannot wait for {program}: {error}"));
    assert!(status.success(), "{program} refused ({status}):\n{text}");
}
