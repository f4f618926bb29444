//! MLLP checks of a real HL7 receiver (python3-hl7) on loopback. Needs no root.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, net::SocketAddr, time::Duration};

use lb_ctl::{
    health::run_once,
    model::{
        check::{Check, CheckKind, MllpCheck},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use lb_tests::lab::archive::{Archive, free_addr};
use tempfile::TempDir;
use tokio::task::JoinSet;

const TIMEOUT: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(500);

/// A receiver that acknowledges with the code it is given, keeps silent, or acknowledges another message; and says when
/// a connection begins and ends.
const RECEIVER: &str = r#"
import asyncio, sys
from hl7.mllp import start_hl7_server

port, manner = int(sys.argv[1]), sys.argv[2]

async def serve(reader, writer):
    print("opened", flush=True)
    try:
        while not writer.is_closing():
            message = await reader.readmessage()
            print("message", message.segment("MSH")[10], flush=True)
            if manner == "silent":
                continue
            if manner == "garbage":
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            else:
                ack = message.create_ack("AA" if manner == "other" else manner)
                if manner == "other":
                    ack.segment("MSA")[2] = "ANOTHER"
                if manner == "AE":
                    ack.segment("MSA").append("")
                    ack.segment("MSA")[3] = "no such patient"
                writer.writemessage(ack)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
        print("closed", flush=True)

async def main():
    async with await start_hl7_server(serve, host="127.0.0.1", port=port) as server:
        await server.serve_forever()

asyncio.run(main())
"#;

/// Segments are lines; time and identifier are filled in.
const MESSAGE: &str =
    "MSH|^~\\&|LB|LB|RIS|KH|{time}||ADT^A08^ADT_A01|{id}|T|2.5\nEVN|A08|{time}\nPID|1||LBD-CHECK\n";

async fn receiver(manner: &str) -> Archive {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("receiver.py"), RECEIVER).unwrap();
    let addr = free_addr();
    // The distribution's own: another in PATH may not have the module.
    Archive::start("/usr/bin/python3", &["receiver.py", &addr.port().to_string(), manner], addr, dir).await
}

fn target(addr: SocketAddr, mllp: MllpCheck, timeout: Duration) -> Target {
    let check = Check { kind: CheckKind::Mllp(mllp), timeout, interval: timeout * 2, ..Check::default() };
    Target::new(RipId { vip: "HL7".to_owned(), rip: "RIS".to_owned() }, addr, check)
}

fn asking(accept: &[&str]) -> MllpCheck {
    MllpCheck {
        message: Some(MESSAGE.to_owned()),
        accept: accept.iter().map(|code| (*code).to_owned()).collect(),
    }
}

async fn run(server: &Archive, accept: &[&str], timeout: Duration) -> CheckResult {
    run_once(&target(server.addr(), asking(accept), timeout)).await
}

fn steps(result: &CheckResult) -> Vec<&str> {
    result.steps.iter().map(|step| step.name.as_str()).collect()
}

#[track_caller]
fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str) {
    let failure = result.failure.as_ref().expect("the check must fail");
    assert_eq!((failure.reason, failure.text.as_str()), (reason, text));
}

/// Connections that the receiver saw: the one that found out whether it listens among them.
fn opened(server: &Archive) -> usize {
    server.log().matches("opened").count()
}

#[tokio::test]
async fn an_acknowledged_message_passes_and_is_shown() {
    let server = receiver("AA").await;
    let result = run(&server, &[], TIMEOUT).await;
    assert_eq!((&result.failure, &result.note), (&None, &None), "{}", server.log());
    assert_eq!(steps(&result), ["connect", "message"]);
    let acknowledgment = result.output.unwrap();
    assert!(acknowledgment.contains("\nMSA|AA|LBD"), "{acknowledgment}");
    server.says("message LBD").await;
    server.says_times("closed", opened(&server)).await;
    server.kill().await;
}

#[tokio::test]
async fn a_refusal_says_why_and_passes_where_it_is_asked_for() {
    let server = receiver("AE").await;
    let result = run(&server, &[], TIMEOUT).await;
    assert_failed(
        &result,
        FailureReason::MllpRefused,
        "message: the receiver answered AE, error: no such patient",
    );
    assert_eq!(run(&server, &["AA", "AE"], TIMEOUT).await.failure, None);
    server.kill().await;
}

#[tokio::test]
async fn an_acknowledgment_of_another_message_fails() {
    let server = receiver("other").await;
    let failure = run(&server, &[], TIMEOUT).await.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::MllpRefused);
    assert!(failure.text.contains("acknowledged message \"ANOTHER\""), "{}", failure.text);
    server.kill().await;
}

#[tokio::test]
async fn silence_and_garbage_are_told_apart() {
    let server = receiver("silent").await;
    let result = run(&server, &[], SHORT).await;
    assert_failed(&result, FailureReason::AnswerTimeout, "message: no answer within 500 ms");
    server.says_times("closed", opened(&server)).await;
    server.kill().await;
    let server = receiver("garbage").await;
    let failure = run(&server, &[], TIMEOUT).await.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::ProtocolError);
    assert!(failure.text.contains("\"HTTP/1.1 400 Bad\""), "{}", failure.text);
    server.kill().await;
}

#[tokio::test]
async fn without_a_message_the_receiver_sees_nothing() {
    let server = receiver("AA").await;
    // The connection that found out whether it listens.
    server.says("closed").await;
    let before = opened(&server);
    for _ in 0..20 {
        let result = run_once(&target(server.addr(), MllpCheck::default(), TIMEOUT)).await;
        assert_eq!((&result.failure, steps(&result)), (&None, vec!["connect"]));
        assert!(result.note.as_ref().unwrap().contains("nothing sent"), "{result:?}");
    }
    // One that it sees comes after all those that it does not.
    assert_eq!(run(&server, &[], TIMEOUT).await.failure, None);
    assert_eq!(opened(&server), before + 1);
    let addr = server.addr();
    server.kill().await;
    let result = run_once(&target(addr, MllpCheck::default(), TIMEOUT)).await;
    assert_eq!(result.failure.unwrap().reason, FailureReason::ConnectRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_messages_leave_no_descriptor_and_no_connection() {
    const CHECKS: usize = 2_000;
    let server = receiver("AA").await;
    let target = target(server.addr(), asking(&[]), Duration::from_secs(30));
    run_once(&target).await;
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let mut running = JoinSet::new();
    for _ in 1..CHECKS {
        while running.len() >= 8 {
            running.join_next().await.unwrap().unwrap();
        }
        let target = target.clone();
        running.spawn(async move { assert_eq!(run_once(&target).await.failure, None) });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    server.says_times("message LBD", CHECKS).await;
    server.says_times("closed", opened(&server)).await;
    assert!(descriptors() <= before, "{} descriptors, {before} before", descriptors());
    server.kill().await;
}
