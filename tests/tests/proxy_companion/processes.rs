//! Processes that are killed, left and taken over.

use lb_tests::lab::{require_root, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::stand::{DEADLINE, Stand, lives};

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::KILL).expect("a process that can be killed");
}

#[test]
fn a_killed_haproxy_comes_back_with_what_its_servers_should_do() {
    if !require_root("proxy_companion: a killed haproxy") {
        return;
    }
    let stand = Stand::new("persist = \"none\"");
    stand.ctl("rip halt V/A");
    let master = stand.master();
    kill(master);
    wait_until(DEADLINE, "another haproxy runs", || stand.try_master().is_some_and(|now| now != master));
    // From its first connection on: a server that takes nothing gets none of a process that begins.
    for _ in 0..10 {
        assert_eq!(stand.open_in_time().server, "B");
    }
    assert!(!lives(master), "the killed one was waited for");
}

#[test]
fn a_killed_worker_takes_nothing_down_for_long() {
    if !require_root("proxy_companion: a killed worker") {
        return;
    }
    let stand = Stand::new("persist = \"none\"");
    let worker = stand.processes().iter().find(|(kind, _)| kind == "worker").expect("a worker").1;
    kill(worker);
    wait_until(DEADLINE, "the worker is gone", || !lives(worker));
    stand.open_in_time();
}

#[test]
fn haproxy_outlives_a_killed_lbd_and_is_taken_over_as_it_is() {
    if !require_root("proxy_companion: a killed lbd") {
        return;
    }
    let mut stand = Stand::new("persist = \"none\"");
    let mut session = stand.open();
    let before = stand.processes();
    stand.lbd.kill();
    assert!(session.lives(), "a connection needs no lbd");
    assert!(stand.open().lives(), "neither does a new one");
    stand.lbd.start_again();
    // Nothing is unknown to the new daemon: servers that took connections go on.
    stand.wait_served();
    assert_eq!(stand.processes(), before, "the same processes, without a reload");
    assert!(session.lives());
    // It is the new daemon's own now.
    stand.ctl(&format!("rip halt V/{}", session.server));
    session.must_end();
}

#[test]
fn there_is_no_haproxy_without_a_vip_for_it() {
    if !require_root("proxy_companion: no VIP") {
        return;
    }
    let stand = Stand::new("");
    let master = stand.master();
    stand.ctl("vip set V enabled=false");
    wait_until(DEADLINE, "haproxy has ended", || !lives(master));
    stand.ctl("vip set V enabled=true");
    stand.open_in_time();
    assert_ne!(stand.master(), master);
}

#[test]
fn detach_ends_haproxy_and_leaves_none_of_its_files() {
    if !require_root("proxy_companion: detach") {
        return;
    }
    let mut stand = Stand::new("");
    let master = stand.master();
    stand.lbd.stop();
    assert!(lives(master), "a daemon that stops leaves it");
    let told = stand.lbd.detach().expect_success().stdout;
    assert!(told.contains(&format!("ended haproxy, process {master}")), "{told}");
    assert!(!lives(master));
    assert!(!stand.lbd.paths().runtime_dir.join("haproxy").exists());
}
