//! What becomes of connections after a request, and of requests that are slow or broken.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use lb_tests::lab::{Host, Lab, browser::Page, http, mirror::Seen, require_root};

use crate::{assert_silent, at, mirrors, start_green, url, vip};

/// One server, so that connections to it can be compared.
const ONE: &str = r#"{ PACS1 = "10.10.0.11:8080" }"#;

/// An answer is there within this, also on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn connections_stay_or_close_as_the_mode_says() {
    if !require_root("connections_stay_or_close_as_the_mode_says") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let modes = [(80, "both"), (81, "off"), (82, "client"), (83, "pretend")];
    let toml: String = modes
        .map(|(port, mode)| {
            let more = format!("http = {{ keep_alive = \"{mode}\" }}");
            vip(&mode.to_uppercase(), "l7-http", port, ONE, &more)
        })
        .concat();
    let _lbd = start_green(&lab, &toml);

    // Whether the client's connection serves twice, whether the server's does, and whether the server is told to close.
    let found = modes.map(|(port, mode)| {
        let url = url(port, "/");
        let twice = ["-sSf", "--max-time", "10", "-w", "\n%{num_connects}\n", &url, &url];
        let said = lab.host("client").run("curl", &twice).expect_success().stdout;
        let lines: Vec<_> = said.lines().collect();
        let [first, "1", second, connects_again] = lines[..] else { panic!("no two answers: {said}") };
        let [first, second] = [first, second].map(Seen::of);
        let told = first.header("connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        (mode, connects_again == "0", first.connection == second.connection, told)
    });
    assert_eq!(
        found,
        [
            ("both", true, true, false),
            ("off", false, false, true),
            ("client", true, false, true),
            ("pretend", true, false, false)
        ]
    );
}

#[test]
fn a_request_header_has_its_time_unless_that_is_off() {
    if !require_root("a_request_header_has_its_time_unless_that_is_off") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("HASTY", "l7-http", 80, ONE, "http = { request_timeout = \"1s\" }")
        + &vip("PATIENT", "l7-http", 81, ONE, "http = { request_timeout = \"off\" }");
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");

    let mut slow = begin(client, 81);
    let mut answer = String::new();
    begin(client, 80).read_to_string(&mut answer).expect("the balancer closes");
    assert_eq!(Page::read(&answer).map(|answer| answer.status), Some(408), "{answer:?}");

    // The other began before and is waited for still: its request is served when it is whole.
    assert_silent(&slow, Duration::from_secs(1));
    slow.write_all(b"Connection: close\r\n\r\n").expect("the connection stands");
    slow.set_read_timeout(Some(SOON)).expect("a timeout");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer");
    assert_eq!(Page::read(&answer).map(|answer| answer.status), Some(200), "{answer:?}");
}

/// Sends the first half of a request.
fn begin(client: &Host, port: u16) -> TcpStream {
    let stream = client.netns.enter(|| TcpStream::connect_timeout(&at(port), SOON));
    let mut stream = stream.expect("the VIP takes connections");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pacs\r\n").expect("the connection stands");
    stream
}

#[test]
fn requests_that_break_the_standard_are_let_through_where_that_is_asked() {
    if !require_root("requests_that_break_the_standard_are_let_through_where_that_is_asked") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let toml = vip("STRICT", "l7-http", 80, ONE, "")
        + &vip("LENIENT", "l7-http", 81, ONE, "http = { accept_invalid = true }");
    let _lbd = start_green(&lab, &toml);
    let status = |port, line: &str, header: &str| {
        let request = format!("{line}\r\nHost: pacs\r\nConnection: close\r\n{header}\r\n");
        let text = http::send_raw(lab.host("client"), at(port), request.as_bytes()).expect("an answer");
        Page::read(&text).unwrap_or_else(|| panic!("no answer: {text:?}")).status
    };
    // What old viewers send: a name of a patient as it is, a part of a page, a header with a blank in its name.
    for (line, header) in
        [("GET /M\u{fc}ller HTTP/1.1", ""), ("GET /a#b HTTP/1.1", ""), ("GET / HTTP/1.1", "X Viewer: 1\r\n")]
    {
        assert_eq!((status(80, line, header), status(81, line, header)), (400, 200), "{line} {header}");
    }
    assert_eq!((status(80, "GET / HTTP/1.1", ""), status(81, "GET / HTTP/1.1", "")), (200, 200));
    // What nobody could read is an error everywhere.
    assert_eq!((status(80, "GET /a b HTTP/1.1", ""), status(81, "GET /a b HTTP/1.1", "")), (400, 400));
}
