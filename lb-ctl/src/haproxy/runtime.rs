//! Talking to the running proxy: the master's socket leads to every worker, also to old ones.
#![forbid(unsafe_code)]

use std::{fmt::Write as _, io, path::PathBuf, time::Duration};

use rustix::process::Pid;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::render::Places;

/// Time for an answer. Workers answer between two packets.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest line of commands: the proxy's buffer has 16 KiB, part of which it keeps for itself.
const LINE_BYTES: usize = 8 << 10;
/// Longest answer; a full stick table takes a sixth of it.
const ANSWER_BYTES: u64 = 64 << 20;

/// The way to a running proxy.
#[derive(Clone, Debug)]
pub(super) struct Master {
    socket: PathBuf,
}

/// The proxy's processes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Workers {
    /// Process that starts the others.
    pub(super) master: i32,
    /// Attempts to reload in a row that failed.
    pub(super) failed: u64,
    /// How often a reload was tried.
    pub(super) reloads: u64,
    /// Takes connections.
    pub(super) present: Option<Worker>,
    /// Finish the connections that they have.
    pub(super) old: Vec<Worker>,
}

/// One of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Worker {
    pub(super) pid: i32,
}

impl Workers {
    /// Every worker, the present one first.
    pub(super) fn all(&self) -> impl Iterator<Item = Worker> + '_ {
        self.present.iter().chain(&self.old).copied()
    }
}

impl Master {
    pub(super) fn new(places: &Places) -> Self {
        Self { socket: places.master_socket() }
    }

    /// Who is there.
    pub(super) async fn workers(&self) -> io::Result<Workers> {
        let text = self.say("show proc").await?;
        parse(&text)
            .ok_or_else(|| io::Error::other(format!("haproxy's `show proc` is not understood: {text:?}")))
    }

    /// Has a worker do these, one after the other, and gives what it says to them. No command may hold a semicolon.
    pub(super) async fn ask(&self, worker: i32, commands: &[impl AsRef<str> + Sync]) -> io::Result<String> {
        let mut answers = String::new();
        let mut line = String::new();
        for command in commands {
            let command = command.as_ref();
            if !line.is_empty() && line.len() + command.len() > LINE_BYTES {
                answers.push_str(&self.say(&line).await?);
                line.clear();
            }
            if !line.is_empty() {
                line.push(';');
            }
            // Writing to a string cannot fail.
            let _ = write!(line, "@!{worker} {command}");
        }
        if !line.is_empty() {
            answers.push_str(&self.say(&line).await?);
        }
        Ok(answers)
    }

    /// As [`Self::ask`], for commands that say something only when they fail.
    pub(super) async fn order(&self, worker: i32, commands: &[impl AsRef<str> + Sync]) -> io::Result<()> {
        let answer = self.ask(worker, commands).await?;
        let said: Vec<&str> = answer.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if said.is_empty() { Ok(()) } else { Err(io::Error::other(said.join("; "))) }
    }

    /// A line, whole, and the answer to it. A payload may follow the line.
    async fn say(&self, line: &str) -> io::Result<String> {
        let said = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(line.as_bytes()).await?;
            stream.write_all(b"\n").await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_BYTES).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        timeout(DEADLINE, said).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Has a worker do something with a text of several lines, none of them empty.
    pub(super) async fn give(&self, worker: i32, command: &str, payload: &str) -> io::Result<String> {
        self.say(&format!("@!{worker} {command} <<\n{}\n", payload.trim_end())).await
    }
}

/// The answer to `show proc`: a line for the master, and one for each worker below a heading.
fn parse(text: &str) -> Option<Workers> {
    let mut found: Option<Workers> = None;
    let mut old = false;
    for line in text.lines() {
        if line.starts_with("# old workers") {
            old = true;
        }
        let mut words = line.split_whitespace();
        let (Some(pid), Some(kind)) = (words.next(), words.next()) else { continue };
        let Ok(pid) = pid.parse() else { continue };
        let mut counts = words.map(|word| word.trim_end_matches(']').parse().ok());
        match (kind, &mut found) {
            ("master", None) => {
                let reloads = counts.next()??;
                let failed = counts.nth(1)??;
                found = Some(Workers { master: pid, failed, reloads, present: None, old: Vec::new() });
            }
            ("worker", Some(workers)) if old || workers.present.is_some() => workers.old.push(Worker { pid }),
            ("worker", Some(workers)) => workers.present = Some(Worker { pid }),
            _ => {}
        }
    }
    found
}

/// A process's number, if it can be one.
pub(super) fn pid(number: i32) -> Option<Pid> {
    Pid::from_raw(number).filter(|_| number > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart() {
        let text = "#<PID>          <type>          <reloads>       <uptime>        <version>      \n\
                    22180           master          2 [failed: 1]   0d00h13m48s     2.6.12-1+deb12u4\n\
                    # workers\n\
                    12253           worker          1               0d00h00m01s     2.6.12-1+deb12u4\n\
                    # old workers\n\
                    12100           worker          3               0d00h10m01s     2.6.12-1+deb12u4\n\
                    # programs\n\n";
        let workers = Workers {
            master: 22180,
            failed: 1,
            reloads: 2,
            present: Some(Worker { pid: 12253 }),
            old: vec![Worker { pid: 12100 }],
        };
        assert_eq!(parse(text), Some(workers));
        assert_eq!(parse("nothing"), None);
    }
}
