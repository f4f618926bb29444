//! Checks and the engine against servers on loopback that misbehave in one chosen way each, written with raw bytes.
//! Real archives are in the package lb-tests.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod engine;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_ctl::{
    health::run_once,
    model::{
        check::{Check, CheckKind, DicomCheck},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Deadline of the checks in these tests; and how much later a busy machine may notice it.
const TIMEOUT: Duration = Duration::from_millis(400);
const SLACK: Duration = Duration::from_secs(3);
/// The longest that any condition may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What comes, or a failed test: nothing here waits for ever.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it must come within the patience of a test")
}

fn dicom_echo() -> CheckKind {
    CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", "LB-SCP"))
}

fn target(rip: &str, addr: SocketAddr, kind: CheckKind) -> Target {
    Target::new(
        RipId { vip: "PACS".to_owned(), rip: rip.to_owned() },
        addr,
        Check {
            kind,
            interval: Duration::from_millis(200),
            timeout: TIMEOUT,
            rise: 2,
            fall: 2,
            ..Check::default()
        },
    )
}

/// A server on loopback that treats every connection the same way.
async fn server<F, W>(treat: F) -> (SocketAddr, JoinHandle<()>)
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(treat(stream));
        }
    });
    (addr, task)
}

/// An address on loopback where nothing listens.
async fn closed_port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

async fn read_pdu(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 6];
    stream.read_exact(&mut header).await.ok()?;
    let mut body = vec![0; u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize];
    stream.read_exact(&mut body).await.ok()?;
    Some((header[0], body))
}

async fn write_pdu(stream: &mut TcpStream, kind: u8, body: &[u8]) {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let pdu = [&[kind, 0], &length[..], body].concat();
    stream.write_all(&pdu).await.unwrap();
}

/// A-ASSOCIATE-AC that gives our one presentation context this result.
fn accept_body(result: u8) -> Vec<u8> {
    let item = |kind: u8, body: &[u8]| {
        [&[kind, 0], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    };
    let mut body = vec![0, 1, 0, 0];
    body.extend_from_slice(&[b' '; 32]);
    body.extend_from_slice(&[0; 32]);
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    body.extend(item(0x21, &[&[1, 0, result, 0], &item(0x40, b"1.2.840.10008.1.2")[..]].concat()));
    body.extend(item(0x50, &item(0x51, &16_384_u32.to_be_bytes())));
    body
}

fn echo_response(status: u16) -> Vec<u8> {
    let mut command = vec![0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0x80, 0, 0, 0x20, 1, 2, 0, 0, 0, 1, 0];
    command.extend_from_slice(&[0, 0, 0, 9, 2, 0, 0, 0]);
    command.extend_from_slice(&status.to_le_bytes());
    let length = u32::try_from(command.len() + 2).unwrap().to_be_bytes();
    [&length[..], &[1, 3], &command].concat()
}

/// Asserts the class, the line for people, the steps and the deadline of a failed check.
fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str, steps: &[&str]) {
    let failure = result.failure.as_ref().expect("the check must fail");
    assert_eq!((failure.reason, failure.text.as_str()), (reason, text));
    assert_eq!(result.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), steps);
    assert!(result.took < TIMEOUT + SLACK, "took {:?}", result.took);
}

#[tokio::test]
async fn a_closed_port_is_refused_by_name_and_port() {
    let addr = closed_port().await;
    for kind in [CheckKind::Connect, dicom_echo()] {
        let result = run_once(&target("A", addr, kind)).await;
        let text = format!("connect: connection refused by {addr}");
        assert_failed(&result, FailureReason::ConnectRefused, &text, &["connect"]);
    }
}

#[tokio::test]
async fn a_server_that_drops_syns_times_out_at_connect() {
    // A full accept queue answers no SYN: nobody accepts, and the queue has room for a connection or two.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await
    {
        queue.push(stream);
        assert!(queue.len() < 20, "the accept queue never fills");
    }
    let result = run_once(&target("A", addr, CheckKind::Connect)).await;
    let text = format!("connect: no answer from {addr} within 400 ms");
    assert_failed(&result, FailureReason::ConnectTimeout, &text, &["connect"]);
    assert!(result.took >= TIMEOUT);
}

#[tokio::test]
async fn a_connect_check_that_passes_is_never_seen_by_the_application() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    for _ in 0..20 {
        let result = run_once(&target("A", addr, CheckKind::Connect)).await;
        assert_eq!(result.failure, None);
        assert_eq!(result.steps.len(), 1);
    }
    // What the application sees first is a client that came after all the checks.
    let client = TcpStream::connect(addr).await.unwrap();
    let (_stream, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
}

#[tokio::test]
async fn ipv6_is_checked_like_ipv4() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let result = run_once(&target("A", listener.local_addr().unwrap(), CheckKind::Connect)).await;
    assert_eq!(result.failure, None);
}

#[tokio::test]
async fn a_server_that_accepts_and_hangs_times_out_at_associate() {
    let (addr, _server) = server(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let result = run_once(&target("A", addr, dicom_echo())).await;
    assert_failed(
        &result,
        FailureReason::AssociateTimeout,
        "associate: no answer within 400 ms",
        &["connect", "associate"],
    );
    assert!(result.took >= TIMEOUT);
}

#[tokio::test]
async fn a_server_that_hangs_after_the_association_is_aborted_at_the_deadline() {
    let (goodbye, mut goodbyes) = mpsc::channel(1);
    let (addr, _server) = server(move |mut stream| {
        let goodbye = goodbye.clone();
        async move {
            assert_eq!(read_pdu(&mut stream).await.unwrap().0, 0x01);
            write_pdu(&mut stream, 0x02, &accept_body(0)).await;
            assert_eq!(read_pdu(&mut stream).await.unwrap().0, 0x04);
            let last = read_pdu(&mut stream).await.map(|(kind, _)| kind);
            goodbye.send(last).await.unwrap();
        }
    })
    .await;
    let result = run_once(&target("A", addr, dicom_echo())).await;
    assert_failed(
        &result,
        FailureReason::EchoTimeout,
        "echo: no answer within 400 ms",
        &["connect", "associate", "echo"],
    );
    assert_eq!(within(goodbyes.recv()).await, Some(Some(0x07)), "A-ABORT");
}

#[tokio::test]
async fn an_echo_that_fails_and_a_class_that_is_not_accepted_end_in_a_release() {
    for (context_result, status, reason, text) in [
        (0, 0x0211, FailureReason::EchoFailed, "C-ECHO: status 0x0211, unrecognised operation"),
        (
            3,
            0,
            FailureReason::VerificationNotAccepted,
            "A-ASSOCIATE-AC: Verification (1.2.840.10008.1.1) not accepted: abstract syntax not supported",
        ),
    ] {
        let (released, mut releases) = mpsc::channel(1);
        let (addr, _server) = server(move |mut stream| {
            let released = released.clone();
            async move {
                read_pdu(&mut stream).await.unwrap();
                write_pdu(&mut stream, 0x02, &accept_body(context_result)).await;
                let mut next = read_pdu(&mut stream).await.unwrap().0;
                if next == 0x04 {
                    write_pdu(&mut stream, 0x04, &echo_response(status)).await;
                    next = read_pdu(&mut stream).await.unwrap().0;
                }
                write_pdu(&mut stream, 0x06, &[0; 4]).await;
                let closed = read_pdu(&mut stream).await.is_none();
                released.send((next, closed)).await.unwrap();
            }
        })
        .await;
        let result = run_once(&target("A", addr, dicom_echo())).await;
        let steps: &[&str] =
            if context_result == 0 { &["connect", "associate", "echo"] } else { &["connect", "associate"] };
        assert_failed(&result, reason, text, steps);
        assert_eq!(within(releases.recv()).await, Some((0x05, true)), "A-RELEASE-RQ, then closed");
    }
}

#[tokio::test]
async fn a_server_that_echoes_but_never_releases_passes_within_the_deadline() {
    let (addr, _server) = server(|mut stream| async move {
        read_pdu(&mut stream).await;
        write_pdu(&mut stream, 0x02, &accept_body(0)).await;
        read_pdu(&mut stream).await;
        write_pdu(&mut stream, 0x04, &echo_response(0)).await;
        std::future::pending::<()>().await;
    })
    .await;
    let result = run_once(&target("A", addr, dicom_echo())).await;
    assert_eq!(result.failure, None);
    assert_eq!(result.steps.last().unwrap().name, "release");
    assert!((TIMEOUT..TIMEOUT + SLACK).contains(&result.took), "took {:?}", result.took);
}

#[tokio::test]
async fn servers_that_speak_something_else_are_named() {
    for (said, reason, text) in [
        (
            &b"220 mail.example.com ESMTP\r\n"[..],
            FailureReason::ProtocolError,
            "it answered with text: \"220 ma\"",
        ),
        (&[0x15, 3, 3, 0, 2, 2, 80], FailureReason::ProtocolError, "the port wants TLS"),
        (&[0x02, 0, 0x7f, 0xff, 0xff, 0xff], FailureReason::ProtocolError, "a PDU of 2147483647 bytes"),
        (&[0x02, 0, 0, 0, 0, 4, 1, 2, 3, 4], FailureReason::ProtocolError, "malformed PDU"),
        (&[0x02, 0, 0], FailureReason::ConnectionClosed, "associate: connection"),
        (&[], FailureReason::ConnectionClosed, "associate: connection"),
    ] {
        let (addr, _server) = server(move |mut stream| async move {
            stream.write_all(said).await.unwrap();
            // Take the request before closing: a reset could overtake what was said.
            read_pdu(&mut stream).await;
        })
        .await;
        let result = run_once(&target("A", addr, dicom_echo())).await;
        let failure = result.failure.unwrap();
        assert_eq!(failure.reason, reason, "{said:?}");
        assert!(failure.text.contains(text), "{said:?}: {}", failure.text);
    }
}
