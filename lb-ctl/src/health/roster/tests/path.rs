//! The VIP at the server: the second question, and what it does to the verdict.
#![forbid(unsafe_code)]

use lb_common::net::Mac;

use super::*;
use crate::model::health::DirectPath;

const UNANSWERED: Option<FailureReason> = Some(FailureReason::PathUnanswered);

fn way(mac: u8) -> DirectPath {
    DirectPath {
        ifindex: 2,
        interface: "eth0".to_owned(),
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        source: [10, 0, 0, 250].into(),
        server_mac: Mac([2, 0, 0, 0, 0, mac]),
        server: [10, 0, 0, 1].into(),
        vip: SocketAddr::from(([10, 0, 0, 100], 104)),
        echo: None,
        others: BTreeMap::new(),
    }
}

fn direct(way: DirectPath) -> Target {
    Target { path: PathTarget::Direct(Arc::new(way)), ..target("A", [10, 0, 0, 1]) }
}

fn waiting() -> Target {
    Target { path: PathTarget::Waiting("VIP not claimed yet".to_owned()), ..target("A", [10, 0, 0, 1]) }
}

#[test]
fn a_server_is_up_when_it_and_its_path_are() {
    let mut scene = Scene::new(&[direct(way(1))]);
    let ids = scene.start_all();
    assert_eq!(ids.len(), 2);
    scene.answer(ids[0], None);
    assert_eq!(scene.verdict("A"), Verdict::Unknown);
    scene.answer(ids[1], None);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    assert!(scene.health("A").last.is_some() && scene.health("A").path.is_some());
}

#[test]
fn a_path_that_fails_takes_a_server_down_that_passes() {
    let mut scene = Scene::new(&[direct(way(1))]);
    scene.round(None);
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Up, "one failure is not `fall`");
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
    assert_eq!(scene.health("A").failure().unwrap().reason, FailureReason::PathUnanswered);
    let turned = scene.roster.take_transitions();
    assert_eq!(turned.last().unwrap().reason, UNANSWERED);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Down);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Up);
}

#[test]
fn a_server_that_was_not_up_is_unknown_while_its_path_waits() {
    let mut scene = Scene::new(&[waiting()]);
    assert_eq!(scene.round(None), 1, "the server alone is asked");
    assert_eq!(scene.verdict("A"), Verdict::Unknown);
    assert_eq!(scene.health("A").waiting.as_deref(), Some("VIP not claimed yet"));
    scene.follow(&[direct(way(1))]);
    scene.round(None);
    assert_eq!((scene.verdict("A"), &scene.health("A").waiting), (Verdict::Up, &None));
}

#[test]
fn a_server_that_was_up_stays_up_while_its_path_waits_and_goes_down_with_its_own_check() {
    let mut scene = Scene::new(&[direct(way(1))]);
    scene.round(None);
    scene.follow(&[waiting()]);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.round(REFUSED);
    scene.round(REFUSED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
    scene.round(None);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Up, "nothing was ever wrong with its path");
}

#[test]
fn a_path_that_was_down_is_not_up_for_waiting() {
    let mut scene = Scene::new(&[direct(way(1))]);
    scene.round_of_both(None, UNANSWERED);
    scene.round_of_both(None, UNANSWERED);
    scene.follow(&[waiting()]);
    scene.round(None);
    assert_eq!(scene.verdict("A"), Verdict::Down);
}

#[test]
fn another_mac_is_another_question_and_the_verdict_stays() {
    let mut scene = Scene::new(&[direct(way(1))]);
    scene.round(None);
    scene.round_of_both(None, UNANSWERED);
    scene.follow(&[direct(way(2))]);
    assert_eq!(scene.round_of_both(None, UNANSWERED), 2, "asked at once");
    assert_eq!(scene.verdict("A"), Verdict::Up, "failures of the old way do not count");
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
}

#[test]
fn failures_count_on_when_only_another_servers_mac_has_changed() {
    let mut scene = Scene::new(&[direct(way(1))]);
    scene.round(None);
    scene.round_of_both(None, UNANSWERED);
    let others = BTreeMap::from([(Mac([2, 0, 0, 0, 0, 9]), "B".to_owned())]);
    scene.follow(&[direct(DirectPath { others, ..way(1) })]);
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
}

#[test]
fn an_up_server_whose_path_begins_to_be_tried_stays_up_until_the_tries_fail() {
    let mut scene = Scene::new(&[target("A", [10, 0, 0, 1])]);
    scene.round(None);
    scene.follow(&[direct(way(1))]);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Up);
    scene.round_of_both(None, UNANSWERED);
    assert_eq!(scene.verdict("A"), Verdict::Down);
    scene.follow(&[target("A", [10, 0, 0, 1])]);
    assert_eq!(scene.verdict("A"), Verdict::Up, "the path is no longer asked about");
    assert!(scene.health("A").path.is_none());
}

#[test]
fn a_way_that_two_vips_share_is_tried_once() {
    let mut other = direct(way(1));
    other.id.vip = "OTHER".to_owned();
    let mut scene = Scene::new(&[direct(way(1)), other]);
    assert_eq!(scene.round(None), 2);
    assert!(scene.map.values().all(|health| health.verdict == Verdict::Up));
}
