//! DICOM checks of real archives and of servers that misbehave, on loopback: every failure has its reason, and both ends
//! are left as they were. Needs no root.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use lb_ctl::{
    health::run_once,
    model::{
        check::{CaFamily, Check, CheckKind, ClientCert, DicomCheck, FindModel, TlsClient, Verify},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use lb_tests::lab::{
    archive::{Archive, Callers, free_addr},
    pki::{self, Authority, Validity},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    task::{JoinHandle, JoinSet},
    time::{Instant, interval, timeout},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Of checks of servers that hang.
const SHORT: Duration = Duration::from_millis(500);
/// The longest that any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn target(addr: SocketAddr, dicom: DicomCheck, timeout: Duration) -> Target {
    let check =
        Check { kind: CheckKind::DicomEcho(dicom), timeout, interval: timeout * 2, ..Check::default() };
    Target::new(RipId { vip: "PACS".to_owned(), rip: "ARCHIVE".to_owned() }, addr, check)
}

fn dicom() -> DicomCheck {
    DicomCheck::new("LOADBALANCER", "ARCHIVE")
}

async fn run(addr: SocketAddr, dicom: DicomCheck) -> CheckResult {
    run_once(&target(addr, dicom, TIMEOUT)).await
}

fn steps(result: &CheckResult) -> Vec<&str> {
    result.steps.iter().map(|step| step.name.as_str()).collect()
}

#[track_caller]
fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str) {
    let failure = result.failure.as_ref().expect("the check must fail");
    assert_eq!((failure.reason, failure.text.as_str()), (reason, text));
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// TCP connections that end or begin at a port, in any state but the one after a proper end (proc_net_tcp(5)).
fn connections(port: u16) -> Vec<String> {
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!(":{port:04X}");
    let lines = table.lines().skip(1).filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1].ends_with(&wanted) || fields[2].ends_with(&wanted))
            && ![TIME_WAIT, LISTEN].contains(&fields[3])
    });
    lines.map(str::to_owned).collect()
}

/// Children of a server that still run. Those that have ended it waits for at its leisure.
fn busy_children(pid: u32) -> usize {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_dead = |child: &str| {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // The state follows the name in parentheses (proc_pid_stat(5)).
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    children.split_whitespace().filter(|child| !is_dead(child)).count()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        let mut tick = interval(Duration::from_millis(20));
        while !holds() {
            tick.tick().await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn a_query_is_answered_by_an_archive_with_nothing_to_send() {
    let archive = Archive::dcmqrscp(free_addr(), 8).await;
    for model in [FindModel::Patient, FindModel::Study] {
        let result = run(archive.addr(), DicomCheck { find: Some(model), ..dicom() }).await;
        assert_eq!((&result.failure, &result.note), (&None, &None), "{model:?}:\n{}", archive.log());
        assert_eq!(steps(&result), ["connect", "associate", "echo", "find", "release"]);
    }
    archive.says_times("Association Release", 2).await;
    archive.kill().await;
    let archive = Archive::orthanc(free_addr(), Callers::Any).await;
    for model in [FindModel::Patient, FindModel::Study] {
        let result = run(archive.addr(), DicomCheck { find: Some(model), ..dicom() }).await;
        assert_eq!((&result.failure, &result.note), (&None, &None), "{model:?}:\n{}", archive.log());
    }
    archive.kill().await;
}

#[tokio::test]
async fn a_query_that_an_archive_does_not_know_is_named() {
    let archive = Archive::storescp(&[], free_addr(), TempDir::new().unwrap()).await;
    let result = run(archive.addr(), DicomCheck { find: Some(FindModel::Worklist), ..dicom() }).await;
    assert_failed(
        &result,
        FailureReason::FindFailed,
        "A-ASSOCIATE-AC: Modality Worklist FIND (1.2.840.10008.5.1.4.31) not accepted: abstract syntax not supported",
    );
    assert_eq!(steps(&result), ["connect", "associate", "echo", "find"]);
    archive.says("Association Release").await;
    assert!(!archive.log().contains("Abort"), "{}", archive.log());
    archive.kill().await;
}

#[tokio::test]
async fn too_many_associations_are_told_from_other_rejections() {
    let archive = Archive::dcmqrscp(free_addr(), 1).await;
    let port = archive.addr().port().to_string();
    // A real client that holds the one association that there is.
    let mut holder = Command::new("echoscu")
        .args(["--repeat", "100000000", "-aec", "ARCHIVE", "127.0.0.1", &port])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    archive.says("Association Acknowledged").await;
    let result = run(archive.addr(), dicom()).await;
    assert_failed(
        &result,
        FailureReason::RejectedBusy,
        "A-ASSOCIATE-RJ: local limit exceeded, too many associations",
    );
    let result = run(archive.addr(), DicomCheck { accept_reject: true, ..dicom() }).await;
    assert_eq!(result.failure, None);
    assert_eq!(steps(&result), ["connect", "associate"]);
    assert!(result.note.as_ref().unwrap().contains("too many associations"), "{result:?}");
    holder.kill().await.unwrap();
    archive.kill().await;
}

#[tokio::test]
async fn an_archive_that_takes_the_connection_and_hangs_is_given_up_at_the_deadline() {
    // The kernel shakes hands for a program that never accepts.
    let hung = TcpListener::bind(free_addr()).await.unwrap();
    let addr = hung.local_addr().unwrap();
    let begun = Instant::now();
    let result = run_once(&target(addr, dicom(), SHORT)).await;
    assert_failed(&result, FailureReason::AssociateTimeout, "associate: no answer within 500 ms");
    assert!(begun.elapsed() < PATIENCE);
}

/// Stands before an archive and lets its first answer through, then nothing, as an archive does whose database hangs.
/// Gives what the client sent afterwards, when the client has gone.
async fn freeze_after_association(archive: SocketAddr) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind(free_addr()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let relaying = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(archive).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = client.read(&mut buffer).await.unwrap();
        server.write_all(&buffer[..length]).await.unwrap();
        let length = server.read(&mut buffer).await.unwrap();
        client.write_all(&buffer[..length]).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        rest
    });
    (addr, relaying)
}

#[tokio::test]
async fn an_archive_that_hangs_after_the_association_is_aborted() {
    let archive = Archive::storescp(&[], free_addr(), TempDir::new().unwrap()).await;
    let (addr, relaying) = freeze_after_association(archive.addr()).await;
    let result = run_once(&target(addr, dicom(), SHORT)).await;
    assert_failed(&result, FailureReason::EchoTimeout, "echo: no answer within 500 ms");
    let sent = timeout(PATIENCE, relaying).await.unwrap().unwrap();
    // A-ABORT by the service user (PS3.8 9.3.8).
    assert!(sent.ends_with(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]), "{sent:02x?}");
    archive.kill().await;
}

#[tokio::test]
async fn what_is_no_archive_is_quoted() {
    let listener = TcpListener::bind(free_addr()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            // The check may have gone already.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let result = run(addr, dicom()).await;
    assert_failed(
        &result,
        FailureReason::ProtocolError,
        "associate: the server does not speak DICOM as expected: it answered with text: \"HTTP/1\"",
    );
    serving.abort();
}

#[tokio::test]
async fn storescp_over_tls_is_asked_with_and_without_certificates() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("archives");
    let issue = |name: &str| authority.issue(name, &["127.0.0.1"], Validity::Now);
    let ca = pki::write(dir.path(), "ca.pem", &authority.pem());
    let server = pki::write(dir.path(), "server.pem", &issue("archive")).display().to_string();
    let pem = pki::write(dir.path(), "client.pem", &issue("lb"));
    let shown = ca.display().to_string();
    let family = Verify::Family(CaFamily { name: "archives".to_owned(), pems: vec![ca] });
    let client_cert = Some(ClientCert { name: "lb".to_owned(), pem });
    let client = |verify: &Verify, client_cert: &Option<ClientCert>| DicomCheck {
        tls: Some(TlsClient { verify: verify.clone(), client_cert: client_cert.clone(), sni: None }),
        ..dicom()
    };
    let own = TempDir::new().unwrap();
    let archive = Archive::storescp(&["+tls", &server, &server, "-ic"], free_addr(), own).await;
    for verify in [Verify::Off, family.clone()] {
        let result = run(archive.addr(), client(&verify, &None)).await;
        assert_eq!(result.failure, None, "{}", archive.log());
        assert_eq!(steps(&result), ["connect", "tls", "associate", "echo", "release"]);
    }
    archive.says_times("Association Release", 2).await;
    let result = run(archive.addr(), client(&Verify::System, &None)).await;
    assert_eq!(result.failure.unwrap().reason, FailureReason::TlsUnknownIssuer);
    let result = run(archive.addr(), dicom()).await;
    assert!(result.failure.is_some(), "an archive that wants TLS took a plain association");
    archive.kill().await;

    let own = TempDir::new().unwrap();
    let archive =
        Archive::storescp(&["+tls", &server, &server, "-rc", "+cf", &shown], free_addr(), own).await;
    let result = run(archive.addr(), client(&family, &None)).await;
    let failure = result.failure.expect("no certificate was shown");
    assert_eq!(failure.reason, FailureReason::TlsClientCertificate, "{}", failure.text);
    let result = run(archive.addr(), client(&family, &client_cert)).await;
    assert_eq!(result.failure, None, "{}", archive.log());
    archive.says("Association Release").await;
    archive.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_checks_leave_no_association_and_no_descriptor() {
    const CHECKS: usize = 10_000;
    const AT_A_TIME: usize = 32;
    // A process for each association: one at a time would take ten minutes, since its packets wait for each other.
    let archive = Archive::storescp(&["--fork"], free_addr(), TempDir::new().unwrap()).await;
    let target = target(archive.addr(), dicom(), PATIENCE);
    run_once(&target).await;
    let before = open_descriptors();
    let mut running = JoinSet::new();
    for _ in 1..CHECKS {
        while running.len() >= AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
        let target = target.clone();
        running.spawn(async move { assert_eq!(run_once(&target).await.failure, None) });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    archive.says_times("Association Release", CHECKS).await;
    let log = archive.log();
    assert_eq!(log.matches("Association Acknowledged").count(), CHECKS);
    assert_eq!(log.matches("Association Release").count(), CHECKS);
    assert!(!log.to_lowercase().contains("abort"));
    until("no connection is left", || connections(archive.addr().port()).is_empty()).await;
    assert!(open_descriptors() <= before, "{} descriptors, {before} before", open_descriptors());
    let pid = archive.pid().unwrap();
    until("no process serves an association", || busy_children(pid) == 0).await;
    let held = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(held < 16, "storescp holds {held} descriptors");
    archive.kill().await;
}
