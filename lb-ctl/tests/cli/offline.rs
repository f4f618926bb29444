//! Verbs that need no daemon, as their user runs them.

use std::{fs, path::Path};

use crate::daemon::{Ran, lbctl};

const GOOD: &str = "\
[vip.PACS]
mode = \"l4-dr\"
ip = \"10.12.1.100\"
ports = [104]
servers = { DICOM1 = \"10.12.1.110\" }
";

/// Runs `lbctl VERB FILE` on a file with this text.
async fn run(verb: &str, text: &str) -> (Ran, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lbd.toml");
    fs::write(&file, text).expect("our own file");
    let ran = lbctl(&dir.path().join("no.sock"), &format!("{verb} {}", file.display())).await;
    (ran, file.display().to_string())
}

#[tokio::test]
async fn a_check_says_what_there_is_or_every_fault_with_place_and_cure() {
    let (ran, file) = run("config check", GOOD).await;
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    assert_eq!(ran.out.lines().last(), Some(&*format!("{file}: 1 VIP with 1 real server, no errors")));

    let (ran, file) = run("config check", &GOOD.replace("ports", "prots").replace("l4-dr", "l4-tun")).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    for words in [format!("{file}:2:"), format!("{file}:4:"), "did you mean `ports`?".to_owned()] {
        assert!(ran.err.contains(&words), "{words} is not in:\n{}", ran.err);
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named_with_a_cure() {
    for verb in ["config check", "doctor --config"] {
        let ran = lbctl(Path::new("/no.sock"), &format!("{verb} /nowhere/lbd.toml")).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""), "{verb}");
        assert!(ran.err.contains("cannot read /nowhere/lbd.toml") && ran.err.contains("--config"), "{ran:?}");
    }
}

#[tokio::test]
async fn the_doctor_finds_a_server_that_no_subnet_reaches() {
    // Documentation addresses (RFC 5737): no machine has them.
    let text = GOOD.replace("10.12.1.1", "198.51.100.1");
    let (ran, _) = run("doctor --config", &text).await;
    assert_eq!(ran.code, Some(3), "{ran:?}");
    let problem = ran.out.lines().find(|line| line.starts_with("PROBLEM") && line.contains("198.51.100.1"));
    assert!(problem.is_some() && ran.out.contains("-> "), "{}", ran.out);
    assert!(ran.out.contains("kernel: Linux "), "{}", ran.out);
}
