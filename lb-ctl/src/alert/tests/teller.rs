//! Levels, windows, restarts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{
    super::teller::{Event, Kind, Teller},
    *,
};

fn look(teller: &mut Teller, now: Now, standings: &[(Subject, Standing)]) -> Vec<(Subject, Kind)> {
    let situation = situation(standings);
    teller.look(&situation, now);
    let events = teller.tell(&situation, PACE, now);
    events.into_iter().map(|Event { subject, kind, .. }| (subject, kind)).collect()
}

fn again(teller: &Teller) -> Teller {
    Teller::new(teller.told().map(|(subject, told)| (subject.clone(), told.clone())))
}

#[test]
fn what_happens_within_the_window_is_told_together_and_once() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let one = [(server("R1"), failing("refused")), (server("R2"), Standing::Well)];
    let both = [(server("R1"), failing("refused")), (server("R2"), failing("refused"))];
    assert!(look(&mut teller, clock.pass(0), &one).is_empty());
    assert_eq!(
        teller.due(&situation(&one), PACE, clock.pass(0)),
        Some(clock.began + PACE.group),
        "the window opens with the first event"
    );
    assert!(look(&mut teller, clock.pass(2), &both).is_empty());
    let told = look(&mut teller, clock.pass(1), &both);
    assert_eq!(told, [(server("R1"), Kind::Failed), (server("R2"), Kind::Failed)]);
    for _ in 0..10 {
        assert!(look(&mut teller, clock.pass(60), &both).is_empty());
    }
    let well = [(server("R1"), Standing::Well), (server("R2"), failing("refused"))];
    assert!(look(&mut teller, clock.pass(1), &well).is_empty());
    assert_eq!(look(&mut teller, clock.pass(3), &well), [(server("R1"), Kind::Recovered)]);
}

#[test]
fn nothing_is_told_of_what_is_unknown_or_in_an_operators_hands() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    for standing in [Standing::Unsaid, Standing::Well, Standing::Unsaid, Standing::Well] {
        assert!(look(&mut teller, clock.pass(10), &[(server("R1"), standing)]).is_empty());
    }
    // Halted within the window: planned.
    assert!(look(&mut teller, clock.pass(1), &[(server("R1"), failing("x"))]).is_empty());
    assert!(look(&mut teller, clock.pass(3), &[(server("R1"), Standing::Unsaid)]).is_empty());
    // Told down, then halted, then back: people hear that it is back.
    look(&mut teller, clock.pass(1), &[(server("R1"), failing("x"))]);
    assert_eq!(
        look(&mut teller, clock.pass(3), &[(server("R1"), failing("x"))]),
        [(server("R1"), Kind::Failed)]
    );
    let day = 24 * 3600;
    assert!(look(&mut teller, clock.pass(day), &[(server("R1"), Standing::Unsaid)]).is_empty());
    look(&mut teller, clock.pass(1), &[(server("R1"), Standing::Well)]);
    assert_eq!(
        look(&mut teller, clock.pass(3), &[(server("R1"), Standing::Well)]),
        [(server("R1"), Kind::Recovered)]
    );
}

#[test]
fn a_failure_that_is_over_within_the_window_is_one_line() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    look(&mut teller, clock.pass(0), &[(server("R1"), failing("refused"))]);
    for standing in [Standing::Well, failing("again")] {
        assert!(look(&mut teller, clock.pass(1), &[(server("R1"), standing)]).is_empty());
    }
    let well = situation(&[(server("R1"), Standing::Well)]);
    let now = clock.pass(1);
    teller.look(&well, now);
    let [event] = teller.tell(&well, PACE, now).try_into().unwrap();
    assert_eq!((event.kind, event.text.as_str(), event.since_epoch_secs), (Kind::Blinked, "refused", EPOCH));
    assert_eq!(teller.told().count(), 0);

    look(&mut teller, clock.pass(1), &[(server("R1"), failing("down"))]);
    look(&mut teller, clock.pass(3), &[(server("R1"), failing("down"))]);
    look(&mut teller, clock.pass(9), &[(server("R1"), Standing::Well)]);
    let told = look(&mut teller, clock.pass(3), &[(server("R1"), failing("down"))]);
    assert_eq!(told, [(server("R1"), Kind::Relapsed)]);
}

#[test]
fn what_goes_on_failing_is_told_again_in_one_reminder() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let first = [(server("R1"), failing("x")), (server("R2"), Standing::Well)];
    let both = [(server("R1"), failing("x")), (server("R2"), failing("x"))];
    look(&mut teller, clock.pass(0), &first);
    look(&mut teller, clock.pass(3), &first);
    look(&mut teller, clock.pass(3600), &both);
    look(&mut teller, clock.pass(3), &both);
    let now = clock.pass(0);
    let due = teller.due(&situation(&both), PACE, now).unwrap();
    assert_eq!(due - now.steady, Duration::from_secs(24 * 3600 - 3603));
    let told = look(&mut teller, clock.pass(24 * 3600 - 3603), &both);
    assert_eq!(told, [(server("R1"), Kind::Still), (server("R2"), Kind::Still)]);
    assert!(look(&mut teller, clock.pass(3600), &both).is_empty());
    let never = Pace { repeat: Duration::ZERO, ..PACE };
    assert_eq!(teller.due(&situation(&both), never, clock.pass(48 * 3600)), None);
    assert!(teller.tell(&situation(&both), never, clock.pass(0)).is_empty());
}

#[test]
fn a_clock_that_was_set_back_does_not_silence_reminders() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let down = [(server("R1"), failing("x"))];
    clock.secs = 365 * 24 * 3600;
    look(&mut teller, clock.pass(0), &down);
    look(&mut teller, clock.pass(3), &down);
    clock.secs = 0;
    assert!(look(&mut teller, clock.pass(1), &down).is_empty());
    assert_eq!(look(&mut teller, clock.pass(24 * 3600), &down), [(server("R1"), Kind::Still)]);
}

#[test]
fn a_daemon_that_was_away_tells_the_difference_and_forgets_what_is_gone() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let down = [(server("R1"), failing("x")), (server("R2"), failing("x")), (server("R3"), Standing::Well)];
    look(&mut teller, clock.pass(0), &down);
    look(&mut teller, clock.pass(3), &down);
    let mut teller = again(&teller);
    let unknown = ["R1", "R2", "R3"].map(|name| (server(name), Standing::Unsaid));
    assert!(look(&mut teller, clock.pass(60), &unknown).is_empty());
    // R2 is no longer configured.
    let found = [(server("R1"), Standing::Well), (server("R3"), failing("x"))];
    look(&mut teller, clock.pass(1), &found);
    let told = look(&mut teller, clock.pass(3), &found);
    assert_eq!(told, [(server("R1"), Kind::Recovered), (server("R3"), Kind::Failed)]);
    assert_eq!(teller.told().count(), 1);
}

#[test]
fn another_machine_that_is_not_heard_is_not_gone_before_it_would_have_been() {
    let foreign =
        Subject::Foreign { vip: None, ip: "10.12.1.1".parse().unwrap(), mac: "02:00:00:00:00:07".into() };
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let heard = [(foreign.clone(), failing("answers"))];
    look(&mut teller, clock.pass(0), &heard);
    look(&mut teller, clock.pass(3), &heard);
    let mut teller = again(&teller);
    for (is_heard, events) in [(false, 0), (true, 1)] {
        let silent = Situation::made_of([], is_heard);
        teller.look(&silent, clock.pass(5));
        let now = clock.pass(3);
        teller.look(&silent, now);
        assert_eq!(teller.tell(&silent, PACE, now).len(), events);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Becomes(u8, u8),
    Pass(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u8, 0..3_u8).prop_map(|(who, how)| Step::Becomes(who, how)),
        3 => (0..6_u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Who reads every message knows who is down: nothing is told twice, nothing is missed, restarts or not.
    #[test]
    fn who_reads_every_message_knows_what_is_so(steps in steps()) {
        let (mut teller, mut clock) = (Teller::default(), Clock::new());
        let mut standings: BTreeMap<Subject, Standing> = BTreeMap::new();
        let mut believed: BTreeSet<Subject> = BTreeSet::new();
        let read = |told: Vec<(Subject, Kind)>, believed: &mut BTreeSet<Subject>| {
            for (subject, kind) in told {
                match kind {
                    Kind::Failed => prop_assert!(believed.insert(subject)),
                    Kind::Recovered => prop_assert!(believed.remove(&subject)),
                    Kind::Relapsed | Kind::Still => prop_assert!(believed.contains(&subject)),
                    Kind::Blinked => prop_assert!(!believed.contains(&subject)),
                }
            }
            Ok(())
        };
        for step in steps {
            let mut secs = 0;
            match step {
                Step::Becomes(who, how) => {
                    let how = [Standing::Well, failing("x"), Standing::Unsaid][usize::from(how)].clone();
                    standings.insert(server(&format!("R{who}")), how);
                }
                Step::Pass(time) => secs = time,
                Step::Restart => teller = again(&teller),
            }
            let now: Vec<_> = standings.clone().into_iter().collect();
            let told = look(&mut teller, clock.pass(secs), &now);
            read(told, &mut believed)?;
        }
        let last: Vec<_> = standings.clone().into_iter().collect();
        for _ in 0..2 {
            let told = look(&mut teller, clock.pass(4), &last);
            read(told, &mut believed)?;
        }
        for (subject, standing) in &standings {
            match standing {
                Standing::Well => prop_assert!(!believed.contains(subject)),
                Standing::Failing(_) => prop_assert!(believed.contains(subject)),
                Standing::Unsaid => {}
            }
        }
    }
}

#[test]
fn a_certificate_is_told_of_at_each_step_and_daily_only_when_it_has_ended() {
    let (mut teller, mut clock) = (Teller::default(), Clock::new());
    let at = |days| Subject::Certificate { name: "certificate web".into(), days };
    let day = 24 * 3600;
    for days in [30, 7, 1] {
        let now = [(at(days), failing("ends"))];
        assert!(look(&mut teller, clock.pass(1), &now).is_empty());
        assert_eq!(look(&mut teller, clock.pass(3), &now), [(at(days), Kind::Failed)]);
        assert_eq!(teller.due(&situation(&now), PACE, clock.pass(0)), None, "no reminder");
        assert!(look(&mut teller, clock.pass(day), &now).is_empty());
    }
    let ended = [(at(0), failing("has ended"))];
    look(&mut teller, clock.pass(1), &ended);
    assert_eq!(look(&mut teller, clock.pass(3), &ended), [(at(0), Kind::Failed)]);
    assert_eq!(look(&mut teller, clock.pass(day), &ended), [(at(0), Kind::Still)]);
    let renewed = [30, 7, 1, 0].map(|days| (at(days), Standing::Well));
    look(&mut teller, clock.pass(1), &renewed);
    assert_eq!(look(&mut teller, clock.pass(3), &renewed), [(at(0), Kind::Recovered)]);
}
