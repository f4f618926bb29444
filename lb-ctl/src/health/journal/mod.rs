//! The history of verdicts: the last changes of every server, in memory and on disk.
//!
//! On disk it is a file of lines, a change each, that is only ever added to, and written anew when half of it is of no
//! use any more. A line that a power cut left half-written is left out; what is in memory is what counts.
#![forbid(unsafe_code)]

mod book;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use tokio::sync::{mpsc, oneshot, watch};

use self::book::{Book, Entry};
use crate::{
    model::health::{RipId, Targets, Transition},
    replace_file::replace_file,
    shutdown::Shutdown,
    state_file::StateError,
};

/// The file in the state directory.
const FILE: &str = "checks.jsonl";
/// Changes that are written together at most.
const BATCH: usize = 4096;

/// Asks for changes of verdicts.
#[derive(Debug)]
pub struct HistoryRequest {
    /// Of this server.
    pub id: RipId,
    /// At most this many, the newest ones.
    pub limit: usize,
    /// Gets them, the oldest first.
    pub reply: oneshot::Sender<Vec<Transition>>,
}

/// The actor.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    book: Book,
    /// Lines that the file has.
    lines: usize,
    /// The file is not to be added to: a line of it is broken, or could not be written.
    broken: bool,
    /// The last write failed, which the log knows.
    failing: bool,
}

impl Journal {
    /// Reads what a state directory holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StateError::Io { verb: "read", path, error }),
        };
        let mut journal = Self { path, book: Book::default(), lines: 0, broken: false, failing: false };
        journal.read(&text);
        journal.book.prune(SystemTime::now());
        Ok(journal)
    }

    fn read(&mut self, text: &[u8]) {
        // What stands behind the last line break was torn.
        self.broken = text.last().is_some_and(|last| *last != b'\n');
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = text.get(..end).unwrap_or_default();
        let mut unread = 0_usize;
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.lines += 1;
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) => self.book.enter(entry),
                Err(_) => unread += 1,
            }
        }
        if unread > 0 {
            self.broken = true;
            let path = self.path.display();
            tracing::warn!(
                "{path}: {unread} lines are not understood, and left out of the history of checks"
            );
        }
    }

    /// Writes down what happens, and tells it, until shutdown. `targets` is who there is: a server that has been gone
    /// for 30 days has no history any more.
    ///
    /// # Errors
    ///
    /// None: what cannot be written is told in the log.
    pub async fn run(
        mut self,
        mut transitions: mpsc::Receiver<Transition>,
        mut requests: mpsc::Receiver<HistoryRequest>,
        mut targets: watch::Receiver<Targets>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut ended = std::pin::pin!(shutdown.requested());
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut ended => break,
                1.. = transitions.recv_many(&mut batch, BATCH) => {
                    let entries = batch.drain(..).map(Entry::Turned).collect();
                    self.enter(entries).await;
                }
                Ok(()) = targets.changed() => {
                    let here = targets.borrow_and_update().iter().map(|target| target.id.clone()).collect();
                    let now = SystemTime::now();
                    self.book.prune(now);
                    let entries = self.book.absent(&here, now);
                    self.enter(entries).await;
                }
                Some(HistoryRequest { id, limit, reply }) = requests.recv() => {
                    drop(reply.send(self.book.last(&id, limit))); // Who asked may have gone away meanwhile.
                }
            }
        }
        transitions.close();
        let mut late = Vec::new();
        while let Some(transition) = transitions.recv().await {
            late.push(Entry::Turned(transition));
        }
        self.enter(late).await;
        Ok(())
    }

    /// Takes entries into memory and onto the disk.
    async fn enter(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        self.lines += entries.len();
        let anew = self.broken || self.book.is_half_of(self.lines);
        let path = self.path.clone();
        let mut book = std::mem::take(&mut self.book);
        // A long history takes a while to be put into words, too.
        let write = move || {
            let mut text = Vec::new();
            entries.iter().filter(|_| !anew).for_each(|entry| encode(&mut text, entry));
            for entry in entries {
                book.enter(entry);
            }
            let lines = anew.then(|| book.entries().map(|entry| encode(&mut text, &entry)).count());
            let written = if anew { replace_file(&path, &text) } else { append(&path, &text) };
            (book, lines, written)
        };
        let (book, lines, written) = tokio::task::spawn_blocking(write)
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.book = book;
        self.lines = lines.unwrap_or(self.lines);
        self.broken = written.is_err();
        match written {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                let path = self.path.display();
                tracing::warn!(
                    "cannot write {path}: {error}; the history of checks is kept in memory until it can be: is the disk full?"
                );
            }
            Err(_told) => {}
        }
    }
}

fn encode(to: &mut Vec<u8>, entry: &Entry) {
    match serde_json::to_vec(entry) {
        Ok(line) => {
            to.extend(line);
            to.push(b'\n');
        }
        Err(error) => {
            tracing::error!("a change of verdict cannot be written as JSON: {error}; please report this")
        }
    }
}

/// On disk when this returns. Blocks.
fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(lines)?;
    file.sync_data()
}

#[cfg(test)]
mod tests;
