//! A request over HTTP or HTTPS (R41): one request, one answer, what it must be. Nothing is followed, nothing kept.
#![forbid(unsafe_code)]

use std::{error::Error, future::Future, io, ops::RangeInclusive, pin::pin, time::Duration};

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, StatusCode,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use regex::Regex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{
    Peer, Stopwatch, Tools,
    connect::{self, Manner},
    failure, legible, output, tls,
};
use crate::model::{
    check::{BodyMatch, HttpCheck},
    health::{CheckResult, Failure, FailureReason},
};

/// Who asks: a line in the server's log that a person can tell from a client's.
const AGENT: &str = concat!("lbd/", env!("CARGO_PKG_VERSION"), " (health check)");
/// How long the body of an answer that has failed already is waited for: it may say why.
const EXPLANATION: Duration = Duration::from_millis(250);
/// Longest part of an answer that stands in a failure.
const MAX_QUOTE_CHARS: usize = 60;

/// Asks. The steps are `connect`, `tls`, `request`, and `body` when it is read.
pub(super) async fn probe(
    peer: &Peer,
    check: &HttpCheck,
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let addr = peer.addr;
    let authority = check.host.clone().unwrap_or_else(|| addr.to_string());
    let stream = connect::open(peer, Manner::Ordinary, clock).await?;
    let Some(client) = &check.tls else {
        return exchange(stream, check, &authority, Shown::Nothing, clock).await;
    };
    let name = check.host.as_deref().map_or_else(|| addr.ip().to_string(), |host| host_name(host).to_owned());
    let session = tools.tls.wrap(stream, client, &name, clock).await?;
    let shown = match &client.client_cert {
        Some(cert) => Shown::Certificate(&cert.name),
        None if session.is_without_certificate() => Shown::NothingThoughAsked,
        None => Shown::Nothing,
    };
    exchange(session, check, &authority, shown, clock).await
}

/// What the server saw of us under TLS.
#[derive(Clone, Copy)]
enum Shown<'a> {
    /// No certificate, and none was asked for.
    Nothing,
    /// No certificate, and one was asked for.
    NothingThoughAsked,
    /// This one, if it asked.
    Certificate(&'a str),
}

/// A host without its port: `archive:8443`, `[fd00::1]:8443`.
fn host_name(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match authority.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host,
        _ => authority,
    }
}

async fn exchange<S>(
    stream: S,
    check: &HttpCheck,
    authority: &str,
    shown: Shown<'_>,
    clock: &mut Stopwatch,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(check, authority)?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| fault("request", &error))?;
    let mut connection = pin!(connection.fuse());
    let asking = async {
        let answer = beside(&mut connection, sender.send_request(request)).await;
        answer.map_err(|error| fault("request", &error))
    };
    let mut answer = clock.step("request", FailureReason::AnswerTimeout, "", asking).await?;
    let status = answer.status();
    if !passes(&check.status, status) {
        let location =
            answer.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        let until = (Instant::now() + EXPLANATION).min(clock.deadline());
        let mut said = Vec::new();
        let reading = read(answer.body_mut(), CheckResult::MAX_OUTPUT_BYTES, &mut said);
        // Whatever comes of it: the status has decided.
        let _explained = timeout_at(until, beside(&mut connection, reading)).await;
        clock.output = output(&said);
        return Err(wrong_status(status, check, location.as_deref(), shown, &said));
    }
    let Some(wanted) = &check.body else {
        return Ok(());
    };
    let limit = usize::try_from(check.max_body_bytes).unwrap_or(usize::MAX);
    let mut said = Vec::new();
    let announced = answer.body().size_hint().lower();
    let reading = async {
        if announced > u64::from(check.max_body_bytes) {
            return Err(too_long(&announced.to_string(), limit));
        }
        beside(&mut connection, read(answer.body_mut(), limit, &mut said)).await
    };
    let outcome = clock.step("body", FailureReason::AnswerTimeout, " to its end", reading).await;
    clock.output = output(&said);
    outcome?;
    matches(&said, wanted)?;
    // The answer is here; what is left is to take leave, which takes one look unless the server's buffers are full.
    drop(sender);
    if !connection.is_terminated() {
        let _nothing_to_learn = timeout_at(clock.deadline(), connection).await;
    }
    Ok(())
}

fn request(check: &HttpCheck, authority: &str) -> Result<Request<Empty<Bytes>>, Failure> {
    let not_tried = |why: &dyn std::fmt::Display| {
        failure(FailureReason::Local, format!("request: not tried, {why}: correct method, path and host"))
    };
    let method = Method::from_bytes(check.method.as_bytes()).map_err(|error| not_tried(&error))?;
    Request::builder()
        .method(method)
        .uri(&check.path)
        .header(HOST, authority)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| not_tried(&error))
}

/// Does some work while the connection under it makes progress.
async fn beside<C: Future + Unpin, T>(connection: &mut Fuse<C>, work: impl Future<Output = T>) -> T
where
    Fuse<C>: Unpin,
{
    let mut work = pin!(work);
    tokio::select! {
        outcome = &mut work => outcome,
        // The connection has ended, well or not; what came over it is still there for the work to find.
        _ = connection => work.await,
    }
}

/// Reads a body into `said`, which keeps what came before a failure, too.
async fn read(body: &mut Incoming, limit: usize, said: &mut Vec<u8>) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| fault("body", &error))?;
        let Ok(data) = frame.into_data() else { continue };
        let room = limit.saturating_sub(said.len());
        said.extend_from_slice(data.get(..room).unwrap_or(&data));
        if data.len() > room {
            return Err(too_long("more", limit));
        }
    }
    Ok(())
}

fn too_long(bytes: &str, limit: usize) -> Failure {
    failure(
        FailureReason::HttpBodyTooLong,
        format!(
            "body: {bytes} bytes, and no more than {limit} are read: raise max_body_bytes, or ask for less"
        ),
    )
}

fn passes(ranges: &[RangeInclusive<u16>], status: StatusCode) -> bool {
    ranges.iter().any(|range| range.contains(&status.as_u16()))
}

fn wrong_status(
    status: StatusCode,
    check: &HttpCheck,
    location: Option<&str>,
    shown: Shown<'_>,
    said: &[u8],
) -> Failure {
    use FailureReason::{HttpStatus, TlsClientCertificate};
    let answered = format!("request: answered {}", in_words(status));
    // A server that asks for a certificate may take a handshake without one, and say so in the answer.
    let is_refusal = matches!(status.as_u16(), 400 | 403 | 495 | 496);
    match (shown, location) {
        (Shown::NothingThoughAsked, _) if is_refusal => failure(
            TlsClientCertificate,
            format!("{answered}, having asked for a client certificate and got none: set client_cert"),
        ),
        // What nginx says in words of a certificate that it did not like.
        (Shown::Certificate(name), _)
            if is_refusal && String::from_utf8_lossy(said).contains("SSL certificate error") =>
        {
            failure(TlsClientCertificate, format!("{answered}: it refuses client certificate {name}"))
        }
        (_, Some(location)) if status.is_redirection() => failure(
            HttpStatus,
            format!(
                "{answered} to {}: redirects are not followed: ask there, or let the status pass",
                quoted(location)
            ),
        ),
        _ => failure(HttpStatus, format!("{answered}, not {}", ranges(&check.status))),
    }
}

/// `404 Not Found`.
fn in_words(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// `200-299, 401`.
fn ranges(ranges: &[RangeInclusive<u16>]) -> String {
    let words = ranges.iter().map(|range| match (range.start(), range.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn matches(said: &[u8], wanted: &BodyMatch) -> Result<(), Failure> {
    let said = String::from_utf8_lossy(said);
    let why = match wanted {
        BodyMatch::Equals(text) if said.trim() == text.trim() => return Ok(()),
        BodyMatch::Contains(text) if said.contains(text.as_str()) => return Ok(()),
        BodyMatch::Regex(pattern) => match Regex::new(pattern) {
            Ok(regex) if regex.is_match(&said) => return Ok(()),
            Ok(_) => format!("nothing in it matches {}", quoted(pattern)),
            Err(error) => {
                let why = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
                return Err(failure(
                    FailureReason::Local,
                    format!("body: cannot be judged, {} is no regular expression: {why}", quoted(pattern)),
                ));
            }
        },
        BodyMatch::Equals(text) => format!("not {}", quoted(text.trim())),
        BodyMatch::Contains(text) => format!("{} is not in it", quoted(text)),
    };
    let is = if said.trim().is_empty() {
        "it is empty".to_owned()
    } else {
        format!("it is {}", quoted(said.trim()))
    };
    Err(failure(FailureReason::HttpBody, format!("body: {is}: {why}")))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", legible(text, MAX_QUOTE_CHARS))
}

/// What the library says went wrong, as to who and why.
fn fault(step: &str, error: &hyper::Error) -> Failure {
    use FailureReason::{ConnectionClosed, Local, ProtocolError, Unreachable};
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    // A chain of causes has a handful of links.
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            if let Some(refusal) = tls::failure_in(io) {
                return refusal.clone();
            }
            match io.raw_os_error() {
                Some(libc::ECONNRESET | libc::EPIPE) => {
                    return failure(ConnectionClosed, format!("{step}: connection reset by the server"));
                }
                Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                    return failure(Unreachable, format!("{step}: the server became unreachable: {io}"));
                }
                _ => {}
            }
            if io.kind() == io::ErrorKind::UnexpectedEof {
                return failure(ConnectionClosed, format!("{step}: connection closed by the server"));
            }
        }
        cause = inner.source();
    }
    if error.is_parse() {
        return failure(
            ProtocolError,
            format!(
                "{step}: the server does not speak HTTP/1.1 as expected ({error}): is it TLS that the port wants?"
            ),
        );
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return failure(
            ConnectionClosed,
            format!("{step}: connection closed by the server before its answer ended"),
        );
    }
    if error.is_user() {
        return failure(Local, format!("{step}: not tried, {error}"));
    }
    failure(ProtocolError, format!("{step}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_name_whether_or_not_it_has_a_port() {
        for (authority, name) in [
            ("archive", "archive"),
            ("archive:8443", "archive"),
            ("[fd00::1]:8443", "fd00::1"),
            ("[fd00::1]", "fd00::1"),
            ("fd00::1", "fd00::1"),
            ("10.0.0.1:80", "10.0.0.1"),
        ] {
            assert_eq!(host_name(authority), name);
        }
    }

    #[test]
    fn a_body_passes_for_what_it_says_and_not_for_white_space_around_it() {
        let said = b"\r\n allServicesOperative \n";
        for (wanted, passes) in [
            (BodyMatch::Equals("allServicesOperative".into()), true),
            (BodyMatch::Equals("allServices".into()), false),
            (BodyMatch::Contains("Services".into()), true),
            (BodyMatch::Contains("services".into()), false),
            (BodyMatch::Regex("^\\s*all.*Operative".into()), true),
            (BodyMatch::Regex("^all".into()), false),
        ] {
            assert_eq!(matches(said, &wanted).is_ok(), passes, "{wanted:?}");
        }
        let failure = matches(b"down\x1b[0m", &BodyMatch::Equals("up".into())).unwrap_err();
        assert_eq!(failure.reason, FailureReason::HttpBody);
        assert_eq!(failure.text, "body: it is \"down?[0m\": not \"up\"");
        let failure = matches(b" ", &BodyMatch::Contains("up".into())).unwrap_err();
        assert_eq!(failure.text, "body: it is empty: \"up\" is not in it");
        assert_eq!(matches(b"up", &BodyMatch::Regex("(".into())).unwrap_err().reason, FailureReason::Local);
        assert!(
            matches(b"\xff up \xfe", &BodyMatch::Contains("up".into())).is_ok(),
            "not UTF-8, but readable"
        );
    }

    #[test]
    fn statuses_pass_by_ranges_and_are_shown_as_written() {
        let wanted = [200..=299, 401..=401];
        let status = |code| StatusCode::from_u16(code).unwrap();
        assert!(passes(&wanted, status(204)) && passes(&wanted, status(401)));
        assert!(!passes(&wanted, status(302)) && !passes(&wanted, status(500)));
        assert_eq!(ranges(&wanted), "200-299, 401");
        assert_eq!((in_words(status(404)), in_words(status(599))), ("404 Not Found".into(), "599".into()));
    }
}
