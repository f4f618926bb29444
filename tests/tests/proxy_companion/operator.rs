//! Halt, drain, and the server in use.

use lb_ctl::model::tables::{EntryList, TableKind, TableStatus};
use lb_tests::lab::{require_root, wait_until};

use crate::stand::{DEADLINE, Stand};

#[test]
fn halt_ends_connections_in_old_processes_too() {
    if !require_root("proxy_companion: halt") {
        return;
    }
    let stand = Stand::new("persist = \"none\"\nscheduler = \"first\"");
    let mut old = stand.open();
    assert_eq!(old.server, "A");
    stand.ctl("vip set V max_connections=900");
    let mut new = stand.open();
    assert!(
        stand.processes().iter().any(|(kind, _)| kind == "old"),
        "a process finishes the first connection"
    );
    assert!(old.lives() && new.lives());
    let status = stand.lbd.wait_status("connections of both processes are counted", |status| {
        status.vips[0].rips[0].connections == 2
    });
    assert_eq!(status.vips[0].connections, 2);
    stand.ctl("rip halt V/A");
    old.must_end();
    new.must_end();
    assert_eq!(stand.open().server, "B");
}

#[test]
fn a_drain_moves_clients_that_persistence_would_send_back_and_ends_no_connection() {
    if !require_root("proxy_companion: drain") {
        return;
    }
    let stand = Stand::new("persist = \"source-ip\"");
    let mut session = stand.open();
    let server = session.server.clone();
    assert_eq!(stand.open().server, server, "a client comes back");
    stand.ctl(&format!("rip drain V/{server}"));
    assert_ne!(stand.open().server, server);
    assert!(session.lives());
    stand.ctl(&format!("rip online V/{server}"));
    assert_ne!(stand.open().server, server, "the client stays where it went");
}

#[test]
fn a_server_that_drains_without_migration_keeps_its_clients() {
    if !require_root("proxy_companion: drain without migration") {
        return;
    }
    let stand = Stand::new("persist = \"source-ip\"");
    let server = stand.open().server.clone();
    stand.ctl(&format!("rip drain V/{server} --keep-persistent"));
    assert_eq!(stand.open().server, server);
}

#[test]
fn the_server_in_use_stays_until_it_fails_is_halted_or_forgotten() {
    if !require_root("proxy_companion: last successful") {
        return;
    }
    let mut stand = Stand::new("persist = \"last-successful\"\nscheduler = \"first\"");
    assert_eq!(stand.open().server, "A");
    stand.servers[0].stop();
    wait_until(DEADLINE, "B takes over", || stand.open_in_time().server == "B");
    stand.servers[0] = crate::stand::Server::start(stand.lab.host("pacs1"), "A");
    stand.wait_served();
    assert_eq!(stand.open().server, "B", "A is back, and B stays in use");
    let tables: Vec<TableStatus> = serde_json::from_str(&stand.ctl("table list -o json")).expect("JSON");
    assert_eq!(tables[0].kind, TableKind::LastSuccessful { server: Some("B".to_owned()) });
    stand.ctl("table clear V");
    assert_eq!(stand.open().server, "A", "forgotten: the first again");
    stand.ctl("rip halt V/A");
    assert_eq!(stand.open().server, "B");
    stand.ctl("rip online V/A");
    assert_eq!(stand.open().server, "B");
    stand.ctl("rip drain V/B");
    assert_eq!(stand.open().server, "A", "a server that drains is left");
}

#[test]
fn clients_are_shown_and_forgotten() {
    if !require_root("proxy_companion: tables") {
        return;
    }
    let stand = Stand::new("persist = \"source-ip\"");
    let server = stand.open().server.clone();
    let shown = |words: &str| -> EntryList { serde_json::from_str(&stand.ctl(words)).expect("JSON") };
    let all = shown("table show V -o json");
    assert_eq!(all.total, 1);
    assert_eq!((all.entries[0].client.as_str(), all.entries[0].rip.as_ref()), ("10.10.0.50", Some(&server)));
    assert_eq!(shown("table show V --client 10.10.0.51 -o json").total, 0);
    assert_eq!(stand.ctl("table clear V --client 10.10.0.51"), "0 clients forgotten\n");
    assert_eq!(stand.ctl("table clear V --client 10.10.0.50"), "1 client forgotten\n");
    assert_eq!(shown("table show V -o json").total, 0);
}
