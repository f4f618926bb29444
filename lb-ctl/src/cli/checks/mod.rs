//! Verbs about checks: list, show, run now, overrule; and check an address without a daemon.

mod print;
mod test;

use std::io::Write;

use super::{
    Done, RunError, Terminal,
    args::{CheckVerb, Checked, ForcedVerdict, Form},
    command,
    lists::json_into,
    names::id_of,
    operator::from_now,
};
use crate::{
    api::client::Client,
    model::{
        checks::{CheckQuery, HistoryQuery, RunStatus},
        command::Command,
        operator::Forced,
    },
};

pub use self::print::{ShownCheck, check_into, checks_into, runs_into};

/// `lbctl check`.
pub(super) async fn check(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &CheckVerb,
) -> Result<Done, RunError> {
    match verb {
        CheckVerb::List { vip, output } => {
            let checks = client.checks(&CheckQuery { vip: vip.clone(), rip: None }).await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &checks)?,
                Form::Table => checks_into(&mut terminal.out, &checks, print::now(), terminal.colour)?,
            }
            Ok(Done::Well)
        }
        CheckVerb::Show { rip, history, output } => {
            let (vip, rip) = (rip.vip.clone(), rip.rip.clone());
            let query = CheckQuery { vip: Some(vip.clone()), rip: Some(rip.clone()) };
            let checks = client.checks(&query).await?;
            let Some(check) = checks.into_iter().next() else {
                return Err(RunError::Unknown(format!("{vip}/{rip} is not checked: see `lbctl check list`")));
            };
            let history = client.check_history(&HistoryQuery { vip, rip, limit: Some(*history) }).await?;
            let shown = ShownCheck { check, history };
            match output {
                Form::Json => json_into(&mut terminal.out, &shown)?,
                Form::Table => check_into(&mut terminal.out, &shown, print::now(), terminal.colour)?,
            }
            Ok(Done::Well)
        }
        CheckVerb::Run { which: Checked { vip, rip }, verbose } => {
            let query = CheckQuery { vip: Some(vip.clone()), rip: rip.clone() };
            let runs = client.run_checks(&query).await?;
            runs_into(&mut terminal.out, &runs, *verbose, terminal.colour)?;
            Ok(found(&runs))
        }
        CheckVerb::Test(args) => test::test(terminal, args).await,
        CheckVerb::Force { rip, verdict, span } => {
            let until_epoch_secs = span.map(from_now);
            let forced = match verdict {
                ForcedVerdict::Auto if span.is_some() => {
                    let text = "--for goes with up or down; with auto the check decides from now on: leave --for out";
                    return Err(RunError::Local(text.to_owned()));
                }
                ForcedVerdict::Auto => None,
                ForcedVerdict::Down => Some(Forced { up: false, until_epoch_secs }),
                ForcedVerdict::Up => Some(Forced { up: true, until_epoch_secs }),
            };
            command(client, terminal, &Command::Force { rips: vec![id_of(rip)], forced }).await
        }
    }
}

fn found(runs: &[RunStatus]) -> Done {
    if runs.iter().any(|run| run.attempt.failure.is_some()) { Done::Degraded } else { Done::Well }
}
