//! The whole daemon: from a server that dies to the mail that DNS leads to, and back.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use lb_ctl::model::status::Colour;
use lb_tests::lab::{
    Lab, Lbd, Proc,
    lbd::Programs,
    mail::{HookServer, Identity, MailLogin, MailServer, MailTls},
    require_root,
    topology::Host,
    wait_until,
};

use crate::bell::SETTLE;

/// A name server that knows the mail server of one domain.
fn name_server(host: &Host) -> Proc {
    let mut command = host.netns.command("dnsmasq");
    command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--user=root"]);
    command.args(["--conf-file=/dev/null", "--pid-file=", "--log-facility=-", "--log-queries"]);
    command.arg(format!("--listen-address={}", host.v4));
    command.args(["--mx-host=hospital.example,mail.hospital.example,10", "--local=/example/"]);
    command.arg(format!("--host-record=mail.hospital.example,{}", host.v4));
    let mut proc = Proc::spawn("dnsmasq", &host.netns, host.lab_dir(), &mut command);
    proc.wait_ready(|proc| proc.log_text().contains("started"));
    proc
}

/// A program that runs `program` where /etc/resolv.conf names `server`.
fn with_name_server(host: &Host, program: &Path, server: &Host) -> PathBuf {
    let (names, script) = (host.dir().join("resolv.conf"), host.dir().join("lbd-with-names"));
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/resolv.conf && exec {} \"$@\"' lbd \"$@\"\n",
        names.display(),
        program.display(),
    );
    fs::write(&names, format!("nameserver {}\n", server.v4))
        .and_then(|()| fs::write(&script, text))
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .expect("a script");
    script
}

/// Takes connections to the port that is checked, and serves nobody.
fn listen(host: &Host) -> TcpListener {
    host.netns.enter(|| TcpListener::bind(SocketAddr::new(host.v4.into(), 104)).expect("a listener"))
}

#[test]
fn a_server_that_dies_is_told_to_the_mail_server_of_the_domain_and_to_a_webhook() {
    if !require_root("a_server_that_dies_is_told_to_the_mail_server_of_the_domain_and_to_a_webhook") {
        return;
    }
    let lab = Lab::new();
    let (outside, lb) = (lab.host("client"), lab.host("lb"));
    let _names = name_server(outside);
    // Nobody has signed it that counts: between mail servers nobody asks.
    let identity = Identity::make(outside, "own", "other.example");
    let at = |port| SocketAddr::new(outside.v4.into(), port);
    let start = || MailServer::start(outside, at(25), MailTls::Starttls, &identity, MailLogin::NONE);
    let mail_server = start();
    let hook = HookServer::start(outside, at(8080), None, 200);
    let found = Programs::find();
    let programs = Programs { lbd: with_name_server(lb, &found.lbd, outside), ..found };
    let toml = format!(
        "[node]\nname = \"lb1\"\n\
         [alerts]\nfrom = \"lb@hospital.example\"\nto = [\"pacs@hospital.example\"]\n\
         webhooks = [\"http://{}:8080/hook\"]\ngroup = \"500ms\"\n\
         [vip.DICOM]\nmode = \"l4-dr\"\nip = \"10.10.0.100\"\nports = [104]\n\
         check = {{ type = \"connect\", interval = \"500ms\", timeout = \"500ms\", dr_path = false }}\n\
         servers = {{ PACS1 = \"10.10.0.11\", PACS2 = \"10.10.0.12\" }}\n",
        outside.v4
    );
    let _second = listen(lab.host("pacs2"));
    let first = listen(lab.host("pacs1"));
    let mut lbd = Lbd::prepare(&lab, lb, &toml, programs);
    lbd.start_again();
    lbd.wait_status("all is green", |status| status.health == Colour::Green);

    let tested = lbd.ctl(&["alert", "test"]).expect_code(0).stdout;
    let line = "pacs@hospital.example: ok: taken by mail server mail.hospital.example of hospital.example";
    assert!(tested.contains(line), "{tested}");
    assert!(tested.contains("/...: ok: http://"), "{tested}");

    drop(first);
    let [test, down] = mail_server.wait_for(2).try_into().expect("two mails");
    assert!(test.tls && down.tls, "{down:?}");
    assert!(down.header("Subject").starts_with("[lb1] DOWN: DICOM/PACS1 ("), "{down:?}");
    assert!(down.text.contains("1 of 2 real servers left"), "{down:?}");
    assert_eq!(hook.wait_for(2)[1].body["events"][0]["rip"], "PACS1");

    // It comes back while nobody looks. A mail that was taken is sent again when its file is still there.
    let spool = lbd.paths().state_dir.join("spool");
    wait_until(SETTLE, "the spool is empty", || {
        fs::read_dir(&spool).is_ok_and(|mut files| files.next().is_none())
    });
    lbd.kill();
    let first = listen(lab.host("pacs1"));
    lbd.start_again();
    let [_, _, up] = mail_server.wait_for(3).try_into().expect("three mails");
    assert!(up.header("Subject").starts_with("[lb1] UP: DICOM/PACS1 ("), "{up:?}");

    drop(mail_server);
    drop(first);
    let status = lbd.wait_status("the overview says that nobody is told", |status| {
        status
            .problems
            .iter()
            .any(|problem| problem.contains("alerts cannot be sent to pacs@hospital.example"))
    });
    assert!(status.problems[0].contains("mail server mail.hospital.example"), "{:?}", status.problems);
    let failed = lbd.ctl(&["alert", "test"]).expect_code(2);
    assert!(failed.stdout.contains("pacs@hospital.example: FAILED: cannot reach mail server"), "{failed:?}");
    assert!(failed.stderr.contains("1 of 2 ways to tell people failed"), "{failed:?}");
    lbd.stop();

    let mail_server = start();
    lbd.start_again();
    let last = mail_server.wait_for(4).remove(3);
    assert!(last.header("Subject").starts_with("[lb1] DOWN: DICOM/PACS1 ("), "{last:?}");
    wait_until(SETTLE, "the overview has no more to say of alerts", || {
        !lbd.status().problems.iter().any(|problem| problem.contains("alerts"))
    });
}
