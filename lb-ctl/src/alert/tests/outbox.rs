//! What waits, on disk and in memory.

use std::sync::Arc;

use super::{
    super::{
        ledger::Ledger,
        outbox::Outbox,
        spool::{Content, Destination, Parcel, Spool},
    },
    *,
};
use crate::model::{
    alerts::{Alerts, Webhook},
    config::Config,
};

fn parcel(number: u64, url: &str) -> Parcel {
    let content = Content { node: "lb1".into(), subject: "s".into(), text: "{}".into(), all: Vec::new() };
    Parcel {
        number,
        part: 0,
        at_epoch_secs: EPOCH + number / 1000,
        destination: Destination::Webhook(url.into()),
        content,
    }
}

fn config(urls: &[&str]) -> Arc<Config> {
    let webhooks = urls.iter().map(|&url| Webhook { url: url.into(), ca: None }).collect();
    Arc::new(Config { alerts: Alerts { webhooks, ..Alerts::default() }, ..Config::default() })
}

#[test]
fn what_is_on_disk_but_was_not_said_to_be_told_is_told_anew_and_not_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, told) = Ledger::open(dir.path()).unwrap();
    assert!(told.is_empty() && ledger.committed().is_none());
    let (spool, waiting) = Spool::open(dir.path(), ledger.committed()).unwrap();
    assert!(waiting.is_empty());
    ledger.begin(0).unwrap();
    let first = parcel(ledger.next_number(), "http://a/1");
    spool.keep(std::slice::from_ref(&first)).unwrap();
    ledger.store(Vec::new()).unwrap();
    // The second one is written, and the power goes before it counts as told.
    let second = parcel(ledger.next_number(), "http://a/2");
    assert_eq!(second.number, first.number + 1);
    spool.keep(std::slice::from_ref(&second)).unwrap();

    let (ledger, _) = Ledger::open(dir.path()).unwrap();
    assert_eq!(ledger.committed(), Some(first.number));
    let (_, waiting) = Spool::open(dir.path(), ledger.committed()).unwrap();
    assert_eq!(waiting, std::slice::from_ref(&first));
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 1);
    // Without the ledger nobody knows, and what is there is sent.
    std::fs::remove_file(dir.path().join("alerts.json")).unwrap();
    let (mut ledger, _) = Ledger::open(dir.path()).unwrap();
    let (spool, waiting) = Spool::open(dir.path(), ledger.committed()).unwrap();
    assert_eq!(waiting, std::slice::from_ref(&first));
    ledger.begin(first.number).unwrap();
    assert_eq!(ledger.next_number(), first.number + 1);
    spool.remove(&first).unwrap();
    spool.remove(&first).unwrap();
    assert!(Spool::open(dir.path(), ledger.committed()).unwrap().1.is_empty());
}

#[test]
fn a_file_that_cannot_be_read_keeps_nobody_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), Some(9)).unwrap();
    spool.keep(&[parcel(5, "http://a/5"), parcel(3, "http://a/3")]).unwrap();
    let torn = dir.path().join("spool/0000000004-00000.json");
    std::fs::write(&torn, "{").unwrap();
    let (_, waiting) = Spool::open(dir.path(), Some(9)).unwrap();
    assert_eq!(waiting.iter().map(|parcel| parcel.number).collect::<Vec<_>>(), [3, 5]);
    assert!(torn.exists());
}

#[tokio::test(start_paused = true)]
async fn the_oldest_gives_way_what_is_too_old_is_given_up_and_what_goes_nowhere_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), Some(0)).unwrap();
    let mut outbox = Outbox::new(spool, Vec::new());
    let dropped = outbox.add((0..1002).map(|n| parcel(n, "http://a/")).collect());
    assert_eq!(dropped.iter().map(|p| p.number).collect::<Vec<_>>(), [0, 1]);
    assert!(outbox.clear_out(&config(&["http://a/"]), EPOCH + 2 * 24 * 3600).is_empty());
    let old = outbox.clear_out(&config(&["http://a/"]), EPOCH + 2 * 24 * 3600 + 1);
    assert_eq!(old.len(), 998, "those of the first second");
    assert_eq!(outbox.clear_out(&config(&["http://b/"]), EPOCH).len(), 2);
}

#[tokio::test]
async fn what_is_not_taken_is_tried_again_with_growing_pauses_and_said_once_for_one_cause() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(dir.path(), Some(0)).unwrap();
    let mut outbox = Outbox::new(spool, Vec::new());
    // Ports that nobody has: the cause is the same but for the name.
    let (one, other) = ("ftp://a/secret", "ftp://b/secret");
    let config = config(&[one, other]);
    outbox.add(vec![parcel(0, one), parcel(1, one), parcel(0, other)]);
    let began = Instant::now();
    let mut now = began;
    for pause in [10, 20, 40, 80, 160, 320, 600, 600] {
        outbox.start(&config, now);
        for _ in 0..2 {
            let ended = outbox.next().await;
            assert_eq!(outbox.finish(ended, now, EPOCH), None);
        }
        assert!(!outbox.is_sending());
        assert_eq!(outbox.due(), Some(now + Duration::from_secs(pause)));
        outbox.start(&config, now);
        assert!(!outbox.is_sending(), "not before the pause is over");
        now += Duration::from_secs(pause);
    }
    let problems = outbox.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0]
            .starts_with("alerts cannot be sent to ftp://a/... since 2026-05-08 12:37:21 UTC, 2 waiting: "),
        "{problems:?}"
    );
    assert!(problems.iter().all(|problem| !problem.contains("secret")), "{problems:?}");
    outbox.hurry(now);
    assert_eq!(outbox.due(), Some(now));
}
