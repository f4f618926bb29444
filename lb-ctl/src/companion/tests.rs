//! A program that does as it is told: what it was told, and when.

use super::*;

#[derive(Default)]
struct Program {
    runs: bool,
    /// What it refuses, fails to start by, and has to be waited for.
    refuses: Option<u32>,
    broken: Option<u32>,
    busy: Duration,
    done: Vec<(&'static str, u32)>,
}

impl Companion for Program {
    type Config = u32;

    async fn check(&mut self, config: &u32) -> Result<(), String> {
        self.done.push(("check", *config));
        if self.refuses == Some(*config) { Err("refused".to_owned()) } else { Ok(()) }
    }

    async fn start(&mut self, config: &u32) -> Result<(), String> {
        self.done.push(("start", *config));
        if self.broken == Some(*config) {
            return Err("broken".to_owned());
        }
        self.runs = true;
        Ok(())
    }

    async fn reload(&mut self, config: &u32) -> Result<(), String> {
        self.done.push(("reload", *config));
        if self.broken == Some(*config) { Err("broken".to_owned()) } else { Ok(()) }
    }

    async fn retire(&mut self) {
        self.done.push(("retire", 0));
        self.runs = false;
    }

    fn runs(&mut self) -> bool {
        self.runs
    }

    async fn last_words(&self) -> String {
        "killed".to_owned()
    }

    async fn patience(&mut self) -> Duration {
        std::mem::take(&mut self.busy)
    }
}

fn supervisor() -> Supervisor<Program> {
    Supervisor::new(Program::default(), None)
}

#[tokio::test(start_paused = true)]
async fn it_is_started_reloaded_and_retired_and_not_told_twice() {
    let mut it = supervisor();
    assert_eq!(it.step().await, Stepped::Nothing);
    for config in [1, 1, 2] {
        it.want(Some(config)).await.unwrap();
        it.step().await;
        assert!(it.settled());
    }
    it.want(None).await.unwrap();
    assert_eq!(it.step().await, Stepped::Retired);
    let done = [("check", 1), ("start", 1), ("check", 2), ("reload", 2), ("retire", 0)];
    assert_eq!(it.program().done, done);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_leaves_what_was() {
    let mut it = supervisor();
    it.want(Some(1)).await.unwrap();
    it.step().await;
    it.program().refuses = Some(2);
    assert_eq!(it.want(Some(2)).await, Err("refused".to_owned()));
    assert_eq!(it.step().await, Stepped::Nothing);
    assert_eq!(it.running(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_killed_begins_again_at_once_and_then_after_longer_and_longer_pauses() {
    let mut it = supervisor();
    it.want(Some(1)).await.unwrap();
    it.step().await;
    let mut pauses = Vec::new();
    for _ in 0..7 {
        it.program().runs = false;
        let killed = Instant::now();
        while it.step().await != Stepped::Renewed {
            assert_eq!(it.trouble(), Some("killed"));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        pauses.push(killed.elapsed().as_secs());
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30]);
    // Who has run for long begins from the front.
    tokio::time::advance(Duration::from_secs(60)).await;
    it.program().runs = false;
    assert_eq!(it.step().await, Stepped::Renewed);
    assert_eq!(it.trouble(), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_begin_is_tried_again_and_something_else_at_once() {
    let mut it = supervisor();
    it.program().broken = Some(1);
    it.want(Some(1)).await.unwrap();
    assert_eq!(it.step().await, Stepped::Nothing);
    assert_eq!(it.trouble(), Some("broken"));
    assert_eq!(it.step().await, Stepped::Nothing, "not before its time");
    assert_eq!(it.program().done.iter().filter(|(what, _)| *what == "start").count(), 1);
    it.want(Some(2)).await.unwrap();
    assert_eq!(it.step().await, Stepped::Renewed);
}

#[tokio::test(start_paused = true)]
async fn a_reload_waits_for_its_time() {
    let mut it = supervisor();
    it.want(Some(1)).await.unwrap();
    it.step().await;
    it.program().busy = Duration::from_secs(3);
    it.want(Some(2)).await.unwrap();
    assert_eq!(it.step().await, Stepped::Nothing);
    assert_eq!(it.running(), Some(&1));
    // What is wanted meanwhile is reloaded with it.
    it.want(Some(3)).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(it.step().await, Stepped::Renewed);
    assert_eq!(it.running(), Some(&3));
}
