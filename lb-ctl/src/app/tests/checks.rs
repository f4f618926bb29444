//! Checks as the daemon tells them, and what their verdicts cost it.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;
use crate::model::{
    check::Check,
    checks::{CheckQuery, CheckStatus, RunStatus},
    health::{Asked, FailureReason, Transition},
};

impl Daemon {
    async fn run_checks(&self, vip: &str, rip: Option<&str>) -> Vec<RunStatus> {
        let query = CheckQuery { vip: Some(vip.to_owned()), rip: rip.map(str::to_owned) };
        let body = serde_json::to_string(&query).unwrap();
        let (status, body) = self.ask("POST", "/v1/checks/run", body).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    async fn refused(&self, path: &str) -> String {
        let (status, body) = self.ask("GET", path, String::new()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        serde_json::from_slice::<Refusal>(&body).unwrap().error
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_listed_run_on_request_and_remembered_over_a_restart() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let check = Check { port: Some(port), interval: DEADLINE * 100, dr_path: false, ..Check::default() };
    let pacs = Vip { check, ..vip("PACS", "10.12.1.100", &[("R1", "127.0.0.1")]) };
    let world = World { verdicts: Verdicts::Found, ..World::new(config(vec![pacs])) };
    let daemon = world.start().await;
    daemon.until("up", |s| s.vips[0].rips[0].verdict == Verdict::Up).await;
    drop(listener);
    for _ in 0..2 {
        let runs = daemon.run_checks("PACS", None).await;
        let [run] = runs.as_slice() else { panic!("{runs:?}") };
        assert_eq!((run.id.rip.as_str(), run.asked), ("R1", Asked::Server));
        assert_eq!(run.attempt.failure.as_ref().unwrap().reason, FailureReason::ConnectRefused);
    }
    let checks: Vec<CheckStatus> = daemon.get("/v1/checks?vip=PACS&rip=R1").await;
    let [check] = checks.as_slice() else { panic!("{checks:?}") };
    assert_eq!((check.kind.as_str(), check.verdict), ("connect", Verdict::Down));
    let told = format!("connect: connection refused by 127.0.0.1:{port}");
    assert_eq!(check.text.as_deref(), Some(told.as_str()));

    let expected = [(Verdict::Up, None), (Verdict::Down, Some(FailureReason::ConnectRefused))];
    let past = async |daemon: &Daemon| {
        let past: Vec<Transition> = daemon.get("/v1/checks/history?vip=PACS&rip=R1&limit=2").await;
        past.into_iter().map(|turn| (turn.to, turn.reason)).collect::<Vec<_>>()
    };
    let written = async {
        while past(&daemon).await != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, written).await.unwrap();
    daemon.app.stop().await;
    let daemon = world.start().await;
    assert_eq!(past(&daemon).await[..2], expected);
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_not_there_are_refused_by_what_is() {
    let world = World::new(config(vec![pacs()]));
    let daemon = world.start().await;
    let refused = daemon.refused("/v1/checks?vip=PAX").await;
    assert_eq!(refused, "no VIP PAX: there are PACS");
    let refused = daemon.refused("/v1/checks/history?vip=PACS&rip=R9").await;
    assert_eq!(refused, "no real server R9 in VIP PACS: there are R1, R2");
    let refused = daemon.refused("/v1/checks?rip=R1").await;
    assert_eq!(refused, "a real server is named by its VIP and its own name: VIP/RIP");
    daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_verdicts_that_are_published_together_are_one_plan() {
    let rips: Vec<(String, String)> =
        (0..500).map(|n| (format!("R{n}"), format!("10.12.{}.{}", 2 + n / 250, 1 + n % 250))).collect();
    let rips: Vec<(&str, &str)> = rips.iter().map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
    let vips = [("A", "10.12.1.100"), ("B", "10.12.1.101")].map(|(name, ip)| vip(name, ip, &rips));
    let world = World::new(config(vips.to_vec()));
    let daemon = world.start().await;
    let all = |verdict| {
        daemon.health.send_modify(|map| {
            for (vip, (rip, _)) in ["A", "B"].iter().flat_map(|vip| rips.iter().map(move |rip| (vip, rip))) {
                let id = RipId { vip: (*vip).to_owned(), rip: (*rip).to_owned() };
                map.insert(id, Health::new(verdict, SystemTime::now()));
            }
        });
    };
    let servers = |count: usize| {
        let fake = world.fake.clone();
        async move {
            while servers_in_table(&fake) != count {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    all(Verdict::Up);
    timeout(DEADLINE * 6, servers(1000)).await.unwrap();
    let before = daemon.app.reconciled.borrow().number;
    all(Verdict::Down);
    timeout(DEADLINE * 6, servers(0)).await.unwrap();
    let mut reconciled = daemon.app.reconciled.clone();
    drop(timeout(DEADLINE, reconciled.wait_for(|r| r.number > before && r.settled)).await.unwrap().unwrap());
    assert_eq!(reconciled.borrow().number, before + 1);
    daemon.app.stop().await;
}
