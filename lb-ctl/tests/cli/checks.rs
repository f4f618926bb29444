//! Checks on the command line.

use std::net::Ipv4Addr;

use lb_ctl::{
    cli::{ShownCheck, check_into, checks_into},
    model::{
        checks::{Attempt, CheckQuery, CheckStatus, HistoryQuery, RunStatus, Setting},
        health::{Advice, AdvisedState, Asked, Failure, FailureReason, RipId, Step, Transition, Verdict},
        operator::{Forced, Word},
    },
};
use tokio::net::TcpListener;

use crate::{
    daemon::{Daemon, Script},
    samples::empty,
};

/// 2026-05-08 12:37:21 UTC.
const NOW: u64 = 1_778_243_841_000;

fn id(rip: &str) -> RipId {
    RipId { vip: "DICOM".to_owned(), rip: rip.to_owned() }
}

fn attempt(failure: Option<(FailureReason, &str)>) -> Attempt {
    let step = |name: &str, took_micros| Step { name: name.to_owned(), took_micros };
    Attempt {
        at_epoch_millis: NOW - 2_000,
        took_micros: 2_512,
        steps: vec![step("connect", 412), step("associate", 2_100)],
        failure: failure.map(|(reason, text)| Failure { reason, text: text.to_owned() }),
        output: None,
        note: None,
    }
}

fn passing(rip: &str) -> CheckStatus {
    CheckStatus {
        id: id(rip),
        kind: "dicom-echo".to_owned(),
        addr: ([10, 12, 1, 110], 104).into(),
        source: None,
        interval_millis: 4_000,
        timeout_millis: 3_000,
        rise: 2,
        damping: 1,
        fall: 2,
        settings: vec![Setting { name: "called_aet".to_owned(), value: "PACS".to_owned() }],
        verdict: Verdict::Up,
        since_epoch_millis: Some(NOW - 11_100_000),
        operator: Word::default(),
        reason: None,
        text: None,
        server: Some(attempt(None)),
        way: None,
        path: None,
        advice: Advice::default(),
        syn_repeats: 0,
        syn_repeats_count: false,
    }
}

const REJECTED: &str = "A-ASSOCIATE-RJ: called AE title not recognised (PACS)";

fn failing(rip: &str) -> CheckStatus {
    let failure = (FailureReason::RejectedCalledAet, REJECTED);
    CheckStatus {
        verdict: Verdict::Down,
        since_epoch_millis: Some(NOW - 65_000),
        reason: Some(failure.0),
        text: Some(failure.1.to_owned()),
        server: Some(attempt(Some(failure))),
        ..passing(rip)
    }
}

/// Everything that a check can have.
fn rich() -> CheckStatus {
    let mut server = attempt(None);
    server.output = Some("drain 50%\n\u{1b}[2Jbye".to_owned());
    server.note = Some("nothing was sent".to_owned());
    let unanswered = (FailureReason::PathUnanswered, "vip connect: no answer from 10.12.1.100:104");
    CheckStatus {
        source: Some([10, 12, 1, 250].into()),
        interval_millis: 1_500,
        damping: 4,
        operator: Word { forced: Some(Forced { up: true, until_epoch_secs: None }), ..Word::default() },
        reason: Some(unanswered.0),
        text: Some(unanswered.1.to_owned()),
        verdict: Verdict::Down,
        server: Some(server),
        way: Some("connect to 10.12.1.100:104 at 02:00:00:00:00:01 by eth0, from 10.12.1.250".to_owned()),
        path: Some(attempt(Some(unanswered))),
        advice: Advice { percent: Some(50), state: Some(AdvisedState::Drain) },
        syn_repeats: 7,
        syn_repeats_count: true,
        ..passing("DICOM1")
    }
}

fn printed(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).expect("into memory");
    String::from_utf8(out).expect("text")
}

#[test]
fn a_list_says_what_is_asked_what_was_found_and_why() {
    let waiting = CheckStatus {
        verdict: Verdict::Unknown,
        text: Some("vip not tried: VIP not claimed yet".to_owned()),
        since_epoch_millis: None,
        ..passing("DICOM3")
    };
    let unchecked = CheckStatus { server: None, verdict: Verdict::Unknown, ..passing("DICOM4") };
    let off = CheckStatus { kind: "off".to_owned(), server: None, ..passing("DICOM5") };
    let checks = [passing("DICOM1"), failing("DICOM2"), waiting, unchecked, off];
    let expected = "\x20  VIRTUAL SERVICE  REAL SERVER  CHECK       VERDICT  SINCE    TOOK  LAST
^  DICOM            DICOM1       dicom-echo  up       3h 5m  2.5 ms  passes
v  DICOM            DICOM2       dicom-echo  down     1m     2.5 ms  A-ASSOCIATE-RJ: called AE title not recognised (PACS) (rejected-called-aet)
?  DICOM            DICOM3       dicom-echo  unknown  -      2.5 ms  vip not tried: VIP not claimed yet
?  DICOM            DICOM4       dicom-echo  unknown  3h 5m       -  not checked yet
^  DICOM            DICOM5       off         up       3h 5m       -  off: always up
";
    assert_eq!(printed(|out| checks_into(out, &checks, NOW, false)), expected);
    assert_eq!(printed(|out| checks_into(out, &[], NOW, false)), "Nothing is checked.\n");
}

#[test]
fn a_check_is_shown_with_everything_that_it_has() {
    let turn = |at, from, to, reason, text: &str| Transition {
        at_epoch_millis: at,
        id: id("DICOM1"),
        from,
        to,
        reason,
        text: text.to_owned(),
    };
    let history = vec![
        turn(NOW - 60_000, Verdict::Unknown, Verdict::Up, None, "passes"),
        turn(NOW, Verdict::Up, Verdict::Down, Some(FailureReason::ConnectRefused), "connect: refused"),
    ];
    let expected = "\
Real server    v DICOM/DICOM1
Verdict        forced up (the check says down), since 3h 5m
Check          dicom-echo 10.12.1.110:104, from 10.12.1.250
Interval       1.5 s, deadline 3 s
Rise, fall     2 (x 4: it went down too often of late), 2
called_aet     PACS
VIP's path     connect to 10.12.1.100:104 at 02:00:00:00:00:01 by eth0, from 10.12.1.250
Its own word   drain, 50 % of its weight
Clients' SYNs  7 came again since a connection last got through, which counts as a failure

Server, 2s ago, in 2.5 ms: passed
  connect    412 us
  associate  2.1 ms
  note: nothing was sent
  > drain 50%
  > \\u{1b}[2Jbye

VIP at the server, 2s ago, in 2.5 ms: failed: vip connect: no answer from 10.12.1.100:104 (path-unanswered)
  connect    412 us
  associate  2.1 ms

CHANGED                  FROM     TO    WHY
2026-05-08 12:36:21 UTC  unknown  up    passes
2026-05-08 12:37:21 UTC  up       down  connect: refused (connect-refused)
";
    let shown = ShownCheck { check: rich(), history };
    assert_eq!(printed(|out| check_into(out, &shown, NOW, false)), expected);
}

#[tokio::test]
async fn what_is_typed_is_what_is_asked() {
    let mut script = Script::new(empty());
    script.checks = vec![passing("DICOM1")];
    let daemon = Daemon::serve(script);
    assert!(daemon.lbctl("check list DICOM").await.out.contains("dicom-echo"));
    assert_eq!(daemon.lbctl("check list -o json").await.code, Some(0));
    let shown = daemon.lbctl("check show DICOM/DICOM1 --history 5 -o json").await;
    let shown: serde_json::Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!((&shown["rip"], &shown["history"]), (&"DICOM1".into(), &serde_json::json!([])));
    let meant = |vip: Option<&str>, rip: Option<&str>| CheckQuery {
        vip: vip.map(str::to_owned),
        rip: rip.map(str::to_owned),
    };
    let expected = [meant(Some("DICOM"), None), meant(None, None), meant(Some("DICOM"), Some("DICOM1"))];
    assert_eq!(*daemon.script.checks_meant.lock().unwrap(), expected);
    let past = HistoryQuery { vip: "DICOM".to_owned(), rip: "DICOM1".to_owned(), limit: Some(5) };
    assert_eq!(*daemon.script.pasts_meant.lock().unwrap(), [past]);
}

#[tokio::test]
async fn a_run_that_finds_a_failure_says_so_and_ends_with_3() {
    let run = |rip, asked, attempt| RunStatus { id: id(rip), asked, attempt };
    let mut script = Script::new(empty());
    script.runs = vec![
        run("DICOM1", Asked::Server, attempt(None)),
        run("DICOM1", Asked::Path, attempt(Some((FailureReason::RejectedCalledAet, REJECTED)))),
    ];
    let daemon = Daemon::serve(script);
    let ran = daemon.lbctl("check run DICOM").await;
    let expected = "\
^ DICOM/DICOM1        2.5 ms  passes
v DICOM/DICOM1 (VIP)  2.5 ms  A-ASSOCIATE-RJ: called AE title not recognised (PACS) (rejected-called-aet)
";
    assert_eq!((ran.code, ran.out.as_str()), (Some(3), expected));
    let ran = daemon.lbctl("check run DICOM/DICOM1 --verbose").await;
    assert!(ran.out.contains("  associate  2.1 ms\n"), "{}", ran.out);
}

#[tokio::test]
async fn any_address_can_be_tested_without_a_daemon() {
    let daemon = Daemon::serve(Script::new(empty()));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let ran = daemon.lbctl(&format!("check test connect {addr}")).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert!(
        ran.out.starts_with(&format!("^ connect {addr}  ")) && ran.out.contains("\n  connect  "),
        "{}",
        ran.out
    );
    drop(listener);
    let ran = daemon.lbctl(&format!("check test dicom-echo {addr} --called PACS --timeout 1s")).await;
    assert_eq!(ran.code, Some(3));
    let told = format!("connect: connection refused by {addr} (connect-refused)");
    assert!(ran.out.contains(&told), "{}", ran.out);
    assert!(daemon.script.checks_meant.lock().unwrap().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn a_test_that_makes_no_sense_is_refused_with_the_cure() {
    let daemon = Daemon::serve(Script::new(empty()));
    for (line, told) in [
        ("connect 10.0.0.1", "this check asks a port, and there is no usual one: write 10.0.0.1:104"),
        ("connect 10.0.0.1:80 --path /", "--path means nothing for this check: leave it out"),
        ("http 10.0.0.1 --verify system", "--verify means nothing for this check: leave it out"),
        ("http 10.0.0.1 --calling A", "--calling means nothing for this check"),
        ("dicom-echo 10.0.0.1", "name the server's with --called"),
        ("dicom-echo 10.0.0.1 --called A --sni b", "--sni means nothing for this check"),
        ("script 10.0.0.1", "name its file with --script"),
        ("mllp 10.0.0.1 --message /no/such/file", "cannot read /no/such/file"),
    ] {
        let ran = daemon.lbctl(&format!("check test {line}")).await;
        assert_eq!(ran.code, Some(1), "{line}");
        assert!(ran.err.contains(told), "{line}: {}", ran.err);
    }
}
