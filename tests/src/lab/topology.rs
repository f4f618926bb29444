//! Hosts on one Ethernet segment: a bridge in a namespace of its own, a veth pair to each host, an IPv4 and an IPv6
//! prefix side by side.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    bpffs,
    netns::{self, Lifetime, Netns},
    proc::{Finished, finish},
};

/// The virtual address of most tests.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 0, 100));
/// The IPv6 one beside it.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd10, 0x10, 0, 0, 0, 0, 0, 0x100));

/// A segment with hosts.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    switch: Netns,
    dir: PathBuf,
}

/// What a lab is to look like.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Hosts: name, and last octet of the addresses.
    pub hosts: &'a [(&'a str, u8)],
    /// Fixed name and directory of a lab that may outlive this program; `None` = a test's lab.
    pub kept_as: Option<(&'a str, &'a Path)>,
}

/// A host of a lab. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name: `client`, `lb`, `pacs1`.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// IPv6 address, in a /64.
    pub v6: Ipv6Addr,
    /// Hardware address.
    pub mac: [u8; 6],
    dir: PathBuf,
}

impl Lab {
    /// The usual lab: `client` .50, `lb` .2, `pacs1` .11, `pacs2` .12.
    #[must_use]
    pub fn new() -> Self {
        Self::build(&Plan { hosts: &USUAL, kept_as: None })
    }

    /// A lab as planned.
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn build(plan: &Plan<'_>) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let (prefix, dir, lifetime) = match plan.kept_as {
            Some((name, dir)) => (format!("{name}-"), dir.to_owned(), Lifetime::OutlivesProgram),
            None => {
                let prefix = netns::test_name(number, "");
                let dir = tempfile::Builder::new()
                    .prefix(&prefix)
                    .tempdir()
                    .unwrap_or_else(|error| panic!("cannot make a directory for the lab: {error}"));
                (prefix, dir.keep(), Lifetime::WithProgram)
            }
        };
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));

        let switch = Netns::new(&format!("{prefix}switch"), lifetime);
        switch.sysctls(&[("net/ipv6/conf/default/disable_ipv6", "1")]);
        switch.ip("link add br0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0\nlink set br0 up");

        // The lab owns what is made from here on, so a panic on the way takes it all away.
        let mut lab = Self { hosts: Vec::new(), switch, dir };
        for (name, octet) in plan.hosts {
            let host = lab.add(&format!("{prefix}{name}"), name, *octet, lifetime);
            lab.hosts.push(host);
        }
        lab
    }

    /// The host called `name`.
    ///
    /// # Panics
    ///
    /// When the plan had no such host.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .unwrap_or_else(|| panic!("the lab has no host {name}"))
    }

    /// The switch's namespace; a host's port there has the host's name.
    #[must_use]
    pub const fn switch(&self) -> &Netns {
        &self.switch
    }

    /// Directory for logs and data, taken away with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn add(&self, namespace: &str, name: &str, octet: u8, lifetime: Lifetime) -> Host {
        let netns = Netns::new(namespace, lifetime);
        let mac = [0x02, 0, 10, 10, 0, octet];
        let v4 = Ipv4Addr::new(10, 10, 0, octet);
        // fd10:10::11 for host 11: the octet is read as digits, so both addresses look alike.
        let v6 = format!("fd10:10::{octet}").parse().unwrap_or(Ipv6Addr::UNSPECIFIED);

        self.switch.ip(&format!(
            "link add {name} type veth peer name eth0 address {} netns {namespace}
             link set {name} master br0 up",
            spell_mac(mac)
        ));
        // A frame that reaches XDP must carry its whole checksum not a promise to add it later.
        ethtool(&self.switch, name, "tx off");
        if name.starts_with(BALANCER) {
            self.pass_at_the_port_of(name);
        }
        ethtool(&netns, "eth0", "tx off");
        netns.ip("link set eth0 up");
        netns.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"));
        Host { name: name.to_owned(), netns, v4, v6, mac, dir: self.dir.clone() }
    }
}

impl Lab {
    /// Runs an XDP program at the switch's end of a balancer's cable. veth hands over what the other end sends with
    /// `XDP_TX` only when this end takes part in XDP: with nothing there the frames are dropped, and with receive
    /// offload alone they lie in the ring until some other packet comes along.
    fn pass_at_the_port_of(&self, name: &str) {
        let object = self.dir.join("pass.o");
        fs::write(&object, PASS).unwrap_or_else(|error| panic!("cannot write {}: {error}", object.display()));
        bpffs::mount();
        let pin = bpffs::path(self.switch.name());
        let (object, pinned) = (object.display().to_string(), pin.display().to_string());
        let bpftool = |args: &[&str]| self.switch.run("bpftool", args).expect_success();
        bpftool(&["prog", "load", &object, &pinned, "type", "xdp"]);
        bpftool(&["net", "attach", "xdpdrv", "pinned", &pinned, "dev", name]);
        // The interface holds the program from here on.
        fs::remove_file(&pin).unwrap_or_else(|error| panic!("cannot remove {pinned}: {error}"));
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Servers were dropped before; a file that still cannot be removed is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Host {
    /// Puts a VIP on loopback and keeps quiet about it on the segment, as a real server behind direct routing must.
    /// IPv6 needs no more than that: neighbour discovery answers only for addresses of the interface that was asked.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn carry_vip(&self, vip: IpAddr) {
        self.netns.sysctls(&[("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")]);
        match vip {
            IpAddr::V4(ip) => self.netns.ip(&format!("addr add {ip}/32 dev lo")),
            IpAddr::V6(ip) => self.netns.ip(&format!("addr add {ip}/128 dev lo nodad")),
        }
    }

    /// Its address of the same family as `other`.
    #[must_use]
    pub const fn address_like(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }

    /// Directory of this host's files.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        let dir = self.dir.join(&self.name);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        dir
    }

    /// Directory of the whole lab: logs go there.
    #[must_use]
    pub fn lab_dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command on this host to its end.
    #[must_use]
    pub fn run(&self, program: &str, args: &[&str]) -> Finished {
        self.netns.run(program, args)
    }
}

/// `02:00:0a:0a:00:0b`.
#[must_use]
pub fn spell_mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// How the names of hosts that run the balancer begin.
const BALANCER: &str = "lb";

/// An XDP program that passes everything.
const PASS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pass.o"));

const USUAL: [(&str, u8); 4] = [("client", 50), ("lb", 2), ("pacs1", 11), ("pacs2", 12)];

fn ethtool(netns: &Netns, dev: &str, features: &str) {
    let mut command: Command = netns.command("ethtool");
    finish(command.args(["-K", dev]).args(features.split(' '))).expect_success();
}
