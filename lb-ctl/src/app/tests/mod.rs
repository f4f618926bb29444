//! The whole daemon but for its edges: the data plane and the network are in memory, the socket is real.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Mutex, time::SystemTime};

use http_body_util::{BodyExt as _, Full};
use hyper::{StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use lb_common::net::Mac;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::sleep,
};

mod certificates;
mod checks;
mod history;

use super::*;
use crate::{
    claims::Claimed,
    control::disk::Disk,
    dataplane::fake::Fake,
    edges,
    model::{
        command::{Edit, Outcome, Refusal},
        config::{
            Config, GatewayAddress, Mode, Ports, Protocol, Rip, Scheduler, Source, SourceAddresses, Vip,
        },
        health::{Health, RipId, Verdict},
        history::{Cause, Version, VersionHead},
        net::{Address, Link, Path as NetPath, VipAddress},
        operator::Order,
        status::{Colour, FlowCount, FlowList, RipState, SourcePorts, Status},
    },
};

const DEADLINE: Duration = Duration::from_secs(10);

fn vip(name: &str, ip: &str, rips: &[(&str, &str)]) -> Vip {
    Vip {
        scheduler: Scheduler::Wrr,
        rips: rips.iter().map(|(name, ip)| Rip::new(*name, ip.parse().unwrap())).collect(),
        ..Vip::new(name, Mode::L4Dr, ip.parse().unwrap(), Ports::Ranges(vec![104..=104]))
    }
}

fn config(vips: Vec<Vip>) -> Config {
    Config { vips, ..Config::default() }
}

fn pacs() -> Vip {
    vip("PACS", "10.12.1.100", &[("R1", "10.12.1.110"), ("R2", "10.12.1.111")])
}

/// "The network": one interface; addresses come and go in the facts, some are somebody else's.
#[derive(Clone)]
struct Lan {
    facts: Arc<Mutex<NetFacts>>,
    changed: watch::Sender<u64>,
    taken: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// Addresses to be claimed that are no VIP's.
    beside_vips: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// While false, asking for the owner of an address gets no end.
    answers: watch::Sender<bool>,
    fake: Fake,
}

impl Lan {
    fn new(fake: &Fake) -> Self {
        let link = Link::ethernet(2, "eth1", Mac([2, 0, 0, 0, 0, 1]));
        let facts = NetFacts {
            complete: true,
            links: [(2, link)].into(),
            addresses: vec![address("10.12.1.1".parse().unwrap(), 24)],
            ..NetFacts::default()
        };
        Self {
            facts: Arc::new(Mutex::new(facts)),
            changed: watch::channel(0).0,
            taken: Arc::default(),
            beside_vips: Arc::default(),
            answers: watch::channel(true).0,
            fake: fake.clone(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut NetFacts)) {
        change(&mut self.facts.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
    }

    fn has(&self, ip: &str) -> bool {
        let ip: IpAddr = ip.parse().unwrap();
        self.facts.lock().unwrap().addresses.iter().any(|a| a.ip == ip)
    }

    /// Every watched address answers at once.
    async fn run(
        self,
        mut watched: watch::Receiver<Watched>,
        facts: watch::Sender<NetFacts>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut changed = self.changed.subscribe();
        let mut ended = std::pin::pin!(shutdown.requested());
        loop {
            let mut now = self.facts.lock().unwrap().clone();
            for &ip in watched.borrow_and_update().iter() {
                let path = NetPath {
                    ifindex: Some(2),
                    gateway: None,
                    local: false,
                    mac: Some(Mac([2, 0, 0, 0, 1, 1])),
                    failed: false,
                };
                now.paths.insert(ip, path);
            }
            facts.send_replace(now);
            tokio::select! {
                () = &mut ended => return Ok(()),
                change = watched.changed() => change?,
                change = changed.changed() => change?,
            }
        }
    }
}

fn address(ip: IpAddr, prefix: u8) -> Address {
    Address { ifindex: 2, ip, prefix, duplicate: false, tentative: false }
}

impl AddressBook for Lan {
    async fn add(&self, wanted: VipAddress) -> Result<Claimed, String> {
        let installed = self.fake.installed();
        let is_vip = !self.beside_vips.lock().unwrap().contains(&wanted.ip);
        assert!(
            !is_vip || installed.keys.keys().any(|k| k.ip == wanted.ip),
            "{} is claimed before its service",
            wanted.ip
        );
        assert!(installed.links.contains_key(&2), "{} is claimed before the link is attached", wanted.ip);
        self.answers.subscribe().wait_for(|answers| *answers).await.map_err(|gone| gone.to_string())?;
        if self.taken.lock().unwrap().contains(&wanted.ip) {
            return Err(format!("{} is in use by another host: free it", wanted.ip));
        }
        self.change(|facts| facts.addresses.push(address(wanted.ip, 32)));
        Ok(Claimed::Added)
    }

    async fn remove(&self, unwanted: VipAddress) -> Result<(), String> {
        let installed = self.fake.installed();
        assert!(installed.keys.keys().any(|k| k.ip == unwanted.ip), "{} goes after its service", unwanted.ip);
        self.change(|facts| facts.addresses.retain(|a| a.ip != unwanted.ip));
        Ok(())
    }
}

/// A daemon in a directory of its own.
struct Daemon {
    app: App,
    socket: PathBuf,
    health: watch::Sender<HealthMap>,
}

struct World {
    dir: tempfile::TempDir,
    fake: Fake,
    lan: Lan,
    disk: Disk,
    verdicts: Verdicts,
}

/// Where verdicts come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdicts {
    /// Servers are checked.
    Found,
    /// The test says them.
    Said,
}

impl World {
    fn new(config: Config) -> Self {
        let fake = Fake::default();
        Self {
            dir: tempfile::tempdir().unwrap(),
            lan: Lan::new(&fake),
            fake,
            disk: Disk::new(config),
            verdicts: Verdicts::Said,
        }
    }

    async fn start(&self) -> Daemon {
        self.start_with(Arc::new(self.disk.clone())).await
    }

    async fn start_with(&self, store: Arc<dyn ConfigStore>) -> Daemon {
        let socket = self.dir.path().join("lbd.sock");
        let (operator, owned) = open_state(self.dir.path()).unwrap();
        let (writer, reader) = self.fake.open();
        let (health, verdicts) = watch::channel(HealthMap::new());
        let (lan, runtime_dir) = (self.lan.clone(), self.dir.path().join("run"));
        let origin = self.verdicts;
        let app = App::start(Parts {
            loaded: store.load().unwrap(),
            store,
            operator,
            owned,
            listener: server::bind(&socket).unwrap(),
            writer: Box::new(writer),
            reader: Box::new(reader),
            book: self.lan.clone(),
            post: Unsent,
            network: |watched, facts, shutdown| lan.run(watched, facts, shutdown),
            checks: |connections: health::Connections, shutdown| async move {
                match origin {
                    Verdicts::Found => edges::checks(connections, shutdown).await,
                    Verdicts::Said => relay(verdicts, connections.health, shutdown).await,
                }
            },
            journal: Journal::open(self.dir.path()).unwrap(),
            foreign: |_connections, shutdown| idle(shutdown),
            alerts: |_connections, shutdown| idle(shutdown),
            carried: BTreeSet::new(),
            proxy: |connections, shutdown| haproxy::run(connections, runtime_dir, shutdown),
            routing: |_connections, shutdown| idle(shutdown),
        });
        let mut reconciled = app.reconciled.clone();
        drop(timeout(DEADLINE, reconciled.wait_for(|r| r.number > 0)).await.unwrap().unwrap());
        Daemon { app, socket, health }
    }
}

/// No frames: servers of these tests have no connections.
struct Unsent;

impl Post for Unsent {
    async fn send(&mut self, _ifindex: u32, _frame: &[u8]) -> Result<(), String> {
        Err("nothing is sent here".to_owned())
    }
}

/// A task that has nothing to do.
async fn idle(shutdown: Shutdown) -> anyhow::Result<()> {
    shutdown.requested().await;
    Ok(())
}

/// The checks of a test: verdicts as the test says them.
async fn relay(
    mut from: watch::Receiver<HealthMap>,
    to: watch::Sender<HealthMap>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut ended = std::pin::pin!(shutdown.requested());
    loop {
        to.send_replace(from.borrow_and_update().clone());
        tokio::select! {
            () = &mut ended => return Ok(()),
            changed = from.changed() => changed?,
        }
    }
}

impl Daemon {
    fn verdict(&self, vip: &str, rip: &str, verdict: Verdict) {
        let id = RipId { vip: vip.to_owned(), rip: rip.to_owned() };
        let health = Health::new(verdict, SystemTime::now());
        self.health.send_modify(|map| drop(map.insert(id, health)));
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> (StatusCode, Bytes) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lbd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.headers()["server"], concat!("lbd/", env!("CARGO_PKG_VERSION")));
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, body)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask("GET", path, String::new()).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    async fn command(&self, command: &Command) -> Result<Outcome, String> {
        let (status, body) = self.ask("POST", "/v1/command", serde_json::to_string(command).unwrap()).await;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap());
        }
        let refusal: Refusal = serde_json::from_slice(&body).unwrap();
        Err(refusal.error)
    }

    /// The status, as soon as it is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let seen = async {
            loop {
                let status: Status = self.get("/v1/status").await;
                if wanted(&status) {
                    return status;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        match timeout(DEADLINE, seen).await {
            Ok(status) => status,
            Err(_elapsed) => panic!("never {what}: {:#?}", self.get::<Status>("/v1/status").await),
        }
    }

    async fn both_up(&self) {
        self.verdict("PACS", "R1", Verdict::Up);
        self.verdict("PACS", "R2", Verdict::Up);
        self.until("green", |s| s.health == Colour::Green).await;
    }
}

const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
const HALT: Order = Order::Halt { keep_sessions: false };

fn set_state(rip: &str, state: Order) -> Command {
    Command::SetState { rips: vec![RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }], state }
}

fn servers_in_table(fake: &Fake) -> usize {
    fake.installed().tables.values().map(|t| t.entrants.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_turns_from_red_to_yellow_to_green_as_its_servers_come_up() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    let status = daemon.until("claimed", |_| world.lan.has("10.12.1.100")).await;
    assert_eq!((status.health, status.vips[0].rips[0].state), (Colour::Red, RipState::Checking));
    daemon.verdict("PACS", "R1", Verdict::Up);
    daemon.until("yellow", |s| s.health == Colour::Yellow).await;
    daemon.both_up().await;
    assert_eq!(servers_in_table(&world.fake), 2);
    world.fake.check_invariants().unwrap();
    let status = daemon.until("attached", |s| !s.links.is_empty()).await;
    assert_eq!((status.links[0].name.as_str(), status.links[0].xdp.as_str()), ("eth1", "native"));
    daemon.app.stop().await;
    assert!(
        world.lan.has("10.12.1.100") && !world.fake.installed().keys.is_empty(),
        "stopping leaves it forwarding"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_reached_disk_and_data_plane_when_it_is_answered() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.both_up().await;
    let outcome = daemon.command(&set_state("R1", DRAIN)).await.unwrap();
    assert_eq!(outcome.changes, ["PACS/R1: online -> drain"]);
    assert_eq!(servers_in_table(&world.fake), 1);
    assert!(std::fs::read_to_string(world.dir.path().join("operator.json")).unwrap().contains("drain"));
    let outcome = daemon.command(&set_state("R2", HALT)).await.unwrap();
    assert_eq!(outcome.warnings, ["PACS has no real server left that takes new connections"]);
    assert_eq!(servers_in_table(&world.fake), 0);
    assert!(daemon.command(&set_state("R2", HALT)).await.unwrap().changes.is_empty());

    daemon.app.stop().await;
    let daemon = world.start().await;
    let status: Status = daemon.get("/v1/status").await;
    assert_eq!(status.vips[0].rips[0].state, RipState::Drain, "survives a restart");
    assert_eq!(status.vips[0].rips[1].state, RipState::Halt);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_no_server_and_touches_no_key() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.both_up().await;
    daemon.app.stop().await;
    let before = world.fake.installed();
    drop(world.fake.take_ops());
    let daemon = world.start().await;
    let status = daemon.until("in service as before, without a verdict", |s| s.health == Colour::Green).await;
    assert!(status.vips[0].rips.iter().all(|r| r.verdict == Verdict::Unknown));
    daemon.until("tables written", |_| !world.fake.installed().tables.is_empty()).await;
    let after = world.fake.installed();
    assert_eq!((after.backends, after.keys, after.services), (before.backends, before.keys, before.services));
    daemon.verdict("PACS", "R1", Verdict::Down);
    daemon.until("R1 down", |s| s.vips[0].rips[0].state == RipState::Down).await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn editing_and_applying_add_and_remove_vips_in_the_right_order() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.until("claimed", |_| world.lan.has("10.12.1.100")).await;
    let mut both = config(vec![pacs()]);
    both.vips.push(vip("XDS", "10.12.1.101", &[("X1", "10.12.1.120")]));
    world.disk.put(Ok(both));
    let diff: Outcome = daemon.get("/v1/config/diff").await;
    assert_eq!(diff.changes, ["VIP XDS"]);
    assert!(!world.lan.has("10.12.1.101"));
    daemon.command(&Command::Apply).await.unwrap();
    assert!(world.lan.has("10.12.1.101"), "claimed when answered");

    let delete =
        |dry_run| Command::Edit { edit: Box::new(Edit::VipDelete { vip: "PACS".to_owned() }), dry_run };
    assert_eq!(daemon.command(&delete(true)).await.unwrap().changes, ["VIP PACS"]);
    assert!(world.lan.has("10.12.1.100"), "a dry run changes nothing");
    daemon.command(&delete(false)).await.unwrap();
    assert!(!world.lan.has("10.12.1.100") && world.lan.has("10.12.1.101"));
    assert!(world.lan.has("10.12.1.1"), "only what was added is removed");
    assert_eq!(world.fake.installed().services.len(), 1);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration_keeps_the_running_one_and_is_remembered() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    let before = world.fake.installed();
    world.disk.put(Err("lbd.toml:3: unknown key `prots`".to_owned()));
    let error = daemon.command(&Command::Apply).await.unwrap_err();
    assert_eq!(error, "lbd.toml:3: unknown key `prots`");
    let status: Status = daemon.get("/v1/status").await;
    assert!(status.problems[0].contains("the one before is in force"), "{:?}", status.problems);
    assert_eq!(world.fake.installed(), before);
    world.disk.put(Ok(config(vec![pacs()])));
    daemon.command(&Command::Apply).await.unwrap();
    let status: Status = daemon.get("/v1/status").await;
    assert!(status.problems.is_empty(), "{:?}", status.problems);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_in_one_line_that_names_it() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    let no_rip = daemon.command(&set_state("R9", DRAIN)).await.unwrap_err();
    assert_eq!(no_rip, "VIP PACS has no real server R9: it has R1, R2");
    let (status, body) = daemon.ask("POST", "/v1/command", "{\"command\":\"explode\"}".to_owned()).await;
    assert!(status.is_client_error());
    let refusal: Refusal = serde_json::from_slice(&body).unwrap();
    assert!(refusal.error.contains("explode"), "{}", refusal.error);
    let (status, _) = daemon.ask("GET", "/v1/flows?limit=many", String::new()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Refused with the first byte too much; what follows is not waited for.
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    let head = "POST /v1/command HTTP/1.1\r\nhost: lbd\r\ncontent-type: application/json\r\ncontent-length: 2097152\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; (1 << 20) + 1]).await.unwrap();
    let mut answer = [0; 12];
    timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, *b"HTTP/1.1 413");
    drop(stream);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_another_host_is_said_and_does_not_stop_other_vips() {
    let world = World::new(config(vec![pacs(), vip("XDS", "10.12.1.101", &[("X1", "10.12.1.120")])]));
    world.lan.taken.lock().unwrap().insert("10.12.1.100".parse().unwrap());
    let daemon = world.start().await;
    let conflict = "10.12.1.100 is in use by another host: free it";
    let status = daemon.until("conflict", |s| s.vips[0].problem.as_deref() == Some(conflict)).await;
    assert_eq!(status.vips[0].colour, Colour::Red);
    daemon.until("XDS claimed", |_| world.lan.has("10.12.1.101")).await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_is_not_green_before_its_address_is_there() {
    let world = World::new(config(vec![pacs()]));
    world.lan.answers.send_replace(false);
    let daemon = world.start().await;
    daemon.verdict("PACS", "R1", Verdict::Up);
    daemon.verdict("PACS", "R2", Verdict::Up);
    let active = |s: &Status| s.vips[0].rips.iter().all(|r| r.state == RipState::Active);
    let status = daemon.until("both servers up", active).await;
    assert_eq!((status.health, status.vips[0].colour), (Colour::Red, Colour::Red), "nobody can reach it");
    let problem = status.vips[0].problem.clone().unwrap_or_default();
    assert!(problem.starts_with("claiming 10.12.1.100 on eth1"), "{problem}");

    world.lan.answers.send_replace(true);
    daemon.until("green", |s| s.health == Colour::Green && s.vips[0].problem.is_none()).await;
    assert!(world.lan.has("10.12.1.100"));
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_active_while_it_stands_in_the_table_and_no_longer() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.until("claimed", |s| s.vips[0].problem.is_none() && world.lan.has("10.12.1.100")).await;
    // The first step brings the server to life, the second one puts it into the table.
    world.fake.fail_at(1);
    daemon.verdict("PACS", "R1", Verdict::Up);
    let status = daemon.until("refused", |s| s.vips[0].problem.is_some()).await;
    let rip = &status.vips[0].rips[0];
    assert_eq!((rip.verdict, rip.state), (Verdict::Up, RipState::Checking), "{rip:?}");
    assert_eq!(rip.detail, "not in the data plane yet");
    daemon.until("tried again", |s| s.vips[0].rips[0].state == RipState::Active).await;
    assert_eq!(servers_in_table(&world.fake), 1);

    // The same the other way: until it has left the table, it takes new connections.
    daemon.until("no problem", |s| s.vips[0].problem.is_none()).await;
    world.fake.fail_at(0);
    daemon.verdict("PACS", "R1", Verdict::Down);
    let status = daemon.until("refused", |s| s.vips[0].problem.is_some()).await;
    let rip = &status.vips[0].rips[0];
    assert_eq!((rip.verdict, rip.state), (Verdict::Down, RipState::Active), "{rip:?}");
    assert!(rip.detail.ends_with("still takes new connections"), "{}", rip.detail);
    daemon.until("tried again", |s| s.vips[0].rips[0].state == RipState::Down).await;
    assert_eq!(servers_in_table(&world.fake), 0);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_somebody_deleted_comes_back() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.until("claimed", |_| world.lan.has("10.12.1.100")).await;
    world.lan.change(|facts| facts.addresses.retain(|a| a.prefix != 32));
    daemon.until("claimed again", |_| world.lan.has("10.12.1.100")).await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_something_took_off_is_told_and_put_back() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.both_up().await;
    world.fake.refuse_link(2, true);
    world.fake.take_off(2);
    let status = daemon.until("not served", |s| s.vips[0].problem.is_some()).await;
    assert_eq!((status.health, status.links.len()), (Colour::Red, 0));
    let told = |s: &Status, words: &str| {
        s.problems.iter().any(|p| p.contains("took the program off eth1") && p.contains(words))
    };
    assert!(told(&status, "is not back yet"), "{:?}", status.problems);
    world.fake.refuse_link(2, false);
    let status = daemon.until("green again", |s| s.health == Colour::Green).await;
    assert!(told(&status, "was put back"), "{:?}", status.problems);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_kernel_refused_is_told_and_tried_again() {
    let world = World::new(config(vec![pacs()]));
    world.fake.refuse_link(2, true);
    let daemon = world.start().await;
    let status: Status = daemon.get("/v1/status").await;
    assert_eq!(status.health, Colour::Red);
    assert!(status.problems.iter().any(|p| p.contains("refused by the test")), "{:?}", status.problems);
    assert!(!world.lan.has("10.12.1.100"), "no address without the program");
    world.fake.refuse_link(2, false);
    daemon.until("claimed", |_| world.lan.has("10.12.1.100")).await;
    daemon.both_up().await;
    world.fake.fail_at(0);
    let error = daemon.command(&set_state("R1", DRAIN)).await.unwrap_err();
    assert!(error.starts_with("saved, but the data plane refuses: "), "{error}");
    daemon.until("drained all the same", |_| servers_in_table(&world.fake) == 1).await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_are_listed_and_counted_by_name() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.both_up().await;
    let installed = world.fake.installed();
    let (slot, (_, record)) = installed.backends.iter().find(|(_, (who, _))| who.name == "R2").unwrap();
    let flow = |client: &str| crate::dataplane::Flow {
        client: (client.parse().unwrap(), 50000),
        vip: ("10.12.1.100".parse().unwrap(), 104),
        server: None,
        source: None,
        protocol: Protocol::Tcp,
        state: lb_common::flow::State::Established,
        service: 0,
        slot: *slot,
        generation: record.generation,
        idle_millis: 1500,
    };
    let closing = crate::dataplane::Flow { state: lb_common::flow::State::Closing, ..flow("10.0.0.2") };
    world.fake.set_flows(vec![flow("10.0.0.1"), flow("10.0.0.1"), closing]);
    let list: FlowList = daemon.get("/v1/flows?limit=1").await;
    assert_eq!((list.flows.len(), list.total, list.flows[0].rip.as_deref()), (1, 3, Some("R2")));
    let list: FlowList = daemon.get("/v1/flows?vip=PACS&client=10.0.0.1").await;
    assert_eq!((list.flows.len(), list.total), (2, 2));
    let counts: Vec<FlowCount> = daemon.get("/v1/flows/count?by=client").await;
    let counts: Vec<_> = counts.iter().map(|c| (c.key.as_str(), c.flows)).collect();
    assert_eq!(counts, [("10.0.0.1", 2), ("10.0.0.2", 1)]);
    let counts: Vec<FlowCount> = daemon.get("/v1/flows/count?by=rip").await;
    assert_eq!((counts[0].key.as_str(), counts[0].flows), ("PACS/R2", 3));
    let counts: Vec<FlowCount> = daemon.get("/v1/flows/count?by=state").await;
    let counts: Vec<_> = counts.iter().map(|c| (c.key.as_str(), c.flows)).collect();
    assert_eq!(counts, [("established", 2), ("closing", 1)]);
    let counted = |s: &Status| {
        let (vip, rip) = (&s.vips[0], &s.vips[0].rips[1]);
        [(vip.connections, vip.closing), (rip.connections, rip.closing)] == [(2, 1); 2]
    };
    daemon.until("active ones counted, closing ones apart", counted).await;
    daemon.command(&set_state("R2", HALT)).await.unwrap();
    daemon.until("flows of a halted server go", |s| s.flows.established_v4 == 0).await;
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snat_takes_its_source_from_claimed_addresses_and_tells_when_ports_run_short() {
    let pool = ["10.12.1.20", "10.12.1.21"];
    let mut snat = pacs();
    snat.mode = Mode::L4Snat;
    snat.source = Source {
        addresses: SourceAddresses::Pool(pool.map(|ip| ip.parse().unwrap()).to_vec()),
        ports: 20_000..=20_001,
    };
    let world = World::new(config(vec![snat]));
    for set in [&world.lan.taken, &world.lan.beside_vips] {
        set.lock().unwrap().extend(pool.map(|ip| ip.parse::<IpAddr>().unwrap()));
    }
    let daemon = world.start().await;
    daemon.verdict("PACS", "R1", Verdict::Up);
    daemon.verdict("PACS", "R2", Verdict::Up);
    let refused = |s: &Status| {
        let vip = &s.vips[0];
        let waits = vip.rips.iter().all(|rip| rip.detail == "waiting for a source address");
        waits && vip.problem.as_ref().is_some_and(|p| p.contains("10.12.1.20 is in use"))
    };
    let status = daemon.until("no source address can be had", refused).await;
    assert_eq!(status.vips[0].colour, Colour::Red);
    assert_eq!(servers_in_table(&world.fake), 0, "nothing half-configured");
    let told = |s: &Status, ip| s.problems.iter().any(|p| p.starts_with(ip));
    daemon.until("both are told of", |s| pool.iter().all(|ip| told(s, ip))).await;
    daemon.app.stop().await;

    world.lan.taken.lock().unwrap().clear();
    let daemon = world.start().await;
    daemon.both_up().await;
    let status = daemon.until("green", |s| s.health == Colour::Green).await;
    // Two addresses with two ports each, towards each of two servers.
    assert_eq!(status.vips[0].source_ports, Some(SourcePorts { in_use: 0, capacity: 8 }));

    let (slot, generation) = {
        let installed = world.fake.installed();
        let (slot, (_, record)) = installed.backends.iter().next().unwrap();
        (*slot, record.generation)
    };
    let flow = |n: u16| crate::dataplane::Flow {
        client: ("10.0.0.1".parse().unwrap(), n),
        vip: ("10.12.1.100".parse().unwrap(), 104),
        server: Some(("10.12.1.110".parse().unwrap(), 104)),
        source: Some(("10.12.1.20".parse().unwrap(), 20_000 + n)),
        protocol: Protocol::Tcp,
        state: lb_common::flow::State::Established,
        service: 0,
        slot,
        generation,
        idle_millis: 0,
    };
    world.fake.set_flows((0..6).map(flow).collect());
    let in_use = |n: u64| move |s: &Status| s.vips[0].source_ports.is_some_and(|p| p.in_use == n);
    let status = daemon.until("six of eight", in_use(6)).await;
    assert!(!status.problems.iter().any(|p| p.contains("source ports")), "{:?}", status.problems);
    world.fake.set_flows((0..7).map(flow).collect());
    let status = daemon.until("seven of eight", in_use(7)).await;
    let told =
        "VIP PACS has 87 % of its source ports in use, 7 of 8: give it more `source` addresses or ports";
    assert!(status.problems.iter().any(|p| p == told), "{:?}", status.problems);
    let list: FlowList = daemon.get("/v1/flows?limit=1").await;
    assert_eq!(list.flows[0].server, Some("10.12.1.110:104".parse().unwrap()));
    assert_eq!(list.flows[0].source.map(|s| s.ip()), Some("10.12.1.20".parse().unwrap()));
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_address_is_claimed_without_any_vip_and_its_owner_is_told_of() {
    let mut config = config(Vec::new());
    let gateway = |text: &str| GatewayAddress { ip: text.parse().unwrap(), interface: None };
    config.gateway.addresses = vec![gateway("10.12.1.253"), gateway("10.12.1.254")];
    let world = World::new(config);
    world.lan.taken.lock().unwrap().insert("10.12.1.253".parse().unwrap());
    let both = ["10.12.1.253", "10.12.1.254"].map(|ip| ip.parse::<IpAddr>().unwrap());
    world.lan.beside_vips.lock().unwrap().extend(both);
    let daemon = world.start().await;
    daemon.until("claimed", |_| world.lan.has("10.12.1.254")).await;
    daemon.until("told", |s| s.problems.iter().any(|p| p.contains("10.12.1.253"))).await;
    assert_eq!(world.fake.installed().link_records[&2].mtu, 1500);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
    let world = World::new(config(Vec::new()));
    let daemon = world.start().await;
    let error = server::bind(&daemon.socket).unwrap_err().to_string();
    assert!(error.starts_with("another lbd is running on "), "{error}");
    daemon.app.stop().await;
    assert!(world.dir.path().join("lbd.sock").exists());
    drop(server::bind(&world.dir.path().join("lbd.sock")).unwrap());
    let plain = world.dir.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    assert!(server::bind(&plain).unwrap_err().to_string().contains("is no socket"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detach_removes_addresses_and_data_plane_and_says_so() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    daemon.until("claimed", |_| world.lan.has("10.12.1.100")).await;
    daemon.app.stop().await;
    let (_, owned) = open_state(world.dir.path()).unwrap();
    let fake = world.fake.clone();
    let remove_all = move || {
        Box::new(fake.open().0).remove_all()?;
        Ok(vec!["removed the fake".to_owned()])
    };
    let removed = detach(&world.lan, owned, remove_all).await.unwrap();
    assert_eq!(removed, ["removed address 10.12.1.100", "removed the fake"]);
    assert!(world.fake.removed() && !world.lan.has("10.12.1.100") && world.lan.has("10.12.1.1"));
}
