//! Verbs about alerts.

use std::{
    io::{self, Write},
    time::Duration,
};

use super::{
    Cli, Done, RunError, Terminal,
    args::{AlertVerb, Form},
    lists::json_into,
    text::plain,
};
use crate::{api::client::Client, model::alerts::TestedWay};

/// A mail server may take longer to answer than the daemon.
const TEST_DEADLINE: Duration = Duration::from_secs(35);

/// `lbctl alert`.
pub(super) async fn alert(
    cli: &Cli,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &AlertVerb,
) -> Result<Done, RunError> {
    let AlertVerb::Test { output } = verb;
    let client = Client::new(&cli.socket, cli.answer_timeout.max(TEST_DEADLINE));
    let ways = client.test_alerts().await?;
    match output {
        Form::Json => json_into(&mut terminal.out, &ways)?,
        Form::Table => tested_into(&mut terminal.out, &ways)?,
    }
    match ways.iter().filter(|way| !way.ok).count() {
        0 => Ok(Done::Well),
        failed => Err(RunError::Unreached(format!("{failed} of {} ways to tell people failed", ways.len()))),
    }
}

/// `lbctl alert test`: a line for each way.
pub fn tested_into(out: &mut impl Write, ways: &[TestedWay]) -> io::Result<()> {
    ways.iter().try_for_each(|TestedWay { way, ok, text }| {
        let word = if *ok { "ok" } else { "FAILED" };
        writeln!(out, "{}: {word}: {}", plain(way), plain(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_a_line_that_cannot_write_over_another() {
        let way = |way: &str, ok, text: &str| TestedWay { way: way.into(), ok, text: text.into() };
        let ways = [
            way("pacs@h.example", true, "taken by relay mail:587"),
            way("http://hook/...", false, "said\x1b[2J so"),
        ];
        let mut out = Vec::new();
        tested_into(&mut out, &ways).unwrap();
        let text = String::from_utf8(out).unwrap();
        let (first, second) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(first, "pacs@h.example: ok: taken by relay mail:587");
        assert!(
            second.starts_with("http://hook/...: FAILED: said") && !second.contains('\x1b'),
            "{second:?}"
        );
    }
}
