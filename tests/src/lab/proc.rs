//! Processes: short ones run to their end, long ones with a log and an end that is certain.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::netns::{Lifetime, Netns};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of a log shown when a test fails.
const TAIL_LINES: usize = 25;

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not within `deadline`: the message says `what` was waited for.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(deadline, || what.to_owned(), || condition().then_some(()));
}

/// Waits until `attempt` yields something, and gives it. `what` is asked only when the deadline has passed, so it
/// may tell the last state.
///
/// # Panics
///
/// When nothing came within `deadline`.
#[track_caller]
pub fn wait_for<T>(
    deadline: Duration,
    what: impl FnOnce() -> String,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} in vain: {}", what());
        // The one place that waits without being told: there is no event for "anything may have changed".
        thread::park_timeout(POLL);
    }
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command as typed.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, when the exit code is 0.
    ///
    /// # Panics
    ///
    /// When it is not: with the command and all it said.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Itself, when the exit code is `code`.
    ///
    /// # Panics
    ///
    /// When it is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of `{}`\n{}{}", self.command, self.stdout, self.stderr);
        self
    }
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it cannot be started at all: a program is missing.
pub fn finish(command: &mut Command) -> Finished {
    let line = spell(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{line}`: {error}; `cargo xtask setup` installs it"));
    Finished {
        command: line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that runs beside the test, its output in a log file. Dropped, it is killed, and while a panic unwinds
/// the tail of its log is printed.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    log: PathBuf,
    /// Keeps the namespace until this process is gone.
    _netns: Netns,
}

impl Proc {
    /// Starts `program` with `args` inside `netns`; its output is appended to `NAME.log` in `dir`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, netns: &Netns, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        let err = out.try_clone().unwrap_or_else(|error| panic!("cannot share {}: {error}", log.display()));
        let child = command
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run `{}`: {error}", spell(command)));
        if netns.lifetime() == Lifetime::OutlivesProgram {
            record(dir, child.id());
        }
        Self { name: name.to_owned(), child, log, _netns: netns.clone() }
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has said it is ready.
    ///
    /// # Panics
    ///
    /// When it ends instead, or `ready` does not hold within half a minute: in an emulated machine the verifier alone takes ten
    /// seconds for the program.
    #[track_caller]
    pub fn wait_ready(&mut self, mut ready: impl FnMut(&Self) -> bool) {
        let what = format!("{} is ready", self.name);
        wait_until(Duration::from_secs(30), &what, || {
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before it was ready:\n{}", self.name, self.log_text());
            }
            ready(self)
        });
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        // A child that was not waited for keeps its id, so the signal cannot reach another process.
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            // The only failure left is that it ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it, as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        // Fails only when it was waited for before.
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Panics
    ///
    /// When it has not ended within ten seconds.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let what = format!("{} ends after {signal:?}", self.name);
        wait_for(Duration::from_secs(10), || what, || self.ended())
    }
}

impl Drop for Proc {
    #[expect(clippy::print_stderr, reason = "the log belongs to the failed test's output")]
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let text = self.log_text();
            let lines: Vec<_> = text.lines().collect();
            let tail = lines.split_at(lines.len().saturating_sub(TAIL_LINES)).1;
            eprintln!("---- end of the log of {} ----\n{}", self.name, tail.join("\n"));
        }
    }
}

/// Kills every process that [`Proc`] recorded in `dir` and that still is the same process.
pub fn kill_recorded(dir: &Path) {
    for line in fs::read_to_string(dir.join(PIDS)).unwrap_or_default().lines() {
        let Some((pid, started)) = line.split_once(' ') else {
            continue;
        };
        let Ok(number) = pid.parse::<i32>() else { continue };
        if start_time(pid).as_deref() == Some(started)
            && let Some(pid) = Pid::from_raw(number)
        {
            // The only failure left is that it ended just now.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// File with a line "pid start-time" for each process that may outlive this program.
const PIDS: &str = "pids";

fn record(dir: &Path, pid: u32) {
    let path = dir.join(PIDS);
    let started = start_time(&pid.to_string()).unwrap_or_default();
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{pid} {started}"))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// Start time of a process in clock ticks since boot: with the process id it names one process for good.
fn start_time(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    // Field 22 (proc(5)); the name in parentheses, field 2, may contain blanks.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

/// The command as a person would type it.
fn spell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
