//! Reloads under load. `LB_RELOADS` and `LB_RATE` make it as many, and as many connections a second, as one likes.

use std::{
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_ctl::model::tables::EntryList;
use lb_tests::lab::require_root;

use crate::stand::{PORT, Session, Stand, VIP};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn no_connection_fails_and_no_client_is_forgotten_while_haproxy_reloads() {
    if !require_root("proxy_companion: reloads") {
        return;
    }
    let (reloads, rate) = (setting("LB_RELOADS", 5), setting("LB_RATE", 200));
    let stand = Stand::new("persist = \"source-ip\"");
    // A client that says nothing meanwhile, and one that never pauses.
    let quiet = stand.lab.host("pacs2");
    let mut idle = Session::try_open(quiet, PORT).expect("a connection");
    let server = idle.server.clone();
    let busy = Session::try_open(stand.client(), PORT).expect("a connection").server.clone();
    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    let failures = thread::scope(|scope| {
        let clients: Vec<_> = (0..4_u64)
            .map(|_| {
                let (stop, opened, busy) = (&stop, &opened, &busy);
                let netns = &stand.client().netns;
                scope.spawn(move || {
                    // Once in the namespace a thread stays there.
                    netns.enter(|| {
                        let pause = Duration::from_secs(4) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
                        let mut failures = Vec::new();
                        let mut due = Instant::now();
                        while !stop.load(Ordering::Acquire) {
                            due += pause;
                            // The pace of new connections, not a wait for anything.
                            thread::park_timeout(due.saturating_duration_since(Instant::now()));
                            let at = SocketAddr::from((VIP, PORT));
                            let session = TcpStream::connect_timeout(&at, Duration::from_secs(5))
                                .and_then(Session::greeted);
                            match session.map(|mut session| (session.lives(), session)) {
                                Ok((true, session)) if session.server != *busy => {
                                    failures.push(format!("sent to {}", session.server));
                                }
                                Ok((true, _)) => drop(opened.fetch_add(1, Ordering::Relaxed)),
                                Ok((false, _)) => failures.push("ended at once".to_owned()),
                                Err(error) => failures.push(error.to_string()),
                            }
                        }
                        failures
                    })
                })
            })
            .collect();
        for round in 0..reloads {
            let workers = stand.processes();
            stand.ctl(&format!("vip set V max_connections={}", 900 + round));
            assert_ne!(stand.processes(), workers, "reload {round} has another worker");
        }
        stop.store(true, Ordering::Release);
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect::<Vec<_>>()
    });
    let opened = opened.into_inner();
    assert!(failures.is_empty(), "{} of {opened} failed: {:?}", failures.len(), failures.first());
    assert!(opened > reloads, "{opened} connections in {reloads} reloads");
    assert!(idle.lives(), "a connection of before the first reload lives");
    let words = format!("table show V --client {} -o json", quiet.v4);
    let entries: EntryList = serde_json::from_str(&stand.ctl(&words)).expect("JSON");
    assert_eq!(entries.entries[0].rip.as_ref(), Some(&server));
    assert_eq!(Session::try_open(quiet, PORT).expect("a connection").server, server);
}
