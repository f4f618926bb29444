//! Clients and servers as they talk, and what must become of each packet, byte by byte.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::net::{PROTO_TCP, PROTO_UDP};
use lb_ctl::model::config::Mode;
use lb_tests::packet::{
    bench::hex,
    dut::{INGRESS, XDP_REDIRECT, XDP_TX},
    frame::{
        Frame,
        flags::{ACK, FIN, PSH, RST, SYN},
    },
    plane::Plane,
};

use crate::site::{Rules, Site, link_mac, link_of, own_address, owner};

/// What is in force: what the site asked for when it was last told.
#[derive(Default)]
pub(crate) struct InForce {
    /// Servers whose flows go on, with the number of the life that they are in.
    pub(crate) lives: BTreeMap<(String, IpAddr), u64>,
    /// Servers that are to die, while a plan is cut short: they may still have their flows, and clients that persist.
    fading: BTreeMap<(String, IpAddr), u64>,
    /// Servers that may get a new flow.
    takers: BTreeMap<String, BTreeSet<IpAddr>>,
    /// VIPs that somebody serves, whatever state the plan is in.
    served: BTreeSet<String>,
    /// MACs that a server may be reached by.
    macs: BTreeMap<IpAddr, BTreeSet<[u8; 6]>>,
    /// Servers of which the controller believes that their flows went on.
    pub(crate) was_live: BTreeSet<(String, IpAddr)>,
    next_life: u64,
}

impl InForce {
    /// A plan was applied to its end.
    pub(crate) fn settle(&mut self, site: &Site) {
        let Rules { live, takers } = site.rules(&self.was_live);
        let mut lives = BTreeMap::new();
        for id in live {
            self.next_life += 1;
            lives.insert(id.clone(), self.lives.get(&id).copied().unwrap_or(self.next_life));
        }
        self.was_live = lives.keys().cloned().collect();
        self.lives = lives;
        self.fading.clear();
        self.served =
            takers.iter().filter(|(_, them)| !them.is_empty()).map(|(vip, _)| vip.clone()).collect();
        self.takers = takers;
        self.macs.clear();
        self.learn_macs(site);
    }

    /// A plan was cut short: what was and what is to be may both be there.
    pub(crate) fn unsettle(&mut self, site: &Site) {
        let Rules { live, takers } = site.rules(&self.was_live);
        self.fading.extend(self.lives.extract_if(.., |id, _| !live.contains(id)));
        // A server that is to rise may have risen: what goes to it now goes on when the plan is finished.
        for id in live {
            self.next_life += 1;
            self.lives.entry(id).or_insert(self.next_life);
        }
        self.served.retain(|vip| takers.get(vip).is_some_and(|them| !them.is_empty()));
        for (vip, them) in takers {
            self.takers.entry(vip).or_default().extend(them);
        }
        self.learn_macs(site);
    }

    fn learn_macs(&mut self, site: &Site) {
        for vip in site.vips.values() {
            for server in &vip.servers {
                self.macs.entry(server.ip).or_default().insert(site.mac(server.ip));
            }
        }
    }
}

/// A connection, or an exchange of datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    vip: String,
    mode: Mode,
    client: SocketAddr,
    to: SocketAddr,
    proto: u8,
    server: SocketAddr,
    life: u64,
    /// Whom the server sees.
    source: SocketAddr,
}

/// A client of a VIP as persistence knows it.
type Client = (String, IpAddr);

/// Everybody's flows and memories.
#[derive(Default)]
pub(crate) struct Clients {
    /// Flows that both ends believe in.
    pub(crate) flows: Vec<Flow>,
    /// Servers that a client was ever sent to, each with its life then.
    known: BTreeMap<Client, BTreeMap<IpAddr, u64>>,
    /// The server that a client has answered last.
    kept: BTreeMap<Client, (IpAddr, u64)>,
}

/// What somebody wants to begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) client: SocketAddr,
    pub(crate) port: u16,
    pub(crate) proto: u8,
    /// The client never answers the server.
    pub(crate) half: bool,
}

impl Clients {
    /// Somebody begins a flow; it goes to a server that it may go to, or nowhere.
    pub(crate) fn begin(&mut self, plane: &Plane, site: &Site, force: &InForce, vip: &str, wish: Wish) {
        let at = &site.vips[vip];
        let to = SocketAddr::new(at.ip, wish.port);
        let who = (vip.to_owned(), prefix_of(wish.client.ip(), at.prefix));
        let alive = |ip: &IpAddr, life: &u64| force.lives.get(&(vip.to_owned(), *ip)) == Some(life);
        let kept = self.kept.get(&who).filter(|(ip, life)| at.prefix > 0 && alive(ip, life)).copied();
        let mut may: BTreeSet<IpAddr> = force.takers.get(vip).cloned().unwrap_or_default();
        if at.prefix > 0 {
            let fading = |ip: &IpAddr, life: &u64| force.fading.get(&(vip.to_owned(), *ip)) == Some(life);
            let known = self.known.get(&who).into_iter().flatten();
            may.extend(known.filter(|(ip, life)| alive(ip, life) || fading(ip, life)).map(|(ip, _)| *ip));
        }
        let first = packet(wish.client, to, wish.proto, SYN);
        let (verdict, out) = plane.run(&first.bytes());
        let Some(server) = receiver(verdict, &out) else {
            assert!(
                kept.is_none() && !force.served.contains(vip),
                "{wish:?} to {vip}: verdict {verdict}, though {may:?} may take it (persisted: {kept:?})"
            );
            return;
        };
        assert!(may.contains(&server), "{wish:?} to {vip} went to {server}, may go to {may:?}: {at:?}");
        assert!(
            kept.is_none_or(|(ip, _)| ip == server),
            "{wish:?} to {vip} went to {server}, but persistence says {kept:?}"
        );
        let (source, target) = ends(&out);
        // Where a plan was cut short, a server that is to die may not have died yet: nobody relies on that.
        let Some(&life) = force.lives.get(&(vip.to_owned(), server)) else { return };
        let mode = at.mode;
        let port = at.rip_port.unwrap_or(wish.port);
        let server = SocketAddr::new(server, if mode == Mode::L4Dr { wish.port } else { port });
        match mode {
            Mode::L7Http | Mode::L7Tcp => unreachable!("these sites have no layer 7"),
            Mode::L4Dr => assert_eq!((source, target), (wish.client, to)),
            Mode::L4Nat => assert_eq!((source, target), (wish.client, server)),
            Mode::L4Snat => {
                assert_eq!(target, server);
                assert!((10_240..=32_767).contains(&source.port()), "{source}");
                let family = if to.is_ipv4() { 4 } else { 6 };
                let own = [link_of(server.ip()), INGRESS, crate::BACK].map(|l| own_address(l, family));
                assert!(own.contains(&source.ip()), "{source} is none of this machine's addresses");
            }
        }
        let flow = Flow {
            vip: vip.to_owned(),
            mode,
            client: wish.client,
            to,
            proto: wish.proto,
            server,
            life,
            source,
        };
        flow.arrives(force, &first, verdict, &out);
        if at.prefix > 0 {
            self.known.entry(who.clone()).or_default().insert(server.ip(), life);
        }
        flow.answer(plane, SYN | ACK);
        if wish.half {
            return;
        }
        flow.send(plane, force, ACK);
        if at.prefix > 0 {
            self.kept.insert(who, (server.ip(), life));
        }
        self.flows.push(flow);
    }

    /// Packets of a flow that began earlier; it is where it was as long as its server lives.
    pub(crate) fn go_on(&mut self, plane: &Plane, site: &Site, force: &InForce, which: usize) {
        if self.flows[which].is_alive(force) {
            let flow = &self.flows[which];
            flow.send(plane, force, ACK | PSH);
            flow.answer(plane, ACK | PSH);
            return;
        }
        self.speak_into_the_void(plane, site, force, which);
    }

    /// A flow ends: in peace, or at once.
    pub(crate) fn end(&mut self, plane: &Plane, site: &Site, force: &InForce, which: usize, in_peace: bool) {
        if !self.flows[which].is_alive(force) {
            return self.speak_into_the_void(plane, site, force, which);
        }
        let flow = self.flows.swap_remove(which);
        if flow.proto == PROTO_UDP {
            return;
        }
        if in_peace {
            flow.send(plane, force, FIN | ACK);
            flow.answer(plane, FIN | ACK);
            flow.send(plane, force, ACK);
        } else {
            flow.send(plane, force, RST);
        }
    }

    /// A flow whose server died: its packets go to nobody who may not get them, and it is forgotten.
    fn speak_into_the_void(&mut self, plane: &Plane, site: &Site, force: &InForce, which: usize) {
        let flow = self.flows.swap_remove(which);
        let Some(at) = site.vips.get(&flow.vip) else { return };
        let who = (flow.vip.clone(), prefix_of(flow.client.ip(), at.prefix));
        let (verdict, out) = plane.run(&packet(flow.client, flow.to, flow.proto, ACK).bytes());
        let Some(server) = receiver(verdict, &out) else { return };
        let id = (flow.vip.clone(), server);
        let (life, fades) = (force.lives.get(&id).copied(), force.fading.contains_key(&id));
        let takes = force.takers.get(&flow.vip).is_some_and(|them| them.contains(&server));
        let known = self.known.entry(who).or_default();
        let keeps = at.prefix > 0 && life.is_some() && known.get(&server).copied() == life;
        assert!(takes || keeps || fades, "{flow:?}: its server is dead, but {server} gets its packet");
        if let Some(life) = life.filter(|_| at.prefix > 0) {
            known.insert(server, life);
        }
    }

    /// Forgets flows that nobody can believe in any more: their VIP is gone.
    pub(crate) fn forget_vip(&mut self, vip: &str) {
        self.flows.retain(|flow| flow.vip != vip);
        self.known.retain(|(name, _), _| name != vip);
        self.kept.retain(|(name, _), _| name != vip);
    }

    /// Forgets everything: so much time has passed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Flow {
    fn is_alive(&self, force: &InForce) -> bool {
        force.lives.get(&(self.vip.clone(), self.server.ip())) == Some(&self.life)
    }

    /// The client sends, and the server gets it.
    fn send(&self, plane: &Plane, force: &InForce, flags: u8) {
        let frame = packet(self.client, self.to, self.proto, flags);
        let (verdict, out) = plane.run(&frame.bytes());
        self.arrives(force, &frame, verdict, &out);
    }

    /// Checks every byte that the server gets.
    fn arrives(&self, force: &InForce, frame: &Frame, verdict: u32, out: &[u8]) {
        let server = self.server.ip();
        let link = link_of(server);
        let wanted = if link == INGRESS { XDP_TX } else { XDP_REDIRECT };
        assert_eq!(verdict, wanted, "{self:?}: {frame:?}");
        let mut mac = [0; 6];
        mac.copy_from_slice(&out[..6]);
        assert!(force.macs[&server].contains(&mac), "{self:?}: a frame to {mac:02x?}");
        let routed = self.mode != Mode::L4Dr;
        let expected = Frame {
            dst_mac: mac,
            src_mac: link_mac(link),
            src: self.source,
            dst: if routed { self.server } else { self.to },
            ttl: frame.ttl - u8::from(routed),
            ..frame.clone()
        };
        self.same_bytes(out, &expected);
    }

    /// The server answers, and the client gets it; only where replies come by here.
    fn answer(&self, plane: &Plane, flags: u8) {
        if self.mode == Mode::L4Dr {
            return;
        }
        let frame = packet(self.server, self.source, self.proto, flags);
        let (verdict, out) = plane.run(&frame.bytes());
        assert_eq!(verdict, XDP_TX, "{self:?}: {frame:?}");
        let expected = Frame {
            dst_mac: frame.src_mac,
            src_mac: link_mac(INGRESS),
            src: self.to,
            dst: self.client,
            ttl: frame.ttl - 1,
            ..frame.clone()
        };
        self.same_bytes(&out, &expected);
    }

    fn same_bytes(&self, out: &[u8], expected: &Frame) {
        let mut bytes = [out.to_vec(), expected.bytes()];
        if self.proto == PROTO_UDP {
            // A datagram's checksum that comes out as zero is written as all ones, or left out: `packet_nat` looks there.
            let field = if self.to.is_ipv4() { 40 } else { 60 };
            bytes.iter_mut().for_each(|bytes| bytes[field..field + 2].fill(0));
        }
        let [out, expected] = bytes.map(|bytes| hex(&bytes));
        assert_eq!(out, expected, "{self:?}");
    }
}

/// A packet without a payload, or a datagram.
fn packet(src: SocketAddr, dst: SocketAddr, proto: u8, flags: u8) -> Frame {
    match proto {
        PROTO_TCP => Frame::tcp(src, dst, flags),
        _ => Frame::udp(src, dst, b"datagram"),
    }
}

/// The server that gets a frame; `None` = no server does.
fn receiver(verdict: u32, out: &[u8]) -> Option<IpAddr> {
    let forwarded = verdict == XDP_TX || verdict == XDP_REDIRECT;
    let mac = out.first_chunk().copied().filter(|_| forwarded)?;
    owner(mac)
}

/// Source and destination of a frame without tags and options.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12..14] == [8, 0] {
        let ip = |at: usize| IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
        return ((ip(26), word(34)).into(), (ip(30), word(36)).into());
    }
    let ip = |at: usize| IpAddr::from(std::array::from_fn::<u16, 8, _>(|n| word(at + 2 * n)));
    ((ip(22), word(54)).into(), (ip(38), word(56)).into())
}

/// The part of a client's address that persistence goes by.
fn prefix_of(client: IpAddr, prefix: u8) -> IpAddr {
    match client {
        IpAddr::V4(ip) => {
            let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(ip.to_bits() & bits).into()
        }
        IpAddr::V6(ip) => {
            let bits = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(ip.to_bits() & bits).into()
        }
    }
}
