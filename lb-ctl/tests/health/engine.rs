//! The engine: who is asked when, and who hears of it.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use lb_ctl::{
    health::{Connections, Engine, RunRequest},
    model::{
        check::{CheckKind, SynRepeats},
        health::{
            Asked, FailureReason, HealthMap, RipId, RunResults, SynRepeatCounts, Targets, Transition, Verdict,
        },
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    PATIENCE, accept_body, closed_port, dicom_echo, echo_response, read_pdu, server, target, within,
    write_pdu,
};

/// An engine at work.
struct Running {
    targets: watch::Sender<Targets>,
    health: watch::Receiver<HealthMap>,
    syn_repeats: watch::Sender<Arc<SynRepeatCounts>>,
    runs: mpsc::Sender<RunRequest>,
    transitions: mpsc::Receiver<Transition>,
    stop: oneshot::Sender<()>,
    engine: JoinHandle<()>,
}

impl Running {
    fn start(targets: Targets) -> Self {
        let (targets, targets_rx) = watch::channel(targets);
        let (health_tx, health) = watch::channel(HealthMap::new());
        let (syn_repeats, syn_repeats_rx) = watch::channel(Arc::default());
        let (runs, runs_rx) = mpsc::channel(8);
        let (transitions_tx, transitions) = mpsc::channel(1 << 16);
        let (stop, stopped) = oneshot::channel::<()>();
        let connections = Connections {
            targets: targets_rx,
            health: health_tx,
            syn_repeats: syn_repeats_rx,
            runs: runs_rx,
            transitions: transitions_tx,
        };
        let engine = tokio::spawn(Engine::with_seed(connections, 1).run(async {
            let _ = stopped.await;
        }));
        Self { targets, health, syn_repeats, runs, transitions, stop, engine }
    }

    /// Waits until what is published satisfies the condition.
    async fn until(&mut self, what: &str, holds: impl Fn(&HealthMap) -> bool) -> HealthMap {
        let waited = tokio::time::timeout(PATIENCE, self.health.wait_for(|map| holds(map)))
            .await
            .map(|map| map.unwrap().clone());
        waited.unwrap_or_else(|_| panic!("never came: {what}: {:?}", self.health.borrow()))
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.engine).await.unwrap().unwrap();
    }
}

fn verdict(map: &HealthMap, rip: &str) -> Option<Verdict> {
    map.get(&RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }).map(|health| health.verdict)
}

#[tokio::test]
async fn the_engine_follows_servers_and_the_list_of_targets() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let up = target("A", addr, CheckKind::Connect);
    let down = target("B", closed_port().await, CheckKind::Connect);
    let mut engine = Running::start(vec![up.clone(), down.clone()]);
    engine.until("unknown at first", |map| verdict(map, "B") == Some(Verdict::Unknown)).await;
    let map = engine
        .until("A up, B down", |map| {
            verdict(map, "A") == Some(Verdict::Up) && verdict(map, "B") == Some(Verdict::Down)
        })
        .await;
    let since = map[&up.id].since;
    drop(listener);
    let map = engine.until("A down", |map| verdict(map, "A") == Some(Verdict::Down)).await;
    assert!(map[&up.id].since > since);
    assert_eq!(
        map[&up.id].last.as_ref().unwrap().failure.as_ref().unwrap().reason,
        FailureReason::ConnectRefused
    );
    let _listener = TcpListener::bind(addr).await.unwrap();
    engine.until("A up again", |map| verdict(map, "A") == Some(Verdict::Up)).await;
    engine.targets.send(vec![down]).unwrap();
    engine.until("A gone", |map| map.len() == 1 && verdict(map, "A").is_none()).await;
    engine.stop().await;
}

#[tokio::test]
async fn a_target_removed_while_its_check_runs_is_released_and_forgotten() {
    let (ended, mut ends) = mpsc::channel(8);
    let (began, mut begins) = mpsc::channel(8);
    let (addr, _server) = server(move |mut stream| {
        let (began, ended) = (began.clone(), ended.clone());
        async move {
            read_pdu(&mut stream).await;
            let (go_on, going) = oneshot::channel::<()>();
            began.send(go_on).await.unwrap();
            going.await.unwrap();
            write_pdu(&mut stream, 0x02, &accept_body(0)).await;
            read_pdu(&mut stream).await;
            write_pdu(&mut stream, 0x04, &echo_response(0)).await;
            ended.send(read_pdu(&mut stream).await.unwrap().0).await.unwrap();
            write_pdu(&mut stream, 0x06, &[0; 4]).await;
        }
    })
    .await;
    let mut patient = target("A", addr, dicom_echo());
    patient.check.timeout = PATIENCE;
    let mut engine = Running::start(vec![patient]);
    let go_on = within(begins.recv()).await.unwrap();
    engine.targets.send(Vec::new()).unwrap();
    engine.until("the target gone", HealthMap::is_empty).await;
    go_on.send(()).unwrap();
    assert_eq!(within(ends.recv()).await, Some(0x05), "A-RELEASE-RQ");
    assert!(engine.health.borrow().is_empty());
    engine.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_stopped_releases_what_it_has_begun() {
    let (said, mut heard) = mpsc::channel(8);
    let (addr, _server) = server(move |mut stream| {
        let said = said.clone();
        async move {
            read_pdu(&mut stream).await;
            let (go_on, going) = oneshot::channel::<()>();
            said.send(Err(go_on)).await.unwrap();
            going.await.unwrap();
            write_pdu(&mut stream, 0x02, &accept_body(0)).await;
            read_pdu(&mut stream).await;
            write_pdu(&mut stream, 0x04, &echo_response(0)).await;
            said.send(Ok(read_pdu(&mut stream).await.map(|(kind, _)| kind))).await.unwrap();
        }
    })
    .await;
    let mut patient = target("A", addr, dicom_echo());
    patient.check.timeout = PATIENCE;
    let engine = Running::start(vec![patient]);
    let go_on = within(heard.recv()).await.unwrap().unwrap_err();
    engine.stop.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(within(heard.recv()).await.unwrap().unwrap(), Some(0x05), "A-RELEASE-RQ");
    tokio::time::timeout(PATIENCE, engine.engine).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_behind_many_vips_is_asked_once_per_interval() {
    let (connected, mut connections) = mpsc::unbounded_channel();
    let (addr, _server) = server(move |mut stream| {
        connected.send(()).unwrap();
        async move {
            read_pdu(&mut stream).await;
            write_pdu(&mut stream, 0x03, &[0, 1, 1, 7]).await;
        }
    })
    .await;
    let targets = (0..50)
        .map(|n| {
            let mut target = target(&n.to_string(), addr, dicom_echo());
            target.check.interval = Duration::from_secs(3600);
            target.check.fall = 1;
            target
        })
        .collect();
    let mut engine = Running::start(targets);
    let all_down = |map: &HealthMap| map.len() == 50 && map.values().all(|h| h.verdict == Verdict::Down);
    let map = engine.until("all down", all_down).await;
    let failure = map.values().next().unwrap().last.as_ref().unwrap().failure.as_ref().unwrap();
    assert_eq!(failure.text, "A-ASSOCIATE-RJ: called AE title not recognised (LB-SCP)");
    assert!(connections.try_recv().is_ok());
    assert!(connections.try_recv().is_err(), "one connection for 50 targets");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_servers_all_get_their_verdict_in_few_updates() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let targets = many(2000, port, Duration::from_secs(1));
    let mut engine = Running::start(targets);
    let all_up = |map: &HealthMap| map.len() == 2000 && map.values().all(|h| h.verdict == Verdict::Up);
    let first = engine.until("all up", all_up).await;
    // From here on no verdict changes: several rounds of results go out in a bounded number of updates.
    let started = Instant::now();
    let mut updates = 0;
    let rounds_ago = first.values().map(|h| h.last.as_ref().unwrap().at).max().unwrap();
    let fresh = |map: &HealthMap| {
        map.values().all(|h| h.last.as_ref().unwrap().at > rounds_ago + Duration::from_secs(1))
    };
    while !fresh(&engine.health.borrow_and_update()) {
        tokio::time::timeout(PATIENCE, engine.health.changed()).await.unwrap().unwrap();
        updates += 1;
    }
    let at_most = started.elapsed().as_millis() / 500 + 2;
    assert!(updates <= at_most, "{updates} updates, {at_most} allowed");
    engine.stop().await;
}

impl Running {
    /// Has checks run now, and gives what they found.
    async fn run_now(&self, rips: &[&str]) -> RunResults {
        let rips = rips.iter().map(|rip| id(rip)).collect();
        let (reply, answer) = oneshot::channel();
        self.runs.send(RunRequest { rips, reply }).await.unwrap();
        within(answer).await.unwrap()
    }

    /// Changes of verdicts so far.
    fn turns(&mut self) -> Vec<Transition> {
        std::iter::from_fn(|| self.transitions.try_recv().ok()).collect()
    }
}

fn id(rip: &str) -> RipId {
    RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
}

/// A port of many addresses, each a server of its own.
fn many(count: u32, port: u16, interval: Duration) -> Targets {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    let one = |n: u32| {
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(first + n)), port);
        let mut target = target(&n.to_string(), addr, CheckKind::Connect);
        target.check.interval = interval;
        target.check.timeout = PATIENCE;
        target
    };
    (0..count).map(one).collect()
}

#[tokio::test]
async fn a_check_that_is_run_on_request_is_told_and_counts() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut patient = target("A", listener.local_addr().unwrap(), CheckKind::Connect);
    patient.check.interval = Duration::from_secs(3600);
    let mut off = target("B", closed_port().await, CheckKind::Off);
    off.check.interval = Duration::from_secs(3600);
    let mut engine = Running::start(vec![patient.clone(), off]);
    engine.until("A up", |map| verdict(map, "A") == Some(Verdict::Up)).await;
    drop(listener);
    for counted in [Verdict::Up, Verdict::Down] {
        let results = engine.run_now(&["A", "B", "no such server"]).await;
        let [(rip, Asked::Server, result)] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(*rip, patient.id);
        assert_eq!(result.failure.as_ref().unwrap().reason, FailureReason::ConnectRefused);
        let health = engine.health.borrow()[&patient.id].clone();
        assert_eq!(health.verdict, counted, "who was told finds it published");
        assert_eq!(health.last.as_ref(), Some(result));
    }
    let turns: Vec<_> = engine.turns().into_iter().map(|turn| (turn.from, turn.to)).collect();
    assert_eq!(turns, [(Verdict::Unknown, Verdict::Up), (Verdict::Up, Verdict::Down)]);
    engine.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_server_that_goes_is_told_at_once() {
    let (began, mut begins) = mpsc::channel(8);
    let (addr, _server) = server(move |mut stream| {
        let began = began.clone();
        async move {
            read_pdu(&mut stream).await;
            began.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let mut patient = target("A", addr, dicom_echo());
    patient.check.timeout = PATIENCE;
    let engine = Running::start(vec![patient]);
    within(begins.recv()).await.unwrap();
    let (reply, answer) = oneshot::channel();
    engine.runs.send(RunRequest { rips: vec![id("A")], reply }).await.unwrap();
    engine.targets.send(Vec::new()).unwrap();
    assert_eq!(within(answer).await.unwrap(), []);
    drop(engine);
}

#[tokio::test]
async fn clients_that_try_in_vain_take_a_server_down() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut patient = target("A", listener.local_addr().unwrap(), CheckKind::Connect);
    patient.check.fall = 1;
    patient.check.syn_repeats = SynRepeats::Count;
    let mut engine = Running::start(vec![patient]);
    engine.until("A up", |map| verdict(map, "A") == Some(Verdict::Up)).await;
    engine.syn_repeats.send(Arc::new([(id("A"), 7)].into())).unwrap();
    engine.until("A down", |map| verdict(map, "A") == Some(Verdict::Down)).await;
    let reasons: Vec<_> = engine.turns().into_iter().map(|turn| turn.reason).take(2).collect();
    assert_eq!(reasons, [None, Some(FailureReason::SynsUnanswered)]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tracks_a_vip_goes_down_with_it_long_before_its_own_interval() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tracker = target("T", addr, CheckKind::Track { vip: "PACS".to_owned() });
    tracker.id.vip = "VIEWER".to_owned();
    tracker.check.interval = Duration::from_secs(3600);
    tracker.check.fall = 1;
    tracker.check.rise = 1;
    let mut engine = Running::start(vec![target("A", addr, CheckKind::Connect), tracker.clone()]);
    let is =
        |wanted| move |map: &HealthMap| map.get(&tracker.id).is_some_and(|health| health.verdict == wanted);
    engine.until("T up", is.clone()(Verdict::Up)).await;
    drop(listener);
    engine.until("T down", is(Verdict::Down)).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_servers_that_die_at_once_are_down_in_few_updates() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut engine = Running::start(many(1000, port, Duration::from_millis(500)));
    let all = |wanted| move |map: &HealthMap| map.len() == 1000 && map.values().all(|h| h.verdict == wanted);
    engine.until("all up", all(Verdict::Up)).await;
    drop(listener);
    let mut first_down = None;
    let mut updates = 0;
    loop {
        tokio::time::timeout(PATIENCE, engine.health.changed()).await.unwrap().unwrap();
        let map = engine.health.borrow_and_update();
        if map.values().any(|health| health.verdict == Verdict::Down) {
            first_down.get_or_insert_with(Instant::now);
            updates += 1;
        }
        if all(Verdict::Down)(&map) {
            break;
        }
    }
    // One for each 80 ms in which verdicts changed, and what goes out beside them: not one for each server.
    let elapsed = first_down.unwrap().elapsed().as_millis();
    let at_most = elapsed / 80 + elapsed / 500 + 3;
    assert!(updates <= at_most, "{updates} updates, {at_most} allowed");
    assert_eq!(engine.turns().len(), 2000, "each went up and down");
    engine.stop().await;
}
