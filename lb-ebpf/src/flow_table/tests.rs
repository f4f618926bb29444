//! The protocol, first in one thread, then under loom with every interleaving.

use std::array::from_fn;

use lb_common::flow::{Control, State, WAYS};

use super::*;

fn bucket() -> Bucket<SharedWord, 8> {
    from_fn(|_| from_fn(|_| SharedWord::new(0)))
}

fn key(n: u64) -> Key<2> {
    Key { words: [n, n ^ 0x6868], hash: lb_common::hash::finish(n) }
}

/// Not written: the decisions here are of direct routing, or of no kind at all.
const NONE: Rewrite =
    Rewrite { src: [0; 2], dst: [0; 2], ports: 0, ip_delta: 0, l4_delta: 0, hop_words: [0; 2] };

const fn entry(decision: u64, now: u32, take: Take) -> Entry<'static> {
    Entry { decision, rewrite: &NONE, state: State::New, now, take }
}

fn put(bucket: &Bucket<SharedWord, 8>, n: u64, now: u32, take: Take) -> Inserted {
    insert(bucket, &key(n), &entry(n * 100, now, take))
}

#[test]
fn what_is_inserted_is_found_and_nothing_else_is() {
    let bucket = bucket();
    assert_eq!(put(&bucket, 1, 5, Take::Free), Inserted::Free);
    let hit = find(&bucket, &key(1)).unwrap();
    assert_eq!((hit.decision, hit.control.last_seen(), hit.control.state()), (100, 5, State::New as u8));
    assert_eq!(find(&bucket, &key(2)), None);
    assert_eq!(put(&bucket, 1, 6, Take::Free), Inserted::Exists);
}

#[test]
fn a_full_bucket_of_established_flows_gives_none_away() {
    let bucket = bucket();
    for n in 0..WAYS as u64 {
        assert_eq!(put(&bucket, n, 0, Take::Free), Inserted::Free);
    }
    assert_eq!(put(&bucket, 9, 1000, Take::Free), Inserted::Full);
    assert!((0..WAYS as u64).all(|n| find(&bucket, &key(n)).is_some()));
}

#[test]
fn the_oldest_makes_room_where_that_is_allowed_even_across_the_clock_wrapping() {
    let bucket = bucket();
    for (n, seen) in [(0, u32::MAX - 1), (1, u32::MAX - 9), (2, 1), (3, 2)] {
        assert_eq!(put(&bucket, n, seen, Take::Oldest), Inserted::Free);
    }
    assert_eq!(put(&bucket, 9, 3, Take::Oldest), Inserted::Overwrote);
    assert_eq!(find(&bucket, &key(1)), None);
    assert!([0, 2, 3, 9].iter().all(|&n| find(&bucket, &key(n)).is_some()));
}

#[test]
fn a_change_based_on_an_old_look_does_nothing() {
    let bucket = bucket();
    assert_eq!(put(&bucket, 1, 5, Take::Free), Inserted::Free);
    let hit = find(&bucket, &key(1)).unwrap();
    assert!(update(&bucket, &hit, State::Established, 6));
    assert!(!update(&bucket, &hit, State::Closing, 7));
    assert!(!retire(&bucket, &hit));
    let hit = find(&bucket, &key(1)).unwrap();
    assert_eq!(hit.control.state(), State::Established as u8);
    assert!(retire(&bucket, &hit));
    assert_eq!(find(&bucket, &key(1)), None);
    // The way is claimed again for the same flow: the old look still does nothing.
    assert_eq!(put(&bucket, 1, 6, Take::Free), Inserted::Free);
    assert!(!retire(&bucket, &hit));
}

#[test]
fn crowded_means_full_of_young_flows() {
    let bucket = bucket();
    for n in 0..WAYS as u64 {
        assert!(!is_crowded(&bucket, 10, 5));
        put(&bucket, n, 10, Take::Free);
    }
    assert!(is_crowded(&bucket, 14, 5));
    assert!(!is_crowded(&bucket, 15, 5));
}

#[test]
fn a_copy_is_the_whole_entry() {
    let bucket = bucket();
    put(&bucket, 3, 5, Take::Free);
    let way = find(&bucket, &key(3)).unwrap().way;
    let words = copy(&bucket[way]).unwrap();
    assert_eq!(words[1..4], [3, 3 ^ 0x6868, 300]);
    assert_eq!(Control(words[0]).state(), State::New as u8);
    assert_eq!(copy(&bucket[(way + 1) % WAYS]), None);
}

#[test]
fn a_flow_that_was_ended_keeps_all_but_the_generation_of_its_decision() {
    fn check<const WORDS: usize, const KEY: usize>() {
        let bucket: Bucket<SharedWord, WORDS> = from_fn(|_| from_fn(|_| SharedWord::new(0)));
        let key = Key { words: [9; KEY], hash: lb_common::hash::finish(9) };
        let decision = Decision::new(kind::DR, 3, 77, 12);
        let new = Entry { state: State::Established, ..entry(decision.0, 5, Take::Free) };
        assert_eq!(insert(&bucket, &key, &new), Inserted::Free);
        let hit = find(&bucket, &key).unwrap();
        let before = copy(&bucket[hit.way]).unwrap();
        assert!(void(&bucket, &hit));
        let now = find(&bucket, &key).unwrap();
        assert_eq!((now.way, now.control), (hit.way, hit.control));
        assert_eq!(Decision(now.decision), Decision::new(kind::DR, 3, 77, VOID_GENERATION));
        let after = copy(&bucket[hit.way]).unwrap();
        let changed: Vec<usize> = (0..WORDS).filter(|&i| before[i] != after[i]).collect();
        assert_eq!(changed, [1 + KEY]);
        // What changed since it was read is left alone.
        assert!(update(&bucket, &now, State::Closing, 6));
        assert!(!void(&bucket, &now));
        let closing = find(&bucket, &key).unwrap();
        assert!(update(&bucket, &closing, State::Moving, 6));
        assert!(!void(&bucket, &find(&bucket, &key).unwrap()), "its hop is being written");
    }
    check::<8, 2>();
    check::<16, 5>();
}

/// Every interleaving, and every reordering that acquire and release allow, of two or three CPUs on one bucket.
mod model {
    use loom::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::*, fence},
    };

    use super::*;

    struct LoomWord(AtomicU64);

    impl Word for LoomWord {
        fn load(&self) -> u64 {
            self.0.load(Acquire)
        }
        fn store(&self, value: u64) {
            self.0.store(value, Release);
        }
        fn swap_if(&self, current: u64, new: u64) -> bool {
            // The real one is a full barrier, which in this model is a fence on either side.
            fence(SeqCst);
            let done = self.0.compare_exchange(current, new, SeqCst, SeqCst).is_ok();
            fence(SeqCst);
            done
        }
        fn add(&self, delta: u64) {
            self.0.fetch_add(delta, Relaxed);
        }
    }

    /// Control, one key word, decision: the smallest entry. The ways are the real number.
    type Small = Bucket<LoomWord, 3>;

    fn small() -> Arc<Small> {
        Arc::new(from_fn(|_| from_fn(|_| LoomWord(AtomicU64::new(0)))))
    }

    /// Keys 1 and 2 share the tag; `first` is the way they try first.
    fn small_key(n: u64, first: u64) -> Key<1> {
        Key { words: [n], hash: first << 54 | 0x77 << 56 }
    }

    fn entries(bucket: &Small, n: u64) -> Vec<u64> {
        bucket
            .iter()
            .filter(|e| Control(e[0].load()).is_live() && e[1].load() == n)
            .map(|e| e[2].load())
            .collect()
    }

    fn check(bound: usize, f: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(bound);
        builder.check(f);
    }

    #[test]
    fn two_cpus_that_insert_one_flow_leave_one_entry_and_agree() {
        for (a, b) in [(0, 0), (0, 1), (1, 0)] {
            check(3, move || {
                let bucket = small();
                let theirs = {
                    let bucket = Arc::clone(&bucket);
                    loom::thread::spawn(move || insert(&bucket, &small_key(1, b), &entry(20, 0, Take::Free)))
                };
                let mine = insert(&bucket, &small_key(1, a), &entry(10, 0, Take::Free));
                let theirs = theirs.join().unwrap();
                let left = entries(&bucket, 1);
                assert!(left.len() <= 1, "{left:?}");
                let used = |inserted, own| match inserted {
                    Inserted::Free => Some(own),
                    Inserted::Exists => find(&bucket, &small_key(1, 0)).map(|hit| hit.decision),
                    Inserted::Taken | Inserted::Twin => None,
                    Inserted::Overwrote | Inserted::Full => unreachable!("{inserted:?}"),
                };
                for decision in [used(mine, 10), used(theirs, 20)].into_iter().flatten() {
                    assert_eq!(left, [decision]);
                }
                // No claim is left behind.
                assert!(bucket.iter().all(|e| Control(e[0].load()).state() != State::Busy as u8));
            });
        }
    }

    #[test]
    fn who_comes_too_late_for_the_last_place_knows_that_the_flow_has_it() {
        check(3, || {
            let bucket = small();
            for way in 1..WAYS as u64 {
                insert(&bucket, &small_key(way + 10, way), &entry(way, 5, Take::Free));
            }
            let one = |bucket: &Small, decision: u64| {
                let inserted = insert(bucket, &small_key(1, 0), &entry(decision, 6, Take::Free));
                assert!(inserted != Inserted::Full || find(bucket, &small_key(1, 0)).is_some());
            };
            let other = {
                let bucket = Arc::clone(&bucket);
                loom::thread::spawn(move || one(&bucket, 20))
            };
            one(&bucket, 10);
            other.join().unwrap();
        });
    }

    #[test]
    fn a_reader_sees_a_whole_entry_or_none_while_its_way_changes_hands() {
        check(3, || {
            let bucket = small();
            for way in 0..WAYS as u64 {
                insert(&bucket, &small_key(way + 10, way), &entry(way, 5, Take::Free));
            }
            let old = find(&bucket, &small_key(10, 0)).unwrap();
            let writer = {
                let bucket = Arc::clone(&bucket);
                loom::thread::spawn(move || {
                    retire(&bucket, &old);
                    insert(&bucket, &small_key(1, 0), &entry(77, 6, Take::Free));
                })
            };
            if let Some(hit) = find(&bucket, &small_key(10, 0)) {
                assert_eq!(hit.decision, 0);
            }
            if let Some(hit) = find(&bucket, &small_key(1, 0)) {
                assert_eq!(hit.decision, 77);
            }
            if let Some(words) = copy(&bucket[0]) {
                assert!(words[1..] == [10, 0] || words[1..] == [1, 77], "{words:?}");
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn two_cpus_that_take_the_same_oldest_way_both_end_whole() {
        check(2, || {
            let bucket = small();
            for way in 0..WAYS as u64 {
                insert(&bucket, &small_key(way + 10, way), &entry(way, 5, Take::Free));
            }
            let theirs = {
                let bucket = Arc::clone(&bucket);
                loom::thread::spawn(move || insert(&bucket, &small_key(2, 0), &entry(20, 9, Take::Oldest)))
            };
            let mine = insert(&bucket, &small_key(1, 0), &entry(10, 9, Take::Oldest));
            let theirs = theirs.join().unwrap();
            for (n, decision, inserted) in [(1, 10, mine), (2, 20, theirs)] {
                let left = entries(&bucket, n);
                match inserted {
                    // Free: a way that this CPU or the other had taken and given back.
                    Inserted::Free | Inserted::Overwrote => assert!(left.is_empty() || left == [decision]),
                    Inserted::Taken | Inserted::Twin => assert!(left.is_empty()),
                    Inserted::Exists | Inserted::Full => unreachable!("{inserted:?}"),
                }
            }
            assert!(bucket.iter().all(|e| Control(e[0].load()).state() != State::Busy as u8));
        });
    }

    #[test]
    fn a_flow_that_another_cpu_moves_is_not_begun_a_second_time() {
        check(3, || {
            let (half, flows) = (small(), small());
            let key = small_key(1, 0);
            insert(&half, &key, &entry(10, 0, Take::Oldest));
            // Found before the other thread starts: loom only knows a word's last access, and a thread that read a
            // word itself would hide from it that another had.
            let hit = find(&half, &key).unwrap();
            let mover = {
                let (half, flows) = (Arc::clone(&half), Arc::clone(&flows));
                loom::thread::spawn(move || {
                    insert(&flows, &key, &entry(hit.decision, 0, Take::Free));
                    retire(&half, &hit);
                })
            };
            // This CPU looked there before it was moved, and here after that: it found it in neither place.
            let inserted = insert_before(&half, &flows, &key, &entry(20, 0, Take::Oldest));
            assert_eq!(inserted, Inserted::Exists);
            mover.join().unwrap();
            assert_eq!((entries(&half, 1), entries(&flows, 1)), (vec![], vec![10]));
        });
    }

    #[test]
    fn retiring_and_touching_at_a_time_never_brings_a_flow_back() {
        check(3, || {
            let bucket = small();
            insert(&bucket, &small_key(1, 0), &entry(10, 0, Take::Free));
            let hit = find(&bucket, &small_key(1, 0)).unwrap();
            let sweeper = {
                let bucket = Arc::clone(&bucket);
                loom::thread::spawn(move || retire(&bucket, &hit))
            };
            let touched = update(&bucket, &hit, State::Established, 9);
            let retired = sweeper.join().unwrap();
            assert!(touched != retired, "exactly one of two changes based on one look happens");
            assert_eq!(entries(&bucket, 1).is_empty(), retired);
        });
    }

    /// An IPv4 entry, whose decision is where the real one's is.
    type Whole = Bucket<LoomWord, WORDS_V4>;

    #[test]
    fn ending_a_flow_is_seen_whole_or_not_and_excludes_every_other_change() {
        for other_retires in [false, true] {
            check(2, move || {
                let bucket: Arc<Whole> = Arc::new(from_fn(|_| from_fn(|_| LoomWord(AtomicU64::new(0)))));
                let key = key(1);
                let decision = Decision::new(kind::DR, 3, 77, 12);
                insert(&bucket, &key, &entry(decision.0, 0, Take::Free));
                let hit = find(&bucket, &key).unwrap();
                let controller = {
                    let bucket = Arc::clone(&bucket);
                    loom::thread::spawn(move || void(&bucket, &hit))
                };
                let ended = Decision::new(kind::DR, 3, 77, VOID_GENERATION);
                let seen = find(&bucket, &key).unwrap();
                assert!([decision.0, ended.0].contains(&seen.decision), "{seen:?}");
                let changed = if other_retires { retire(&bucket, &hit) } else { touch(&bucket, &hit, 9) };
                // The same look: one of both happens, unless the change came when the end was written already.
                let voided = controller.join().unwrap();
                assert!(changed || voided);
                match find(&bucket, &key) {
                    None => assert!(changed && other_retires),
                    Some(left) => {
                        assert_eq!(left.decision == ended.0, voided);
                        assert_ne!(left.control.state(), State::Moving as u8);
                    }
                }
            });
        }
    }
}
