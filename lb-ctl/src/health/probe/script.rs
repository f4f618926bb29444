//! A program of the site's own (R42): what it is called with, what it says, and what its end means.
//!
//! It runs as nobody, in a process group of its own ([`super::unprivileged`]), and nothing of it outlives
//! the check ([`offspring`](super::offspring)).
#![forbid(unsafe_code)]

use std::{
    io::{self, PipeReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, net::unix::pipe, process::Command, time::timeout_at};

use super::{
    Peer, Stopwatch, failure, in_words, legible,
    offspring::Offspring,
    output,
    unprivileged::{self, Prepared},
};
use crate::model::{
    check::ScriptCheck,
    health::{CheckResult, Failure, FailureReason},
};

/// Of the script's last line, in the text of a failure.
const MAX_LINE_CHARS: usize = 200;
/// What is still in the pipe when a script has ended is no more than the pipe holds (pipe(7)).
const MAX_REST_READS: usize = 64;

/// Passes when the script ends with exit code 0 before the deadline.
pub(super) async fn probe(peer: &Peer, check: &ScriptCheck, clock: &mut Stopwatch) -> Result<(), Failure> {
    let outcome = run(peer, check, clock).await;
    clock.mark("script");
    let Ran { ended, said, left_behind, prepared } = outcome?;
    if left_behind {
        clock.note(format!(
            "script {}: processes that it left behind cannot be ended, see `ps -u {}`",
            check.name, prepared.user
        ));
    }
    clock.output = output(&said);
    let said = String::from_utf8_lossy(&said);
    match ended {
        None => Err(failure(
            FailureReason::ScriptTimeout,
            format!("script {}: not ended within {}, and killed", check.name, in_words(clock.timeout)),
        )),
        Some(status) => judge(status, check, &prepared, &said),
    }
}

/// A script that was run.
struct Ran {
    /// How it ended; `None` = it had to be killed.
    ended: Option<ExitStatus>,
    /// The first bytes of what it said.
    said: Vec<u8>,
    /// Something of it is still there.
    left_behind: bool,
    prepared: Prepared,
}

async fn run(peer: &Peer, check: &ScriptCheck, clock: &Stopwatch) -> Result<Ran, Failure> {
    let Some(vip) = peer.vip else {
        return Err(untried(check, "nobody said for which VIP: a defect in lbd; please report this"));
    };
    let timeout = clock.timeout;
    // Reads a file, so not here.
    let preparing = tokio::task::spawn_blocking(move || unprivileged::prepare(timeout));
    let prepared = preparing
        .await
        .map_err(|error| untried(check, &error.to_string()))?
        .map_err(|why| untried(check, &why))?;
    let mut command = prepared.command(&check.path);
    introduce(&mut command, vip, peer.addr, clock.timeout);
    let (mut offspring, mut said) =
        start(command, prepared.uid).map_err(|error| untried(check, &explain_start(&error)))?;
    let mut words = Words::default();
    let ended = timeout_at(clock.deadline(), words.until_end(&mut said, &mut offspring)).await;
    words.rest(&said);
    let left_behind = !offspring.kill().await;
    let ended =
        ended.ok().transpose().map_err(|error| untried(check, &format!("its end is lost: {error}")))?;
    Ok(Ran { ended, said: words.first, left_behind, prepared })
}

/// Four arguments, the same in the environment, and nothing else of ours but where programs are.
fn introduce(command: &mut Command, vip: SocketAddr, rip: SocketAddr, timeout: Duration) {
    let words = [vip.ip().to_string(), vip.port().to_string(), rip.ip().to_string(), rip.port().to_string()];
    let names = ["LB_VIP", "LB_VIP_PORT", "LB_RIP", "LB_RIP_PORT"];
    command
        .args(&words)
        .envs(names.iter().zip(&words))
        .env("LB_CHECK_TIMEOUT_SECS", timeout.as_secs_f64().to_string());
}

fn start(mut command: Command, uid: u32) -> io::Result<(Offspring, pipe::Receiver)> {
    let (said, output): (PipeReader, _) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let said = pipe::Receiver::from_owned_fd(said.into())?;
    // The command holds our ends for writing until it is dropped.
    Ok((Offspring::spawn(command, uid)?, said))
}

fn explain_start(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return format!("{} is not here: install the package util-linux", unprivileged::OUTER_PROGRAM);
    }
    error.to_string()
}

/// What a script says on both its outputs.
#[derive(Default)]
struct Words {
    first: Vec<u8>,
}

impl Words {
    /// Takes in, and forgets what is too much, until the script has ended. A script may close its outputs before.
    async fn until_end(
        &mut self,
        said: &mut pipe::Receiver,
        offspring: &mut Offspring,
    ) -> io::Result<ExitStatus> {
        let mut open = true;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            tokio::select! {
                status = offspring.ended() => return status,
                read = said.read(&mut buffer), if open => match read {
                    Ok(length) if length > 0 => self.take(buffer.get(..length).unwrap_or_default()),
                    Ok(_) | Err(_) => open = false,
                },
            }
        }
    }

    /// What is in the pipe still. Not to its end: a process that the script left behind may hold it open.
    fn rest(&mut self, said: &pipe::Receiver) {
        let mut buffer = [0; 1024];
        for _ in 0..MAX_REST_READS {
            match said.try_read(&mut buffer) {
                Ok(length) if length > 0 => self.take(buffer.get(..length).unwrap_or_default()),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = CheckResult::MAX_OUTPUT_BYTES.saturating_sub(self.first.len());
        self.first.extend(bytes.iter().take(room));
    }
}

fn judge(status: ExitStatus, check: &ScriptCheck, prepared: &Prepared, said: &str) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    if let Some(why) = prepared.why_not_run(&check.path, status, said) {
        return Err(untried(check, &why));
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let line = last_line(said).map(|line| format!(": {line}")).unwrap_or_default();
    Err(failure(FailureReason::ScriptFailed, format!("script {}: {how}{line}", check.name)))
}

/// The last line with something on it, which is where programs say why.
fn last_line(said: &str) -> Option<String> {
    let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(legible(line, MAX_LINE_CHARS))
}

fn untried(check: &ScriptCheck, why: &str) -> Failure {
    failure(FailureReason::Local, format!("script {}: not tried, {why}", check.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_with_words_is_what_a_failure_quotes() {
        assert_eq!(
            last_line("connecting\ndatabase \x1b[31mlocked\n\n").as_deref(),
            Some("database ?[31mlocked")
        );
        assert_eq!(last_line(" \n"), None);
    }
}
