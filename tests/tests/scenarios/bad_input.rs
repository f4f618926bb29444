//! What cannot be done: each time one clear line that names the thing and the cure, and nothing else is touched.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use lb_ctl::model::status::{Colour, Status};
use lb_tests::lab::{
    EchoLoop, Finished, Lab, Lbd,
    lbd::{Paths, Programs, vip},
    proc::finish,
    require_root,
};

use crate::{ARCHIVE, DICOM, archives, green, start_green, store_each};

/// Nobody's user and group id.
const NOBODY: u32 = 65534;

#[test]
fn a_vip_on_an_unknown_interface_is_named_and_the_others_are_served() {
    if !require_root("a_vip_on_an_unknown_interface_is_named_and_the_others_are_served") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lost = unchecked("LOST", "10.10.0.101").replace("[vip.LOST]", "[vip.LOST]\ninterface = \"eth9\"");
    let lbd = Lbd::start(&lab, "lb", &format!("{DICOM}{lost}"));

    let status = lbd.wait_status("DICOM is served", |status| vip(status, "DICOM").colour == Colour::Green);
    let problem = vip(&status, "LOST").problem.clone().unwrap_or_default();
    assert_eq!(problem, "interface eth9 does not exist: there are eth0");
    assert_eq!((vip(&status, "LOST").colour, status.health), (Colour::Red, Colour::Red));
    let overview = lbd.ctl(&["status"]).expect_code(3).stdout;
    assert!(overview.contains(&format!("LOST: {problem}")), "{overview}");
    store_each(lab.host("client"), ARCHIVE, 2);
}

#[test]
fn what_would_fill_the_tables_is_refused_by_name_and_what_runs_goes_on() {
    if !require_root("what_would_fill_the_tables_is_refused_by_name_and_what_runs_goes_on") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    let association = EchoLoop::start(lab.host("client"), ARCHIVE, Duration::from_millis(20));
    let before = lbd.status().vips;

    let ports: Vec<String> = (1000..1000 + 16_384).map(|port: u32| port.to_string()).collect();
    let huge = unchecked("HUGE", "10.10.0.101").replace("[9000]", &format!("[{}]", ports.join(", ")));
    lbd.write_config(&format!("{DICOM}{huge}"));
    let refused = lbd.ctl(&["config", "apply"]).expect_code(2);
    for words in ["HUGE", "16384", "help: "] {
        assert!(refused.stderr.contains(words), "{words} is not in:\n{}", shortened(&refused.stderr));
    }
    let status = lbd.status();
    let names = |vips: &[lb_ctl::model::status::VipStatus]| {
        vips.iter().map(|vip| (vip.name.clone(), vip.ports.clone(), vip.colour)).collect::<Vec<_>>()
    };
    assert_eq!(names(&status.vips), names(&before));
    store_each(lab.host("client"), ARCHIVE, 2);
    let report = association.finish();
    assert!(report.broken.is_none(), "{report:?}");
}

#[test]
fn a_daemon_that_cannot_start_says_why_in_one_line_and_touches_nothing() {
    if !require_root("a_daemon_that_cannot_start_says_why_in_one_line_and_touches_nothing") {
        return;
    }
    let lab = Lab::new();
    let lbd = Lbd::prepare(&lab, lab.host("lb"), DICOM, Programs::find());
    let untouched = || {
        let link = lab.host("lb").run("ip", &["addr", "show", "eth0"]).expect_success().stdout;
        assert!(!link.contains("xdp") && !link.contains("10.10.0.100"), "{link}");
        assert!(!lbd.paths().pin_dir.exists(), "{} was made", lbd.paths().pin_dir.display());
    };
    lbd.write_config(&DICOM.replace("scheduler", "schedular").replace("10.10.0.11\"", "10.10.0.11:104\""));
    let broken = lbd.run_to_end(&[]).expect_code(1);
    for words in ["lbd.toml:6:", "did you mean `scheduler`?", "lbd.toml:8:", "2 errors"] {
        assert!(broken.stderr.contains(words), "{words} is not in:\n{}", broken.stderr);
    }
    untouched();
    assert!(!lbd.paths().state_dir.exists() && !lbd.paths().socket.exists());

    lbd.write_config(DICOM);
    let dir = lbd.paths().config.parent().expect("a directory");
    let file = dir.join("file");
    fs::write(&file, "").expect("a file in the lab's directory");
    let (below_a_file, no_bpffs) = (file.join("below"), dir.join("pins"));
    let usual = || lbd.paths().clone();
    let refusals = [
        (Paths { state_dir: below_a_file, ..usual() }, ["file/below", "--state-dir"]),
        (Paths { pin_dir: no_bpffs.clone(), ..usual() }, ["pins is not on", "mount -t bpf bpf"]),
        (Paths { socket: file, ..usual() }, ["is no socket", "--socket"]),
    ];
    for (paths, words) in refusals {
        one_line(&lbd.run_elsewhere(&paths, &[]), &words);
        untouched();
    }
    assert!(!no_bpffs.exists());
}

#[test]
fn without_privileges_daemon_and_command_line_say_what_they_lack() {
    if !require_root("without_privileges_daemon_and_command_line_say_what_they_lack") {
        return;
    }
    let lab = Lab::new();
    let programs = Programs::find();
    // Nobody may read the configuration and run the programs, and no more.
    let dir = lab.dir();
    let allow = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the lab's own file");
    };
    let copied = |program: &Path| {
        let copy = dir.join(program.file_name().expect("a program has a name"));
        fs::copy(program, &copy).expect("room in the lab's directory");
        allow(&copy);
        copy
    };
    let (lbd, lbctl) = (copied(&programs.lbd), copied(&programs.lbctl));
    allow(dir);
    let daemon = start_empty(&lab, programs);
    let paths = daemon.paths();
    allow(&paths.config);
    let nobody = |program: &Path, args: &[&str]| {
        let mut command = lab.host("lb").netns.command("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program).args(args);
        finish(&mut command)
    };

    let config = paths.config.display().to_string();
    let socket = dir.join("other.sock").display().to_string();
    let run = nobody(&lbd, &["--config", &config, "--socket", &socket]);
    one_line(&run, &["CAP_BPF", "CAP_NET_ADMIN", "run lbd as root"]);

    let run = nobody(&lbctl, &["--socket", &paths.socket.display().to_string(), "status"]).expect_code(2);
    assert!(run.stderr.contains("permission denied") && run.stderr.contains("as root"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn a_daemon_that_is_gone_is_told_with_what_to_do() {
    if !require_root("a_daemon_that_is_gone_is_told_with_what_to_do") {
        return;
    }
    let lab = Lab::new();
    let mut lbd = start_empty(&lab, Programs::find());
    let second = lbd.run_to_end(&[]);
    one_line(&second, &["another lbd is running", "stop it first"]);
    // Nor does one that shares no more than the tables get to them.
    let dir = lab.dir();
    let elsewhere =
        Paths { state_dir: dir.join("other"), socket: dir.join("other.sock"), ..lbd.paths().clone() };
    one_line(&lbd.run_elsewhere(&elsewhere, &[]), &["another lbd runs", "--pin-dir"]);
    one_line(&lbd.run_elsewhere(&elsewhere, &["--detach"]), &["another lbd runs", "--pin-dir"]);
    lbd.ctl(&["status"]).expect_success();
    // Killed, it leaves its socket behind.
    lbd.kill();
    assert!(lbd.paths().socket.exists());
    let run = lbd.ctl(&["status"]).expect_code(2);
    assert!(run.stderr.contains("systemctl start lbd"), "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
}

#[test]
fn the_doctor_passes_a_good_machine_and_names_what_a_bad_configuration_lacks() {
    if !require_root("the_doctor_passes_a_good_machine_and_names_what_a_bad_configuration_lacks") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lbd = Lbd::prepare(&lab, lab.host("lb"), DICOM, Programs::find());
    let config = lbd.paths().config.display().to_string();
    let doctor = || lbd.ctl(&["doctor", "--config", &config]);
    let good = doctor().expect_success().stdout;
    assert!(good.contains("eth0") && good.contains(" 0 problems"), "{good}");

    lbd.write_config(&DICOM.replace("10.10.0.12", "10.99.0.12"));
    let bad = doctor().expect_code(3).stdout;
    let mut lines = bad.lines().skip_while(|line| !line.starts_with("PROBLEM"));
    let (problem, cure) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    assert!(problem.contains("DICOM/PACS2") && problem.contains("10.99.0.12"), "{bad}");
    assert!(cure.trim_start().starts_with("-> "), "{bad}");
}

/// A daemon without VIPs.
fn start_empty(lab: &Lab, programs: Programs) -> Lbd {
    let mut lbd = Lbd::prepare(lab, lab.host("lb"), "# Nothing yet.\n", programs);
    lbd.start_again();
    lbd.wait_status("nothing is amiss", |status: &Status| green(status) && status.problems.is_empty());
    lbd
}

/// A VIP whose server is not checked.
fn unchecked(name: &str, ip: &str) -> String {
    format!(
        "[vip.{name}]\nmode = \"l4-dr\"\nip = \"{ip}\"\nports = [9000]\ncheck = \"off\"\n\
         servers = {{ A = \"10.10.0.11\" }}\n"
    )
}

/// Exit code 1 and a single line with all these words.
#[track_caller]
fn one_line(run: &Finished, words: &[&str]) {
    assert_eq!(run.code, Some(1), "{run:?}");
    let line = run.stderr.trim_end();
    assert!(line.lines().count() == 1 && line.starts_with("lbd: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word} is not in: {line}");
    }
}

/// The beginning of a text that may repeat a very long line.
fn shortened(text: &str) -> &str {
    text.get(..2000).unwrap_or(text)
}
