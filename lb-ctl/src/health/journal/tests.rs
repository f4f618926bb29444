#![forbid(unsafe_code)]

use std::time::Duration;

use super::*;
use crate::{
    model::{
        check::Check,
        health::{FailureReason, Target, Verdict},
    },
    shutdown,
};

fn id(rip: &str) -> RipId {
    RipId { vip: "PACS".to_owned(), rip: rip.to_owned() }
}

fn turn(rip: &str, at: u64) -> Transition {
    Transition {
        at_epoch_millis: at,
        id: id(rip),
        from: Verdict::Up,
        to: Verdict::Down,
        reason: Some(FailureReason::ConnectRefused),
        text: "connect: connection refused by 10.0.0.1:104".to_owned(),
    }
}

fn times(turns: &[Transition]) -> Vec<u64> {
    turns.iter().map(|turn| turn.at_epoch_millis).collect()
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir).unwrap()
}

async fn write(dir: &Path, turns: impl IntoIterator<Item = Transition>) {
    open(dir).enter(turns.into_iter().map(Entry::Turned).collect()).await;
}

#[tokio::test]
async fn what_happened_is_there_after_a_restart_the_newest_hundred_of_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), (0..120).map(|at| turn("A", at))).await;
    write(dir.path(), [turn("B", 7), turn("A", 120)]).await;
    let journal = open(dir.path());
    assert_eq!(times(&journal.book.last(&id("A"), 1000)), (21..=120).collect::<Vec<_>>());
    assert_eq!(times(&journal.book.last(&id("A"), 3)), [118, 119, 120]);
    assert_eq!(journal.book.last(&id("B"), 3), [turn("B", 7)]);
    assert_eq!(journal.book.last(&id("C"), 3), []);
}

#[tokio::test]
async fn a_torn_last_line_is_left_out_and_nothing_is_glued_to_it() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), [turn("A", 1), turn("A", 2)]).await;
    let path = dir.path().join(FILE);
    let text = fs::read(&path).unwrap();
    for cut in 1..text.len() {
        fs::write(&path, &text[..cut]).unwrap();
        write(dir.path(), [turn("A", 3)]).await;
        let whole = text[..cut].iter().filter(|byte| **byte == b'\n').count();
        let kept = times(&open(dir.path()).book.last(&id("A"), 10));
        assert_eq!(kept, [&[1, 2][..whole], &[3]].concat(), "cut at {cut}");
        assert!(!open(dir.path()).broken);
    }
}

#[tokio::test]
async fn a_line_that_is_not_understood_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), [turn("A", 1)]).await;
    let path = dir.path().join(FILE);
    let mut text = fs::read(&path).unwrap();
    text.extend(b"{\"from\":\"a later version\"}\n\xff\xfe\n");
    fs::write(&path, &text).unwrap();
    write(dir.path(), [turn("A", 2)]).await;
    assert_eq!(times(&open(dir.path()).book.last(&id("A"), 10)), [1, 2]);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2, "written anew");
}

#[tokio::test]
async fn a_file_twice_too_long_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let lines = || fs::read_to_string(dir.path().join(FILE)).unwrap().lines().count();
    let mut longest = 0;
    for at in 0..50 {
        journal.enter((0..100).map(|n| Entry::Turned(turn("A", at * 100 + n))).collect()).await;
        longest = longest.max(lines());
        assert_eq!(lines(), journal.lines);
    }
    assert!((1000..=1100).contains(&longest), "{longest}");
    assert_eq!(times(&open(dir.path()).book.last(&id("A"), 1)), [4999]);
}

#[tokio::test]
async fn a_disk_that_refuses_loses_nothing_that_it_takes_later() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut journal = open(&state);
    journal.enter(vec![Entry::Turned(turn("A", 1))]).await;
    assert!(journal.failing && journal.broken);
    fs::create_dir(&state).unwrap();
    journal.enter(vec![Entry::Turned(turn("A", 2))]).await;
    assert!(!journal.failing);
    assert_eq!(times(&open(&state).book.last(&id("A"), 10)), [1, 2]);
}

#[test]
fn who_is_gone_for_thirty_days_is_forgotten_and_who_came_back_is_not() {
    let day = Duration::from_secs(86_400);
    let start = SystemTime::UNIX_EPOCH + day * 20_000;
    let mut book = Book::default();
    for rip in ["A", "B", "C"] {
        book.enter(Entry::Turned(turn(rip, 1)));
    }
    let gone = book.absent(&[id("A")].into(), start);
    assert_eq!(gone.len(), 2);
    for entry in gone {
        book.enter(entry);
    }
    assert_eq!(
        book.absent(&[id("A"), id("C")].into(), start + day * 5),
        [],
        "B is known to be gone, C is back"
    );
    book.prune(start + day * 29);
    assert_eq!(book.entries().count(), 4);
    book.prune(start + day * 31);
    assert_eq!(
        [book.last(&id("A"), 9).len(), book.last(&id("B"), 9).len(), book.last(&id("C"), 9).len()],
        [1, 0, 1]
    );
}

#[tokio::test]
async fn the_task_writes_answers_and_takes_what_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    let (transitions, transitions_in) = mpsc::channel(16);
    let (requests, requests_in) = mpsc::channel(1);
    let (targets, targets_in) = watch::channel(Targets::new());
    let (trigger, shutdown) = shutdown::channel();
    let task = tokio::spawn(open(dir.path()).run(transitions_in, requests_in, targets_in, shutdown));
    transitions.send(turn("A", 1)).await.unwrap();
    // Everything that was sent before the request may still come after it: ask until it is there.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (reply, answer) = oneshot::channel();
        requests.send(HistoryRequest { id: id("A"), limit: 5, reply }).await.unwrap();
        if answer.await.unwrap() == [turn("A", 1)] {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "it never came");
    }
    targets.send(vec![Target::new(id("A"), ([10, 0, 0, 1], 104).into(), Check::default())]).unwrap();
    transitions.send(turn("A", 2)).await.unwrap();
    trigger.pull();
    drop(transitions);
    task.await.unwrap().unwrap();
    assert_eq!(times(&open(dir.path()).book.last(&id("A"), 5)), [1, 2]);
}
