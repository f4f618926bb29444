//! Traffic flows while the daemon is stopped, killed, started again and replaced.

use std::{
    env,
    time::{Duration, Instant},
};

use lb_tests::lab::{
    Capture, EchoLoop, Lab, StoreStream, require_root, servers::Spread, topology::VIP4, wait_until,
};

use crate::{ARCHIVE, DICOM, archives, green, load, start_green};

/// How long the stream of stores runs, unless `LB_STREAM_SECS` says otherwise.
const STREAM_SECS: u64 = 60;

#[test]
fn no_association_breaks_and_no_packet_is_lost_while_the_daemon_comes_and_goes() {
    if !require_root("no_association_breaks_and_no_packet_is_lost_while_the_daemon_comes_and_goes") {
        return;
    }
    let length = match env::var("LB_STREAM_SECS") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("LB_STREAM_SECS={text} is no number of seconds")),
        Err(_) => STREAM_SECS,
    };
    let _quiet = load();
    let lab = Lab::new();
    let archives = archives(&lab);
    let mut lbd = start_green(&lab, DICOM);
    let client = lab.host("client");

    let capture = Capture::start(&lab, lab.host("lb"), &[VIP4]);
    // Enough to be on both servers.
    let associations = [(); 4].map(|()| EchoLoop::start(client, ARCHIVE, Duration::from_millis(20)));
    // Small instances make many flows, large ones are in mid-transfer whatever happens.
    let streams = [64, 1500].map(|side| StoreStream::start(client, ARCHIVE, side));
    let flows_on = || {
        for stream in &streams {
            stream.wait_for_more(2);
        }
        let goals = associations.each_ref().map(|association| association.echoes() + 5);
        wait_until(Duration::from_secs(10), "the associations echo on", || {
            associations.iter().zip(goals).all(|(association, goal)| association.echoes() >= goal)
        });
    };

    let begun = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < Duration::from_secs(length) {
        flows_on();
        let old = lbd.attachment();
        lbd.stop();
        flows_on();
        assert_eq!(lbd.attachment(), old, "a stopped daemon leaves its program in place");
        // An upgrade: every daemon loads its own program, which takes the old one's place in the same link, over
        // the same tables.
        lbd.start_again();
        let new = lbd.attachment();
        assert_eq!(new.link, old.link, "the program was taken off and put on again");
        assert_ne!(new.program, old.program, "the old program still runs");
        assert_eq!(new.tables, old.tables, "the new program has other tables");
        lbd.wait_status("all is green after a restart", green);
        flows_on();
        lbd.kill();
        flows_on();
        lbd.start_again();
        lbd.wait_status("all is green after a crash", green);
        rounds += 1;
    }

    let stored = streams.map(StoreStream::finish);
    let reports = associations.map(EchoLoop::finish);
    let retransmitted = client.netns.snmp("Tcp", "RetransSegs");
    let crossing = capture.finish();

    let failures: Vec<_> = stored.iter().flat_map(|stored| &stored.failures).collect();
    assert!(failures.is_empty(), "{} stores failed, the first one: {}", failures.len(), failures[0]);
    for report in &reports {
        assert!(report.broken.is_none(), "{report:?} after {rounds} rounds");
    }
    assert_eq!(
        crossing.differences(VIP4),
        Vec::<String>::new(),
        "packets lost, doubled or changed on the way ({retransmitted} segments were sent again)"
    );
    assert_eq!(crossing.frames_from(VIP4), 0, "replies crossed the balancer");
    let uids = stored.iter().flat_map(|stored| &stored.uids);
    let spread = Spread::of(&archives.each_ref().map(|archive| archive.instances()), uids);
    assert!(spread.exact() && !spread.counts.contains(&0), "{spread:?}");
}
