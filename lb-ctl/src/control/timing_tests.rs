//! What time makes of the operator's word and of weights. Time is the test's: it passes when everybody waits for it.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use lb_common::net::Mac;
use tokio::{task::JoinHandle, time::sleep};

use super::{disk::Disk, *};
use crate::{
    dataplane::{
        Writer,
        fake::{Fake, FakeWriter},
    },
    model::{
        config::{Mode, Persist, Ports, Rip, Scheduler},
        health::{Health, Verdict},
        net::{Address, Link, Path as NetPath},
        operator::{Forced, Order, Word},
        proxied::Proxied,
        status::RipState,
    },
    plan,
    shutdown::{self, Trigger},
};

/// When every test begins, by the wall clock.
const BEGIN: u64 = 1_778_243_841;
const HALT: Order = Order::Halt { keep_sessions: false };

fn drain(migrate: bool, secs: Option<u64>) -> Order {
    let migrate = Some(migrate);
    Order::Drain { migrate, deadline_epoch_secs: secs.map(|secs| BEGIN + secs), then_halt: true }
}

fn id(rip: &str) -> RipId {
    RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
}

fn pacs() -> Vip {
    let ip = |last| [10, 12, 1, last].into();
    Vip {
        scheduler: Scheduler::Wrr,
        rips: vec![Rip::new("R1", ip(110)), Rip::new("R2", ip(111))],
        ..Vip::new("PACS", Mode::L4Dr, ip(100), Ports::Ranges(vec![104..=104]))
    }
}

/// One interface, on which both servers are known.
fn facts() -> NetFacts {
    let link = Link::ethernet(2, "eth1", Mac([2, 0, 0, 0, 0, 1]));
    let mac = Some(Mac([2, 0, 0, 0, 1, 1]));
    let path = NetPath { ifindex: Some(2), gateway: None, local: false, mac, failed: false };
    let ip = [10, 12, 1, 1].into();
    NetFacts {
        complete: true,
        links: [(2, link)].into(),
        addresses: vec![Address { ifindex: 2, ip, prefix: 24, duplicate: false, tentative: false }],
        paths: [110, 111].map(|last| ([10, 12, 1, last].into(), path.clone())).into(),
    }
}

/// A running controller, and the hands of everybody around it.
struct Desk {
    requests: mpsc::Sender<Request>,
    health: watch::Sender<HealthMap>,
    census: watch::Sender<Arc<FlowCensus>>,
    reconciled: watch::Sender<Arc<Reconciled>>,
    view: watch::Receiver<Arc<View>>,
    _facts: watch::Sender<NetFacts>,
    _proxied: watch::Sender<Arc<Proxied>>,
    kernel: FakeWriter,
    /// Seconds that somebody set the clock forward.
    skew: Arc<AtomicU64>,
    began: Instant,
    trigger: Trigger,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Desk {
    /// Starts with both servers up, and the kernel as it should be.
    async fn start(state_dir: &Path, vip: Vip) -> Self {
        let mut desk = Self::start_on(state_dir, vip, Fake::default().open().0);
        desk.verdicts(Verdict::Up);
        desk.reach().await;
        desk
    }

    fn start_on(state_dir: &Path, vip: Vip, kernel: FakeWriter) -> Self {
        let config = Config { vips: vec![vip], ..Config::default() };
        let (trigger, shutdown) = shutdown::channel();
        let (requests, requests_in) = mpsc::channel(4);
        let (facts, facts_in) = watch::channel(facts());
        let (health, health_in) = watch::channel(HealthMap::new());
        let (census, census_in) = watch::channel(Arc::default());
        let (reconciled, reconciled_in) = watch::channel(Arc::default());
        // No VIP is the proxy's.
        let (proxied, proxied_in) =
            watch::channel(Arc::new(Proxied { number: u64::MAX, ..Proxied::default() }));
        let (publish, view) = watch::channel(Arc::new(Controller::first_view(&config)));
        let (skew, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let forward = Arc::clone(&skew);
        let controller = Controller::new(
            Arc::new(Disk::new(config.clone())),
            config,
            OperatorFile::open(state_dir).unwrap(),
            (DesiredState::from_installed(kernel.installed()), BTreeSet::new()),
            kernel.settings(),
            Connections {
                requests: requests_in,
                facts: facts_in,
                health: health_in,
                census: census_in,
                reconciled: reconciled_in,
                proxied: proxied_in,
                clock: Box::new(move || {
                    let since = began.elapsed() + Duration::from_secs(forward.load(Ordering::Relaxed));
                    UNIX_EPOCH + Duration::from_secs(BEGIN) + since
                }),
                goal: watch::channel(Arc::default()).0,
                targets: watch::channel(Targets::default()).0,
                watched: watch::channel(Watched::default()).0,
                view: publish,
                syn_repeats: watch::channel(Arc::default()).0,
            },
        );
        let task = tokio::spawn(controller.run(shutdown));
        Self {
            requests,
            health,
            census,
            reconciled,
            view,
            _facts: facts,
            _proxied: proxied,
            kernel,
            skew,
            began,
            trigger,
            task,
        }
    }

    fn verdicts(&self, verdict: Verdict) {
        let health = Health::new(verdict, UNIX_EPOCH);
        self.health.send_replace(["R1", "R2"].map(|rip| (id(rip), health.clone())).into());
    }

    async fn command(&self, command: Command) -> Result<Outcome, Refused> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Command(Box::new(command), reply)).await.unwrap();
        answer.await.unwrap().map(|done| done.outcome)
    }

    async fn order(&self, state: Order) {
        self.command(Command::SetState { rips: vec![id("R1")], state }).await.unwrap();
    }

    /// Lets the kernel have what the controller wants now.
    async fn reach(&mut self) {
        sleep(Duration::from_millis(1)).await;
        let goal = Arc::clone(&self.view.borrow().goal);
        loop {
            let steps = plan::plan(&goal.state, self.kernel.installed()).steps;
            if steps.is_empty() {
                break;
            }
            for step in steps {
                self.kernel.apply(&step.op).unwrap();
            }
        }
        let installed = Arc::new(self.kernel.installed().clone());
        self.reconciled.send_replace(Arc::new(Reconciled {
            number: goal.number,
            installed,
            ..Reconciled::default()
        }));
    }

    /// A second goes by, and a sweep finds so many connections of the first server.
    async fn sweep(&self, active: u64, persistent: u64) {
        let installed = self.kernel.installed();
        let slot = installed.backends.iter().find(|(_, (who, _))| who.name == "R1").map(|(slot, _)| *slot);
        let active_by_slot = slot.map(|slot| (slot, active)).into_iter().collect();
        let persistent_by_slot =
            slot.filter(|_| persistent > 0).map(|slot| (slot, persistent)).into_iter().collect();
        sleep(Duration::from_secs(1)).await;
        self.census.send_replace(Arc::new(FlowCensus {
            active_by_slot,
            persistent_by_slot,
            ..FlowCensus::default()
        }));
        sleep(Duration::from_millis(1)).await;
    }

    fn word(&self) -> Word {
        self.view.borrow().operator.get(&id("R1")).copied().unwrap_or_default()
    }

    fn state(&self) -> RipState {
        self.view.borrow().notes.rips[&id("R1")].state
    }

    /// Waits until something is so, and gives the seconds since the start.
    async fn until(&mut self, what: impl Fn(&View) -> bool) -> u64 {
        drop(self.view.wait_for(|view| what(view)).await.unwrap());
        self.began.elapsed().as_secs()
    }

    async fn stop(self) {
        self.trigger.pull();
        self.task.await.unwrap().unwrap();
    }
}

fn is_halted(view: &View) -> bool {
    view.operator.get(&id("R1")).is_some_and(|word| word.order == HALT)
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_halted_at_its_deadline_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    desk.order(drain(false, Some(600))).await;
    assert_eq!(desk.state(), RipState::Drain);
    assert_eq!(desk.until(is_halted).await, 600);
    desk.until(|view| view.notes.rips[&id("R1")].state == RipState::Halt).await;
    desk.stop().await;
    assert_eq!(OperatorFile::open(dir.path()).unwrap().word(&id("R1")), HALT.into());
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_an_order_to_halt_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    let order = Order::Drain { migrate: Some(true), deadline_epoch_secs: Some(BEGIN + 5), then_halt: false };
    desk.order(order).await;
    desk.reach().await;
    for _ in 0..20 {
        desk.sweep(0, 0).await;
    }
    assert_eq!((desk.word().order, desk.state()), (order, RipState::Drain));
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passed_while_no_daemon_ran_counts_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = OperatorFile::open(dir.path()).unwrap();
    let forced = Some(Forced { up: true, until_epoch_secs: Some(BEGIN - 1) });
    let word = Word { order: drain(false, Some(0)), forced };
    file.set([(id("R1"), word)]).await.unwrap();
    let mut desk = Desk::start_on(dir.path(), pacs(), Fake::default().open().0);
    desk.until(|view| !view.notes.rips.is_empty()).await;
    assert_eq!((desk.word(), desk.state()), (HALT.into(), RipState::Halt));
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_migrating_drain_ends_when_sweeps_in_a_row_find_no_connection_in_a_table_without_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    desk.order(drain(true, None)).await;
    for _ in 0..10 {
        desk.sweep(0, 7).await;
    }
    assert_eq!(desk.state(), RipState::Drain, "the kernel still gives it connections");
    desk.reach().await;
    for active in [0, 0, 1, 0, 0] {
        desk.sweep(active, 7).await;
        assert_eq!(desk.state(), RipState::Drain);
    }
    desk.sweep(0, 7).await;
    assert_eq!((desk.word(), desk.state()), (HALT.into(), RipState::Halt));
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_keeps_persistence_waits_for_its_clients_too() {
    let dir = tempfile::tempdir().unwrap();
    let (prefix_v4, prefix_v6, timeout) = (32, 128, Duration::from_secs(300));
    let persist = Persist::SourceIp { prefix_v4, prefix_v6, timeout, group: None };
    let mut desk = Desk::start(dir.path(), Vip { persist, ..pacs() }).await;
    desk.order(drain(false, None)).await;
    desk.reach().await;
    for _ in 0..10 {
        desk.sweep(0, 1).await;
    }
    assert_eq!(desk.state(), RipState::Drain, "a client may come back");
    desk.sweep(0, 0).await;
    assert_eq!(desk.state(), RipState::Halt);
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_order_counts_sweeps_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    let quiet = Order::Drain { migrate: Some(true), deadline_epoch_secs: None, then_halt: false };
    desk.order(quiet).await;
    desk.reach().await;
    for _ in 0..5 {
        desk.sweep(0, 0).await;
    }
    desk.order(Order::Online).await;
    desk.reach().await;
    desk.order(drain(true, None)).await;
    desk.reach().await;
    desk.sweep(0, 0).await;
    assert_eq!(desk.state(), RipState::Drain, "connections may have begun in between");
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_forced_verdict_ends_at_its_time_and_what_is_over_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    desk.verdicts(Verdict::Down);
    desk.until(|view| view.notes.rips[&id("R1")].state == RipState::Down).await;
    let force = |until| Command::Force {
        rips: vec![id("R1")],
        forced: Some(Forced { up: true, until_epoch_secs: Some(until) }),
    };
    let outcome = desk.command(force(BEGIN + 60)).await.unwrap();
    assert_eq!(outcome.changes, ["PACS/R1: checked -> forced up until 2026-05-08 12:38:21 UTC"]);
    assert_eq!(desk.state(), RipState::Active);
    assert_eq!(desk.until(|view| view.operator.is_empty()).await, 60);
    assert_eq!(desk.until(|view| view.notes.rips[&id("R1")].state == RipState::Down).await, 60);
    let error = desk.command(force(BEGIN + 60)).await.unwrap_err().to_string();
    assert!(error.contains("which is over: name a time to come"), "{error}");
    let state = drain(false, Some(1));
    let error = desk.command(Command::SetState { rips: vec![id("R1")], state }).await.unwrap_err();
    assert!(error.to_string().contains("the drain ends at 2026-05-08 12:37:22 UTC"), "{error}");
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_forward_is_noticed_with_the_next_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::start(dir.path(), pacs()).await;
    desk.order(drain(false, Some(600))).await;
    desk.reach().await;
    desk.skew.store(600, Ordering::Relaxed);
    desk.sweep(5, 0).await;
    assert_eq!(desk.state(), RipState::Halt);
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_the_disk_refuses_does_not_count_is_shown_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    std::fs::create_dir(&state_dir).unwrap();
    let mut desk = Desk::start(&state_dir, pacs()).await;
    desk.order(drain(false, Some(10))).await;
    std::fs::remove_dir_all(&state_dir).unwrap();
    assert_eq!(desk.until(|view| view.operator_problem.is_some()).await, 10);
    let problem = desk.view.borrow().operator_problem.clone().unwrap();
    assert!(problem.starts_with("PACS/R1: drain ended, its time is over: halted: not done: "), "{problem}");
    assert_eq!(desk.state(), RipState::Drain);
    std::fs::create_dir(&state_dir).unwrap();
    assert_eq!(desk.until(is_halted).await, 40, "the pause is over");
    assert_eq!(desk.until(|view| view.operator_problem.is_none()).await, 40);
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_up_gets_its_weight_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Vip { slow_start: Duration::from_secs(100), ..pacs() };
    let mut desk = Desk::start_on(dir.path(), slow, Fake::default().open().0);
    desk.verdicts(Verdict::Up);
    let detail = |view: &View| view.notes.rips.get(&id("R1")).and_then(|note| note.detail.clone());
    for (percent, secs) in [(10, 0), (20, 20), (50, 50), (90, 90)] {
        let expected = format!("slow start {percent} %");
        assert_eq!(desk.until(|view| detail(view).as_ref() == Some(&expected)).await, secs);
    }
    assert_eq!(desk.until(|view| detail(view).is_none()).await, 100);
    assert_eq!(desk.state(), RipState::Active);

    desk.order(drain(false, None)).await;
    desk.order(Order::Online).await;
    assert_eq!(detail(&desk.view.borrow()), None, "it had its flows all the while");
    desk.order(HALT).await;
    desk.order(Order::Online).await;
    assert_eq!(detail(&desk.view.borrow()).as_deref(), Some("slow start 10 %"));
    desk.verdicts(Verdict::Down);
    sleep(Duration::from_secs(50)).await;
    desk.verdicts(Verdict::Up);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(detail(&desk.view.borrow()).as_deref(), Some("slow start 10 %"), "it begins anew");
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_daemon_is_no_start_of_servers() {
    let dir = tempfile::tempdir().unwrap();
    let slow = || Vip { slow_start: Duration::from_secs(100), ..pacs() };
    let fake = Fake::default();
    let mut desk = Desk::start_on(dir.path(), slow(), fake.open().0);
    desk.verdicts(Verdict::Up);
    desk.reach().await;
    desk.stop().await;
    let mut desk = Desk::start_on(dir.path(), slow(), fake.open().0);
    desk.until(|view| !view.notes.rips.is_empty()).await;
    assert_eq!(desk.view.borrow().notes.rips[&id("R1")].detail, None);
    assert_eq!(desk.state(), RipState::Active);
    desk.stop().await;
}

#[tokio::test(start_paused = true)]
async fn only_a_vip_that_is_there_can_forget() {
    let dir = tempfile::tempdir().unwrap();
    let desk = Desk::start(dir.path(), pacs()).await;
    let forget = |vip: &str| Command::Forget { vip: vip.to_owned() };
    let outcome = desk.command(forget("PACS")).await.unwrap();
    assert_eq!(outcome.changes, ["PACS: the server in use is forgotten"]);
    let error = desk.command(forget("WADO")).await.unwrap_err();
    assert_eq!(error, Refused::Invalid("no VIP WADO: there are PACS".to_owned()));
    desk.stop().await;
}
