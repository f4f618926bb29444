//! Hosts on Ethernet segments: a bridge for each segment in a namespace of their own, a veth pair for each cable, an
//! IPv4 and an IPv6 prefix side by side.

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

/// The segment of most tests, with the balancer and its VIPs.
pub const LAN: Segment = Segment::numbered("lan", 10);

/// Segments with hosts.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    switch: Netns,
    dir: PathBuf,
}

/// An Ethernet segment with an IPv4 subnet, and fd10:NUMBER::/64 beside it, the number read as digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Name of its bridge.
    pub name: &'static str,
    /// What its IPv6 prefix is told apart by.
    pub number: u8,
    /// What the IPv4 addresses of its hosts begin with.
    pub v4_begin: [u8; 3],
    /// Length of its IPv4 prefix, 24 at most.
    pub v4_length: u8,
}

/// What a lab is to look like.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Hosts: name, and last octet of the addresses.
    pub hosts: &'a [(&'a str, u8)],
    /// Fixed name and directory of a lab that may outlive this program; `None` = a test's lab.
    pub kept_as: Option<(&'a str, &'a Path)>,
}

/// A cable to be laid from a host to a segment.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// Host, made with its first cable.
    pub host: &'a str,
    /// Interface there.
    pub dev: &'a str,
    /// Segment.
    pub segment: Segment,
    /// Last octet of the addresses.
    pub octet: u8,
}

/// A host of a lab. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name: `client`, `lb`, `pacs1`.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// IPv4 address of its first cable.
    pub v4: Ipv4Addr,
    /// IPv6 address of its first cable, in a /64.
    pub v6: Ipv6Addr,
    /// Hardware address of its first cable.
    pub mac: [u8; 6],
    cables: Vec<Cable>,
    dir: PathBuf,
}

/// A cable of a host.
#[derive(Clone, Debug)]
pub struct Cable {
    /// Interface of the host.
    pub dev: String,
    /// The other end, in the switch.
    pub port: String,
    /// Segment.
    pub segment: Segment,
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address, in a /64.
    pub v6: Ipv6Addr,
    /// Hardware address.
    pub mac: [u8; 6],
}

impl Segment {
    /// The usual one: 10.NUMBER.0.0/24.
    #[must_use]
    pub const fn numbered(name: &'static str, number: u8) -> Self {
        Self { name, number, v4_begin: [10, number, 0], v4_length: 24 }
    }

    /// The IPv4 address that ends in `octet`.
    #[must_use]
    pub const fn v4(self, octet: u8) -> Ipv4Addr {
        let [first, second, third] = self.v4_begin;
        Ipv4Addr::new(first, second, third, octet)
    }

    /// The IPv6 address for `octet`: its digits are the last group, so both addresses look alike.
    #[must_use]
    pub fn v6(self, octet: u8) -> Ipv6Addr {
        format!("fd10:{}::{octet}", self.number).parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// The address for `octet` of the same family as `other`.
    #[must_use]
    pub fn address_like(self, octet: u8, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => self.v4(octet).into(),
            IpAddr::V6(_) => self.v6(octet).into(),
        }
    }
}

impl Lab {
    /// The usual lab: `client` .50, `lb` .2, `pacs1` .11, `pacs2` .12.
    #[must_use]
    pub fn new() -> Self {
        Self::build(&Plan { hosts: &USUAL, kept_as: None })
    }

    /// A lab as planned, all on [`LAN`].
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn build(plan: &Plan<'_>) -> Self {
        let wires: Vec<_> =
            plan.hosts.iter().map(|&(host, octet)| Wire { host, dev: "eth0", segment: LAN, octet }).collect();
        Self::wire(&wires, plan.kept_as)
    }

    /// A lab of any shape.
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn wire(wires: &[Wire<'_>], kept_as: Option<(&str, &Path)>) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let (prefix, dir, lifetime) = match kept_as {
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

        // The lab owns what is made from here on, so a panic on the way takes it all away.
        let mut lab = Self { hosts: Vec::new(), switch, dir };
        let mut bridges: Vec<Segment> = Vec::new();
        for wire in wires {
            if !bridges.contains(&wire.segment) {
                bridges.push(wire.segment);
                lab.add_bridge(wire.segment);
            }
            lab.lay(&prefix, wire, lifetime);
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

    fn add_bridge(&self, Segment { name, .. }: Segment) {
        self.switch.ip(&format!(
            "link add {name} type bridge mcast_snooping 0 stp_state 0 forward_delay 0
             link set {name} up"
        ));
    }

    /// Lays a cable, and makes the host that it is the first one of.
    fn lay(&mut self, prefix: &str, wire: &Wire<'_>, lifetime: Lifetime) {
        let Wire { host: name, dev, segment, octet } = *wire;
        let namespace = format!("{prefix}{name}");
        let known = self.hosts.iter().position(|host| host.name == name);
        let port = if known.is_some() { format!("{name}-{}", segment.name) } else { name.to_owned() };
        let (v4, v6) = (segment.v4(octet), segment.v6(octet));
        let [first, second, third, fourth] = v4.octets();
        let mac = [0x02, 0, first, second, third, fourth];
        let netns = match known {
            Some(at) => self.hosts[at].netns.clone(),
            None => Netns::new(&namespace, lifetime),
        };

        self.switch.ip(&format!(
            "link add {port} type veth peer name {dev} address {} netns {namespace}
             link set {port} master {} up",
            spell_mac(mac),
            segment.name
        ));
        // A frame that reaches XDP must carry its whole checksum not a promise to add it later.
        ethtool(&self.switch, &port, "tx off");
        if name.starts_with(BALANCER) {
            self.pass_at(&port);
        }
        ethtool(&netns, dev, "tx off");
        netns.ip(&format!(
            "link set {dev} up
             addr add {v4}/{} dev {dev}
             addr add {v6}/64 dev {dev} nodad",
            segment.v4_length
        ));

        let cable = Cable { dev: dev.to_owned(), port, segment, v4, v6, mac };
        match known {
            Some(at) => self.hosts[at].cables.push(cable),
            None => {
                let (name, dir) = (name.to_owned(), self.dir.clone());
                self.hosts.push(Host { name, netns, v4, v6, mac, cables: vec![cable], dir });
            }
        }
    }

    /// Runs an XDP program at the switch's end of a balancer's cable. veth hands over what the other end sends with
    /// `XDP_TX` only when this end takes part in XDP: with nothing there the frames are dropped, and with receive
    /// offload alone they lie in the ring until some other packet comes along.
    fn pass_at(&self, port: &str) {
        let object = self.dir.join("pass.o");
        fs::write(&object, PASS).unwrap_or_else(|error| panic!("cannot write {}: {error}", object.display()));
        bpffs::mount();
        let pin = bpffs::path(self.switch.name());
        let (object, pinned) = (object.display().to_string(), pin.display().to_string());
        let bpftool = |args: &[&str]| self.switch.run("bpftool", args).expect_success();
        bpftool(&["prog", "load", &object, &pinned, "type", "xdp"]);
        bpftool(&["net", "attach", "xdpdrv", "pinned", &pinned, "dev", port]);
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
        self.carry_vip_loudly(vip);
    }

    /// Puts a VIP on loopback and does no more, as somebody does who has not read on: the kernel answers ARP for it, unless
    /// another VIP was carried quietly before.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn carry_vip_loudly(&self, vip: IpAddr) {
        match vip {
            IpAddr::V4(ip) => self.netns.ip(&format!("addr replace {ip}/32 dev lo")),
            IpAddr::V6(ip) => self.netns.ip(&format!("addr replace {ip}/128 dev lo nodad")),
        }
    }

    /// Runs what was printed for people to paste into a shell of this host. What it writes for the next start of a real machine
    /// goes into a file system of its own, and no service manager is there.
    ///
    /// # Panics
    ///
    /// When a command of it fails.
    #[track_caller]
    pub fn paste(&self, lines: &str) {
        let apart = "set -e
            for place in /etc/sysctl.d /run/systemd; do
                if [ -d $place ]; then mount -t tmpfs tmpfs $place; fi
            done\n";
        self.run("unshare", &["--mount", "sh", "-c", &format!("{apart}{lines}")]).expect_success();
    }

    /// Its cables, the first one first.
    #[must_use]
    pub fn cables(&self) -> &[Cable] {
        &self.cables
    }

    /// Its cable to a segment.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn cable(&self, segment: Segment) -> &Cable {
        self.cables
            .iter()
            .find(|cable| cable.segment == segment)
            .unwrap_or_else(|| panic!("{} has no cable to {}", self.name, segment.name))
    }

    /// Takes a VIP off loopback, if it is there.
    pub fn drop_vip(&self, vip: IpAddr) {
        let length = if vip.is_ipv4() { "32" } else { "128" };
        // Refused when it is not there.
        let _ = self.run("ip", &["addr", "del", &format!("{vip}/{length}"), "dev", "lo"]);
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
