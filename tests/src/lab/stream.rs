//! A stream of stores: one after the other, each a new instance in an association of its own.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{dicom, proc::wait_until, scu, topology::Host};

/// Stores until it is told to end, or dropped.
#[derive(Debug)]
pub struct StoreStream {
    stored: Arc<AtomicUsize>,
    /// Dropped, it ends the thread after the store that runs then.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Stored>>,
}

/// What a stream did.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// SOP Instance UIDs that the server said it took.
    pub uids: Vec<String>,
    /// What went wrong, one text per failed store.
    pub failures: Vec<String>,
}

impl StoreStream {
    /// Begins to store images of `side` times `side` bytes.
    #[must_use]
    pub fn start(client: &Host, to: SocketAddr, side: u16) -> Self {
        let (stop, stopped) = channel();
        let (stored, client) = (Arc::new(AtomicUsize::new(0)), client.clone());
        let count = Arc::clone(&stored);
        let thread = thread::spawn(move || run(&client, to, side, &stopped, &count));
        Self { stored, stop: Some(stop), thread: Some(thread) }
    }

    /// Instances stored so far.
    #[must_use]
    pub fn stored(&self) -> usize {
        self.stored.load(Ordering::Relaxed)
    }

    /// Waits until `more` further instances have been stored: the stream flows.
    ///
    /// # Panics
    ///
    /// When that takes more than twenty seconds.
    #[track_caller]
    pub fn wait_for_more(&self, more: usize) {
        let goal = self.stored() + more;
        wait_until(Duration::from_secs(20), &format!("{more} more instances are stored"), || {
            self.stored() >= goal
        });
    }

    /// Ends the stream after the store that runs now.
    ///
    /// # Panics
    ///
    /// When the stream itself did.
    #[must_use]
    pub fn finish(mut self) -> Stored {
        self.stop = None;
        self.thread
            .take()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .unwrap_or_default()
    }
}

impl Drop for StoreStream {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // Only a test that fails anyway drops a stream without asking how it went.
            let _ = thread.join();
        }
    }
}

fn run(client: &Host, to: SocketAddr, side: u16, stopped: &Receiver<()>, count: &AtomicUsize) -> Stored {
    let (dir, mut result) = (client.dir(), Stored::default());
    while stopped.try_recv() == Err(TryRecvError::Empty) {
        for instance in dicom::generate(&dir, 1, side) {
            let run = scu::store(client, to, &[&instance.path]);
            // The file has done its work; what cannot be removed goes with the lab.
            let _ = fs::remove_file(&instance.path);
            if run.success() {
                result.uids.push(instance.uid);
                count.fetch_add(1, Ordering::Relaxed);
            } else {
                result.failures.push(format!("{}\n{}{}", run.command, run.stdout, run.stderr));
            }
        }
    }
    result
}
