//! The site that is served: VIPs, servers, checks, the operator's word, the network. It is told to the product as TOML
//! and facts; what must come of it is said by rules of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use lb_common::{net::Mac, settings::Settings};
use lb_ctl::{
    compile::{Compiled, Inputs, compile},
    config::{Texts, load_texts},
    model::{
        config::{Config, Mode},
        desired::DesiredState,
        health::{Health, RipId, Verdict},
        net::{Address, Link, NetFacts, Path},
        operator::{Order, Word, Words},
    },
};
use lb_tests::{packet::dut::INGRESS, random::Random};

use crate::BACK;

/// Schedulers that a VIP may have.
const SCHEDULERS: [&str; 5] = ["wlc", "wrr", "maglev", "source-hash", "first"];
/// What an operator may say of a server, beside that it is online.
pub(crate) const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
/// See [`DRAIN`].
pub(crate) const HALT: Order = Order::Halt { keep_sessions: false };
/// Ports of every VIP.
pub(crate) const PORTS: [u16; 2] = [104, 11112];
/// VIPs that there may be at a time.
const VIPS: usize = 6;
/// Servers that a VIP may have.
const SERVERS: usize = 6;

/// Everything that the operations change.
#[derive(Clone, Default)]
pub(crate) struct Site {
    /// By name.
    pub(crate) vips: BTreeMap<String, Vip>,
    /// How often the card of a server was replaced, which its MAC tells.
    pub(crate) cards: BTreeMap<IpAddr, u8>,
}

/// A VIP. Mode, address and family are its name's for as long as it is there.
#[derive(Clone, Debug)]
pub(crate) struct Vip {
    pub(crate) mode: Mode,
    pub(crate) ip: IpAddr,
    pub(crate) scheduler: &'static str,
    /// Leading bits of the client's address that persistence goes by; 0 = none.
    pub(crate) prefix: u8,
    /// Port of the servers; `None` = the one that the client asked for, as always under direct routing.
    pub(crate) rip_port: Option<u16>,
    /// In the order of the list.
    pub(crate) servers: Vec<Server>,
}

/// A server of a VIP, known by its address.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) ip: IpAddr,
    pub(crate) weight: u16,
    pub(crate) verdict: Verdict,
    pub(crate) order: Order,
}

/// What a site asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Rules {
    /// Servers whose flows go on: VIP and address.
    pub(crate) live: BTreeSet<(String, IpAddr)>,
    /// Servers that take new flows, of every VIP.
    pub(crate) takers: BTreeMap<String, BTreeSet<IpAddr>>,
}

impl Site {
    /// What must come of it. `was_live`: servers whose flows went on before, which do so until a verdict says no.
    pub(crate) fn rules(&self, was_live: &BTreeSet<(String, IpAddr)>) -> Rules {
        let mut rules = Rules::default();
        for (name, vip) in &self.vips {
            let takers = rules.takers.entry(name.clone()).or_default();
            for server in &vip.servers {
                let id = (name.clone(), server.ip);
                let works = match server.verdict {
                    Verdict::Up => true,
                    Verdict::Down => false,
                    Verdict::Unknown => was_live.contains(&id),
                };
                if !works || server.order == HALT {
                    continue;
                }
                rules.live.insert(id);
                let is_next = vip.scheduler != "first" || takers.is_empty();
                if server.order == Order::Online && server.weight > 0 && is_next {
                    takers.insert(server.ip);
                }
            }
        }
        rules
    }

    /// What the product makes of it.
    pub(crate) fn compile(&self, before: &DesiredState, settings: &Settings) -> Compiled {
        let (operator, health) = self.words();
        let compiled = compile(&Inputs {
            config: &self.config(),
            operator: &operator,
            health: &health,
            facts: &self.facts(),
            before,
            settings,
            ramps: &BTreeMap::new(),
            forget: &BTreeSet::new(),
            carried: &BTreeSet::new(),
        });
        assert!(compiled.notes.vips.is_empty(), "{:?}", compiled.notes.vips);
        compiled
    }

    /// What operator and checks say.
    fn words(&self) -> (Words, BTreeMap<RipId, Health>) {
        let all =
            || self.vips.iter().flat_map(|(vip, is)| is.servers.iter().map(move |server| (vip, server)));
        let id = |vip: &String, server: &Server| RipId { vip: vip.clone(), rip: rip_name(server.ip) };
        let health = |verdict| Health::new(verdict, SystemTime::UNIX_EPOCH);
        (
            all()
                .map(|(vip, server)| (id(vip, server), Word { order: server.order, forced: None }))
                .collect(),
            all().map(|(vip, server)| (id(vip, server), health(server.verdict))).collect(),
        )
    }

    /// As a person would write it, and as it is understood.
    fn config(&self) -> Config {
        let mut toml = String::from("[node]\ninterfaces = [\"lan\", \"back\"]\n");
        for (name, vip) in &self.vips {
            let Vip { mode, ip, scheduler, prefix, rip_port, servers } = vip;
            let [first, second] = PORTS;
            let mode = mode.name();
            // Writing to a text cannot fail.
            let _ = write!(
                toml,
                "[vip.{name}]\nmode = \"{mode}\"\nip = \"{ip}\"\nports = [{first}, {second}]\n\
                 protocol = \"tcp+udp\"\nscheduler = \"{scheduler}\"\n"
            );
            // Flows that lost their server would stay for some seconds, so that both ends are told: nothing could be said
            // of what is left over.
            if vip.mode != Mode::L4Dr {
                toml.push_str("reset = false\n");
            }
            if *prefix > 0 {
                let _ = writeln!(
                    toml,
                    "persist = {{ type = \"source-ip\", timeout = \"1h\", prefix = {prefix} }}"
                );
            }
            if let Some(port) = rip_port {
                let _ = writeln!(toml, "rip_port = {port}");
            }
            let _ = writeln!(toml, "[vip.{name}.servers]");
            for Server { ip, weight, .. } in servers {
                let _ = writeln!(toml, "{} = {{ ip = \"{ip}\", weight = {weight} }}", rip_name(*ip));
            }
        }
        load_texts(Texts::single("lbd.toml", toml.as_str()))
            .unwrap_or_else(|errors| panic!("{errors}\n{toml}"))
            .config
    }

    /// What netlink would tell: every server answers, on one interface or the other.
    fn facts(&self) -> NetFacts {
        let link = |index: u32, name: &str| Link::ethernet(index, name, Mac(link_mac(index)));
        let own = |ifindex| {
            [4, 6].map(|family| Address {
                ifindex,
                ip: own_address(ifindex, family),
                prefix: if family == 4 { 16 } else { 64 },
                duplicate: false,
                tentative: false,
            })
        };
        let path = |server: &Server| Path {
            ifindex: Some(link_of(server.ip)),
            gateway: None,
            local: false,
            mac: Some(Mac(self.mac(server.ip))),
            failed: false,
        };
        NetFacts {
            complete: true,
            links: [(INGRESS, link(INGRESS, "lan")), (BACK, link(BACK, "back"))].into(),
            addresses: [own(INGRESS), own(BACK)].concat(),
            paths: self
                .vips
                .values()
                .flat_map(|vip| vip.servers.iter().map(|server| (server.ip, path(server))))
                .collect(),
        }
    }

    /// A server's MAC.
    pub(crate) fn mac(&self, server: IpAddr) -> [u8; 6] {
        let family = if server.is_ipv4() { 4 } else { 6 };
        [2, 0xbe, family, 0, self.cards.get(&server).copied().unwrap_or_default(), host(server)]
    }

    /// Every server of every VIP.
    pub(crate) fn servers(&mut self) -> Vec<&mut Server> {
        self.vips.values_mut().flat_map(|vip| &mut vip.servers).collect()
    }

    /// Adds a VIP if there is room; says what was done.
    pub(crate) fn add_vip(&mut self, random: &mut Random) -> Option<String> {
        let free: Vec<usize> = (0..VIPS).filter(|n| !self.vips.contains_key(&vip_name(*n))).collect();
        if free.is_empty() {
            return None;
        }
        let number = *random.pick(&free);
        let family = if number.is_multiple_of(2) { 4 } else { 6 };
        let ip = address(family, 0, 200 + number as u8);
        let mode = *random.pick(&[Mode::L4Dr, Mode::L4Nat, Mode::L4Snat]);
        let mut vip = Vip {
            mode,
            ip,
            scheduler: random.pick::<&str>(&SCHEDULERS),
            prefix: *random.pick(if family == 4 { &[0, 0, 24, 32] } else { &[0, 0, 64, 128] }),
            rip_port: (mode != Mode::L4Dr && random.once_in(2)).then_some(8104),
            servers: Vec::new(),
        };
        for _ in 0..=random.below(3) {
            vip.add_server(random);
        }
        let text =
            format!("add {} {ip} {} {} /{}", vip_name(number), vip.mode.name(), vip.scheduler, vip.prefix);
        self.vips.insert(vip_name(number), vip);
        Some(text)
    }

    /// Gives a VIP another scheduler.
    pub(crate) fn reschedule(&mut self, random: &mut Random) -> Option<String> {
        let (name, vip) = self.any_vip(random)?;
        vip.scheduler = random.pick::<&str>(&SCHEDULERS);
        Some(format!("{name}: scheduler {}", vip.scheduler))
    }

    /// Any VIP.
    pub(crate) fn any_vip(&mut self, random: &mut Random) -> Option<(String, &mut Vip)> {
        let names: Vec<String> = self.vips.keys().cloned().collect();
        let name = (!names.is_empty()).then(|| random.pick(&names).clone())?;
        self.vips.get_mut(&name).map(|vip| (name, vip))
    }
}

impl Vip {
    /// Adds a server if there is room.
    pub(crate) fn add_server(&mut self, random: &mut Random) -> Option<IpAddr> {
        let family = if self.ip.is_ipv4() { 4 } else { 6 };
        let ip = address(family, random.below(2) as u8, 10 + random.below(8) as u8);
        if self.servers.len() == SERVERS || self.servers.iter().any(|server| server.ip == ip) {
            return None;
        }
        let weight = *random.pick(&[1, 50, 100, 256]);
        let verdict = if random.once_in(5) { Verdict::Unknown } else { Verdict::Up };
        let server = Server { ip, weight, verdict, order: Order::Online };
        self.servers.insert(random.below(self.servers.len() + 1), server);
        Some(ip)
    }
}

/// An address on one of both interfaces.
fn address(family: u8, back: u8, host: u8) -> IpAddr {
    match family {
        4 => Ipv4Addr::new(10, 20 + back, 0, host).into(),
        _ => Ipv6Addr::new(0xfd20, u16::from(back), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// This machine's own address on an interface.
pub(crate) fn own_address(ifindex: u32, family: u8) -> IpAddr {
    address(family, u8::from(ifindex == BACK), 1)
}

/// MAC of an interface.
pub(crate) const fn link_mac(ifindex: u32) -> [u8; 6] {
    [2, 0x1b, 0, 0, 0, ifindex as u8]
}

/// Interface that a server is on.
pub(crate) const fn link_of(server: IpAddr) -> u32 {
    let back = match server {
        IpAddr::V4(ip) => ip.octets()[1] == 21,
        IpAddr::V6(ip) => ip.segments()[1] == 1,
    };
    if back { BACK } else { INGRESS }
}

/// What the last byte of a MAC says of its owner: host, and interface in the highest bit.
const fn host(server: IpAddr) -> u8 {
    let last = match server {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    last | if link_of(server) == BACK { 0x80 } else { 0 }
}

/// The server that has a MAC, whichever card it is of.
pub(crate) fn owner(mac: [u8; 6]) -> Option<IpAddr> {
    match mac {
        [2, 0xbe, family, 0, _, host] => Some(address(family, host >> 7, host & 0x7f)),
        _ => None,
    }
}

fn rip_name(server: IpAddr) -> String {
    format!("R{}", host(server))
}

fn vip_name(number: usize) -> String {
    format!("VIP{number}")
}
