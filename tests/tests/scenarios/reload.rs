//! The configuration changes under a running daemon.

use std::time::Duration;

use lb_tests::lab::{EchoLoop, Lab, lbd::rip, require_root, wait_until};

use crate::{ARCHIVE, DICOM, archives, start_green, store_each};

#[test]
fn a_broken_file_keeps_the_running_configuration_and_a_mended_one_is_taken() {
    if !require_root("a_broken_file_keeps_the_running_configuration_and_a_mended_one_is_taken") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let mut lbd = start_green(&lab, DICOM);
    let client = lab.host("client");
    let association = EchoLoop::start(client, ARCHIVE, Duration::from_millis(20));
    let before = lbd.status().vips[0].ports.clone();

    lbd.write_config(&DICOM.replace("scheduler", "schedular").replace("[104]", "[105]"));
    lbd.reload();
    wait_until(Duration::from_secs(5), "the log names the unknown key", || {
        lbd.log_text().contains("schedular")
    });
    let refused = lbd.ctl(&["config", "apply"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for word in ["lbd.toml", "schedular", "scheduler"] {
        assert!(refused.stderr.contains(word), "{word} is not in the refusal:\n{}", refused.stderr);
    }
    let status = lbd.status();
    assert_eq!(status.vips[0].ports, before);
    let told = |problem: &String| problem.contains("the one before is in force");
    assert!(status.problems.iter().any(told), "{:?}", status.problems);
    let checked = lbd.ctl(&["config", "check", &lbd.paths().config.display().to_string()]).expect_code(1);
    assert!(checked.stderr.contains("did you mean `scheduler`?"), "{}", checked.stderr);
    store_each(client, ARCHIVE, 2);

    let weighted = DICOM.replace("PACS2 = \"10.10.0.12\"", "PACS2 = { ip = \"10.10.0.12\", weight = 7 }");
    lbd.write_config(&weighted);
    lbd.reload();
    lbd.wait_status("the new weight is in force", |status| {
        rip(status, "DICOM", "PACS2").weight == 7 && status.problems.is_empty()
    });
    store_each(client, ARCHIVE, 2);
    let report = association.finish();
    assert!(report.broken.is_none(), "{report:?}");
}
