//! What an operator says of real servers: drain, halt, online; and the wait for a drain.

use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Done, RunError, Terminal,
    args::{DrainArgs, HaltArgs, RipTargets, ServerVerb, Servers},
    command,
    names::{at_address, expand},
    text::{plain, plural},
};
use crate::{
    api::client::Client,
    model::{
        command::Command,
        health::RipId,
        operator::Order,
        status::{RipStatus, Status},
    },
};

/// Pause between two looks at a drain.
const LOOK: Duration = Duration::from_secs(1);
/// Looks in a row that must see no connection: counts are a second or two behind.
const EMPTY_LOOKS: u32 = 3;
/// Looks in a row that may fail before the wait is given up, as long as lbd restarts.
const FAILED_LOOKS: u32 = 30;
/// Time that a server has from its deadline until it is seen halted, in seconds.
const HALTING_SECS: u64 = 15;

/// `lbctl server`.
pub(super) async fn server(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &ServerVerb,
) -> Result<Done, RunError> {
    match verb {
        ServerVerb::Drain { servers, how } => {
            let rips = of_servers(client, servers).await?;
            drain(client, terminal, rips, *how).await
        }
        ServerVerb::Halt { servers, how: HaltArgs { keep_sessions } } => {
            let rips = of_servers(client, servers).await?;
            let state = Order::Halt { keep_sessions: *keep_sessions };
            command(client, terminal, &Command::SetState { rips, state }).await
        }
        ServerVerb::Online(servers) => {
            let rips = of_servers(client, servers).await?;
            command(client, terminal, &Command::SetState { rips, state: Order::Online }).await
        }
    }
}

/// Drains servers, and waits for it if that is asked.
pub(super) async fn drain(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    rips: Vec<RipId>,
    how: DrainArgs,
) -> Result<Done, RunError> {
    let state = Order::Drain {
        migrate: (how.migrate || how.keep_persistent).then_some(how.migrate),
        deadline_epoch_secs: how.timeout.map(from_now),
        then_halt: how.then.is_some(),
    };
    let done = command(client, terminal, &Command::SetState { rips: rips.clone(), state }).await?;
    if how.wait { wait(client, terminal, &rips).await } else { Ok(done) }
}

/// Real servers that were named.
pub(super) async fn named(client: &Client, targets: &RipTargets) -> Result<Vec<RipId>, RunError> {
    let vips = if targets.rips.iter().any(super::args::RipTarget::is_alone) {
        client.status().await?.vips
    } else {
        Vec::new()
    };
    expand(&targets.rips, targets.all_vips, &vips).map_err(RunError::Unknown)
}

async fn of_servers(client: &Client, servers: &Servers) -> Result<Vec<RipId>, RunError> {
    at_address(&servers.ips, &client.status().await?.vips).map_err(RunError::Unknown)
}

/// A time from now on as seconds since the epoch, rounded up.
pub(super) fn from_now(span: Duration) -> u64 {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(span);
    at.as_secs().saturating_add(u64::from(at.subsec_nanos() > 0))
}

/// How far a server is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Far {
    Halted,
    Empty,
    /// Still has connections, or their end is not certain yet.
    Waiting,
    /// The time is over and connections are left.
    Late,
}

/// Waits until servers are empty or halted, with a line that counts down.
async fn wait(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    rips: &[RipId],
) -> Result<Done, RunError> {
    let mut empty = BTreeMap::new();
    let (mut failed, mut shown) = (0, String::new());
    loop {
        match client.status().await {
            Ok(status) => {
                failed = 0;
                let seen = look(&status, rips, &mut empty)?;
                show(terminal, &status, &seen, &mut shown)?;
                if seen.iter().all(|(_, _, far)| *far != Far::Waiting) {
                    if terminal.screen {
                        writeln!(terminal.out)?;
                    }
                    let late = seen.iter().any(|(_, _, far)| *far == Far::Late);
                    return Ok(if late { Done::Degraded } else { Done::Well });
                }
            }
            Err(error) => {
                failed += 1;
                if failed >= FAILED_LOOKS {
                    return Err(error.into());
                }
                if failed == 1 {
                    writeln!(terminal.err, "lbctl: {error}; still waiting")?;
                }
            }
        }
        terminal.out.flush()?;
        tokio::time::sleep(LOOK).await;
    }
}

/// What each server is like in an overview. `empty` counts the looks that saw no connection.
fn look<'a>(
    status: &'a Status,
    rips: &'a [RipId],
    empty: &mut BTreeMap<RipId, u32>,
) -> Result<Vec<(&'a RipId, &'a RipStatus, Far)>, RunError> {
    let mut seen = Vec::new();
    for id in rips {
        let vip = status.vips.iter().find(|vip| vip.name == id.vip);
        let Some(rip) = vip.and_then(|vip| vip.rips.iter().find(|rip| rip.name == id.rip)) else {
            let text = format!("{}/{} was deleted meanwhile: nothing to wait for", id.vip, id.rip);
            return Err(RunError::Unknown(text));
        };
        let looks = empty.entry(id.clone()).or_default();
        *looks = if rip.connections == 0 { looks.saturating_add(1) } else { 0 };
        let is_over = |at: u64| status.at_epoch_secs >= at;
        let far = match rip.operator.order {
            Order::Online => {
                let text = format!("{}/{} was brought online meanwhile: nothing to wait for", id.vip, id.rip);
                return Err(RunError::Unknown(text));
            }
            Order::Halt { .. } => Far::Halted,
            Order::Drain { then_halt: false, .. } if *looks >= EMPTY_LOOKS => Far::Empty,
            Order::Drain { deadline_epoch_secs, then_halt, .. } => {
                let late = |at: u64| is_over(at.saturating_add(if then_halt { HALTING_SECS } else { 0 }));
                if deadline_epoch_secs.is_some_and(late) { Far::Late } else { Far::Waiting }
            }
        };
        seen.push((id, rip, far));
    }
    Ok(seen)
}

/// Shows how far servers are: on a screen in place of the line before, elsewhere when anything but the time changed.
fn show(
    terminal: &mut Terminal<impl Write, impl Write>,
    status: &Status,
    seen: &[(&RipId, &RipStatus, Far)],
    shown: &mut String,
) -> Result<(), RunError> {
    let line = |with_time: bool| {
        let each = seen.iter().map(|(id, rip, far)| {
            let who = format!("{}/{}", plain(&id.vip), plain(&id.rip));
            let connections = plural(rip.connections, "connection");
            match (far, rip.operator.order) {
                (Far::Halted, _) => format!("{who}: halted"),
                (Far::Empty, _) => format!("{who}: no connection left"),
                (Far::Late, _) => format!("{who}: {connections} left, the time is over"),
                (Far::Waiting, Order::Drain { deadline_epoch_secs: Some(at), .. }) if with_time => {
                    let left = clock(at.saturating_sub(status.at_epoch_secs));
                    format!("{who}: {connections} left, {left} to go")
                }
                (Far::Waiting, _) => format!("{who}: {connections} left"),
            }
        });
        each.collect::<Vec<_>>().join("; ")
    };
    if terminal.screen {
        // To the start of the line, and erase it (ECMA-48 CR and EL).
        write!(terminal.out, "\r\x1b[K{}", line(true))?;
        return Ok(());
    }
    let now = line(false);
    if now != *shown {
        writeln!(terminal.out, "{}", line(true))?;
        *shown = now;
    }
    Ok(())
}

/// `9:58`, `1:05:00`.
fn clock(secs: u64) -> String {
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours == 0 { format!("{minutes}:{secs:02}") } else { format!("{hours}:{minutes:02}:{secs:02}") }
}
