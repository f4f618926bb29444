//! Deaths in, frames out, with time that does not pass by itself.

use std::{net::SocketAddr, sync::Mutex};

use lb_common::{
    flow::{Ends, Hop},
    net::{Mac, PROTO_TCP},
    service::Service,
};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::{
    dataplane::{BackendIdentity, Place, ServiceIdentity, fake::Fake},
    model::net::Link,
    shutdown,
};

const SERVICE: u16 = 3;
const SLOT: u16 = 7;
const GENERATION: u16 = 5;
const CLIENT_LINK: u32 = 2;
const SERVER_LINK: u32 = 4;

const fn live() -> Backend {
    Backend {
        generation: GENERATION,
        state: state::LIVE,
        vlan_depth: 0,
        ifindex: SERVER_LINK,
        dst_mac: Mac([2, 0, 0, 0, 0, 0x22]),
        src_mac: Mac([2, 0, 0, 0, 0, 4]),
        vlan: [0; 2],
        outer_tpid: 0,
        mtu: 1500,
        pad: [0; 2],
    }
}

const fn dead() -> Backend {
    Backend {
        generation: GENERATION + 1,
        state: state::DEAD,
        ifindex: 0,
        dst_mac: Mac([0; 6]),
        src_mac: Mac([0; 6]),
        ..live()
    }
}

fn identity() -> BackendIdentity {
    BackendIdentity { service: SERVICE, name: "R1".into(), ip: "10.1.0.5".parse().unwrap(), port: None }
}

fn put(backend: Backend) -> Op {
    Op::PutBackend { slot: SLOT, identity: identity(), backend }
}

fn installed(mode: u8, flags: u8, backend: Backend) -> Installed {
    let identity_of_service = ServiceIdentity { name: "HL7".into(), idle_timeout_secs: 3600 };
    let record = Service { mode, flags, ..Service::default() };
    Installed {
        services: BTreeMap::from([(SERVICE, (identity_of_service, record))]),
        backends: BTreeMap::from([(SLOT, (identity(), backend))]),
        ..Installed::default()
    }
}

#[test]
fn a_death_is_told_when_flows_of_nat_or_snat_end_and_the_vip_wants_it() {
    let told = Some(Death { who: "HL7/R1".into(), slot: SLOT, backend: live() });
    let of = |op: &Op, mode, flags, before| death(op, &installed(mode, flags, before));
    for mode in [mode::NAT, mode::SNAT] {
        assert_eq!(of(&put(dead()), mode, flags::RESET, live()), told);
        assert_eq!(of(&Op::ClearBackend { slot: SLOT }, mode, flags::RESET, live()), told);
        let newcomer = Backend { generation: GENERATION + 1, ..live() };
        assert_eq!(of(&put(newcomer), mode, flags::RESET, live()), told);
    }
    assert_eq!(of(&put(dead()), mode::NAT, 0, live()), None, "not wanted");
    assert_eq!(of(&put(dead()), mode::DR, flags::RESET, live()), None, "direct routing");
    assert_eq!(of(&put(live()), mode::NAT, flags::RESET, live()), None, "it lives on");
    assert_eq!(of(&put(dead()), mode::NAT, flags::RESET, dead()), None, "it was dead before");
    let elsewhere = Op::PutBackend { slot: SLOT + 1, identity: identity(), backend: dead() };
    assert_eq!(of(&elsewhere, mode::NAT, flags::RESET, live()), None, "somebody else");
}

fn flow(client_port: u16) -> PairedFlow {
    let address = |text: &str, port| SocketAddr::new(text.parse().unwrap(), port);
    PairedFlow {
        client: Ends::between(address("192.0.2.9", client_port), address("10.0.0.1", 2575), PROTO_TCP),
        server: Ends::between(address("10.1.0.1", client_port), address("10.1.0.5", 2575), PROTO_TCP),
        hop: Hop { mac: Mac([2, 0, 0, 0, 0, 0x11]), ifindex: CLIENT_LINK as u16, ..Hop::default() },
        slot: SLOT,
        generation: GENERATION,
        place: Place { table: 0, entry: usize::from(client_port), control: 0 },
    }
}

/// Where and when a frame was sent, and the frame.
type Sent = (u32, Instant, Vec<u8>);

struct Recorder {
    sent: UnboundedSender<Sent>,
    fail: Arc<Mutex<u32>>,
}

impl Post for Recorder {
    async fn send(&mut self, ifindex: u32, frame: &[u8]) -> Result<(), String> {
        let mut fail = self.fail.lock().unwrap();
        if *fail > 0 {
            *fail -= 1;
            return Err("no buffer".to_owned());
        }
        self.sent.send((ifindex, Instant::now(), frame.to_vec())).unwrap();
        Ok(())
    }
}

struct Bench {
    fake: Fake,
    ended: Sender<Ended>,
    sent: UnboundedReceiver<Sent>,
    fail: Arc<Mutex<u32>>,
    _trigger: shutdown::Trigger,
    _facts: watch::Sender<NetFacts>,
}

fn start(flows: Vec<PairedFlow>) -> Bench {
    let (ended, ended_in): (_, Receiver<Ended>) = mpsc::channel(8);
    let (trigger, shutdown) = shutdown::channel();
    let link = Link::ethernet(CLIENT_LINK, "eth1", Mac([2, 0, 0, 0, 0, 2]));
    let facts =
        NetFacts { complete: true, links: BTreeMap::from([(CLIENT_LINK, link)]), ..NetFacts::default() };
    let (facts_out, facts) = watch::channel(facts);
    let (sender, sent) = unbounded_channel();
    let fail = Arc::default();
    let fake = Fake::default();
    fake.set_pairs(flows);
    let post = Recorder { sent: sender, fail: Arc::clone(&fail) };
    tokio::spawn(Resets::new(Arc::new(fake.clone()), ended_in, facts, post).run(shutdown));
    Bench { fake, ended, sent, fail, _trigger: trigger, _facts: facts_out }
}

impl Bench {
    async fn dies(&self, who: &str, slot: u16, generation: u16) {
        let backend = Backend { generation, ..live() };
        let death = Death { who: who.into(), slot, backend };
        self.ended.send(Ended::Servers(vec![death])).await.unwrap();
    }

    async fn frames(&mut self, count: usize) -> Vec<Sent> {
        let mut frames = Vec::new();
        for _ in 0..count {
            frames.push(self.sent.recv().await.unwrap());
        }
        frames
    }

    /// Lets far more time pass than any try takes.
    async fn expect_silence(&mut self) {
        tokio::time::sleep(PAUSE * (TRIES + 1)).await;
        assert_eq!(self.sent.try_recv().ok(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_are_asked_three_times_as_if_by_the_other_with_other_numbers() {
    let mut bench = start(vec![flow(40_000)]);
    bench.dies("HL7/R1", SLOT, GENERATION).await;
    let frames = bench.frames(6).await;
    bench.expect_silence().await;
    let mut numbers = BTreeSet::new();
    for (tried, pair) in (0..).zip(frames.chunks(2)) {
        let [(client_link, at, to_client), (server_link, _, to_server)] = pair else { panic!("{pair:?}") };
        assert_eq!((*client_link, *server_link), (CLIENT_LINK, SERVER_LINK));
        assert!(*at - frames[0].1 >= PAUSE * tried);
        // MACs, then addresses and ports.
        assert_eq!(to_client[..12], [2, 0, 0, 0, 0, 0x11, 2, 0, 0, 0, 0, 2]);
        assert_eq!(to_client[26..38], [10, 0, 0, 1, 192, 0, 2, 9, 0x0a, 0x0f, 0x9c, 0x40]);
        assert_eq!(to_server[..12], [2, 0, 0, 0, 0, 0x22, 2, 0, 0, 0, 0, 4]);
        assert_eq!(to_server[26..38], [10, 1, 0, 1, 10, 1, 0, 5, 0x9c, 0x40, 0x0a, 0x0f]);
        numbers.insert(to_client[38..42].to_vec());
    }
    assert_eq!(numbers.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_gone_is_asked_no_more_and_others_are() {
    let mut bench = start(vec![flow(40_000), flow(40_001)]);
    bench.dies("HL7/R1", SLOT, GENERATION).await;
    bench.frames(4).await;
    bench.fake.set_pairs(vec![flow(40_001)]);
    for (_, _, frame) in bench.frames(4).await.iter().step_by(2) {
        assert_eq!(frame[36..38], 40_001u16.to_be_bytes());
    }
    bench.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn only_flows_of_the_generation_that_died_are_asked() {
    let mut bench = start(vec![PairedFlow { generation: GENERATION + 1, ..flow(40_000) }]);
    bench.dies("HL7/R1", SLOT, GENERATION).await;
    bench.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_cannot_be_sent_stop_no_others() {
    let mut bench = start(vec![flow(40_000)]);
    *bench.fail.lock().unwrap() = 1;
    bench.dies("HL7/R1", SLOT, GENERATION).await;
    assert_eq!(bench.frames(5).await[0].0, SERVER_LINK);
    bench.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_behind_an_interface_that_is_gone_is_left_out() {
    let hop = Hop { ifindex: 9, ..flow(40_000).hop };
    let mut bench = start(vec![PairedFlow { hop, ..flow(40_000) }]);
    bench.dies("HL7/R1", SLOT, GENERATION).await;
    assert!(bench.frames(3).await.iter().all(|(link, ..)| *link == SERVER_LINK));
    bench.expect_silence().await;
}

#[tokio::test(start_paused = true)]
async fn both_ends_of_killed_connections_are_asked_and_nobody_else() {
    let mut bench = start(vec![flow(40_000), flow(40_001)]);
    let servers = Servers::from([(SLOT, live())]);
    bench.ended.send(Ended::Flows(vec![flow(40_001)], servers)).await.unwrap();
    let frames = bench.frames(6).await;
    for pair in frames.chunks(2) {
        let [(client_link, _, to_client), (server_link, _, to_server)] = pair else { panic!("{pair:?}") };
        assert_eq!((*client_link, *server_link), (CLIENT_LINK, SERVER_LINK));
        assert_eq!(to_client[36..38], 40_001u16.to_be_bytes());
        assert_eq!(to_server[..6], live().dst_mac.0);
    }
    bench.expect_silence().await;
}
