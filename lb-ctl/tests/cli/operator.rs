//! What an operator says of real servers: what arrives at the daemon, and what a wait shows.

use std::time::{SystemTime, UNIX_EPOCH};

use lb_ctl::model::{
    command::Command,
    health::RipId,
    operator::{Forced, Order},
    status::{RipState, RipStatus, Status},
};

use crate::{
    daemon::{Daemon, Ran, Script},
    samples::{AT, empty, green, up, vip},
};

const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
const HALT: Order = Order::Halt { keep_sessions: false };

fn id(vip: &str, rip: &str) -> RipId {
    RipId { vip: vip.to_owned(), rip: rip.to_owned() }
}

/// The green node with a second VIP, which has the first machine too.
fn two_vips() -> Status {
    let mut status = green();
    status.vips.push(vip("WADO", "10.12.1.101", vec![up("DICOM1", "10.12.1.110", 0)]));
    status
}

#[tokio::test]
async fn servers_are_named_in_one_vip_in_every_vip_or_by_their_machine() {
    let daemon = Daemon::serve(Script::new(two_vips()));
    let both = || vec![id("DICOM", "DICOM1"), id("WADO", "DICOM1")];
    let migrate = Order::Drain { migrate: Some(true), deadline_epoch_secs: None, then_halt: true };
    let keep = Order::Drain { migrate: Some(false), deadline_epoch_secs: None, then_halt: false };
    let verbs = [
        ("rip drain DICOM1 --all-vips", both(), DRAIN),
        ("rip drain DICOM/DICOM1 --keep-persistent", vec![id("DICOM", "DICOM1")], keep),
        ("rip drain DICOM1 --all-vips --migrate --then halt", both(), migrate),
        (
            "rip halt DICOM2 DICOM/DICOM2 DICOM/DICOM1",
            vec![id("DICOM", "DICOM2"), id("DICOM", "DICOM1")],
            HALT,
        ),
        (
            "rip halt WADO/DICOM1 --keep-sessions",
            vec![id("WADO", "DICOM1")],
            Order::Halt { keep_sessions: true },
        ),
        ("rip online WADO/DICOM1", vec![id("WADO", "DICOM1")], Order::Online),
        ("server drain 10.12.1.110 --migrate --then halt", both(), migrate),
        ("server halt 10.12.1.111 10.12.1.110", [vec![id("DICOM", "DICOM2")], both()].concat(), HALT),
        ("server online 10.12.1.110", both(), Order::Online),
    ];
    for (line, rips, state) in verbs {
        let ran = daemon.lbctl(line).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(daemon.commands().last(), Some(&Command::SetState { rips, state }), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_clear_is_asked_for() {
    let daemon = Daemon::serve(Script::new(two_vips()));
    let cases = [
        (
            "rip halt DICOM1",
            "`DICOM1` is more than one: say --all-vips, or which of DICOM/DICOM1, WADO/DICOM1",
        ),
        (
            "rip halt DICOM/DICOM1 --all-vips",
            "--all-vips goes with a real server alone: write DICOM1 for DICOM/DICOM1",
        ),
        (
            "server drain 10.12.1.11",
            "no VIP has a real server at 10.12.1.11; did you mean 10.12.1.110 or 10.12.1.111? see `lbctl rip list`",
        ),
        ("server halt fd00::1", "no VIP has a real server at fd00::1; see `lbctl rip list`"),
    ];
    for (line, said) in cases {
        let ran = daemon.lbctl(line).await;
        assert_eq!(ran, Ran { code: Some(2), out: String::new(), err: format!("lbctl: {said}\n") });
    }
    assert_eq!(daemon.commands(), []);
}

#[tokio::test]
async fn times_are_counted_from_now() {
    let daemon = Daemon::serve(Script::new(green()));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs();
    let before = now();
    assert_eq!(daemon.lbctl("rip drain DICOM/DICOM1 --timeout 10m --then halt").await.code, Some(0));
    assert_eq!(daemon.lbctl("check force DICOM/DICOM1 down --for 1h").await.code, Some(0));
    let commands = daemon.commands();
    let [Command::SetState { state, .. }, Command::Force { rips, forced: Some(forced) }] =
        commands.as_slice()
    else {
        panic!("{commands:?}");
    };
    let Order::Drain { migrate: None, deadline_epoch_secs: Some(at), then_halt: true } = *state else {
        panic!("{state:?}");
    };
    assert!((before + 600..=now() + 601).contains(&at), "{at}");
    assert_eq!((rips.as_slice(), forced.up), (&[id("DICOM", "DICOM1")][..], false));
    let until = forced.until_epoch_secs.expect("a time");
    assert!((before + 3600..=now() + 3601).contains(&until), "{until}");
}

#[tokio::test]
async fn a_check_is_overruled_and_decides_again() {
    let daemon = Daemon::serve(Script::new(green()));
    for (verdict, forced) in [("up", Some(Forced { up: true, until_epoch_secs: None })), ("auto", None)] {
        assert_eq!(daemon.lbctl(&format!("check force DICOM/DICOM1 {verdict}")).await.code, Some(0));
        let expected = Command::Force { rips: vec![id("DICOM", "DICOM1")], forced };
        assert_eq!(daemon.commands().last(), Some(&expected));
    }
    let ran = daemon.lbctl("check force DICOM/DICOM1 auto --for 10m").await;
    assert_eq!((ran.code, daemon.commands().len()), (Some(1), 2), "{ran:?}");
    assert!(ran.err.contains("leave --for out"), "{ran:?}");
}

/// An overview, `after` seconds later, in which the first server has these connections and this order.
fn draining(after: u64, connections: u64, order: Order) -> Status {
    let state = if order.name() == "halt" { RipState::Halt } else { RipState::Drain };
    let rip = RipStatus { state, operator: order.into(), ..up("DICOM1", "10.12.1.110", connections) };
    let vips = vec![vip("DICOM", "10.12.1.100", vec![rip, up("DICOM2", "10.12.1.111", 5)])];
    Status { at_epoch_secs: AT + after, vips, ..empty() }
}

async fn waited(line: &str, first: Vec<Status>, last: Status) -> Ran {
    let script = Script::new(last);
    script.at_first.lock().expect("no panic").extend(first);
    Daemon::serve(script).lbctl(line).await
}

#[tokio::test]
async fn a_wait_counts_down_until_the_server_is_empty() {
    let line = "rip drain DICOM/DICOM1 --wait";
    let ran = waited(line, vec![draining(0, 2, DRAIN), draining(1, 1, DRAIN)], draining(2, 0, DRAIN)).await;
    let out = "nothing to change\nDICOM/DICOM1: 2 connections left\nDICOM/DICOM1: 1 connection left\n\
               DICOM/DICOM1: 0 connections left\nDICOM/DICOM1: no connection left\n";
    assert_eq!(ran, Ran { code: Some(0), out: out.to_owned(), err: String::new() });
}

#[tokio::test]
async fn a_wait_ends_with_the_halt_that_follows() {
    let drain = Order::Drain { migrate: Some(true), deadline_epoch_secs: Some(AT + 600), then_halt: true };
    let line = "rip drain DICOM/DICOM1 --migrate --timeout 10m --then halt --wait";
    let ran = waited(line, vec![draining(0, 2, drain), draining(2, 2, drain)], draining(601, 0, HALT)).await;
    let out = "nothing to change\nDICOM/DICOM1: 2 connections left, 10:00 to go\nDICOM/DICOM1: halted\n";
    assert_eq!(ran, Ran { code: Some(0), out: out.to_owned(), err: String::new() });
}

#[tokio::test]
async fn a_wait_is_over_with_the_time_and_says_what_is_left() {
    let drain = Order::Drain { migrate: None, deadline_epoch_secs: Some(AT + 2), then_halt: false };
    let line = "server drain 10.12.1.110 --timeout 2s --wait";
    let ran = waited(line, vec![draining(0, 2, drain), draining(0, 2, drain)], draining(2, 2, drain)).await;
    let out = "nothing to change\nDICOM/DICOM1: 2 connections left, 0:02 to go\n\
               DICOM/DICOM1: 2 connections left, the time is over\n";
    assert_eq!(ran, Ran { code: Some(3), out: out.to_owned(), err: String::new() });
}

#[tokio::test]
async fn a_wait_for_what_somebody_took_back_ends_with_a_word() {
    let online = draining(1, 2, Order::Online);
    let ran = waited("rip drain DICOM/DICOM1 --wait", vec![draining(0, 2, DRAIN)], online).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("DICOM/DICOM1 was brought online meanwhile"), "{ran:?}");
    let ran = waited("rip drain DICOM/DICOM1 --wait", vec![draining(0, 2, DRAIN)], empty()).await;
    assert!(ran.err.contains("DICOM/DICOM1 was deleted meanwhile"), "{ran:?}");
}
