//! The built program against a daemon that answers: what arrives there, what is printed, and the exit code.

use std::{path::Path, process::Stdio};

use lb_ctl::{
    cli::overview_into,
    model::{
        command::{Assignment, Command, Edit, Outcome, ProxySpec, Refusal, VipSpec},
        health::RipId,
        status::{CountBy, FlowList, FlowQuery, Status, VipStatus},
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command as Process,
};

use crate::{
    daemon::{Daemon, PATIENCE, Ran, Script, finish, lbctl, program},
    samples::{degraded, empty, flow, green},
};

#[tokio::test]
async fn status_prints_the_overview_and_its_exit_code_is_the_health() {
    for (status, code) in [(green(), 0), (empty(), 0), (degraded(), 3)] {
        let mut overview = Vec::new();
        overview_into(&mut overview, &status, false).expect("memory takes all");
        let ran = Daemon::serve(Script::new(status.clone())).lbctl("status").await;
        let expected =
            Ran { code: Some(code), out: String::from_utf8(overview).expect("text"), err: String::new() };
        assert_eq!(ran, expected);
    }
}

#[tokio::test]
async fn status_in_json_is_what_the_daemon_said() {
    let ran = Daemon::serve(Script::new(degraded())).lbctl("status -o json").await;
    assert_eq!(ran.code, Some(3));
    assert_eq!(serde_json::from_str::<Status>(&ran.out).expect("JSON"), degraded());
}

#[tokio::test]
async fn a_watched_status_outlives_a_daemon_that_goes_away() {
    let daemon = Daemon::serve(Script::new(green()));
    let mut watching = program(&daemon.socket)
        .args(["status", "--watch=100ms"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    let mut out = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut err = BufReader::new(watching.stderr.take().expect("piped")).lines();
    let seen = async {
        for _ in 0..2 {
            while !out.next_line().await.expect("text").expect("it goes on").starts_with("2026-05-08") {}
        }
        std::fs::remove_file(&daemon.socket).expect("a socket");
        for _ in 0..2 {
            let line = err.next_line().await.expect("text").expect("it goes on");
            assert!(line.starts_with("lbctl: cannot reach lbd at"), "{line}");
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("it shows again");
}

#[tokio::test]
async fn a_vip_is_added_as_typed() {
    let mut script = Script::new(green());
    script.outcome = Ok(Outcome {
        changes: vec!["vip NEW: added".to_owned(), "10.12.1.200/32: added to eth0".to_owned()],
        warnings: vec!["vip NEW has no check".to_owned()],
        ..Outcome::default()
    });
    let daemon = Daemon::serve(script);
    let ran = daemon
        .lbctl("vip add NEW --mode l4-dr --ip 10.12.1.200 --ports 104,11112 --check dicom-echo --called-aet PACS --rip A=10.12.1.110 --rip B=10.12.1.111")
        .await;
    let expected = Ran {
        code: Some(0),
        out: "vip NEW: added\n10.12.1.200/32: added to eth0\n".to_owned(),
        err: "warning: vip NEW has no check\n".to_owned(),
    };
    assert_eq!(ran, expected);
    let spec = VipSpec {
        name: "NEW".to_owned(),
        mode: "l4-dr".to_owned(),
        ip: "10.12.1.200".to_owned(),
        ports: "104,11112".to_owned(),
        check: Some("dicom-echo".to_owned()),
        called_aet: Some("PACS".to_owned()),
        rips: [("A", "10.12.1.110"), ("B", "10.12.1.111")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        ..VipSpec::default()
    };
    assert_eq!(
        daemon.commands(),
        [Command::Edit { edit: Box::new(Edit::VipAdd(Box::new(spec))), dry_run: false }]
    );
}

#[tokio::test]
async fn a_check_is_added_as_typed() {
    let daemon = Daemon::serve(Script::new(green()));
    let ran = daemon
        .lbctl("vip add NEW --mode l4-dr --ip 10.12.1.200 --ports 80 --check https --check-port 8443 --check-path /health?a=b --rip A=10.12.1.110")
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        name: "NEW".to_owned(),
        mode: "l4-dr".to_owned(),
        ip: "10.12.1.200".to_owned(),
        ports: "80".to_owned(),
        check: text("https"),
        check_port: Some(8443),
        check_path: text("/health?a=b"),
        rips: vec![("A".to_owned(), "10.12.1.110".to_owned())],
        ..VipSpec::default()
    };
    assert_eq!(
        daemon.commands(),
        [Command::Edit { edit: Box::new(Edit::VipAdd(Box::new(spec))), dry_run: false }]
    );
}

#[tokio::test]
async fn a_translated_vip_is_added_as_typed() {
    let daemon = Daemon::serve(Script::new(green()));
    let ran = daemon
        .lbctl("vip add NEW --mode l4-snat --ip 10.12.1.200 --ports 80,8080-8089 --protocol tcp+udp --source 10.12.1.5,10.12.1.6 --source-ports 20000-29999 --return route --no-reset --rip A=10.12.1.110:8000")
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        name: "NEW".to_owned(),
        mode: "l4-snat".to_owned(),
        ip: "10.12.1.200".to_owned(),
        ports: "80,8080-8089".to_owned(),
        protocol: text("tcp+udp"),
        source: text("10.12.1.5,10.12.1.6"),
        source_ports: text("20000-29999"),
        return_path: text("route"),
        reset: Some(false),
        rips: vec![("A".to_owned(), "10.12.1.110:8000".to_owned())],
        ..VipSpec::default()
    };
    assert_eq!(
        daemon.commands(),
        [Command::Edit { edit: Box::new(Edit::VipAdd(Box::new(spec))), dry_run: false }]
    );
}

#[tokio::test]
async fn a_vip_of_layer_7_is_added_as_typed() {
    let daemon = Daemon::serve(Script::new(green()));
    let ran = daemon
        .lbctl("vip add NEW --mode l7-http --ip 10.12.1.200 --ports 80 --tls-port 443 --cert viewer --client-ca hospital --backend-verify off --https-redirect 308 --persist cookie --fallback page --rip A=10.12.1.110:80")
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        name: "NEW".to_owned(),
        mode: "l7-http".to_owned(),
        ip: "10.12.1.200".to_owned(),
        ports: "80".to_owned(),
        persist: text("cookie"),
        fallback: text("page"),
        proxy: ProxySpec {
            tls_port: Some(443),
            cert: text("viewer"),
            client_ca: text("hospital"),
            backend_verify: text("off"),
            https_redirect: Some(308),
        },
        rips: vec![("A".to_owned(), "10.12.1.110:80".to_owned())],
        ..VipSpec::default()
    };
    assert_eq!(
        daemon.commands(),
        [Command::Edit { edit: Box::new(Edit::VipAdd(Box::new(spec))), dry_run: false }]
    );
}

#[tokio::test]
async fn who_gets_a_connection_is_added_as_typed() {
    let daemon = Daemon::serve(Script::new(green()));
    let ran = daemon
        .lbctl("vip add NEW --mode l4-nat --ip 10.12.1.200 --ports 80 --scheduler wlc --persist source-ip --persist-group pacs --fallback 10.12.1.119:8080 --slow-start 30s --unattended refuse --rip A=10.12.1.110")
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        name: "NEW".to_owned(),
        mode: "l4-nat".to_owned(),
        ip: "10.12.1.200".to_owned(),
        ports: "80".to_owned(),
        scheduler: text("wlc"),
        persist: text("source-ip"),
        persist_group: text("pacs"),
        fallback: text("10.12.1.119:8080"),
        slow_start: text("30s"),
        unattended: text("refuse"),
        rips: vec![("A".to_owned(), "10.12.1.110".to_owned())],
        ..VipSpec::default()
    };
    assert_eq!(
        daemon.commands(),
        [Command::Edit { edit: Box::new(Edit::VipAdd(Box::new(spec))), dry_run: false }]
    );
}

#[tokio::test]
async fn every_edit_says_what_was_typed() {
    let daemon = Daemon::serve(Script::new(green()));
    let id = || RipId { vip: "V".to_owned(), rip: "R".to_owned() };
    let assign = |key: &str, value: &str| Assignment { key: key.to_owned(), value: value.to_owned() };
    let edits = [
        (
            "vip set V idle_timeout=12h check.called_aet=PACS",
            Edit::VipSet {
                vip: "V".to_owned(),
                assignments: vec![assign("idle_timeout", "12h"), assign("check.called_aet", "PACS")],
            },
        ),
        ("vip delete V", Edit::VipDelete { vip: "V".to_owned() }),
        (
            "rip add V R=fd00::7 --weight 50",
            Edit::RipAdd {
                vip: "V".to_owned(),
                rip: "R".to_owned(),
                ip: "fd00::7".parse().expect("an address"),
                port: None,
                weight: Some(50),
                max_connections: None,
                min_connections: None,
            },
        ),
        (
            "rip add V R=10.0.0.7 --max-connections 50 --min-connections 40",
            Edit::RipAdd {
                vip: "V".to_owned(),
                rip: "R".to_owned(),
                ip: "10.0.0.7".parse().expect("an address"),
                port: None,
                weight: None,
                max_connections: Some(50),
                min_connections: Some(40),
            },
        ),
        (
            "rip add V R=[fd00::7]:8080",
            Edit::RipAdd {
                vip: "V".to_owned(),
                rip: "R".to_owned(),
                ip: "fd00::7".parse().expect("an address"),
                port: Some(8080),
                weight: None,
                max_connections: None,
                min_connections: None,
            },
        ),
        (
            "vip set V mode=l4-snat source=10.12.1.5,10.12.1.6",
            Edit::VipSet {
                vip: "V".to_owned(),
                assignments: vec![assign("mode", "l4-snat"), assign("source", "10.12.1.5,10.12.1.6")],
            },
        ),
        ("rip set V/R weight=50", Edit::RipSet { id: id(), assignments: vec![assign("weight", "50")] }),
        ("rip delete V/R", Edit::RipDelete(id())),
    ];
    for (line, edit) in edits {
        for dry_run in [false, true] {
            let ran = daemon.lbctl(&format!("{line}{}", if dry_run { " --dry-run" } else { "" })).await;
            let out = if dry_run {
                "nothing to change\ndry run: nothing was changed\n"
            } else {
                "nothing to change\n"
            };
            assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), out, ""), "{line}");
            assert_eq!(
                daemon.commands().last(),
                Some(&Command::Edit { edit: Box::new(edit.clone()), dry_run })
            );
        }
    }
}

#[tokio::test]
async fn apply_is_config_apply() {
    let daemon = Daemon::serve(Script::new(green()));
    assert_eq!(daemon.lbctl("apply").await, daemon.lbctl("config apply").await);
    assert_eq!(daemon.commands(), [Command::Apply, Command::Apply]);
}

#[tokio::test]
async fn a_refusal_is_shown_whole_and_exits_2() {
    let mut script = Script::new(green());
    script.outcome =
        Err(Refusal { error: "lbd.toml:3: unknown key `prots`\n  did you mean `ports`?".to_owned() });
    let ran = Daemon::serve(script).lbctl("apply").await;
    let err = "lbd.toml:3: unknown key `prots`\n  did you mean `ports`?\n".to_owned();
    assert_eq!(ran, Ran { code: Some(2), out: String::new(), err });
}

#[tokio::test]
async fn a_name_that_is_not_there_gets_the_nearest_that_is() {
    let daemon = Daemon::serve(Script::new(green()));
    let cases = [
        ("rip drain dicom1", "there is no real server `dicom1`; did you mean `DICOM1`? see `lbctl rip list`"),
        ("rip drain PACS", "there is no real server `PACS`; see `lbctl rip list`"),
        ("vip show DICM", "there is no VIP `DICM`; did you mean `DICOM`? see `lbctl vip list`"),
        ("rip list X", "there is no VIP `X`; see `lbctl vip list`"),
    ];
    for (line, said) in cases {
        let ran = daemon.lbctl(line).await;
        assert_eq!(ran, Ran { code: Some(2), out: String::new(), err: format!("lbctl: {said}\n") });
    }
    assert_eq!(daemon.commands(), []);
}

#[tokio::test]
async fn lists_and_details_are_those_of_the_daemon() {
    let daemon = Daemon::serve(Script::new(green()));
    assert_eq!(daemon.lbctl("v l -o name").await.out, "DICOM\n");
    assert_eq!(daemon.lbctl("rip list DICOM -o name").await.out, "DICOM/DICOM1\nDICOM/DICOM2\n");
    assert!(daemon.lbctl("vip show DICOM").await.out.starts_with("VIP          ^ DICOM (2/2 up)\n"));
    let json = daemon.lbctl("vip show DICOM -o json").await.out;
    assert_eq!(serde_json::from_str::<VipStatus>(&json).expect("JSON"), green().vips[0]);
}

#[tokio::test]
async fn the_configuration_is_shown_and_compared() {
    let mut script = Script::new(green());
    script.outcome = Ok(Outcome {
        changes: vec!["vip DICOM: scheduler wrr -> first".to_owned()],
        traffic: vec!["DICOM: another scheduler: every new connection is placed anew".to_owned()],
        ..Outcome::default()
    });
    let daemon = Daemon::serve(script);
    assert_eq!(daemon.lbctl("config show").await.out, "[vip.DICOM]\n");
    assert_eq!(
        daemon.lbctl("config diff").await.out,
        "vip DICOM: scheduler wrr -> first\n\nwhat becomes of traffic:\n  DICOM: another scheduler: every new connection is placed anew\n"
    );
    let same = Daemon::serve(Script::new(green())).lbctl("config diff").await;
    assert_eq!(same.out, "the files say what is in force: nothing to apply\n");
}

#[tokio::test]
async fn a_filter_of_flows_arrives_as_typed() {
    let mut script = Script::new(green());
    script.flows = FlowList { flows: vec![flow("fd00::7", 41_000, Some("DICOM1"))], total: 1 };
    let daemon = Daemon::serve(script);
    let odd = "Radiologie Süd & 100%+?=#/";
    let mut lbctl = program(&daemon.socket);
    lbctl.args(["flows", "list", "--vip", odd, "--rip", "DICOM1", "--client", "fd00::7", "--limit", "5"]);
    let ran = finish(&mut lbctl).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("[fd00::7]:41000"), "{ran:?}");
    assert_eq!(daemon.lbctl("flows list -o json").await.code, Some(0));
    let expected = [
        FlowQuery {
            limit: Some(5),
            vip: Some(odd.to_owned()),
            rip: Some("DICOM1".to_owned()),
            client: Some("fd00::7".parse().expect("an address")),
        },
        FlowQuery { limit: Some(1000), ..FlowQuery::default() },
    ];
    assert_eq!(*daemon.script.queries.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn flows_are_counted_by_what_was_said() {
    let daemon = Daemon::serve(Script::new(green()));
    for by in ["vip", "rip", "client", "state"] {
        let ran = daemon.lbctl(&format!("flows count --by {by}")).await;
        assert_eq!((ran.code, ran.out.contains("    7  10.12.7.4\n")), (Some(0), true), "{ran:?}");
    }
    let expected = [CountBy::Vip, CountBy::Rip, CountBy::Client, CountBy::State];
    assert_eq!(*daemon.script.counted_by.lock().expect("no panic"), expected);
}

#[tokio::test]
async fn a_reader_that_has_had_enough_ends_it_quietly() {
    let mut script = Script::new(green());
    let flows: Vec<_> = (0..20_000).map(|port| flow("10.12.7.4", port, Some("DICOM1"))).collect();
    script.flows = FlowList { total: flows.len() as u64, flows };
    let daemon = Daemon::serve(script);
    let mut pipe = Process::new("bash");
    pipe.args(["-o", "pipefail", "-c", "\"$0\" --socket \"$1\" flows list | head -1"])
        .arg(env!("CARGO_BIN_EXE_lbctl"))
        .arg(&daemon.socket);
    let ran = finish(&mut pipe).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.starts_with("PROTO") && ran.out.lines().count() == 1, "{ran:?}");
}

#[tokio::test]
async fn colour_is_for_terminals_without_no_color_and_touches_symbols_and_names_alone() {
    let daemon = Daemon::serve(Script::new(degraded()));
    let on_terminal = async |no_color: Option<&str>| {
        let line = format!("{} --socket {} status", env!("CARGO_BIN_EXE_lbctl"), daemon.socket.display());
        let mut script = Process::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_remove("NO_COLOR");
        if let Some(value) = no_color {
            script.env("NO_COLOR", value);
        }
        let ran = finish(&mut script).await;
        // A terminal ends its lines with CR LF.
        Ran { out: ran.out.replace('\r', ""), ..ran }
    };
    let piped = daemon.lbctl("status").await;
    assert_eq!(on_terminal(Some("1")).await, piped);

    let coloured = on_terminal(None).await;
    let line = "\x1b[38;5;3m!\x1b[39m  \x1b[38;5;3mCCW_DICOMSERVICE_VS\x1b[39m  192.32.43.231";
    assert!(coloured.out.contains(line), "{coloured:?}");
    let lines = coloured.out.lines().filter(|line| line.contains('\x1b')).count();
    assert_eq!((coloured.out.matches('\x1b').count(), lines), (4 * 11, 11), "{coloured:?}");
    assert_eq!(without_colour(&coloured.out), piped.out);
}

#[tokio::test]
async fn wrong_usage_exits_1_and_help_is_no_error() {
    let nowhere = Path::new("/nonexistent/lbd.sock");
    for line in ["", "vip", "statsu", "vip add", "rip set X weight=5", "status --answer-timeout never"] {
        let ran = lbctl(nowhere, line).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{line}: {ran:?}");
        assert!(ran.err.contains("Usage: lbctl") || ran.err.contains("error: invalid value"), "{ran:?}");
    }
    for line in ["--help", "vip --help", "help rip drain", "--version"] {
        let ran = lbctl(nowhere, line).await;
        assert_eq!((ran.code, ran.err.as_str(), ran.out.is_empty()), (Some(0), "", false), "{line}: {ran:?}");
    }
}

#[tokio::test]
async fn completions_know_the_verbs() {
    let nowhere = Path::new("/nonexistent/lbd.sock");
    for shell in ["bash", "zsh", "fish"] {
        let ran = lbctl(nowhere, &format!("completions {shell}")).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{shell}");
        assert!(ran.out.contains("drain") && ran.out.contains("dicom-echo"), "{shell}");
        assert!(ran.out.contains("l4-snat") && ran.out.contains("last-hop"), "{shell}");
    }
    let script = lbctl(nowhere, "completions bash").await.out;
    // One argument has 128 KiB at most.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lbctl.bash");
    std::fs::write(&file, script).unwrap();
    let asked =
        ". \"$1\"; COMP_WORDS=(lbctl rip dr) COMP_CWORD=2; _lbctl lbctl dr rip; echo \"${COMPREPLY[@]}\"";
    let mut bash = Process::new("bash");
    bash.args(["-c", asked, "bash"]).arg(&file);
    assert_eq!(finish(&mut bash).await, Ran { code: Some(0), out: "drain\n".to_owned(), err: String::new() });
}

/// Takes the colour (ECMA-48 SGR) out of `text`.
fn without_colour(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(piece.split_once('m').expect("the end of a colour").1);
    }
    plain
}
