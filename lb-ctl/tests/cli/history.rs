//! The history of the configuration on the command line.

use lb_ctl::model::{
    command::{Command, Outcome},
    history::{Cause, KeptFile, Version, VersionHead},
};

use crate::{
    daemon::{Daemon, Script},
    samples::empty,
};

fn version(number: u64, cause: Cause, changes: &[&str]) -> Version {
    let changes = changes.iter().map(|&change| change.to_owned()).collect();
    let file = |path: &str, text: &str| KeptFile { path: path.into(), text: text.to_owned() };
    Version {
        head: VersionHead { number, at_epoch_secs: 1_778_243_841 + number, cause, changes },
        files: vec![
            file("/etc/lbd/lbd.toml", "# main\n[node]\n"),
            file("/etc/lbd/conf.d/pacs.toml", "[vip.PACS]\n\n"),
        ],
    }
}

fn daemon() -> Daemon {
    let mut script = Script::new(empty());
    let down = "vip PACS: R2 weight 100 -> 50";
    script.versions = vec![
        version(8, Cause::Start, &["the first configuration that is kept"]),
        version(9, Cause::Apply, &[]),
        version(10, Cause::Edit, &[down, "vip XDS: - X1 10.0.0.1 w100", "- vip WEB: l4-nat 10.0.0.2 tcp 80"]),
        version(11, Cause::Rollback { to: 9 }, &["vip PACS: R2 weight 50 -> 100"]),
    ];
    script.outcome = Ok(Outcome {
        changes: vec!["vip PACS: R2 weight 50 -> 100".to_owned()],
        traffic: vec!["PACS: new connections: R1 66.7 % -> 50.0 %, R2 33.3 % -> 50.0 %".to_owned()],
        ..Outcome::default()
    });
    Daemon::serve(script)
}

#[tokio::test]
async fn versions_are_listed_with_their_first_change_and_the_count_of_the_others() {
    let daemon = daemon();
    let expected = "\
VERSION  IN FORCE SINCE           BY             CHANGES
      8  2026-05-08 12:37:29 UTC  start          the first configuration that is kept
      9  2026-05-08 12:37:30 UTC  apply          comments or layout only
     10  2026-05-08 12:37:31 UTC  edit           vip PACS: R2 weight 100 -> 50 (and 2 more)
     11  2026-05-08 12:37:32 UTC  rollback to 9  vip PACS: R2 weight 50 -> 100
";
    assert_eq!(daemon.lbctl("config history").await.out, expected);
    let json = daemon.lbctl("config history -o json").await.out;
    let heads: Vec<VersionHead> = serde_json::from_str(&json).expect("JSON");
    assert_eq!(heads[2].changes.len(), 3);
    let none = Daemon::serve(Script::new(empty())).lbctl("config history").await;
    assert_eq!(none.out, "No configuration is kept yet.\n");
}

#[tokio::test]
async fn a_version_is_shown_with_its_changes_and_files() {
    let daemon = daemon();
    let expected = "\
# version 11, in force since 2026-05-08 12:37:32 UTC by rollback to 9
# vip PACS: R2 weight 50 -> 100

# /etc/lbd/lbd.toml
# main
[node]

# /etc/lbd/conf.d/pacs.toml
[vip.PACS]
";
    assert_eq!(daemon.lbctl("config show 11").await.out, expected);
    let ran = daemon.lbctl("config show 7").await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(2), "lbctl: no version 7 is kept\n"));
}

#[tokio::test]
async fn a_rollback_is_asked_for_as_typed_and_a_dry_run_says_what_becomes_of_traffic() {
    let daemon = daemon();
    assert_eq!(daemon.lbctl("config rollback").await.code, Some(0));
    let dry = daemon.lbctl("config rollback 9 --force --dry-run").await.out;
    let expected = "\
vip PACS: R2 weight 50 -> 100

what becomes of traffic:
  PACS: new connections: R1 66.7 % -> 50.0 %, R2 33.3 % -> 50.0 %
dry run: nothing was changed
";
    assert_eq!(dry, expected);
    let rollback = |to, force, dry_run| Command::Rollback { to, force, dry_run };
    assert_eq!(daemon.commands(), [rollback(None, false, false), rollback(Some(9), true, true)]);
}
