//! `lbctl tls`: files as they are sent, passwords, and what is printed.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, path::Path};

use lb_ctl::{
    cli::{cert_into, certs_into, families_into, family_into, findings_into},
    model::{
        command::{Command, Edit},
        tls::{CertStatus, CertificateFacts, FamilyStatus, Finding, MemberStatus, PkiEdit, Secret},
    },
    tls::pem,
};
use tempfile::tempdir;

use crate::{
    daemon::{Daemon, Ran, Script, finish, program},
    samples::green,
};

fn openssl(here: &Path, arguments: &str) {
    let run = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(here).output();
    let run = run.unwrap_or_else(|error| panic!("openssl, which is needed here (package openssl): {error}"));
    assert!(run.status.success(), "{arguments}: {}", String::from_utf8_lossy(&run.stderr));
}

/// `web.pfx` under the password in `secret`, beside `cert.pem` and `key.pem`.
fn files(here: &Path) {
    openssl(here, "req -x509 -newkey rsa:2048 -nodes -subj /CN=web -keyout key.pem -out cert.pem");
    openssl(here, "pkcs12 -export -in cert.pem -inkey key.pem -out web.pfx -passout pass:geheim");
    fs::write(here.join("secret"), "geheim\nand a second line\n").unwrap();
}

async fn lbctl_in(here: &Path, daemon: &Daemon, line: &str) -> Ran {
    finish(program(&daemon.socket).args(line.split(' ')).current_dir(here)).await
}

fn read(here: &Path, name: &str) -> String {
    fs::read_to_string(here.join(name)).unwrap()
}

/// The certificate that the daemon was asked to add.
fn sent(daemon: &Daemon) -> (String, Secret, bool) {
    let commands = daemon.commands();
    let [Command::Edit { edit, dry_run: false }] = commands.as_slice() else { panic!("{commands:?}") };
    let Edit::Pki(PkiEdit::CertAdd { name, pem, replace }) = edit.as_ref() else { panic!("{edit:?}") };
    (name.clone(), pem.clone(), *replace)
}

#[tokio::test]
async fn a_pfx_file_is_opened_here_and_its_password_goes_no_further() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    files(here);
    let daemon = Daemon::serve(Script::new(green()));
    let ran = lbctl_in(here, &daemon, "tls cert add web web.pfx --password-file secret --replace").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (name, pem, replace) = sent(&daemon);
    assert_eq!((name.as_str(), replace), ("web", true));
    let identity = pem::identity(pem.reveal().as_bytes()).unwrap();
    assert_eq!(pem::write(&identity.chain), read(here, "cert.pem"));
    assert_eq!(pem::write_key(&identity.key), read(here, "key.pem"));
    assert!(!pem.reveal().contains("geheim"));
}

#[tokio::test]
async fn a_wrong_password_and_one_that_nobody_can_type_are_local_errors() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    files(here);
    fs::write(here.join("wrong"), "falsch").unwrap();
    let daemon = Daemon::serve(Script::new(green()));
    let wrong = lbctl_in(here, &daemon, "tls cert add web web.pfx --password-file wrong").await;
    assert_eq!(
        (wrong.code, wrong.err.as_str()),
        (Some(1), "lbctl: cannot open web.pfx: the password is wrong\n")
    );
    // A process of a session of its own has no terminal to be asked at.
    let mut alone = tokio::process::Command::new("setsid");
    let socket = daemon.socket.to_str().unwrap().to_owned();
    alone.arg("--wait").arg(env!("CARGO_BIN_EXE_lbctl")).args(["--socket", &socket]);
    alone.args(["tls", "cert", "add", "web", "web.pfx"]).current_dir(here);
    let alone = finish(&mut alone).await;
    assert_eq!(alone.code, Some(1), "{alone:?}");
    assert!(alone.err.contains("name that with --password-file"), "{alone:?}");
    let beside = lbctl_in(here, &daemon, "tls cert add web cert.pem web.pfx").await;
    assert!(beside.err.contains("name no other file beside it"), "{beside:?}");
    let needless = lbctl_in(here, &daemon, "tls cert add web cert.pem key.pem --password-file secret").await;
    assert!(needless.err.contains("leave --password-file out"), "{needless:?}");
    let neither = lbctl_in(here, &daemon, "tls cert add web secret").await;
    assert_eq!(neither.code, Some(1));
    assert!(neither.err.contains("secret is neither PEM nor PFX"), "{neither:?}");
    assert!(daemon.commands().is_empty());
}

/// The program gets a terminal of its own; what is seen there is told.
#[tokio::test]
async fn a_password_is_asked_for_and_not_seen() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    files(here);
    let daemon = Daemon::serve(Script::new(green()));
    let line = format!(
        "{} --socket {} tls cert add web web.pfx",
        env!("CARGO_BIN_EXE_lbctl"),
        daemon.socket.display()
    );
    let asker = r"
import os, pty, select, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen, answers, deadline = b'', [b'falsch\n', b'gehx\x7feim\n'], time.monotonic() + 15
while time.monotonic() < deadline:
    if not select.select([terminal], [], [], 0.1)[0]:
        continue
    try:
        read = os.read(terminal, 4096)
    except OSError:
        break
    if not read:
        break
    seen += read
    if answers and seen.count(b'Password of web.pfx: ') > 2 - len(answers):
        os.write(terminal, answers.pop(0))
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";
    let mut asked = tokio::process::Command::new("python3");
    asked.args(["-c", asker]).args(line.split(' ')).current_dir(here);
    let asked = finish(&mut asked).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert_eq!(asked.out.matches("Password of web.pfx: ").count(), 2, "{asked:?}");
    assert!(!asked.out.contains("falsch") && !asked.out.contains("geh"), "{asked:?}");
    let (_, pem, _) = sent(&daemon);
    assert!(pem::identity(pem.reveal().as_bytes()).is_ok());
}

#[tokio::test]
async fn an_authority_may_come_in_der_and_never_with_its_key() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    files(here);
    openssl(here, "x509 -in cert.pem -outform DER -out root.cer");
    let daemon = Daemon::serve(Script::new(green()));
    let pfx = lbctl_in(here, &daemon, "tls ca add clinic root web.pfx").await;
    assert!(pfx.err.contains("an authority is wanted without its key"), "{pfx:?}");
    let ran = lbctl_in(here, &daemon, "tls ca add clinic root root.cer -n").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let edit = Edit::Pki(PkiEdit::AuthorityAdd {
        family: "clinic".to_owned(),
        name: "root".to_owned(),
        pem: read(here, "cert.pem"),
        replace: false,
    });
    assert_eq!(daemon.commands(), [Command::Edit { edit: Box::new(edit), dry_run: true }]);
}

fn facts(subject: &str, issuer: &str) -> CertificateFacts {
    CertificateFacts {
        subject: subject.to_owned(),
        issuer: issuer.to_owned(),
        serial: "0a1b".to_owned(),
        not_before_epoch_secs: 1_746_707_841,
        not_after_epoch_secs: 1_778_243_841,
        names: vec!["pacs.example".to_owned()],
        key: "EC P-256".to_owned(),
        authority: false,
        usages: Some(vec!["serverAuth".to_owned()]),
        sha256: "c0ffee".to_owned(),
    }
}

fn printed(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn lists_say_what_for_until_when_and_by_whom() {
    let well = CertStatus {
        name: "web".to_owned(),
        file: "/etc/lbd/pki/web.pem".into(),
        users: vec!["vip WEB".to_owned(), "check of vip WEB".to_owned()],
        problem: None,
        chain: vec![facts("CN=pacs\u{1b}[2J", "CN=root")],
        findings: vec![Finding::well("it lasts")],
    };
    let bad = CertStatus {
        name: "old".to_owned(),
        users: Vec::new(),
        problem: Some("cannot read old.pem".to_owned()),
        chain: Vec::new(),
        findings: Vec::new(),
        ..well.clone()
    };
    let soon =
        CertStatus { findings: vec![Finding::advice("it expires")], name: "soon".to_owned(), ..well.clone() };
    assert_eq!(
        printed(|out| certs_into(out, &[well.clone(), bad, soon], false)),
        "   CERTIFICATE  FOR           EXPIRES                  USED BY                    REMARK\n\
         ^  web          pacs.example  2026-05-08 12:37:21 UTC  vip WEB, check of vip WEB\n\
         v  old          -             -                        nothing                    cannot read old.pem\n\
         !  soon         pacs.example  2026-05-08 12:37:21 UTC  vip WEB, check of vip WEB  it expires\n"
    );
    assert_eq!(
        printed(|out| cert_into(out, &well)),
        "certificate web\n  file     /etc/lbd/pki/web.pem\n  used by  vip WEB, check of vip WEB\n\n  \
         subject  CN=pacs\\u{1b}[2J\n  issuer   CN=root\n  from     2025-05-08 12:37:21 UTC\n  \
         until    2026-05-08 12:37:21 UTC\n  names    pacs.example\n  usage    serverAuth\n  key      EC P-256\n  \
         serial   0a1b\n  sha256   c0ffee\n"
    );
    let family = FamilyStatus {
        name: "clinic".to_owned(),
        users: vec!["vip WEB".to_owned()],
        members: vec![MemberStatus {
            name: "root".to_owned(),
            file: "/etc/lbd/pki/ca/clinic/root.pem".into(),
            problem: None,
            certificates: vec![CertificateFacts {
                authority: true,
                usages: None,
                ..facts("CN=root", "CN=root")
            }],
        }],
        findings: Vec::new(),
    };
    assert_eq!(
        printed(|out| families_into(out, std::slice::from_ref(&family), false)),
        "   FAMILY  AUTHORITY  EXPIRES                  USED BY  REMARK\n\
         ^  clinic  root       2026-05-08 12:37:21 UTC  vip WEB\n"
    );
    let shown = printed(|out| family_into(out, &family));
    assert!(
        shown.contains("authority root\n") && shown.contains("  usage    any\n  signs    other"),
        "{shown}"
    );
    assert_eq!(
        printed(|out| certs_into(out, &[], false)),
        "No certificates: add one with `lbctl tls cert add NAME FILE`.\n"
    );
}

#[test]
fn findings_have_a_word_each() {
    let findings = [Finding::well("a"), Finding::advice("b"), Finding::fault("c\nd")];
    assert_eq!(printed(|out| findings_into(out, &findings, false)), "ok     a\nnote   b\nFAULT  c\\nd\n");
}
