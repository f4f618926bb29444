//! Ten thousand checks over HTTP and HTTPS leave nothing behind, here or at the server. A process of its own: descriptors
//! are counted for the whole of it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use lb_ctl::{
    health::run_once,
    model::{
        check::{BodyMatch, CaFamily, Check, CheckKind, HttpCheck, TlsClient, Verify},
        health::{FailureReason, RipId, Target},
    },
};
use lb_tests::lab::{
    Netns, Nginx,
    netns::{Lifetime, test_name},
    pki::{self, Authority, Validity},
    proc::wait_until,
    require_root,
};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::JoinSet};

const CHECKS: usize = 10_000;
const IN_FLIGHT: usize = 100;

const PLAIN: u16 = 8080;
const SECURED: u16 = 8443;
/// Long enough for a machine that has other things to do.
const TIMEOUT: Duration = Duration::from_secs(30);

fn target(port: u16, path: &str, tls: Option<TlsClient>) -> Target {
    let http = HttpCheck {
        tls,
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: None,
        status: vec![200..=299],
        body: Some(BodyMatch::Equals("up".to_owned())),
        max_body_bytes: 1000,
    };
    let check = Check { kind: CheckKind::Http(Box::new(http)), timeout: TIMEOUT, ..Check::default() };
    let id = RipId { vip: "WEB".to_owned(), rip: "A".to_owned() };
    Target::new(id, (Ipv4Addr::LOCALHOST, port).into(), check)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn ten_thousand_checks_leave_no_descriptor_here_and_no_connection_there() {
    if !require_root("ten_thousand_checks_leave_no_descriptor_here_and_no_connection_there") {
        return;
    }
    let netns = Netns::new(&test_name(1, "load"), Lifetime::WithProgram);
    let dir = TempDir::new().unwrap();
    let (ca, stranger) = (Authority::new("Hospital CA"), Authority::new("Strange CA"));
    let pem = pki::write(dir.path(), "web.pem", &ca.issue("web", &["127.0.0.1"], Validity::Now));
    let family = |name: &str, ca: &Authority| TlsClient {
        verify: Verify::Family(CaFamily {
            name: name.to_owned(),
            pems: vec![pki::write(dir.path(), &format!("{name}.pem"), &ca.pem())],
        }),
        client_cert: None,
        sni: None,
    };
    let http = format!(
        "access_log off;
         server {{
             listen {PLAIN};
             listen {SECURED} ssl;
             ssl_certificate {pem};
             ssl_certificate_key {pem};
             location = /up {{ return 200 'up'; }}
             location = /long {{ return 200 '{long}'; }}
             location = /gone {{ return 404; }}
             location = /closed {{ return 444; }}
         }}",
        pem = pem.display(),
        long = ".".repeat(2000),
    );
    let _nginx = Nginx::start("nginx", &netns, dir.path(), &http, PLAIN);
    let (right, wrong) = (family("right", &ca), family("wrong", &stranger));
    // Each with what becomes of it: every way for a connection to end takes its turn.
    let turns = Arc::new([
        (target(PLAIN, "/up", None), None),
        (target(SECURED, "/up", Some(right.clone())), None),
        (target(PLAIN, "/gone", None), Some(FailureReason::HttpStatus)),
        (target(PLAIN, "/long", None), Some(FailureReason::HttpBodyTooLong)),
        (target(SECURED, "/long", Some(right)), Some(FailureReason::HttpBodyTooLong)),
        (target(SECURED, "/up", Some(wrong)), Some(FailureReason::TlsUnknownIssuer)),
        (target(PLAIN, "/closed", None), Some(FailureReason::ConnectionClosed)),
        (target(9, "/up", None), Some(FailureReason::ConnectRefused)),
    ]);
    netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let before = open_descriptors();
            let places = Arc::new(Semaphore::new(IN_FLIGHT));
            let mut checks = JoinSet::new();
            for n in 0..CHECKS {
                let place = Arc::clone(&places).acquire_owned().await.unwrap();
                let turns = Arc::clone(&turns);
                checks.spawn(async move {
                    let (target, expected) = &turns[n % turns.len()];
                    let result = run_once(target).await;
                    assert_eq!(
                        result.failure.as_ref().map(|failure| failure.reason),
                        *expected,
                        "{result:?}"
                    );
                    drop(place);
                });
            }
            while let Some(ended) = checks.join_next().await {
                ended.unwrap();
            }
            assert_eq!(open_descriptors(), before, "descriptors");
        });
    });
    wait_until(Duration::from_secs(20), "no connection is left at nginx", || {
        // What waits in TIME-WAIT has no owner; what stands in any other state belongs to nginx or to us.
        let sockets =
            netns.run("ss", &["-Htan", "state", "connected", "exclude", "time-wait"]).expect_success();
        sockets.stdout.trim().is_empty()
    });
}
