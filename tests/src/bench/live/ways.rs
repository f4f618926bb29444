//! What can stand in the middle of a line, and how it is set up.

use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use lb_common::{
    backend::{Backend, LinkRecord, state},
    limits,
    net::{PROTO_TCP, words},
    service::{Service, Sources, mode, pick},
};

use super::{
    generator::Generator,
    line::{ENTRY, EXIT, FAR, Line, Port, SERVER_PORT, VIP, VIP_PORT, feed},
};
use crate::{
    lab::Netns,
    packet::dut::{Dut, Options, maglev_table},
};

static DRIVE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drive.o"));
/// Holds a program that passes everything.
pub(super) static PASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pass.o"));

/// What becomes of a packet in the middle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Dropped as it comes in: what generator and veth take.
    Drop,
    /// Sent back without a look.
    Reflect,
    /// Parsed, MACs exchanged, sent back.
    Touch,
    /// Our direct routing, back by the interface it came in by.
    Direct,
    /// Our address translation, back by the interface it came in by.
    NatBack,
    /// The same, on to the server's interface.
    Nat,
    /// Likewise, with one of our own source addresses.
    Snat,
    /// Routed by the kernel.
    Route,
    /// The kernel's address translation with connection tracking.
    Nftables,
    /// The kernel's load balancer, direct routing.
    IpvsDirect,
    /// The kernel's load balancer, address translation.
    IpvsNat,
    /// A proxy that joins two connections; nothing for single packets.
    Haproxy,
}

impl Way {
    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reflect => "xdp_tx",
            Self::Touch => "parse_tx",
            Self::Direct => "dr",
            Self::NatBack => "nat_tx",
            Self::Nat => "nat",
            Self::Snat => "snat",
            Self::Route => "kernel_routing",
            Self::Nftables => "nftables_dnat",
            Self::IpvsDirect => "ipvs_dr",
            Self::IpvsNat => "ipvs_nat",
            Self::Haproxy => "haproxy_tcp",
        }
    }
}

/// A line with something in the middle.
pub struct Street {
    /// What is in the middle.
    pub way: Way,
    /// The near end.
    pub generator: Generator,
    middle: Middle,
}

/// What has to be kept for the middle to stay as it is.
enum Middle {
    /// A program of the generator's object.
    Nothing,
    /// Another program.
    Program(#[expect(dead_code, reason = "dropping it takes the program off")] Box<Ebpf>),
    /// Ours.
    Ours(Box<Dut>),
}

impl Street {
    /// Sets everything up.
    ///
    /// # Panics
    ///
    /// When a part is refused.
    #[must_use]
    pub fn new(way: Way) -> Self {
        let line = Line::new();
        let mut generator = Generator::new(&line);
        let middle = match way {
            Way::Drop => {
                generator.answer_with("count");
                Middle::Nothing
            }
            Way::Reflect => {
                generator.answer_with("reflect");
                Middle::Nothing
            }
            Way::Touch => Middle::Program(Box::new(attached(DRIVE, "floor", &line.middle, &[ENTRY]))),
            Way::Direct => Middle::Ours(Box::new(ours(&line, mode::DR, ENTRY, &[ENTRY]))),
            Way::NatBack => Middle::Ours(Box::new(ours(&line, mode::NAT, ENTRY, &[ENTRY]))),
            Way::Nat => Middle::Ours(Box::new(ours(&line, mode::NAT, EXIT, &[ENTRY]))),
            Way::Snat => Middle::Ours(Box::new(ours(&line, mode::SNAT, EXIT, &[ENTRY]))),
            Way::Haproxy => panic!("single packets do not get through a proxy"),
            Way::Route | Way::Nftables | Way::IpvsDirect | Way::IpvsNat => {
                by_the_kernel(&line, way);
                Middle::Program(Box::new(attached(PASS, "pass", &line.middle, &[ENTRY, EXIT])))
            }
        };
        Self { way, generator, middle }
    }

    /// Packets that the program forwarded, if it is ours.
    pub fn forwarded(&mut self) -> Option<u64> {
        match &mut self.middle {
            Middle::Ours(dut) => Some((0..SERVERS).map(|slot| dut.backend_traffic(slot).packets).sum()),
            Middle::Nothing | Middle::Program(_) => None,
        }
    }
}

/// Largest IP packet that a veth takes.
const MTU: u16 = 1500;
/// Slots of our service. All are the one server at the far end, so that choosing is not free.
const SERVERS: u16 = 16;

/// Loads a program and puts it on interfaces of a namespace.
///
/// Where the kernel forwards this is one that passes everything: a veth takes what XDP sends it only where a program
/// or receive offload runs, and the offload would cost the kernel's ways more.
pub(super) fn attached(object: &[u8], name: &str, netns: &Netns, on: &[Port]) -> Ebpf {
    let mut ebpf = Ebpf::load(object).unwrap_or_else(|e| panic!("{name} does not load: {e:#?}"));
    let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap_or_else(|e| panic!("{name} does not load: {e:#?}"));
    netns.enter(|| on.iter().for_each(|port| attach(program, *port)));
    ebpf
}

/// The real program on these interfaces of the box, with one service in this mode, whose server is behind `out`.
pub(super) fn ours(line: &Line, mode: u8, out: Port, on: &[Port]) -> Dut {
    let options = Options {
        flows_v4: limits::DEFAULT_FLOWS_V4,
        flows_v6: 1024,
        // Room for every flow of a row until its second packet comes.
        half_open: 1 << 18,
        tick_shift: 7,
        ..Options::default()
    };
    let mut dut = line.middle.enter(|| Dut::load(options));
    for slot in 0..SERVERS {
        dut.set_backend(
            slot,
            Backend {
                generation: 1,
                state: state::LIVE,
                ifindex: out.ifindex,
                dst_mac: FAR.mac,
                src_mac: out.mac,
                mtu: MTU,
                ..Backend::default()
            },
        );
    }
    if mode != mode::DR {
        translate(&mut dut);
    }
    let servers: Vec<_> = (0..SERVERS).map(|slot| (slot, [10, 2, 0, slot as u8].into())).collect();
    dut.set_service(0, Service { mode, pick: pick::HASH_FLOW, ..Service::default() });
    dut.set_table(0, &maglev_table(&servers));
    dut.add_key((VIP, VIP_PORT).into(), PROTO_TCP, 0);
    line.middle.enter(|| {
        for port in [ENTRY, EXIT] {
            dut.allow(port.ifindex);
        }
        for port in on {
            attach(dut.program(), *port);
        }
    });
    dut
}

/// What address translation has to know beside.
fn translate(dut: &mut Dut) {
    (0..SERVERS).for_each(|slot| dut.set_target(slot, (FAR.ip, SERVER_PORT).into()));
    for port in [ENTRY, EXIT] {
        dut.set_link(port.ifindex, LinkRecord { mac: port.mac, mtu: MTU });
    }
    let mut sources = Sources { count: 4, first_port: 1024, ports: 64_000, ..Sources::default() };
    for (number, addr) in (1..).zip(&mut sources.addrs[..4]) {
        *addr = words([10, 9, 3, number].into());
    }
    dut.set_sources(0, sources);
}

/// Puts a program on an interface of the namespace that this thread is in, in its driver.
///
/// # Panics
///
/// When the kernel refuses.
pub(super) fn attach(program: &mut Xdp, port: Port) {
    program
        .attach_to_if_index(port.ifindex, XdpMode::Driver)
        .unwrap_or_else(|e| panic!("cannot attach to {}: {e:#?}", port.name));
}

/// Sets the kernel up to bring what is for the VIP to the far end.
pub(super) fn by_the_kernel(line: &Line, way: Way) {
    line.route();
    let (server, exit) = (FAR.ip, EXIT.name);
    let ipvs = |forwarding: &str, port: u16| {
        line.middle.ip(&format!("addr add {VIP}/32 dev lo"));
        // Packets of connections that it has not seen begin are let in, as ours are.
        feed(&line.middle, "sh", &["-e"], "modprobe ip_vs_rr\n");
        let service = format!("{VIP}:{VIP_PORT}");
        let rules = format!("-A -t {service} -s rr\n-a -t {service} -r {server}:{port} {forwarding}\n");
        feed(&line.middle, "ipvsadm", &["-R"], &rules);
        line.middle.sysctls(&[("net/ipv4/vs/sloppy_tcp", "1")]);
    };
    match way {
        Way::Route => line.middle.ip(&format!("route add {VIP}/32 via {server} dev {exit}")),
        Way::Nftables => feed(
            &line.middle,
            "nft",
            &["-f", "-"],
            &format!(
                "table ip balance {{ chain in {{ type nat hook prerouting priority dstnat;\n\
                 ip daddr {VIP} tcp dport {VIP_PORT} dnat to {server}:{SERVER_PORT}\n}}\n}}\n"
            ),
        ),
        Way::IpvsDirect => ipvs("-g", VIP_PORT),
        Way::IpvsNat => ipvs("-m", SERVER_PORT),
        Way::Drop
        | Way::Reflect
        | Way::Touch
        | Way::Direct
        | Way::NatBack
        | Way::Nat
        | Way::Snat
        | Way::Haproxy => {
            panic!("{} is not done by the kernel", way.name())
        }
    }
}
