//! Connections that are ended, clients that are remembered, packets that are explained.

use lb_ctl::model::{
    config::Protocol,
    explain::{ExplainQuery, Explanation, Treatment},
    tables::{Clear, EntryList, EntryQuery, EntryStatus, Kill, Removed, TableKind, TableStatus},
};

use crate::{
    daemon::{Daemon, Ran, Script, finish},
    samples::green,
};

fn done(out: &str) -> Ran {
    Ran { code: Some(0), out: out.to_owned(), err: String::new() }
}

fn name(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn connections_are_counted_before_they_end_and_nobody_is_asked_where_yes_is_said() {
    let mut script = Script::new(green());
    let line = "7 connections ended".to_owned();
    script.removed = Removed { count: 7, lines: vec![line] };
    let daemon = Daemon::serve(script);
    let kill = Kill {
        vip: name("DICOM"),
        rip: name("DICOM1"),
        client: Some("fd00::7".parse().expect("an address")),
        client_port: Some(40_000),
        dry_run: false,
    };
    let line = "flows kill --rip DICOM/DICOM1 --client [fd00::7]:40000";
    assert_eq!(daemon.lbctl(&format!("{line} --yes")).await, done("7 connections ended\n"));
    let refused = daemon.lbctl(line).await;
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.err, "lbctl: this would end 7 connections: say so with --yes\n");
    let killed = daemon.script.killed.lock().expect("no panic").clone();
    assert_eq!(killed, [kill.clone(), Kill { dry_run: true, ..kill }]);
}

#[tokio::test]
async fn a_terminal_is_asked_and_no_answer_is_no() {
    let mut script = Script::new(green());
    script.removed = Removed { count: 1, lines: Vec::new() };
    let daemon = Daemon::serve(script);
    let line = format!(
        "{} --socket {} flows kill --client 10.0.0.7",
        env!("CARGO_BIN_EXE_lbctl"),
        daemon.socket.display()
    );
    let mut terminal = tokio::process::Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let ran = finish(&mut terminal).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("End 1 connection? [y/N]") && ran.out.contains("nothing was ended"), "{ran:?}");
    assert!(daemon.script.killed.lock().expect("no panic").iter().all(|kill| kill.dry_run));
}

#[tokio::test]
async fn nothing_to_end_is_no_question() {
    let daemon = Daemon::serve(Script::new(green()));
    let ran = daemon.lbctl("flows kill --vip DICOM").await;
    assert_eq!(ran, done("nothing to end: no connection is like that\n"));
    let both = daemon.lbctl("flows kill --vip DICOM --rip WEB/WEB1 --yes").await;
    assert_eq!(both.code, Some(1));
    assert_eq!(both.err, "lbctl: --vip DICOM and --rip WEB/WEB1 name two VIPs: leave one out\n");
}

#[tokio::test]
async fn vips_that_remember_are_listed_with_what_they_do() {
    let mut script = Script::new(green());
    let by_client = |group| TableKind::SourceIp { prefix: 24, timeout_secs: 5400, group, entries: 12 };
    script.tables = vec![
        TableStatus { vip: "DICOM".to_owned(), kind: by_client(name("pacs")) },
        TableStatus { vip: "WEB".to_owned(), kind: by_client(None) },
        TableStatus { vip: "HL7".to_owned(), kind: TableKind::LastSuccessful { server: name("HL7A") } },
        TableStatus { vip: "LAB".to_owned(), kind: TableKind::LastSuccessful { server: None } },
        TableStatus {
            vip: "XDS".to_owned(),
            kind: TableKind::UrlParam { name: "shardKey".to_owned(), timeout_secs: 1800, entries: 3 },
        },
    ];
    let expected = "\
VIRTUAL SERVICE  PERSISTENCE         CLIENTS  TIMEOUT  GROUP  SERVER IN USE
DICOM            source-ip/24             12  1h 30m   pacs   -
WEB              source-ip/24             12  1h 30m   -      -
HL7              last-successful           -  -        -      HL7A
LAB              last-successful           -  -        -      none
XDS              url-param shardKey        3  30m      -      -
";
    let tables = script.tables.clone();
    let daemon = Daemon::serve(script);
    assert_eq!(daemon.lbctl("table list").await, done(expected));
    let json = daemon.lbctl("table list -o json").await;
    assert_eq!(serde_json::from_str::<Vec<TableStatus>>(&json.out).expect("JSON"), tables);
    let none = Daemon::serve(Script::new(green()));
    assert_eq!(none.lbctl("table list").await, done("No VIP has persistence.\n"));
}

#[tokio::test]
async fn clients_are_shown_and_forgotten_as_typed() {
    let mut script = Script::new(green());
    let entry =
        |client: &str, rip| EntryStatus { client: client.to_owned(), rip, idle_secs: 61, left_secs: 539 };
    script.entries = EntryList {
        entries: vec![entry("10.12.7.0/24", name("DICOM1")), entry("10.12.8.0/24", None)],
        total: 3,
    };
    script.removed = Removed { count: 2, lines: vec!["2 clients forgotten".to_owned()] };
    let expected = "\
CLIENT        REAL SERVER  IDLE  FORGOTTEN IN
10.12.7.0/24  DICOM1       1m    8m
10.12.8.0/24  -            1m    8m
2 of 3 clients; see more with --limit
";
    let daemon = Daemon::serve(script);
    assert_eq!(
        daemon.lbctl("table show DICOM --client 10.12.7.4 --rip DICOM1 --limit 2").await,
        done(expected)
    );
    assert_eq!(daemon.lbctl("table clear DICOM --client 10.12.7.4").await, done("2 clients forgotten\n"));
    let client = Some("10.12.7.4".parse().expect("an address"));
    let query =
        EntryQuery { vip: "DICOM".to_owned(), client, rip: name("DICOM1"), limit: Some(2), key: None };
    assert_eq!(*daemon.script.looked_for.lock().expect("no panic"), [query]);
    let clear = Clear { vip: "DICOM".to_owned(), client, rip: None, key: None };
    assert_eq!(*daemon.script.cleared.lock().expect("no panic"), [clear]);
}

#[tokio::test]
async fn an_explanation_is_a_verdict_and_its_reasons_and_its_exit_code_whether_a_server_gets_it() {
    for (treatment, code) in [(Treatment::Forwarded, 0), (Treatment::Kernel, 3)] {
        let mut script = Script::new(green());
        script.explanation = Some(Explanation {
            client: "10.0.0.7:40000".parse().expect("an end"),
            client_port_made_up: false,
            vip: name("DICOM"),
            to: "10.12.1.100:104".parse().expect("an end"),
            protocol: Protocol::Udp,
            treatment,
            rip: None,
            reasons: Vec::new(),
            leaves: None,
            lines: vec!["goes to DICOM2".to_owned(), "because\u{7} it is first".to_owned()],
        });
        let daemon = Daemon::serve(script);
        let ran = daemon.lbctl("explain 10.0.0.7:40000 DICOM:104 --udp").await;
        let out = "goes to DICOM2\n  because\\u{7} it is first\n".to_owned();
        assert_eq!(ran, Ran { code: Some(code), out, err: String::new() });
        let query = ExplainQuery {
            client: "10.0.0.7".parse().expect("an address"),
            port: Some(40_000),
            vip: "DICOM".to_owned(),
            vip_port: 104,
            protocol: Protocol::Udp,
        };
        assert_eq!(*daemon.script.asked_about.lock().expect("no panic"), [query]);
    }
}
