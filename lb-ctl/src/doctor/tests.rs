//! Facts in, findings out.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::net::Mac;

use super::{Bond, Facts, Finding, Interface, KernelVersion, Severity, Xdp, examine};
use crate::{
    model::{
        config::{Config, GatewayAddress, Mode, Ports, Rip, Scheduler, Source, SourceAddresses, Vip},
        net::{Address, Link, Path, VlanTag},
    },
    source_ports::PortFacts,
};

const ETH0: u32 = 2;
const VLAN: u32 = 5;
const PORT: u32 = 6;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config() -> Config {
    let vip = Vip {
        scheduler: Scheduler::Maglev,
        rips: vec![Rip::new("A", ip("10.12.1.110"))],
        ..Vip::new("DICOM", Mode::L4Dr, ip("10.12.1.100"), Ports::Ranges(vec![104..=104]))
    };
    Config { vips: vec![vip], ..Config::default() }
}

fn link(index: u32, name: &str) -> Link {
    Link::ethernet(index, name, Mac([2, 0, 0, 0, 0, 1]))
}

fn address(ifindex: u32, text: &str, prefix: u8) -> Address {
    Address { ifindex, ip: ip(text), prefix, duplicate: false, tentative: false }
}

fn path() -> Path {
    Path {
        ifindex: Some(ETH0),
        gateway: None,
        local: false,
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        failed: false,
    }
}

/// A machine on which nothing is wrong, with lbd running.
fn healthy() -> Facts {
    let mut facts = Facts {
        kernel_release: "6.12.1-amd64".into(),
        btf: true,
        jit: Some(true),
        bpffs: true,
        capabilities: u64::MAX,
        memory_available_bytes: Some(4 << 30),
        forwarding_v4: Some(true),
        forwarding_v6: Some(true),
        nft: Some(true),
        ports: Some(PortFacts { ephemeral: 32_768..=60_999, reserved: Vec::new(), listeners: Vec::new() }),
        ..Facts::default()
    };
    facts.net.complete = true;
    facts.net.links = BTreeMap::from([(ETH0, link(ETH0, "eth0"))]);
    facts.net.addresses = vec![address(ETH0, "10.12.1.5", 24), address(ETH0, "10.12.1.100", 32)];
    let own = Path { local: true, mac: None, ..path() };
    facts.net.paths = BTreeMap::from([(ip("10.12.1.110"), path()), (ip("10.12.1.100"), own)]);
    let interface = Interface {
        driver: Some("virtio_net".into()),
        xdp: Xdp::Native,
        offloads: Some(BTreeMap::from([("large-receive-offload".into(), false)])),
        rp_filter: Some(1),
        arp_ignore: Some(0),
        send_redirects: Some(0),
        accept_ra: Some(0),
        bond: None,
    };
    facts.interfaces = BTreeMap::from([(ETH0, interface)]);
    facts
}

fn eth0(facts: &mut Facts) -> &mut Link {
    facts.net.links.get_mut(&ETH0).unwrap()
}

fn more(facts: &mut Facts) -> &mut Interface {
    facts.interfaces.get_mut(&ETH0).unwrap()
}

fn server(facts: &mut Facts) -> &mut Path {
    facts.net.paths.get_mut(&ip("10.12.1.110")).unwrap()
}

fn offload(facts: &mut Facts, name: &str) {
    more(facts).offloads.as_mut().unwrap().insert(name.into(), true);
}

fn add_vlan(facts: &mut Facts) {
    let tag = Some(VlanTag { id: 104, tpid: 0x8100 });
    let vlan = Link { kind: Some("vlan".into()), parent: Some(ETH0), vlan: tag, ..link(VLAN, "eth0.104") };
    facts.net.links.insert(VLAN, vlan);
    server(facts).ifindex = Some(VLAN);
}

/// What changes on a healthy machine, and the one finding that must come of it.
type Case = (&'static str, fn(&mut Facts, &mut Config), (Severity, &'static str, &'static str));

use Severity::{Note, Problem, Warning};

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("untested kernel", |f, _| f.kernel_release = "5.19.0".into(), (Warning, "kernel", "oldest that is tested")),
    ("old kernel", |f, _| f.kernel_release = "5.10.0-21-amd64".into(), (Problem, "kernel", "too old")),
    ("odd kernel", |f, _| f.kernel_release = "next".into(), (Warning, "kernel", "\"next\" cannot be read")),
    ("no BTF", |f, _| f.btf = false, (Warning, "btf", "/sys/kernel/btf/vmlinux")),
    ("interpreter", |f, _| f.jit = Some(false), (Warning, "jit", "interpreted")),
    ("no bpffs", |f, _| f.bpffs = false, (Problem, "bpffs", "/sys/fs/bpf")),
    ("no rights", |f, _| f.capabilities = 0, (Warning, "privileges", "CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF")),
    ("CAP_SYS_ADMIN stands for BPF, not for the network", |f, _| f.capabilities = 1 << 21, (Warning, "privileges", "lacks CAP_NET_ADMIN, CAP_NET_RAW:")),
    ("tight memory", |f, _| f.memory_available_bytes = Some(150 << 20), (Warning, "memory", "of 150 MiB")),
    ("too little memory", |f, c| { f.memory_available_bytes = Some(2 << 30); c.node.flows_v4 = (1 << 25) + 1; }, (Problem, "memory", "4132 MiB of 2048 MiB available: 4131 MiB for flows, 1 MiB to look up the servers of 1 VIP")),
    ("no netlink", |f, _| f.net_error = Some("netlink socket: permission denied".into()), (Problem, "netlink", "permission denied")),
    ("[node] names a ghost", |_, c| c.node.interfaces = vec!["eth7".into()], (Problem, "interface", "[node] names interface \"eth7\"")),
    ("a VIP names a ghost", |_, c| c.vips[0].interface = Some("eth7".into()), (Problem, "interface", "VIP DICOM names interface \"eth7\"")),
    ("no cable", |f, _| eth0(f).carrier = false, (Problem, "link", "eth0 has no carrier")),
    ("switched off", |f, _| eth0(f).up = false, (Problem, "link", "eth0 is down")),
    ("ARP within the subnet only", |f, _| more(f).arp_ignore = Some(2), (Problem, "arp", "a VIP's /32 has none")),
    ("no ARP", |f, _| more(f).arp_ignore = Some(8), (Problem, "arp", "answers nobody")),
    ("bridge", |f, _| eth0(f).kind = Some("bridge".into()), (Warning, "driver", "eth0 is a bridge")),
    ("macvlan", |f, _| eth0(f).kind = Some("macvlan".into()), (Warning, "driver", "kind macvlan")),
    ("unknown driver", |f, _| more(f).driver = None, (Note, "driver", "could not be found out")),
    ("driver without XDP", |f, _| more(f).driver = Some("e1000e".into()), (Warning, "driver", "e1000e is not known")),
    ("kernel too old for the driver", |f, _| { f.kernel_release = "6.1.0".into(); more(f).driver = Some("vmxnet3".into()) }, (Warning, "driver", "only from Linux 6.6 on")),
    ("generic mode", |f, _| more(f).xdp = Xdp::Generic, (Warning, "xdp", "generic mode")),
    ("jumbo frames in one buffer", |f, _| { eth0(f).mtu = 9000; more(f).driver = Some("ixgbe".into()) }, (Warning, "mtu", "eth0: 9000; ixgbe")),
    ("no ethtool", |f, _| more(f).offloads = None, (Note, "offloads", "could not be read")),
    ("LRO", |f, _| offload(f, "large-receive-offload"), (Warning, "offloads", "large-receive-offload is on")),
    ("GRO in hardware", |f, _| offload(f, "rx-gro-hw"), (Warning, "offloads", "rx-gro-hw is on")),
    ("veth", |f, _| eth0(f).kind = Some("veth".into()), (Note, "offloads", "eth0 is a veth")),
    ("VIP in no subnet", |_, c| c.vips[0].ip = ip("192.0.2.1"), (Problem, "vip-subnet", "192.0.2.1 is in no connected subnet")),
    ("VIP lost DAD", |f, _| f.net.addresses[1].duplicate = true, (Problem, "vip-address", "another host has it")),
    ("VIP is our own address", |_, c| c.vips[0].ip = ip("10.12.1.5"), (Warning, "vip-address", "10.12.1.5 is this machine's own address on eth0 (prefix 24)")),
    ("VIP not claimed yet", |f, _| _ = f.net.addresses.pop(), (Note, "vip-address", "on no interface yet")),
    ("somebody else has the VIP", |f, _| { f.net.addresses.pop(); f.net.paths.insert(ip("10.12.1.100"), path()); }, (Problem, "vip-address", "02:00:00:00:00:09 answers for it")),
    ("server is this machine", |f, _| server(f).local = true, (Problem, "real-server", "DICOM/A 10.12.1.110 is an address of this machine")),
    ("server behind a router", |f, _| server(f).gateway = Some(ip("10.12.1.1")), (Problem, "real-server", "reached by gateway 10.12.1.1")),
    ("server without a route", |f, _| server(f).ifindex = None, (Problem, "real-server", "(no route)")),
    ("server is silent", |f, _| { server(f).mac = None; server(f).failed = true }, (Warning, "real-server", "does not answer ARP on eth0")),
    ("server unknown yet", |f, _| server(f).mac = None, (Note, "real-server", "not known yet")),
];

fn nat(config: &mut Config) {
    config.vips[0].mode = Mode::L4Nat;
}

fn snat(config: &mut Config, source: Source) {
    config.vips[0].mode = Mode::L4Snat;
    config.vips[0].source = source;
}

fn gateway(config: &mut Config, text: &str, interface: Option<&str>) {
    let address = GatewayAddress { ip: ip(text), interface: interface.map(str::to_owned) };
    config.gateway.addresses.push(address);
}

/// The interface is a bond in this mode, with one port.
fn bond(facts: &mut Facts, mode: &str, hash: &str, driver: &str) {
    eth0(facts).kind = Some("bond".into());
    more(facts).driver = Some("bond".into());
    more(facts).bond = Some(Bond { mode: mode.into(), hash: hash.into() });
    let port = Link { master: Some(ETH0), ..link(PORT, "enp1s0") };
    facts.net.links.insert(PORT, port);
    let interface = Interface { driver: Some(driver.into()), ..Interface::default() };
    facts.interfaces.insert(PORT, interface);
}

/// What NAT, SNAT, gateways and bonds add.
#[rustfmt::skip]
const ROUTING: &[Case] = &[
    ("replies of servers", |_, c| nat(c), (Note, "default-gateway", "real servers of DICOM reply through this machine cannot be seen")),
    ("IPv4 is not forwarded", |f, c| { nat(c); f.forwarding_v4 = Some(false) }, (Note, "forwarding", "net.ipv4.ip_forward is off")),
    ("IPv6 is not forwarded", |f, c| { gateway(c, "2001:db8::1", Some("eth0")); f.forwarding_v6 = Some(false) }, (Note, "forwarding", "net.ipv6.conf.all.forwarding is off")),
    ("redirects", |f, c| { nat(c); more(f).send_redirects = Some(1) }, (Note, "redirects", "eth0: ICMP redirects are on")),
    ("routers are listened to", |f, c| { gateway(c, "2001:db8::1", Some("eth0")); more(f).accept_ra = Some(1) }, (Warning, "router-advertisements", "eth0 takes its IPv6 default route")),
    ("no nft for masquerading", |f, c| { c.gateway.masquerade = vec!["eth0".into()]; f.nft = Some(false) }, (Problem, "nftables", "masquerading on eth0 needs the program nft")),
    ("no nft for redirects", |f, c| { gateway(c, "2001:db8::1", Some("eth0")); f.nft = Some(false) }, (Problem, "nftables", "keeping IPv6 redirects in needs the program nft")),
    ("[gateway] masquerades on a ghost", |_, c| c.gateway.masquerade = vec!["eth7".into()], (Problem, "interface", "[gateway] names interface \"eth7\"")),
    ("[gateway] has an address on a ghost", |_, c| gateway(c, "10.12.1.250", Some("eth7")), (Problem, "interface", "[gateway] names interface \"eth7\"")),
    ("gateway address in no subnet", |_, c| gateway(c, "192.0.2.250", None), (Problem, "vip-subnet", "gateway address 192.0.2.250 is in no connected subnet")),
    ("gateway address not claimed yet", |_, c| gateway(c, "10.12.1.250", None), (Note, "vip-address", "gateway address 10.12.1.250 is on no interface yet")),
    ("somebody else has a source", |f, c| { snat(c, Source { addresses: SourceAddresses::Pool(vec![ip("10.12.1.7")]), ..Source::default() }); f.net.paths.insert(ip("10.12.1.7"), path()); }, (Problem, "vip-address", "source 10.12.1.7 of VIP DICOM is not on this machine, and 02:00:00:00:00:09 answers")),
    ("ports of the kernel", |_, c| snat(c, Source { ports: 32_000..=33_000, ..Source::default() }), (Problem, "source-ports", "VIP DICOM: source ports 32000-33000 overlap 32768-60999")),
    ("MTUs differ", |f, c| { nat(c); add_vlan(f); f.net.links.get_mut(&VLAN).unwrap().mtu = 1400 }, (Note, "mtu-mix", "1400 at eth0.104; 1500 at eth0")),
    ("port of a bond", |f, _| { let bond = Link { kind: Some("bond".into()), ..link(PORT, "bond0") }; f.net.links.insert(PORT, bond); eth0(f).master = Some(PORT) }, (Problem, "bond", "eth0 is a port of bond0")),
    ("mode without XDP", |f, _| bond(f, "balance-alb", "layer2", "ixgbe"), (Warning, "bond", "mode balance-alb")),
    ("hash without XDP", |f, _| bond(f, "802.3ad", "vlan+srcmac", "ixgbe"), (Warning, "bond", "xmit_hash_policy vlan+srcmac")),
    ("port without XDP", |f, _| bond(f, "active-backup", "layer2", "e1000e"), (Warning, "bond", "enp1s0, a port of eth0: e1000e is not known")),
];

fn wrong(facts: &Facts, config: &Config) -> Vec<Finding> {
    examine(facts, config).into_iter().filter(|finding| finding.severity > Severity::Ok).collect()
}

#[test]
fn a_healthy_machine_has_nothing_but_good_findings_of_every_check() {
    let findings = examine(&healthy(), &config());
    assert_eq!(wrong(&healthy(), &config()), []);
    let mut checks: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    checks.sort_unstable();
    let expected = [
        "arp",
        "bpffs",
        "btf",
        "driver",
        "jit",
        "kernel",
        "link",
        "memory",
        "mtu",
        "offloads",
        "privileges",
        "real-server",
        "rp-filter",
        "vip-address",
        "vip-subnet",
        "xdp",
    ];
    assert_eq!(checks, expected);
}

#[test]
fn each_thing_that_is_wrong_is_found_alone_with_its_place_and_a_cure_in_one_line() {
    for (what, change, (severity, check, text)) in CASES.iter().chain(ROUTING) {
        let (mut facts, mut config) = (healthy(), config());
        change(&mut facts, &mut config);
        let found = wrong(&facts, &config);
        let hit: Vec<_> = found.iter().filter(|finding| finding.check == *check).collect();
        assert_eq!(hit.len(), 1, "{what}: {found:#?}");
        assert_eq!(hit[0].severity, *severity, "{what}: {found:#?}");
        assert!(hit[0].text.contains(text), "{what}: {}", hit[0].text);
        for finding in &found {
            assert!(finding.cure.as_ref().is_some_and(|cure| !cure.is_empty()), "{what}: {finding:?}");
            assert!(!finding.text.contains('\n'), "{what}: {finding:?}");
        }
    }
}

#[test]
fn the_program_is_looked_for_below_vlan_interfaces_and_stripped_tags_are_told() {
    let (mut facts, config) = (healthy(), config());
    add_vlan(&mut facts);
    facts
        .interfaces
        .insert(VLAN, Interface { rp_filter: Some(0), arp_ignore: Some(0), ..Interface::default() });
    more(&mut facts).rp_filter = Some(2);
    assert_eq!(wrong(&facts, &config), []);
    offload(&mut facts, "rx-vlan-offload");
    let found = wrong(&facts, &config);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].text.starts_with("eth0: rx-vlan-offload is on"), "{found:#?}");
}

#[test]
fn a_machine_fit_for_snat_and_a_good_bond_has_nothing_but_good_findings() {
    let (mut facts, mut config) = (healthy(), config());
    snat(&mut config, Source::default());
    bond(&mut facts, "802.3ad", "layer3+4", "ixgbe");
    assert_eq!(wrong(&facts, &config), []);
    let findings = examine(&facts, &config);
    for check in ["source-ports", "bond"] {
        assert!(findings.iter().any(|finding| finding.check == check), "{check}: {findings:#?}");
    }
}

#[test]
fn a_strict_reverse_path_filter_matters_only_with_several_interfaces() {
    let (mut facts, config) = (healthy(), config());
    add_vlan(&mut facts);
    let found = wrong(&facts, &config);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((found[0].check, found[0].severity), ("rp-filter", Note));
}

#[test]
fn jumbo_frames_are_fine_where_the_driver_takes_several_buffers() {
    let (mut facts, config) = (healthy(), config());
    eth0(&mut facts).mtu = 9000;
    assert_eq!(wrong(&facts, &config), []);
}

#[test]
fn a_disabled_vip_is_not_looked_at() {
    let (facts, mut config) = (healthy(), config());
    config.vips[0].enabled = false;
    config.vips[0].ip = ip("192.0.2.1");
    assert!(examine(&facts, &config).iter().all(|finding| !finding.check.starts_with("vip")));
}

#[test]
fn kernel_releases_are_read_as_people_write_them() {
    for (release, version) in [("6.1.0-18-amd64", (6, 1)), ("6.12", (6, 12)), ("7.0-rc1", (7, 0))] {
        assert_eq!(KernelVersion::parse(release), Some(KernelVersion(version.0, version.1)));
    }
    assert_eq!(KernelVersion::parse("6"), None);
    assert_eq!(KernelVersion::parse(""), None);
}
