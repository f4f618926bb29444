//! How soon a server that fails takes no new connections, and what clients tell of it.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use lb_ctl::model::{health::FailureReason, status::RipState};
use lb_tests::lab::{
    Lab, StoreScp,
    lbd::rip,
    require_root,
    topology::{LAN, VIP4},
    wait_until,
};

use crate::{ARCHIVE, DICOM, archives, carry, green, load, start_green};

/// What the configuration says: checks twice a second, two failures in a row.
const INTERVAL: Duration = Duration::from_millis(500);
const FALL: u32 = 2;

#[test]
fn a_server_that_dies_is_out_of_the_tables_after_as_many_intervals_as_it_may_fail() {
    if !require_root("a_server_that_dies_is_out_of_the_tables_after_as_many_intervals_as_it_may_fail") {
        return;
    }
    let _quiet = load();
    let lab = Lab::new();
    let mut archives = archives(&lab);
    let lbd = start_green(&lab, DICOM);
    let mut took = Vec::new();
    for _ in 0..5 {
        assert_eq!(lbd.servers_in_table(), 2);
        archives[0].kill();
        let died = Instant::now();
        wait_until(INTERVAL * 20, "the dead server is out of the tables", || lbd.servers_in_table() == 1);
        took.push(died.elapsed());
        archives[0].start_again();
        lbd.wait_status("all is green again", green);
    }
    eprintln!("out of the tables after {took:?}; {FALL} intervals are {:?}", INTERVAL * FALL);
    assert!(took.iter().all(|took| *took < INTERVAL * (FALL + 1)), "{took:?}");
}

#[test]
fn a_server_that_lets_no_client_in_is_shown_and_taken_out_where_that_counts() {
    if !require_root("a_server_that_lets_no_client_in_is_shown_and_taken_out_where_that_counts") {
        return;
    }
    let lab = Lab::new();
    carry(&lab, VIP4);
    let _servers = ["pacs1", "pacs2"].map(|host| StoreScp::start(&lab, host, 104));
    let check = |syns: &str| {
        let kind = format!("type = \"connect\", dr_path = false, fall = 1, syn_repeats = \"{syns}\"");
        DICOM.replace("type = \"dicom-echo\", calling_aet = \"LBD\", called_aet = \"ORTHANC\"", &kind)
    };
    let lbd = start_green(&lab, &check("show"));
    // Its own address answers, so every check passes; what clients send to the VIP gets lost.
    let pacs1 = lab.host("pacs1");
    pacs1.run("nft", &["add", "table", "inet", "wall"]).expect_success();
    let chain = "add chain inet wall input { type filter hook input priority 0; }";
    pacs1.run("nft", &[chain]).expect_success();
    pacs1
        .run("nft", &["add", "rule", "inet", "wall", "input", "ip", "daddr", "10.10.0.100", "drop"])
        .expect_success();

    let client = lab.host("client");
    let knock = || {
        let netns = client.netns.clone();
        let tries = (0..8).map(|_| {
            let netns = netns.clone();
            thread::spawn(move || {
                netns.enter(|| drop(TcpStream::connect_timeout(&ARCHIVE, Duration::from_secs(6))));
            })
        });
        tries.collect::<Vec<_>>()
    };
    let tries = knock();
    lbd.wait_status("SYNs in vain are shown", |status| {
        let pacs1 = rip(status, "DICOM", "PACS1");
        pacs1.state == RipState::Active && pacs1.syn_repeats >= 3
    });
    for one in tries {
        one.join().unwrap();
    }
    lbd.write_config(&check("count"));
    lbd.ctl(&["config", "apply"]).expect_success();
    let tries = knock();
    let status =
        lbd.wait_status("PACS1 is down", |status| rip(status, "DICOM", "PACS1").state == RipState::Down);
    let dead = rip(&status, "DICOM", "PACS1");
    assert_eq!(dead.reason, Some(FailureReason::SynsUnanswered), "{dead:?}");
    for one in tries {
        one.join().unwrap();
    }
    let to = SocketAddr::new(LAN.v4(11).into(), 104);
    assert!(
        client.netns.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).is_ok(),
        "it lives"
    );
}
