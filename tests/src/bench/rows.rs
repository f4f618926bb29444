//! The rows of the benchmark: which flows, which tables, which packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{
    backend::LinkRecord,
    counter::Reason,
    flow::{Bucket4, Control, Decision, Ends, State, kind},
    limits::{self, map},
    load::Limits,
    net::{self, Mac},
    service::{Service, Sources, mode, pick},
};

use super::rig::{Rig, size_of_program};
use crate::packet::{
    dut::{Dut, INGRESS, Options, XDP_PASS, XDP_TX, live_backend, maglev_table},
    frame::{Frame, flags},
};

/// Room for established flows where the default has less than four places for each flow of the row.
const ROOMY: u32 = 1 << 22;
const PORT: u16 = 104;

/// What a row sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only touches the packet.
    Floor,
    /// Packets of established flows.
    Established,
    /// SYNs, each of a flow that nobody has seen, while both flow tables are full.
    New,
    /// SYNs of flows that are forgotten before each round.
    Begun,
    /// Packets that are not for a VIP.
    Pass,
}

/// Which packets of NAT and SNAT flows a row sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The client's.
    Forward,
    /// The server's.
    Reply,
}

/// One row: a rig, a loaded program, a packet.
pub struct Row {
    /// Name in the report.
    pub name: &'static str,
    /// Flows that are driven, or that fill the table.
    pub flows: u32,
    /// Servers behind each VIP.
    pub servers: u16,
    /// VIPs.
    pub vips: u16,
    kind: Kind,
    rig: Rig,
    dut: Option<Dut>,
    frame: Frame,
    /// Nanoseconds per packet, one for each round.
    pub rounds: Vec<f64>,
}

impl Row {
    /// The floor, over a list of this many flows.
    #[must_use]
    pub fn floor(flows: u32) -> Self {
        let list = list_v4(flows, 1, 0);
        let frame = Frame::tcp(list[0].0, list[0].1, flags::ACK);
        let mut rig = Rig::new(&shuffled(list));
        rig.aim_at_floor();
        Self::new("floor", flows, 1, 1, Kind::Floor, rig, None, frame)
    }

    /// Established flows, IPv4.
    #[must_use]
    pub fn established_v4(name: &'static str, flows: u32, servers: u16, vips: u16) -> Self {
        Self::established(name, list_v4(flows, vips, 0), flows, servers, vips)
    }

    /// Established flows, IPv6.
    #[must_use]
    pub fn established_v6(name: &'static str, flows: u32) -> Self {
        let list = list_v4(flows, 1, 0).into_iter().map(|(c, v)| (in_v6(c), in_v6(v))).collect();
        Self::established(name, list, flows, 16, 1)
    }

    fn established(
        name: &'static str,
        list: Vec<(SocketAddr, SocketAddr)>,
        flows: u32,
        servers: u16,
        vips: u16,
    ) -> Self {
        let v4 = list[0].0.is_ipv4();
        let room = |default: u32| if flows * 4 > default { ROOMY } else { default };
        let options = Options {
            flows_v4: if v4 { room(limits::DEFAULT_FLOWS_V4) } else { 1024 },
            flows_v6: if v4 { 1024 } else { room(limits::DEFAULT_FLOWS_V6) },
            // Big enough that every SYN finds its entry again when its ACK comes.
            half_open: ROOMY,
            tick_shift: 7,
            ..Options::default()
        };
        let mut dut = loaded(options, servers, vips, v4);
        let frame = Frame::tcp(list[0].0, list[0].1, flags::ACK);
        let mut opening = Rig::new(&list);
        opening.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        for control in [flags::SYN, flags::ACK, flags::ACK] {
            let frame = Frame::tcp(list[0].0, list[0].1, control);
            opening.drive(&frame, u64::from(flows), XDP_TX);
        }
        let mut rig = Rig::new(&shuffled(list));
        rig.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        Self::new(name, flows, servers, vips, Kind::Established, rig, Some(dut), frame)
    }

    /// Established flows that are rewritten, IPv4: `mode` is NAT or SNAT.
    #[must_use]
    pub fn routed_v4(name: &'static str, flows: u32, mode: u8, direction: Direction) -> Self {
        let servers = 16;
        let list = list_v4(flows, 1, 0);
        // Two entries for each flow.
        let room = |default: u32| if flows * 8 > default { ROOMY * 2 } else { default };
        let options = Options {
            flows_v4: room(limits::DEFAULT_FLOWS_V4),
            flows_v6: 1024,
            half_open: 1 << 19,
            tick_shift: 7,
            ..Options::default()
        };
        let mut dut = loaded(options, servers, 1, true);
        dut.set_service(0, Service { mode, pick: pick::HASH_FLOW, ..Service::default() });
        dut.set_link(INGRESS, LinkRecord { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 });
        let mut addrs = [[0; 2]; limits::MAX_SOURCES];
        for (place, last) in addrs.iter_mut().zip(1..) {
            *place = net::words(IpAddr::from([10, 3, 0, last]));
        }
        dut.set_sources(0, Sources { count: 16, first_port: 1024, ports: 60_000, addrs });
        for slot in 0..servers {
            dut.set_target(slot, SocketAddr::new(server(slot), PORT));
        }
        // So few at a time that none is forgotten between its SYN and its ACK: half-open buckets hold four.
        for some in list.chunks(1 << 16) {
            let mut opening = Rig::new(some);
            opening.aim(&dut.program().fd().unwrap().try_clone().unwrap());
            for control in [flags::SYN, flags::ACK] {
                let frame = Frame::tcp(some[0].0, some[0].1, control);
                opening.drive_any(&frame, some.len() as u64 - 1);
            }
        }
        // Those that found room, which is all but a few of a million.
        let list = dut.established_v4(direction);
        assert!(list.len() as u32 > flows - flows.div_ceil(50), "{name}: {} of {flows} flows", list.len());
        let frame = Frame::tcp(list[0].0, list[0].1, flags::ACK);
        let mut rig = Rig::new(&shuffled(list));
        rig.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        Self::new(name, flows, servers, 1, Kind::Established, rig, Some(dut), frame)
    }

    /// Every packet a new flow, with `flows` flows filling the table of established ones to the last way.
    #[must_use]
    pub fn fresh_v4(name: &'static str, flows: u32) -> Self {
        let room = flows.max(4).next_power_of_two();
        let options = Options { flows_v4: room, half_open: 1 << 14, tick_shift: 7, ..Options::default() };
        let mut dut = loaded(options, 16, 1, true);
        dut.fill_v4(map::FLOWS_V4, |n| {
            let mut words = [0; 8];
            words[0] = Control::new(1, 0, State::Established, 0).0;
            words[1] = u64::from(n);
            words
        });
        // More flows than the half-open table holds, by far: each is forgotten before it comes again.
        let list = list_v4(1 << 20, 1, 7);
        let frame = Frame::tcp(list[0].0, list[0].1, flags::SYN);
        let mut rig = Rig::new(&shuffled(list));
        rig.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        rig.drive(&frame, 1 << 17, XDP_TX);
        Self::new(name, flows, 16, 1, Kind::New, rig, Some(dut), frame)
    }

    /// Every packet a new flow that finds room, sent to one of `servers` by the scheduler: a [`pick`].
    #[must_use]
    pub fn begun_v4(name: &'static str, by: u8, servers: u16) -> Self {
        let options = Options { half_open: ROOMY, tick_shift: 7, ..Options::default() };
        let mut dut = loaded(options, servers, 1, true);
        dut.set_service(0, Service { mode: mode::DR, pick: by, ..Service::default() });
        let list = list_v4(1 << 20, 1, 7);
        let frame = Frame::tcp(list[0].0, list[0].1, flags::SYN);
        let mut rig = Rig::new(&shuffled(list));
        rig.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        Self::new(name, 1, servers, 1, Kind::Begun, rig, Some(dut), frame)
    }

    /// Packets between hosts that are none of ours, while the tables are in use.
    #[must_use]
    pub fn pass_v4(name: &'static str, flows: u32) -> Self {
        let mut dut = loaded(Options { tick_shift: 7, ..Options::default() }, 16, 1, true);
        let list: Vec<_> = list_v4(flows, 1, 0)
            .into_iter()
            .map(|(client, _)| (client, SocketAddr::from((Ipv4Addr::new(172, 16, 0, 9), 80))))
            .collect();
        let frame = Frame::tcp(list[0].0, list[0].1, flags::ACK);
        let mut rig = Rig::new(&shuffled(list));
        rig.aim(&dut.program().fd().unwrap().try_clone().unwrap());
        Self::new(name, flows, 16, 1, Kind::Pass, rig, Some(dut), frame)
    }

    #[expect(clippy::too_many_arguments, reason = "private, and every row has every field")]
    const fn new(
        name: &'static str,
        flows: u32,
        servers: u16,
        vips: u16,
        kind: Kind,
        rig: Rig,
        dut: Option<Dut>,
        frame: Frame,
    ) -> Self {
        Self { name, flows, servers, vips, kind, rig, dut, frame, rounds: Vec::new() }
    }

    /// One round. Checks by the program's own counters that the packets took the path the row is named for.
    ///
    /// # Panics
    ///
    /// When they did not: the figure would be of something else.
    pub fn round(&mut self, frames: u64) {
        if self.kind == Kind::Begun
            && let Some(dut) = &mut self.dut
        {
            dut.fill_v4(map::HALF_OPEN_V4, |_| [0; 8]);
        }
        let verdict = if self.kind == Kind::Pass { XDP_PASS } else { XDP_TX };
        let before = self.counts();
        let ns = self.rig.drive(&self.frame, frames, verdict);
        let after = self.counts();
        let (packets, flows, not_vip) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        let driven = frames + 1;
        let want = match self.kind {
            Kind::Floor => (0, 0, 0),
            // A million flows in a million buckets: a few do not fit theirs, and are steered anew each time.
            Kind::Established => (driven, flows.min(driven / 200), 0),
            Kind::Begun | Kind::New => (driven, driven, 0),
            Kind::Pass => (0, 0, driven),
        };
        assert_eq!((packets, flows, not_vip), want, "{}: packets, new flows, not for a VIP", self.name);
        self.rounds.push(ns);
    }

    fn counts(&mut self) -> (u64, u64, u64) {
        let Some(dut) = &mut self.dut else { return (0, 0, 0) };
        let mut sums = (0, 0, 0);
        for service in 0..self.vips {
            let traffic = dut.service_traffic(service);
            sums.1 += traffic.flows;
        }
        for slot in 0..self.servers {
            sums.0 += dut.backend_traffic(slot).packets;
        }
        sums.2 = dut.reasons().get(&Reason::NotVip).copied().unwrap_or(0);
        sums
    }

    /// Instructions and bytes of machine code of the program that is measured.
    pub fn size(&mut self) -> (u32, u32) {
        match &mut self.dut {
            Some(dut) => size_of_program(dut.program()),
            None => self.rig.floor_size(),
        }
    }
}

/// The program with `vips` VIPs of `servers` servers each.
fn loaded(options: Options, servers: u16, vips: u16, v4: bool) -> Dut {
    let mut dut = Dut::load(options);
    for slot in 0..servers {
        dut.set_backend(slot, live_backend(slot));
        dut.set_limits(slot, Limits { weight: 100, ..Limits::default() });
    }
    let table = maglev_table(&(0..servers).map(|s| (s, server(s))).collect::<Vec<_>>());
    for service in 0..vips {
        let record = Service { mode: mode::DR, pick: pick::HASH_FLOW, ..Service::default() };
        dut.set_service(service, record);
        dut.set_table(service, &table);
        let vip = vip(service);
        dut.add_key(if v4 { vip } else { in_v6(vip) }, 6, service);
    }
    dut
}

fn server(slot: u16) -> IpAddr {
    let [hi, lo] = slot.to_be_bytes();
    IpAddr::from([10, 2, hi, lo])
}

fn vip(service: u16) -> SocketAddr {
    let [hi, lo] = service.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 1, hi, lo), PORT))
}

/// `flows` clients, spread over `vips` VIPs; another `salt` gives other clients.
fn list_v4(flows: u32, vips: u16, salt: u8) -> Vec<(SocketAddr, SocketAddr)> {
    (0..flows)
        .map(|n| {
            // Sixteen connections of each client.
            let [_, b, c, d] = (n >> 4).to_be_bytes();
            let client = Ipv4Addr::new(20 + salt, b, c, d);
            let port = 40_000 + (n & 15) as u16;
            (SocketAddr::from((client, port)), vip((n % u32::from(vips)) as u16))
        })
        .collect()
}

/// The same end in an IPv6 network: the driver writes the last four bytes.
fn in_v6(end: SocketAddr) -> SocketAddr {
    let IpAddr::V4(ip) = end.ip() else { return end };
    let [a, b, c, d] = ip.octets().map(u16::from);
    let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, a << 8 | b, c << 8 | d);
    SocketAddr::from((ip, end.port()))
}

/// The same flows in another order, the same each time: memory is not walked as it was filled.
fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(i, (state % (i as u64 + 1)) as usize);
    }
    items
}

impl Dut {
    /// What the packets of every established IPv4 flow show: source, destination.
    fn established_v4(&mut self, direction: Direction) -> Vec<(SocketAddr, SocketAddr)> {
        let table = self.array::<Bucket4>(map::FLOWS_V4);
        let mut shown = Vec::new();
        for bucket in 0..table.len() {
            let Bucket4(ways) = table.get(&bucket, 0).expect("a bucket of the table");
            for words in ways.iter().filter(|words| Control(words[0]).is_live()) {
                if (Decision(words[3]).kind() == kind::REPLY) == (direction == Direction::Reply) {
                    let ends = Ends::of_v4(&[words[1], words[2]]);
                    let end =
                        |addr: u64, port| SocketAddr::from((net::ip4(addr as u32), net::host_port(port)));
                    shown.push((end(ends.src[0], ends.src_port()), end(ends.dst[0], ends.dst_port())));
                }
            }
        }
        shown
    }

    /// Writes every entry of an IPv4 flow table.
    fn fill_v4(&mut self, name: &str, entry: impl Fn(u32) -> [u64; 8]) {
        let mut table = self.array::<Bucket4>(name);
        for bucket in 0..table.len() {
            let entries = [0, 1, 2, 3].map(|way| entry(bucket * 4 + way));
            table.set(bucket, Bucket4(entries), 0).expect("a bucket of the table");
        }
    }
}
