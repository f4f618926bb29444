//! What a daemon leaves behind when it ends: everything, so that traffic flows on; or nothing, when asked.

use lb_tests::lab::{Lab, require_root};

use crate::{ARCHIVE, DICOM, archives, start_green, store_each};

#[test]
fn a_stopped_daemon_leaves_traffic_flowing_and_detach_leaves_nothing() {
    if !require_root("a_stopped_daemon_leaves_traffic_flowing_and_detach_leaves_nothing") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let mut lbd = start_green(&lab, DICOM);
    let (client, lb) = (lab.host("client"), lab.host("lb"));
    let link = || lb.run("ip", &["addr", "show", "eth0"]).expect_success().stdout;

    assert!(
        link().contains("10.10.0.100/32"),
        "green means served, but the address is not there: {}",
        link()
    );

    lbd.stop();
    assert!(link().contains("xdp") && link().contains("10.10.0.100/32"), "{}", link());
    assert!(lbd.paths().pin_dir.exists());
    store_each(client, ARCHIVE, 6);

    assert!(!lbd.log_text().contains('\x1b'), "colours in a log file:\n{}", lbd.log_text());

    lbd.detach().expect_success();
    assert!(!link().contains("xdp") && !link().contains("10.10.0.100"), "{}", link());
    assert!(!lbd.paths().pin_dir.exists(), "{} is still there", lbd.paths().pin_dir.display());
    assert!(link().contains("10.10.0.2/24"), "an address that was there before stays: {}", link());
    // Nothing to take away is no fault.
    lbd.detach().expect_success();

    lbd.start_again();
    lbd.wait_status("all is green again", crate::green);
    store_each(client, ARCHIVE, 2);
}
