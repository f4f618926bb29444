//! Checks of real archives on loopback: Orthanc and dcmtk's storescp. Needs no root.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use lb_ctl::{
    health::{Connections, Engine, run_once},
    model::{
        check::{Check, CheckKind, DicomCheck},
        health::{CheckResult, FailureReason, HealthMap, RipId, Target, Verdict},
    },
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    sync::{mpsc, watch},
    time::{interval, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server program on loopback, killed when dropped.
struct Archive {
    addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Archive {
    /// Starts a program that listens on `addr`, in a directory of its own, and waits until it does.
    async fn start(program: &str, args: &[&str], addr: SocketAddr, dir: TempDir) -> Self {
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program)
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}: `cargo xtask setup` installs it"));
        let mut archive = Self { addr, child, dir };
        let listening = timeout(PATIENCE, async {
            let mut tick = interval(Duration::from_millis(20));
            while TcpStream::connect(addr).await.is_err() {
                assert_eq!(archive.child.try_wait().unwrap(), None, "{program} ended:\n{}", archive.log());
                tick.tick().await;
            }
        });
        assert!(listening.await.is_ok(), "{program} never listened:\n{}", archive.log());
        archive
    }

    async fn storescp(args: &[&str], addr: SocketAddr, dir: TempDir) -> Self {
        let port = addr.port().to_string();
        Self::start("storescp", &[args, &["-v", &port]].concat(), addr, dir).await
    }

    /// Orthanc that answers to `ARCHIVE` alone, and to callers that it knows alone unless `any_caller`.
    async fn orthanc(addr: SocketAddr, any_caller: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let config = serde_json::json!({
            "Name": "archive",
            "StorageDirectory": "storage",
            "IndexDirectory": "storage",
            "HttpServerEnabled": false,
            "RemoteAccessAllowed": true,
            "AuthenticationEnabled": false,
            "DicomAet": "ARCHIVE",
            "DicomPort": addr.port(),
            "DicomCheckCalledAet": true,
            "DicomAlwaysAllowEcho": any_caller,
            "DicomAlwaysAllowStore": any_caller,
            "DicomAlwaysAllowFind": false,
            "DicomAlwaysAllowFindWorklist": false,
            "DicomAlwaysAllowGet": false,
            "DicomAlwaysAllowMove": false,
            "Plugins": [],
        });
        std::fs::write(dir.path().join("orthanc.json"), config.to_string()).unwrap();
        Self::start("Orthanc", &["orthanc.json"], addr, dir).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the program's log says something.
    async fn says(&self, what: &str) {
        let said = timeout(PATIENCE, async {
            let mut tick = interval(Duration::from_millis(20));
            while !self.log().contains(what) {
                tick.tick().await;
            }
        });
        assert!(said.await.is_ok(), "{what:?} never came:\n{}", self.log());
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// An address on loopback that was free a moment ago.
fn free_addr() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn target(addr: SocketAddr, calling_aet: &str, called_aet: &str) -> Target {
    Target::new(
        RipId { vip: "PACS".to_owned(), rip: "ARCHIVE".to_owned() },
        addr,
        Check {
            kind: CheckKind::DicomEcho(DicomCheck::new(calling_aet, called_aet)),
            interval: Duration::from_millis(200),
            timeout: TIMEOUT,
            rise: 2,
            fall: 2,
            ..Check::default()
        },
    )
}

async fn echo(archive: &Archive, calling_aet: &str, called_aet: &str) -> CheckResult {
    run_once(&target(archive.addr, calling_aet, called_aet)).await
}

fn assert_passed(result: &CheckResult) {
    assert_eq!(result.failure, None);
    let steps: Vec<&str> = result.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["connect", "associate", "echo", "release"]);
    assert!(result.took < TIMEOUT, "the release was answered: took {:?}", result.took);
}

fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str) {
    let failure = result.failure.as_ref().expect("the check must fail");
    assert_eq!((failure.reason, failure.text.as_str()), (reason, text));
}

#[tokio::test]
async fn storescp_is_up_and_sees_its_association_released() {
    let archive = Archive::storescp(&[], free_addr(), TempDir::new().unwrap()).await;
    assert_passed(&echo(&archive, "LOADBALANCER", "LB-SCP").await);
    archive.says("Association Release").await;
    let log = archive.log();
    assert!(log.contains("Received Echo Request"), "{log}");
    assert!(!log.to_lowercase().contains("abort"), "{log}");
    archive.kill().await;
}

#[tokio::test]
async fn storescp_that_refuses_is_down_without_a_reason() {
    let archive = Archive::storescp(&["--refuse"], free_addr(), TempDir::new().unwrap()).await;
    let result = echo(&archive, "LOADBALANCER", "LB-SCP").await;
    assert_failed(&result, FailureReason::Rejected, "A-ASSOCIATE-RJ: no reason given");
    archive.kill().await;
}

#[tokio::test]
async fn storescp_without_verification_is_told_apart_and_released() {
    let dir = TempDir::new().unwrap();
    let config = "[[TransferSyntaxes]]\n[Any]\nTransferSyntax1 = LittleEndianImplicit\n\
                  [[PresentationContexts]]\n[Ct]\nPresentationContext1 = CTImageStorage\\Any\n\
                  [[Profiles]]\n[CtOnly]\nPresentationContexts = Ct\n";
    std::fs::write(dir.path().join("profile.cfg"), config).unwrap();
    let archive = Archive::storescp(&["--config-file", "profile.cfg", "CtOnly"], free_addr(), dir).await;
    let result = echo(&archive, "LOADBALANCER", "LB-SCP").await;
    assert_failed(
        &result,
        FailureReason::VerificationNotAccepted,
        "A-ASSOCIATE-AC: Verification (1.2.840.10008.1.1) not accepted: abstract syntax not supported",
    );
    archive.says("Association Release").await;
    archive.kill().await;
}

#[tokio::test]
async fn orthanc_refuses_a_called_title_that_is_not_its_own() {
    let archive = Archive::orthanc(free_addr(), true).await;
    assert_passed(&echo(&archive, "LOADBALANCER", "ARCHIVE").await);
    let result = echo(&archive, "LOADBALANCER", "PACS").await;
    assert_failed(
        &result,
        FailureReason::RejectedCalledAet,
        "A-ASSOCIATE-RJ: called AE title not recognised (PACS)",
    );
    archive.kill().await;
}

#[tokio::test]
async fn orthanc_refuses_a_caller_that_it_does_not_know() {
    let archive = Archive::orthanc(free_addr(), false).await;
    let result = echo(&archive, "LOADBALANCER", "ARCHIVE").await;
    assert_failed(
        &result,
        FailureReason::RejectedCallingAet,
        "A-ASSOCIATE-RJ: calling AE title not recognised (LOADBALANCER)",
    );
    archive.kill().await;
}

#[tokio::test]
async fn orthanc_killed_and_restarted_goes_down_and_comes_up_again() {
    let addr = free_addr();
    let archive = Archive::orthanc(addr, true).await;
    let target = target(addr, "LOADBALANCER", "ARCHIVE");
    let id = target.id.clone();
    let (_targets, targets) = watch::channel(vec![target]);
    let (health, mut published) = watch::channel(HealthMap::new());
    let (_syn_repeats, syn_repeats) = watch::channel(Arc::default());
    let (_runs, runs) = mpsc::channel(1);
    let (transitions, mut told) = mpsc::channel(16);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let connections = Connections { targets, health, syn_repeats, runs, transitions };
    let engine = tokio::spawn(Engine::new(connections).run(async {
        let _ = stopped.await;
    }));
    let mut until = async |verdict: Verdict| {
        let turned = published.wait_for(|map| map.get(&id).is_some_and(|h| h.verdict == verdict));
        timeout(PATIENCE, turned).await.expect("the verdict never came").unwrap()[&id].clone()
    };
    let first = until(Verdict::Up).await;
    archive.kill().await;
    let down = until(Verdict::Down).await;
    assert!(down.since > first.since);
    let text = format!("connect: connection refused by {addr}");
    assert_failed(down.last.as_ref().unwrap(), FailureReason::ConnectRefused, &text);
    let archive = Archive::orthanc(addr, true).await;
    let up = until(Verdict::Up).await;
    assert!(up.since > down.since);
    assert_passed(up.last.as_ref().unwrap());
    stop.send(()).unwrap();
    timeout(PATIENCE, engine).await.unwrap().unwrap();
    let mut turns = Vec::new();
    while let Some(turn) = told.recv().await {
        turns.push((turn.to, turn.reason));
    }
    let refused = Some(FailureReason::ConnectRefused);
    assert_eq!(turns, [(Verdict::Up, None), (Verdict::Down, refused), (Verdict::Up, None)]);
    archive.kill().await;
}
