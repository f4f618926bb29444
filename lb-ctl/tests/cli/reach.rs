//! Daemons that cannot be asked, or cannot be understood.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use axum::http::StatusCode;
use tokio::{io::AsyncReadExt as _, net::UnixListener, process::Command as Process};

use crate::{
    daemon::{Daemon, Script, finish, lbctl},
    samples::green,
};

#[tokio::test]
async fn a_daemon_out_of_reach_is_named_with_the_cure() {
    let dir = tempfile::tempdir().expect("a directory");

    let ran = lbctl(&dir.path().join("none.sock"), "status").await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    let cure = "none.sock: no such file; is lbd running? start it with `systemctl start lbd`, or name its socket with --socket\n";
    assert!(ran.err.ends_with(cure), "{ran:?}");

    let stale = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    let ran = lbctl(&stale, "status").await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("connection refused") && ran.err.contains("systemctl start lbd"), "{ran:?}");

    let ran = lbctl(&dir.path().join("x".repeat(200)), "status").await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.ends_with("; name its socket with --socket\n"), "{ran:?}");
}

#[tokio::test]
async fn a_socket_of_root_asks_for_root() {
    let daemon = Daemon::serve(Script::new(green()));
    let dir = daemon.socket.parent().expect("a directory");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own file");
    };
    // Nobody may reach the program and the socket, and may not talk to it.
    let copy = dir.join("lbctl");
    std::fs::copy(env!("CARGO_BIN_EXE_lbctl"), &copy).expect("a copy");
    mode(&copy, 0o755);
    mode(dir, 0o755);
    mode(&daemon.socket, 0o000);
    let mut lbctl = Process::new(&copy);
    lbctl.arg("--socket").arg(&daemon.socket).arg("status");
    if rustix::process::geteuid().is_root() {
        lbctl.uid(65_534).gid(65_534);
    }
    let ran = finish(&mut lbctl).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.ends_with("permission denied; run lbctl as root (`sudo lbctl ...`)\n"), "{ran:?}");
}

#[tokio::test]
async fn a_daemon_that_is_silent_or_breaks_off_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("lbd.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");

    let silent = async {
        let (mut connection, _) = listener.accept().await.expect("a client");
        let mut asked = String::new();
        connection.read_to_string(&mut asked).await.expect("text");
        asked
    };
    let (asked, ran) = tokio::join!(silent, lbctl(&socket, "status --answer-timeout 200ms"));
    assert!(asked.starts_with("GET /v1/status HTTP/1.1\r\n"), "{asked}");
    assert_eq!(ran.code, Some(2));
    assert!(
        ran.err.contains("did not answer GET /v1/status within 200ms; wait longer with --answer-timeout"),
        "{ran:?}"
    );

    let rude = async { drop(listener.accept().await.expect("a client")) };
    let ((), ran) = tokio::join!(rude, lbctl(&socket, "apply"));
    assert_eq!(ran.code, Some(2));
    assert!(ran.err.contains("broke off in the middle of POST /v1/command"), "{ran:?}");
}

#[tokio::test]
async fn a_daemon_of_another_version_is_recognised() {
    let answers = [
        ("{}", StatusCode::OK, "missing field"),
        ("<html>", StatusCode::OK, "expected value"),
        ("", StatusCode::NOT_FOUND, "HTTP status 404"),
    ];
    for (body, code, detail) in answers {
        let ran = Daemon::of_another_version(body, code).lbctl("status").await;
        assert_eq!(ran.code, Some(2));
        assert!(ran.err.contains("lbd 9.9.9 answered GET /v1/status") && ran.err.contains(detail), "{ran:?}");
        assert!(ran.err.contains("`systemctl restart lbd`"), "{ran:?}");
    }
}
