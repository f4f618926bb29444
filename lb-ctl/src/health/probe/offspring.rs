//! A process and all that comes of it, of which nothing may outlive a check.
//!
//! Killing the process group reaches most of it, at one stroke. What has left the group (setsid(2), daemons) comes to
//! us as soon as its parent is dead, since we take in orphans (`PR_SET_CHILD_SUBREAPER`, prctl(2)). A child of ours that
//! belongs to the scripts' user, in a process group that is neither ours nor that of a running script, has escaped from
//! one, and is killed. What it began comes to us then, in turn; when no such child is left, nothing is.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    process::ExitStatus,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{
    Pid, Signal, WaitOptions, getpgid, getpgrp, getpid, kill_process_group, set_child_subreaper, waitpid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    task::spawn_blocking,
    time::{Instant, interval, timeout},
};

/// A process that was killed and has not gone within this time hangs in the kernel.
const DEATH: Duration = Duration::from_secs(1);
/// Between two looks at those that are dying.
const LOOK: Duration = Duration::from_millis(1);

/// Process groups of scripts that run, of the whole process, as children belong to the whole process. Held while a script is
/// started, so that nobody takes it for one that has escaped; never across an await.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(group: Pid) {
    running().retain(|one| *one != group);
}

/// A process in a group of its own, and all that comes of it. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Offspring {
    /// `None` once it has been waited for.
    child: Option<Child>,
    group: Pid,
    uid: u32,
}

impl Offspring {
    /// Starts a command that ends up as user `uid`.
    pub(super) fn spawn(mut command: Command, uid: u32) -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        command.process_group(0).kill_on_drop(true);
        let mut running = running();
        let child = command.spawn()?;
        // It cannot have been waited for yet, so it has a number.
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or_else(|| io::Error::other("a process without a number"))?;
        running.push(group);
        Ok(Self { child: Some(child), group, uid })
    }

    /// Waits for the first process to end by itself, and tells how.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let child = self.child.as_mut().ok_or_else(|| io::Error::other("it has been waited for already"))?;
        let status = child.wait().await?;
        self.child = None;
        forget(self.group);
        Ok(status)
    }

    /// Kills what is left of the group and what has left the group. False when something does not die.
    pub(super) async fn kill(&mut self) -> bool {
        let dead = match &mut self.child {
            Some(child) => {
                kill_unwaited(self.group);
                let dead = timeout(DEATH, child.wait()).await.is_ok();
                self.child = None;
                forget(self.group);
                dead
            }
            None => true,
        };
        let (group, uid) = (self.group, self.uid);
        dead & sweep(group, uid).await
    }
}

/// Kills a group whose first process has not been waited for: until then its number is nobody else's.
fn kill_unwaited(group: Pid) {
    // Fails when nobody is left.
    let _ = kill_process_group(group, Signal::KILL);
}

impl Drop for Offspring {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        kill_unwaited(self.group);
        forget(self.group);
        // Whoever sweeps next takes these with it, if there is no runtime left to do it.
        if let Ok(runtime) = Handle::try_current() {
            let (group, uid) = (self.group, self.uid);
            runtime.spawn(sweep(group, uid));
        }
    }
}

/// Kills and waits for children that are of `group` or of no script that runs, until there is none. False when one that
/// was there at the beginning is still there after [`DEATH`]; those of scripts that ended meanwhile are theirs to
/// wait for.
async fn sweep(group: Pid, uid: u32) -> bool {
    let begun = Instant::now();
    let mut look = interval(LOOK);
    let mut first = None;
    loop {
        look.tick().await;
        // Reads files, if none that a disk has to do with.
        let Ok(Ok(strays)) = spawn_blocking(move || kill_strays(group, uid)).await else { return false };
        if strays.is_empty() {
            return true;
        }
        let first = first.get_or_insert_with(|| strays.clone());
        if begun.elapsed() > DEATH {
            return !strays.iter().any(|stray| first.contains(stray));
        }
    }
}

/// Kills them once, waits for those that are dead, and gives all that were there.
fn kill_strays(group: Pid, uid: u32) -> io::Result<Vec<Pid>> {
    // Held until the end: what is a stray now stays one until it is killed.
    let running = running();
    let ours = getpgrp();
    let mut strays = Vec::new();
    for pid in children()? {
        // Fails for one that another sweep has just waited for.
        let Ok(of) = getpgid(Some(pid)) else { continue };
        if of == ours || (of != group && running.contains(&of)) || !belongs_to(pid, uid) {
            continue;
        }
        strays.push(pid);
        // Not a number that has changed hands: a child of ours is in the group. Both fail for what is dead.
        let _ = kill_process_group(of, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
    Ok(strays)
}

/// Children of this process, dead ones that nobody has waited for included (proc_pid_task(5)).
fn children() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread may have ended meanwhile, and has given its children to another.
        let Ok(text) = fs::read_to_string(task?.path().join("children")) else { continue };
        pids.extend(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    }
    Ok(pids)
}

fn belongs_to(pid: Pid, uid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let real = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    real.is_some_and(|real| real.parse() == Ok(uid))
}
