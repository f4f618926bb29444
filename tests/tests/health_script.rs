//! Scripts as checks: what they are told, what their end means, and that nothing of them is left. Needs root, since scripts
//! run as another user.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lb_ctl::{
    health::run_once,
    model::{
        check::{Check, CheckKind, ScriptCheck},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use lb_tests::lab::require_root;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::interval};

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A script in a directory that everybody can reach.
struct Script {
    dir: TempDir,
    path: PathBuf,
}

impl Script {
    fn new(body: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let path = dir.path().join("check.sh");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir, path }
    }

    fn target(&self, timeout: Duration) -> Target {
        target(&self.path, timeout)
    }

    async fn run(&self) -> CheckResult {
        run_once(&self.target(TIMEOUT)).await
    }
}

fn target(path: &Path, timeout: Duration) -> Target {
    let kind = CheckKind::Script(ScriptCheck { name: "check.sh".to_owned(), path: path.to_owned() });
    let check = Check { kind, timeout, interval: timeout * 2, ..Check::default() };
    let id = RipId { vip: "PACS".to_owned(), rip: "A".to_owned() };
    let mut target = Target::new(id, SocketAddr::from(([10, 0, 0, 7], 11112)), check);
    target.vip = SocketAddr::from(([10, 0, 0, 100], 104));
    target
}

fn failed(result: &CheckResult) -> (FailureReason, &str) {
    let failure = result.failure.as_ref().expect("the check must fail");
    (failure.reason, &failure.text)
}

fn said(result: &CheckResult) -> &str {
    result.output.as_deref().unwrap_or_default()
}

/// Processes with this in their arguments. A zombie has none, and is found by its parent.
fn processes(mark: &str) -> Vec<u32> {
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(mark)
    })
    .collect()
}

/// Children of this process, zombies included.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut tick = interval(Duration::from_millis(10));
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tick.tick().await;
    }
}

#[tokio::test]
async fn a_script_is_told_of_whom_and_nothing_else() {
    if !require_root("a_script_is_told_of_whom_and_nothing_else") {
        return;
    }
    let script = Script::new("echo \"$@\"; env | sort; pwd; cat; ps -o pid= -o sid= >/dev/null");
    let result = script.run().await;
    assert_eq!(result.failure, None, "{result:?}");
    assert_eq!(result.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["script"]);
    let mut lines: Vec<&str> = said(&result).lines().collect();
    // The shell's own.
    lines.retain(|line| !["PWD=", "OLDPWD=", "_=", "SHLVL="].iter().any(|own| line.starts_with(own)));
    assert_eq!(
        lines,
        [
            "10.0.0.100 104 10.0.0.7 11112",
            "LANG=C",
            "LB_CHECK_TIMEOUT_SECS=10",
            "LB_RIP=10.0.0.7",
            "LB_RIP_PORT=11112",
            "LB_VIP=10.0.0.100",
            "LB_VIP_PORT=104",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "/",
        ]
    );
}

#[tokio::test]
async fn a_script_has_no_rights() {
    if !require_root("a_script_has_no_rights") {
        return;
    }
    let _ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = Script::new(
        "id -un; id -G; grep -E '^(CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status; \
         ulimit -c; ulimit -n; ls -l /proc/self/fd | grep -c socket:; head -c 1 /etc/shadow",
    );
    let result = script.run().await;
    let lines: Vec<&str> = said(&result).lines().collect();
    let none = "0000000000000000";
    let capabilities: Vec<String> =
        ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|set| format!("{set}:\t{none}")).to_vec();
    assert_eq!(lines[..2], ["nobody", "65534"]);
    assert_eq!(lines[2..6], capabilities[..]);
    assert_eq!(lines[6..9], ["NoNewPrivs:\t1", "0", "64"]);
    assert_eq!(lines[9], "0", "sockets of ours");
    let (reason, text) = failed(&result);
    assert_eq!(reason, FailureReason::ScriptFailed);
    assert!(text.contains("exit code 1") && text.contains("Permission denied"), "{text}");
}

#[tokio::test]
async fn a_script_that_fails_says_how_and_why() {
    if !require_root("a_script_that_fails_says_how_and_why") {
        return;
    }
    let result = Script::new("echo connecting; echo 'database is locked' >&2; exit 3").run().await;
    assert_eq!(
        failed(&result),
        (FailureReason::ScriptFailed, "script check.sh: exit code 3: database is locked")
    );
    assert_eq!(said(&result), "connecting\ndatabase is locked\n");
    let result = Script::new("kill -SEGV $$").run().await;
    assert_eq!(failed(&result), (FailureReason::ScriptFailed, "script check.sh: killed by signal 11"));
    // A shell's own words for a program that it does not find have the same exit code as our helpers'.
    let result = Script::new("frobnicate-the-archive").run().await;
    let (reason, text) = failed(&result);
    assert_eq!(reason, FailureReason::ScriptFailed);
    assert!(text.contains("exit code 127") && text.contains("not found"), "{text}");
}

#[tokio::test]
async fn a_script_that_cannot_be_run_is_no_fault_of_the_server() {
    if !require_root("a_script_that_cannot_be_run_is_no_fault_of_the_server") {
        return;
    }
    let script = Script::new("exit 0");
    let shown = script.path.display();
    let missing = script.dir.path().join("missing.sh");
    let result = run_once(&target(&missing, TIMEOUT)).await;
    assert_eq!(
        failed(&result),
        (
            FailureReason::Local,
            &*format!(
                "script check.sh: not tried, {} is missing: put the script there, or change `script`",
                missing.display()
            )
        )
    );
    fs::set_permissions(&script.path, fs::Permissions::from_mode(0o700)).unwrap();
    let result = script.run().await;
    assert_eq!(
        failed(&result),
        (
            FailureReason::Local,
            &*format!(
                "script check.sh: not tried, {shown} is not for nobody to read and run: chmod 755 {shown}"
            )
        )
    );
    fs::set_permissions(&script.path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(script.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (result, dir) = (script.run().await, script.dir.path().display());
    assert_eq!(
        failed(&result),
        (
            FailureReason::Local,
            &*format!(
                "script check.sh: not tried, nobody cannot reach {shown} through {dir}: chmod o+x {dir}"
            )
        )
    );
}

#[tokio::test]
async fn a_script_may_go_by_its_own_name() {
    if !require_root("a_script_may_go_by_its_own_name") {
        return;
    }
    let script = Script::new("basename \"$0\"");
    let link = script.dir.path().join("as-orthanc");
    std::os::unix::fs::symlink("check.sh", &link).unwrap();
    let result = run_once(&target(&link, TIMEOUT)).await;
    assert_eq!((result.failure.clone(), said(&result)), (None, "as-orthanc\n"));
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_at_the_deadline_with_all_that_it_began() {
    if !require_root("a_script_that_hangs_is_killed_at_the_deadline_with_all_that_it_began") {
        return;
    }
    let short = Duration::from_millis(600);
    for (mark, body) in [
        ("31536001", "echo begun; sleep 31536001"),
        ("31536002", "trap '' TERM INT HUP; echo begun; sleep 31536002 & sleep 31536002; sleep 31536002"),
        ("31536003", "echo begun; exec >&- 2>&- <&-; sleep 31536003 & wait"),
        (
            "31536004",
            "setsid sleep 31536004 & setsid sh -c 'setsid sleep 31536004 & sleep 31536004' & echo begun; wait",
        ),
    ] {
        let script = Script::new(body);
        let result = run_once(&script.target(short)).await;
        assert_eq!(
            failed(&result),
            (FailureReason::ScriptTimeout, "script check.sh: not ended within 600 ms, and killed"),
            "{body}"
        );
        assert_eq!((said(&result), result.note.as_deref()), ("begun\n", None), "{body}");
        assert_eq!(processes(mark), [0_u32; 0], "{body}");
    }
}

#[tokio::test]
async fn what_a_script_leaves_behind_ends_with_it() {
    if !require_root("what_a_script_leaves_behind_ends_with_it") {
        return;
    }
    for (mark, body) in [
        ("31536011", "sleep 31536011 & exit 0"),
        ("31536012", "(setsid sleep 31536012 &) ; (setsid setsid sleep 31536012 >/dev/null 2>&1 &) ; exit 0"),
        ("31536013", "setsid sh -c 'trap \"\" TERM; (setsid sleep 31536013 &); sleep 31536013' & exit 0"),
    ] {
        let result = Script::new(body).run().await;
        assert_eq!((&result.failure, &result.note), (&None, &None), "{body}");
        assert_eq!(processes(mark), [0_u32; 0], "{body}");
    }
}

#[tokio::test]
async fn a_check_that_is_given_up_leaves_nothing() {
    if !require_root("a_check_that_is_given_up_leaves_nothing") {
        return;
    }
    let script = Script::new("sleep 31536021 & setsid sleep 31536021 & wait");
    let target = script.target(TIMEOUT);
    let check = tokio::spawn(async move { run_once(&target).await });
    until("both have begun", || processes("31536021").len() == 2).await;
    check.abort();
    until("both have ended", || processes("31536021").is_empty()).await;
}

#[tokio::test]
async fn a_flood_of_words_neither_blocks_nor_fills_memory() {
    if !require_root("a_flood_of_words_neither_blocks_nor_fills_memory") {
        return;
    }
    let result = Script::new("head -c 50000000 /dev/zero | tr '\\0' x; echo end").run().await;
    assert_eq!(result.failure, None, "{result:?}");
    assert_eq!(said(&result), "x".repeat(CheckResult::MAX_OUTPUT_BYTES));
    let script = Script::new("exec yes 31536031");
    let result = run_once(&script.target(Duration::from_millis(500))).await;
    assert_eq!(failed(&result).0, FailureReason::ScriptTimeout);
    assert_eq!(said(&result).len(), CheckResult::MAX_OUTPUT_BYTES);
    assert_eq!(processes("31536031"), [0_u32; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_scripts_leave_no_descriptor_and_no_process() {
    if !require_root("a_thousand_scripts_leave_no_descriptor_and_no_process") {
        return;
    }
    const AT_A_TIME: usize = 16;
    let scripts = [
        "exit 0",
        "exit 1",
        "sleep 31536041 & exit 0",
        "(setsid sleep 31536041 &); exit 2",
        "setsid sleep 31536041 & sleep 31536041",
    ]
    .map(Script::new);
    let targets: Vec<Target> = scripts.iter().map(|script| script.target(Duration::from_secs(5))).collect();
    let slow = scripts[4].target(Duration::from_millis(300));
    // What the runtime opens for the first child stays open.
    run_once(&targets[0]).await;
    let before = (open_descriptors(), children().len());
    let mut running = JoinSet::new();
    for n in 0..1000 {
        while running.len() >= AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
        let kind = if n % 25 == 24 { 4 } else { n % 4 };
        let target = if kind == 4 { slow.clone() } else { targets[kind].clone() };
        running.spawn(async move {
            let result = run_once(&target).await;
            let expected = [
                None,
                Some(FailureReason::ScriptFailed),
                None,
                Some(FailureReason::ScriptFailed),
                Some(FailureReason::ScriptTimeout),
            ];
            let found = result.failure.as_ref().map(|failure| failure.reason);
            assert_eq!((found, &result.note), (expected[kind], &None), "{result:?}");
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    assert_eq!(processes("31536041"), [0_u32; 0]);
    until("no child is left", || children().len() <= before.1).await;
    assert!(open_descriptors() <= before.0, "{} descriptors, {} before", open_descriptors(), before.0);
}
