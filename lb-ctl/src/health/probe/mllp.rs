//! An HL7 version 2 receiver behind MLLP: a message in a block, and its acknowledgment.
#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout_at,
};

use super::{
    Peer, Stopwatch,
    connect::{self, Manner},
    failure,
    hl7::Message,
    legible, output,
};
use crate::model::{
    check::MllpCheck,
    health::{Failure, FailureReason},
};

/// A block begins with this and ends with these two (MLLP release 1).
const START: u8 = 0x0b;
const END: [u8; 2] = [0x1c, 0x0d];

/// Longest acknowledgment taken. Real ones have some hundred bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Passes where the configuration says nothing else (HL7 table 0008).
const APPLICATION_ACCEPT: &str = "AA";
/// Of what a receiver says about a refusal, in the text of the failure.
const MAX_EXPLANATION_CHARS: usize = 200;
/// What a receiver has said is over; it may take this long to close as well.
const FAREWELL: Duration = Duration::from_millis(200);

/// Sends the message and judges the acknowledgment; without a message, connects.
pub(super) async fn probe(peer: &Peer, check: &MllpCheck, clock: &mut Stopwatch) -> Result<(), Failure> {
    let Some(message) = &check.message else {
        connect::open(peer, Manner::Unseen, clock).await?;
        clock.note("mllp: connected, and nothing sent: the check has no message".to_owned());
        return Ok(());
    };
    let message = fill_in(message, SystemTime::now());
    let mut stream = connect::open(peer, Manner::Ordinary, clock).await?;
    let asking = exchange(&mut stream, &message);
    let answer = clock.step("message", FailureReason::AnswerTimeout, "", asking).await?;
    clock.output = output(answer.replace('\r', "\n").as_bytes());
    part(&mut stream, clock).await;
    judge(&message, &answer, &check.accept)
}

/// The message as it is sent: segments end with CR, and what stands for the time and for an identifier is replaced.
fn fill_in(template: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    // A message control id has 20 characters at most (HL7 2.5, 2.15.9.10): 19 until the year 2286.
    let micros = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let filled =
        template.replace("{time}", &format!("{digits}+0000")).replace("{id}", &format!("LBD{micros}"));
    let mut message = String::new();
    for segment in filled.split(['\r', '\n']).filter(|segment| !segment.is_empty()) {
        message.push_str(segment);
        message.push('\r');
    }
    message
}

async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    message: &str,
) -> Result<String, Failure> {
    let block = [&[START], message.as_bytes(), &END].concat();
    stream.write_all(&block).await.map_err(|error| broken(&error))?;
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await.map_err(|error| broken(&error))?;
        if length == 0 {
            return Err(closed(&received));
        }
        received.extend_from_slice(buffer.get(..length).unwrap_or_default());
        if let Some(answer) = take_block(&received)? {
            return Ok(answer.into_owned());
        }
        if received.len() > MAX_ANSWER_BYTES {
            return Err(not_mllp(&format!(
                "its answer is longer than the {MAX_ANSWER_BYTES} bytes that a check takes"
            )));
        }
    }
}

/// The content of the first block, once it has come whole. White space before it is what some receivers end their last
/// block with; the CR after its end is not waited for.
fn take_block(received: &[u8]) -> Result<Option<Cow<'_, str>>, Failure> {
    let [end, _] = END;
    match received.trim_ascii_start() {
        [] => Ok(None),
        [START, content @ ..] => {
            let length = content.iter().position(|byte| *byte == end);
            Ok(length.and_then(|length| content.get(..length)).map(String::from_utf8_lossy))
        }
        stranger => {
            let begin: Vec<u8> = stranger.iter().take(16).copied().collect();
            Err(not_mllp(&format!(
                "it answered with {:?}, not with a block",
                String::from_utf8_lossy(&begin)
            )))
        }
    }
}

/// Half-closes, and gives the receiver a moment to close its half.
async fn part(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), clock: &Stopwatch) {
    let until = clock.deadline().min(tokio::time::Instant::now() + FAREWELL);
    let parting = async {
        stream.shutdown().await?;
        stream.read(&mut [0; 64]).await
    };
    let _its_answer_is_here = timeout_at(until, parting).await;
}

fn judge(sent: &str, answer: &str, accept: &[String]) -> Result<(), Failure> {
    let message = Message::read(answer).ok_or_else(|| not_mllp("its answer is no HL7 message"))?;
    if message.segment("MSA").is_none() {
        return Err(not_mllp("its answer acknowledges nothing: it has no MSA segment"));
    }
    let code = message.field("MSA", 1);
    let passes =
        if accept.is_empty() { code == APPLICATION_ACCEPT } else { accept.iter().any(|one| one == code) };
    if !passes {
        let why = explanation(message).map(|why| format!(": {why}")).unwrap_or_default();
        return Err(refused(&format!("answered {code}, {}{why}", meaning(code))));
    }
    let ours = Message::read(sent).map_or("", |sent| sent.field("MSH", 10));
    let theirs = message.field("MSA", 2);
    if ours.is_empty() || ours == theirs {
        return Ok(());
    }
    Err(refused(&format!("acknowledged message {theirs:?}, and was sent {ours:?}")))
}

/// HL7 table 0008.
fn meaning(code: &str) -> &'static str {
    match code {
        "AA" | "CA" => "accepted, which this check does not take",
        "AE" | "CE" => "error",
        "AR" | "CR" => "rejected",
        _ => "which the standard does not list",
    }
}

/// What the receiver says about a refusal: MSA-3, or of its ERR segment the text for users, the text for
/// developers, the code (HL7 2.5, 2.15.5).
fn explanation(answer: Message<'_>) -> Option<String> {
    let said = [("MSA", 3), ("ERR", 8), ("ERR", 7), ("ERR", 3), ("ERR", 1)];
    let text = said
        .into_iter()
        .map(|(segment, field)| answer.field(segment, field))
        .find(|text| !text.is_empty())?;
    Some(legible(text, MAX_EXPLANATION_CHARS))
}

fn refused(what: &str) -> Failure {
    failure(FailureReason::MllpRefused, format!("message: the receiver {what}"))
}

fn not_mllp(why: &str) -> Failure {
    failure(
        FailureReason::ProtocolError,
        format!("message: the receiver does not speak MLLP as expected: {why}"),
    )
}

fn closed(received: &[u8]) -> Failure {
    let when =
        if received.is_empty() { "before it acknowledged" } else { "in the middle of its acknowledgment" };
    failure(FailureReason::ConnectionClosed, format!("message: connection closed by the receiver {when}"))
}

fn broken(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNRESET | libc::EPIPE) => failure(
            FailureReason::ConnectionClosed,
            "message: connection reset by the receiver before it acknowledged".to_owned(),
        ),
        Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
            failure(FailureReason::Unreachable, format!("message: the receiver became unreachable: {error}"))
        }
        _ => failure(FailureReason::Local, format!("message: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENT: &str = "MSH|^~\\&|LB|LB|RIS|KH|20260101||ADT^A08|M1|P|2.5\rEVN|A08\r";

    fn answered(said: &[u8]) -> Result<String, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { exchange(&mut tokio::io::join(said, tokio::io::sink()), SENT).await })
    }

    fn judged(msa: &str, accept: &[&str]) -> Result<(), String> {
        let answer = format!("MSH|^~\\&|RIS|KH|LB|LB|20260101||ACK|1|P|2.5\r{msa}\r");
        let accept: Vec<String> = accept.iter().map(|code| (*code).to_owned()).collect();
        judge(SENT, &answer, &accept).map_err(|failure| {
            assert_eq!(failure.reason, FailureReason::MllpRefused);
            failure.text
        })
    }

    #[test]
    fn time_and_identifier_are_filled_in_and_segments_end_with_cr() {
        let now = UNIX_EPOCH + Duration::from_micros(1_780_000_000_123_456);
        let message = fill_in("MSH|^~\\&|LB||||{time}||ADT^A08|{id}|P|2.5\nEVN|A08\r\nPID|1\n\n", now);
        assert_eq!(
            message,
            "MSH|^~\\&|LB||||20260528202640+0000||ADT^A08|LBD1780000000123456|P|2.5\rEVN|A08\rPID|1\r"
        );
    }

    #[test]
    fn a_block_is_taken_whole() {
        assert_eq!(answered(b"\r\n\x0bMSH|x\r\x1c\rmore").unwrap(), "MSH|x\r");
    }

    #[test]
    fn what_is_no_block_is_quoted() {
        let failure = answered(b"HTTP/1.1 400 Bad Request").unwrap_err();
        assert_eq!(failure.reason, FailureReason::ProtocolError);
        assert!(failure.text.contains("\"HTTP/1.1 400 Bad\""), "{}", failure.text);
    }

    #[test]
    fn an_answer_that_stops_is_a_closed_connection() {
        for said in [&b""[..], b"\x0bMSH|"] {
            assert_eq!(answered(said).unwrap_err().reason, FailureReason::ConnectionClosed);
        }
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        let failure = answered(&[&[START], &[b'x'; 2 * MAX_ANSWER_BYTES][..]].concat()).unwrap_err();
        assert_eq!(failure.reason, FailureReason::ProtocolError);
        assert!(failure.text.contains("longer than"), "{}", failure.text);
    }

    #[test]
    fn codes_pass_that_are_asked_for() {
        assert_eq!(judged("MSA|AA|M1", &[]), Ok(()));
        assert_eq!(judged("MSA|AE|M1", &["AA", "AE"]), Ok(()));
        assert_eq!(
            judged("MSA|CA|M1", &[]).unwrap_err(),
            "message: the receiver answered CA, accepted, which this check does not take"
        );
        assert_eq!(
            judged("MSA|AR|M1|bad|\rERR||", &[]).unwrap_err(),
            "message: the receiver answered AR, rejected: bad"
        );
        assert_eq!(
            judged("MSA|AE|M1\rERR||PID^1|101|E|||code|no such patient", &[]).unwrap_err(),
            "message: the receiver answered AE, error: no such patient"
        );
    }

    #[test]
    fn an_acknowledgment_of_another_message_is_none() {
        assert_eq!(
            judged("MSA|AA|M2", &[]).unwrap_err(),
            "message: the receiver acknowledged message \"M2\", and was sent \"M1\""
        );
    }

    #[test]
    fn an_answer_without_acknowledgment_is_no_answer() {
        let failure = judge(SENT, "MSH|^~\\&|RIS\rPID|1\r", &[]).unwrap_err();
        assert_eq!(failure.reason, FailureReason::ProtocolError);
        assert_eq!(judge(SENT, "hello", &[]).unwrap_err().reason, FailureReason::ProtocolError);
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(said in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(answer) = answered(&[&[START], &said[..], &END].concat()) {
                let _ = judge(SENT, &answer, &[]);
            }
        }
    }
}
