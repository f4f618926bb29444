//! A server that says itself how it is, in the line of text that agents for HAProxy send: words such as `up`, `drain`, `50%`,
//! `down # disk full`, apart by blanks or commas.
#![forbid(unsafe_code)]

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    Peer, Stopwatch,
    connect::{self, Manner},
    failure, legible, output,
};
use crate::model::health::{Advice, AdvisedState, Failure, FailureReason};

/// Longest line that is read.
const MAX_LINE_BYTES: usize = 1024;
/// Longest part of it that stands in a text.
const MAX_QUOTE_CHARS: usize = 120;

/// Asks: connects, and reads a line.
pub(super) async fn probe(peer: &Peer, clock: &mut Stopwatch) -> Result<(), Failure> {
    let mut stream = connect::open(peer, Manner::Ordinary, clock).await?;
    let said = clock.step("agent", FailureReason::AnswerTimeout, "", line(&mut stream)).await?;
    clock.output = output(&said);
    let word = Word::of(&String::from_utf8_lossy(&said))?;
    clock.advice = word.advice;
    if let Some(note) = word.note {
        clock.note(note);
    }
    word.down.map_or(Ok(()), |why| Err(failure(FailureReason::AgentDown, why)))
}

/// What comes before the first line feed, or before the connection ends.
async fn line(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Failure> {
    let mut said = Vec::new();
    let mut piece = [0; MAX_LINE_BYTES];
    // Each turn but the last adds a byte at least.
    while said.len() <= MAX_LINE_BYTES {
        let read = stream.read(&mut piece).await.map_err(|error| broken(&error))?;
        said.extend_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            said.truncate(end);
            return Ok(said);
        }
        if read == 0 {
            return Ok(said);
        }
    }
    Err(failure(
        FailureReason::ProtocolError,
        format!(
            "agent: no line, {MAX_LINE_BYTES} bytes and no end: is it an agent that listens on this port?"
        ),
    ))
}

fn broken(error: &io::Error) -> Failure {
    use FailureReason::{ConnectionClosed, Local, Unreachable};
    match error.raw_os_error() {
        Some(libc::ECONNRESET) => {
            failure(ConnectionClosed, "agent: connection reset by the server".to_owned())
        }
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
            failure(Unreachable, format!("agent: the server became unreachable: {error}"))
        }
        _ => failure(Local, format!("agent: {error}")),
    }
}

/// What a line means.
#[derive(Debug, Default, Eq, PartialEq)]
struct Word {
    advice: Advice,
    /// It says that it is down: with what it adds.
    down: Option<String>,
    /// What it said beside that means nothing here.
    note: Option<String>,
}

impl Word {
    /// Of several words for one thing, the last counts.
    fn of(line: &str) -> Result<Self, Failure> {
        let (words, comment) = match line.split_once('#') {
            Some((words, comment)) => (words, Some(comment.trim())),
            None => (line, None),
        };
        let mut meant = Self::default();
        let mut strange = Vec::new();
        let mut understood = 0;
        for word in words.split([' ', '\t', ',', '\r']).filter(|word| !word.is_empty()) {
            match meant.take(&word.to_ascii_lowercase(), comment) {
                Some(()) => understood += 1,
                None => strange.push(word),
            }
        }
        if understood == 0 {
            let what =
                if strange.is_empty() { "said nothing".to_owned() } else { format!("said {}", quoted(line)) };
            return Err(failure(
                FailureReason::ProtocolError,
                format!(
                    "agent: the server {what}, and not up, down, drain, maint, ready, stopped, fail or a percentage"
                ),
            ));
        }
        if !strange.is_empty() {
            meant.note = Some(format!("agent: {} means nothing here", quoted(&strange.join(" "))));
        }
        Ok(meant)
    }

    /// Takes a word; `None` when it is none.
    fn take(&mut self, word: &str, comment: Option<&str>) -> Option<()> {
        match word {
            "up" => self.down = None,
            "down" | "stopped" | "fail" | "failed" => {
                let why = comment
                    .filter(|comment| !comment.is_empty())
                    .map(|comment| format!(": {}", quoted(comment)));
                self.down = Some(format!("agent: the server says {word}{}", why.unwrap_or_default()));
            }
            "ready" => self.advice.state = None,
            "drain" => self.advice.state = Some(AdvisedState::Drain),
            "maint" => self.advice.state = Some(AdvisedState::Maint),
            _ => {
                // More than its weight is not to be had; a number too long for any type is more than that.
                let digits = word.strip_suffix('%')?;
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                self.advice.percent = Some(digits.parse().unwrap_or(u8::MAX).min(100));
            }
        }
        Some(())
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", legible(text.trim(), MAX_QUOTE_CHARS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn advice(percent: impl Into<Option<u8>>, state: impl Into<Option<AdvisedState>>) -> Advice {
        Advice { percent: percent.into(), state: state.into() }
    }

    #[test]
    fn words_combine() {
        for (line, wanted, is_down) in [
            ("up", advice(None, None), false),
            ("UP\r", advice(None, None), false),
            ("up 75%", advice(75, None), false),
            ("100%,ready", advice(100, None), false),
            ("0%", advice(0, None), false),
            ("250%", advice(100, None), false),
            ("99999999999%", advice(100, None), false),
            ("drain", advice(None, AdvisedState::Drain), false),
            ("up\tmaint 20%", advice(20, AdvisedState::Maint), false),
            ("drain ready up", advice(None, None), false),
            ("down # disk full", advice(None, None), true),
            ("drain stopped", advice(None, AdvisedState::Drain), true),
            ("fail", advice(None, None), true),
            ("down up", advice(None, None), false),
        ] {
            let word = Word::of(line).unwrap();
            assert_eq!((word.advice, word.down.is_some(), word.note), (wanted, is_down, None), "{line}");
        }
    }

    #[test]
    fn a_server_that_is_down_says_why() {
        let down = |line| Word::of(line).unwrap().down.unwrap();
        assert_eq!(down("down # disk full"), "agent: the server says down: \"disk full\"");
        assert_eq!(down("stopped"), "agent: the server says stopped");
        assert_eq!(down("fail#\x1b[2J"), "agent: the server says fail: \"?[2J\"");
    }

    #[test]
    fn words_that_mean_nothing_are_named_and_alone_are_no_answer() {
        assert_eq!(
            Word::of("up maxconn:30").unwrap().note,
            Some("agent: \"maxconn:30\" means nothing here".into())
        );
        for line in ["", "  \r", "# up", "HTTP/1.1 200 OK", "%", "5", "-5%"] {
            let failure = Word::of(line).unwrap_err();
            assert_eq!(failure.reason, FailureReason::ProtocolError, "{line}: {}", failure.text);
        }
    }

    /// What is read of a server that says exactly this, and closes.
    fn read(mut said: &[u8]) -> Result<Vec<u8>, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(line(&mut said))
    }

    #[test]
    fn one_line_is_read_and_it_has_an_end() {
        assert_eq!(read(b"up 50%\ndown\n"), Ok(b"up 50%".to_vec()));
        assert_eq!(read(b"up"), Ok(b"up".to_vec()), "the end of the connection ends the line");
        let mut longest = vec![b'#'; MAX_LINE_BYTES];
        longest.push(b'\n');
        assert!(read(&longest).is_ok());
        assert_eq!(read(&[b'#'; 2 * MAX_LINE_BYTES]).unwrap_err().reason, FailureReason::ProtocolError);
    }

    proptest! {
        #[test]
        fn arbitrary_lines_never_panic(said in prop::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(line) = read(&said) {
                let _ = Word::of(&String::from_utf8_lossy(&line));
            }
        }
    }
}
