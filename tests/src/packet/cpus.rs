//! Threads on several CPUs that should meet in the packet path.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Two CPUs of this machine. The same one twice if it has only one: then little can go wrong, and little is shown.
///
/// # Panics
///
/// When this thread may run nowhere.
#[must_use]
pub fn two_cpus() -> [usize; 2] {
    let set = rustix::thread::sched_getaffinity(None).expect("this thread runs somewhere");
    let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    [cpus[0], *cpus.last().expect("at least one")]
}

/// Brings threads to the same point. It spins, because a sleeping thread would wake too late to meet the other; but
/// not for ever, because the other may not be running.
#[derive(Debug, Default)]
pub struct Meeting(AtomicUsize);

impl Meeting {
    /// Waits until all threads are in this round, counted from 0.
    pub fn wait(&self, threads: usize, round: usize) {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.0.load(Ordering::SeqCst) < threads * (round + 1) {
            spins += 1;
            if spins.is_multiple_of(10_000) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}
