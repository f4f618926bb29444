//! The lab itself: what the scenarios stand on must hold without the balancer.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::lab::{
    Arms, Capture, Course, EchoLoop, Everything, Lab, Orthanc, Relay, Routed, StoreScp, StoreStream, UdpEcho,
    Way, crowd, dicom, netns, require_root,
    routed::forward,
    scu,
    servers::Spread,
    topology::{VIP4, VIP6},
    udp, wait_until,
};

#[test]
fn real_servers_keep_what_real_clients_store() {
    if !require_root("real_servers_keep_what_real_clients_store") {
        return;
    }
    let lab = Lab::new();
    let archive = Orthanc::start(&lab, "pacs1", 104);
    let receiver = StoreScp::start(&lab, "pacs2", 11112);
    let client = lab.host("client");
    let instances = dicom::generate(&client.dir(), 20, 64);
    let (first, second) = instances.split_at(12);

    let to = |host: &str, port| SocketAddr::new(lab.host(host).v4.into(), port);
    for (address, instances) in [(to("pacs1", 104), first), (to("pacs2", 11112), second)] {
        scu::echo(client, address).expect_success();
        let files: Vec<_> = instances.iter().map(|instance| instance.path.as_path()).collect();
        scu::store(client, address, &files).expect_success();
    }
    // Over IPv6, with a relay at both ends.
    let v6 = SocketAddr::new(lab.host("pacs2").v6.into(), 11112);
    let _server_end = Relay::start(lab.host("pacs2"), v6, to("pacs2", 11112));
    let client_end = Relay::start(client, SocketAddr::new(client.v4.into(), 0), v6);
    scu::echo(client, client_end.address()).expect_success();

    let spread = Spread::of(
        &[archive.instances(), receiver.instances()],
        instances.iter().map(|instance| &instance.uid),
    );
    assert!(spread.exact(), "{spread:?}");
    assert_eq!(spread.counts, [12, 8]);
    scu::store(client, to("pacs1", 11112), &[&instances[0].path]).expect_code(1);
}

#[test]
fn an_archive_that_was_killed_comes_back_with_all_it_had() {
    if !require_root("an_archive_that_was_killed_comes_back_with_all_it_had") {
        return;
    }
    let lab = Lab::new();
    let mut archive = Orthanc::start(&lab, "pacs1", 104);
    let client = lab.host("client");
    let to = SocketAddr::new(lab.host("pacs1").v4.into(), 104);

    let stream = StoreStream::start(client, to, 256);
    let echoes = EchoLoop::start(client, to, Duration::from_millis(5));
    stream.wait_for_more(5);
    archive.kill();
    wait_until(Duration::from_secs(5), "the association notices", || echoes.has_ended());
    let report = echoes.finish();
    assert!(report.broken.is_some() && report.echoes > 0, "{report:?}");
    archive.start_again();
    stream.wait_for_more(2);

    let stored = stream.finish();
    assert!(!stored.failures.is_empty(), "a stream must notice a dead server");
    let held = archive.instances();
    assert!(
        stored.uids.iter().all(|uid| held.contains(uid)),
        "{} stored, {} held",
        stored.uids.len(),
        held.len()
    );
}

#[test]
fn an_association_that_nothing_breaks_is_released_in_peace() {
    if !require_root("an_association_that_nothing_breaks_is_released_in_peace") {
        return;
    }
    let lab = Lab::new();
    let _receiver = StoreScp::start(&lab, "pacs1", 104);
    let _archive = Orthanc::start(&lab, "pacs2", 104);
    for server in ["pacs1", "pacs2"] {
        let to = SocketAddr::new(lab.host(server).v4.into(), 104);
        let echoes = EchoLoop::start(lab.host("client"), to, Duration::from_millis(1));
        wait_until(Duration::from_secs(5), "ten echoes are answered", || echoes.echoes() >= 10);
        let report = echoes.finish();
        assert!(report.broken.is_none() && report.echoes >= 10, "{server}: {report:?}");
    }
}

#[test]
fn a_vip_on_loopback_is_served_but_never_claimed_on_the_segment() {
    if !require_root("a_vip_on_loopback_is_served_but_never_claimed_on_the_segment") {
        return;
    }
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("pacs1"));
    for vip in [VIP4, VIP6] {
        server.carry_vip(vip);
        let _echo = UdpEcho::start(server, vip, 9000);
        let to = SocketAddr::new(vip, 9000);
        assert!(udp::ask(client, to, "who has it").is_err(), "nobody may answer for {vip}");
        // The way in that direct routing takes: the server's MAC, the VIP as destination.
        let mac = lb_tests::lab::topology::spell_mac(server.mac);
        client.netns.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0"));
        assert_eq!(udp::ask(client, to, "by your MAC").expect("an answer"), "pacs1");
    }
}

#[test]
fn a_capture_sees_what_crosses_a_cable_and_only_that() {
    if !require_root("a_capture_sees_what_crosses_a_cable_and_only_that") {
        return;
    }
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("pacs1"));
    let receiver = StoreScp::start(&lab, "pacs1", 104);
    let v4 = IpAddr::V4(server.v4);
    let capture = Capture::start(&lab, server, &[v4]);
    let bystander = Capture::start(&lab, lab.host("pacs2"), &[v4]);
    let instance = dicom::generate(&client.dir(), 1, 256).remove(0);
    scu::store(client, SocketAddr::new(v4, 104), &[&instance.path]).expect_success();
    wait_until(Duration::from_secs(5), "the instance is there", || {
        receiver.instances() == [instance.uid.clone()]
    });

    let crossing = capture.finish();
    assert!(crossing.frames_in(v4) > 10, "{crossing:?}");
    assert!(crossing.frames_from(v4) > 10, "{crossing:?}");
    let payload: u64 = crossing.entered[&v4].payload.values().sum();
    assert!(payload > 256 * 256, "{payload} bytes");
    // A server keeps what it gets: here everything counts as lost, so the comparison can fail.
    assert!(!crossing.differences(v4).is_empty());
    assert_eq!(bystander.finish().frames_in(v4), 0);
    assert_eq!(client.netns.snmp("Tcp", "AttemptFails"), 0);
}

#[test]
fn plain_routing_carries_everything_between_clients_and_servers() {
    if !require_root("plain_routing_carries_everything_between_clients_and_servers") {
        return;
    }
    for (arms, way) in [(Arms::One, Way::Router2), (Arms::Two, Way::Machine)] {
        let routed = Routed::new(arms);
        if arms == Arms::Two {
            forward(routed.lb());
        }
        routed.answer_by(way);
        let everything = Everything::start(&routed);
        for family in [VIP4, VIP6] {
            let listen = routed.servers().map(|server| server.address_like(family));
            everything.exercise(&Course {
                name: format!("{arms:?} arm"),
                to: listen[0],
                port_shift: 0,
                listen,
                seen: routed.client().address_like(family),
                serving: 1,
            });
        }
    }
}

#[test]
fn a_crowd_of_connections_is_held_and_answered_and_a_refused_one_is_told() {
    if !require_root("a_crowd_of_connections_is_held_and_answered_and_a_refused_one_is_told") {
        return;
    }
    let lab = Lab::new();
    let (client, server) = (lab.host("client"), lab.host("pacs1"));
    let (to, from) = (SocketAddr::new(server.v4.into(), 104), IpAddr::V4(client.v4));
    let (peers, none) = crowd::gather((client, &[from]), (2000, 0), to, (server, to));
    assert_eq!((peers.into_iter().collect::<BTreeSet<_>>().len(), none), (2000, 0));
    let nobody = SocketAddr::new(to.ip(), 105);
    let refused = client.netns.enter(|| crowd::open(SocketAddr::new(from, 9000), nobody));
    assert_eq!(refused.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn nothing_of_a_lab_outlives_it_when_a_test_panics() {
    if !require_root("nothing_of_a_lab_outlives_it_when_a_test_panics") {
        return;
    }
    let (say, heard) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Lab::new();
        let archive = Orthanc::start(&lab, "pacs1", 104);
        let place = (lab.host("pacs1").netns.clone(), lab.dir().to_owned());
        say.send((place.0.path(), place.1, archive.pid())).expect("the test listens");
        panic!("on purpose, to unwind through a lab");
    })
    .join();
    assert!(panicked.is_err());
    let (netns, dir, pid) = heard.recv().expect("the lab was built");
    for path in [netns, dir, format!("/proc/{}", pid.expect("it ran")).into()] {
        assert!(!path.exists(), "{} is still there", path.display());
    }
}

#[test]
fn what_a_daemon_starts_and_leaves_behind_ends_with_its_namespace() {
    if !require_root("what_a_daemon_starts_and_leaves_behind_ends_with_its_namespace") {
        return;
    }
    let lab = Lab::new();
    let host = lab.host("pacs1");
    // Its parent ends at once, so nothing ties it to this test.
    let left = host.run("sh", &["-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!"]).expect_success();
    let pid: u32 = left.stdout.trim().parse().expect("a process id");
    let namespace = host.netns.name().to_owned();
    assert_eq!(netns::inhabitants(&namespace), [pid]);
    drop(lab);
    // Whoever adopted it may not have seen its end yet; what has ended has no namespace.
    let of_process = format!("/proc/{pid}/ns/net");
    wait_until(Duration::from_secs(5), "it has ended", || std::fs::read_link(&of_process).is_err());
}
