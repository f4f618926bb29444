//! Checks of web servers and agents on loopback that misbehave in one chosen way each, written with raw bytes. Real web servers are
//! in the package lb-tests.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    future::{Future, pending},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_ctl::{
    health::run_once,
    model::{
        check::{BodyMatch, Check, CheckKind, HttpCheck},
        health::{Advice, AdvisedState, CheckResult, FailureReason, RipId, Target},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Deadline of checks that are to reach it; and of those that are not.
const SHORT: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(20);

/// A server on loopback that treats every connection the same way.
async fn server<F, W>(treat: F) -> SocketAddr
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(treat(stream));
        }
    });
    addr
}

/// A server that takes a request, answers so, and closes.
async fn web(said: &'static [u8]) -> SocketAddr {
    server(move |mut stream| async move {
        take_request(&mut stream).await;
        let _ = stream.write_all(said).await;
        let _ = stream.shutdown().await;
    })
    .await
}

/// Reads up to the empty line. Closing with something unread would be a reset, which overtakes what was said.
async fn take_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        request.push(byte);
    }
    String::from_utf8(request).unwrap()
}

async fn ask(addr: SocketAddr, kind: CheckKind, timeout: Duration) -> CheckResult {
    let id = RipId { vip: "WEB".to_owned(), rip: "A".to_owned() };
    run_once(&Target::new(id, addr, Check { kind, timeout, ..Check::default() })).await
}

fn http(wanted: BodyMatch) -> CheckKind {
    CheckKind::Http(Box::new(HttpCheck {
        tls: None,
        method: "GET".to_owned(),
        path: "/health?full=1".to_owned(),
        host: None,
        status: vec![200..=299],
        body: Some(wanted),
        max_body_bytes: 100,
    }))
}

fn up() -> CheckKind {
    http(BodyMatch::Contains("up".to_owned()))
}

fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str) {
    let failure = result.failure.as_ref().unwrap_or_else(|| panic!("it passed, in place of {text}"));
    assert_eq!(failure.reason, reason, "{}", failure.text);
    assert!(failure.text.contains(text), "{:?} lacks {text:?}", failure.text);
}

#[tokio::test]
async fn a_request_is_one_request() {
    let (heard, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let addr = server(move |mut stream| {
        let heard = heard.clone();
        async move {
            let request = take_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup").await.unwrap();
            // It is for the client to close, since this server does not.
            let more = stream.read_to_end(&mut Vec::new()).await;
            heard.send((request, more.unwrap())).unwrap();
        }
    })
    .await;
    let result = ask(addr, up(), LONG).await;
    assert_eq!(result.failure, None);
    assert!(result.took < LONG, "took {:?}", result.took);
    let (request, more) = requests.recv().await.unwrap();
    assert_eq!(more, 0, "nothing after the request");
    let mut lines: Vec<_> = request.trim_end().split("\r\n").collect();
    let first = lines.remove(0);
    assert_eq!(first, "GET /health?full=1 HTTP/1.1");
    let agent = concat!("user-agent: lbd/", env!("CARGO_PKG_VERSION"), " (health check)");
    assert_eq!(lines, [&format!("host: {addr}"), agent, "accept: */*", "connection: close"]);
}

#[tokio::test]
async fn a_body_in_pieces_without_a_length_or_not_in_utf_8_is_a_body() {
    for said in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nu\r\n1\r\np\r\n0\r\n\r\n"[..],
        b"HTTP/1.0 200 OK\r\n\r\nit is up",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfeup",
    ] {
        let result = ask(web(said).await, up(), LONG).await;
        assert_eq!(result.failure, None, "{}", said.escape_ascii());
    }
}

#[tokio::test]
async fn answers_that_are_none_are_named() {
    use FailureReason::{ConnectionClosed, HttpBodyTooLong, ProtocolError};
    let long = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'.'; 101]].concat().leak();
    let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"x-filler: x\r\n".repeat(500)].concat().leak();
    for (said, reason, text) in [
        (&b""[..], ConnectionClosed, "request: connection closed by the server"),
        (b"HTTP/1.1 200", ConnectionClosed, "request: connection closed by the server"),
        (b"220 mail.test ESMTP\r\n", ProtocolError, "does not speak HTTP/1.1"),
        (&[0x15, 3, 3, 0, 2, 2, 10], ProtocolError, "is it TLS that the port wants?"),
        (endless, ProtocolError, "request: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup", ConnectionClosed, "body: connection closed"),
        (long, HttpBodyTooLong, "body: more bytes, and no more than 100 are read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", FailureReason::HttpBody, "body: it is \"no\""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", FailureReason::HttpBody, "body: it is empty"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", FailureReason::HttpBody, "body: it is empty"),
        (b"HTTP/1.1 503 Gone Fishing\r\n\r\n", FailureReason::HttpStatus, "answered 503 Service Unavailable"),
    ] {
        assert_failed(&ask(web(said).await, up(), LONG).await, reason, text);
    }
}

#[tokio::test]
async fn a_server_that_stops_in_the_middle_has_until_the_deadline() {
    for (said, text) in [
        (&b""[..], "request: no answer within 400 ms"),
        (b"HTTP/1.1 200 OK\r\nConte", "request: no answer within 400 ms"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup", "body: no answer to its end within 400 ms"),
    ] {
        let addr = server(move |mut stream| async move {
            take_request(&mut stream).await;
            stream.write_all(said).await.unwrap();
            pending::<()>().await;
        })
        .await;
        let result = ask(addr, up(), SHORT).await;
        assert_failed(&result, FailureReason::AnswerTimeout, text);
        assert!(result.took >= SHORT, "took {:?}", result.took);
    }
}

#[tokio::test]
async fn a_status_that_fails_is_not_kept_waiting_for_its_body() {
    let addr = server(|mut stream| async move {
        take_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 500 No\r\nContent-Length: 99\r\n\r\ndisk full").await.unwrap();
        pending::<()>().await;
    })
    .await;
    let result = ask(addr, up(), LONG).await;
    assert_failed(&result, FailureReason::HttpStatus, "answered 500 Internal Server Error, not 200-299");
    assert_eq!(result.output.as_deref(), Some("disk full"));
    assert!(result.took < LONG, "took {:?}", result.took);
}

#[tokio::test]
async fn what_cannot_be_asked_is_our_own_fault() {
    let addr = web(b"").await;
    for (method, path) in [("GET", "/a b"), ("G T", "/")] {
        let CheckKind::Http(mut check) = up() else { unreachable!() };
        (check.method, check.path) = (method.to_owned(), path.to_owned());
        let result = ask(addr, CheckKind::Http(check), LONG).await;
        assert_failed(&result, FailureReason::Local, "correct method, path and host");
    }
    let result =
        ask(web(b"HTTP/1.0 200 OK\r\n\r\nup").await, http(BodyMatch::Regex("(".to_owned())), LONG).await;
    assert_failed(&result, FailureReason::Local, "is no regular expression");
}

/// A server whose agent says this, and closes.
async fn agent(said: &'static [u8]) -> CheckResult {
    let addr = server(move |mut stream| async move {
        let _ = stream.write_all(said).await;
    })
    .await;
    ask(addr, CheckKind::Agent, LONG).await
}

#[tokio::test]
async fn an_agent_is_taken_at_its_word() {
    let result = agent(b"up 75% drain\n").await;
    assert_eq!(result.failure, None);
    assert_eq!(result.advice, Advice { percent: Some(75), state: Some(AdvisedState::Drain) });
    assert_eq!(result.output.as_deref(), Some("up 75% drain"));
    let result = agent(b"stopped # backup until 6\r\n").await;
    assert_failed(&result, FailureReason::AgentDown, "agent: the server says stopped: \"backup until 6\"");
    assert_failed(&agent(b"").await, FailureReason::ProtocolError, "said nothing");
    assert_failed(&agent(&[b'.'; 4096]).await, FailureReason::ProtocolError, "1024 bytes and no end");

    let half = server(|mut stream| async move {
        stream.write_all(b"up").await.unwrap();
        pending::<()>().await;
    })
    .await;
    let result = ask(half, CheckKind::Agent, SHORT).await;
    assert_failed(&result, FailureReason::AnswerTimeout, "agent: no answer within 400 ms");
}
