//! Certificates by way of the API: put in place, used, watched, replaced, deleted; and no key comes back.

use std::fs;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;
use crate::{
    edges::Files,
    model::{
        command::Assignment,
        config::Sources,
        tls::{PkiEdit, PkiStatus, Secret},
    },
};

const TEXT: &str =
    "[vip.PACS]\nmode = \"l4-dr\"\nip = \"10.12.1.100\"\nports = [443]\nservers = { R1 = \"10.12.1.110\" }\n";

/// Everything that can be asked for without naming something.
const ASKED: [&str; 13] = [
    "/v1/status",
    "/v1/flows",
    "/v1/flows/count?by=vip",
    "/v1/tables",
    "/v1/checks",
    "/v1/checks/history?vip=PACS&rip=R1",
    "/v1/tls",
    "/v1/config",
    "/v1/config/diff",
    "/v1/config/history",
    "/v1/config/history/1",
    "/v1/config/history/2",
    "/v1/config/history/3",
];

fn made(days: u64) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["pacs.example".to_owned()]).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(days * 24 * 3600);
    (params.self_signed(&key).unwrap().pem() + &key.serialize_pem(), key.serialize_pem())
}

fn edit(edit: Edit) -> Command {
    Command::Edit { edit: Box::new(edit), dry_run: false }
}

fn add(pem: &str, replace: bool) -> Command {
    let pem = Secret::new(pem.to_owned());
    edit(Edit::Pki(PkiEdit::CertAdd { name: "web".to_owned(), pem, replace }))
}

async fn wait_for_status(daemon: &Daemon, what: &str, holds: impl Fn(&Status) -> bool) {
    let waited = timeout(DEADLINE * 3, async {
        while !holds(&daemon.get("/v1/status").await) {
            sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_elapsed| panic!("{what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_used_watched_and_replaced_and_no_answer_has_its_key() {
    let world = World::new(config(Vec::new()));
    let main = world.dir.path().join("lbd.toml");
    fs::write(&main, TEXT).unwrap();
    let store = Files::new(Sources { main: main.clone() }, world.dir.path());
    store.keep(&store.load().unwrap(), Cause::Start).unwrap();
    let daemon = world.start_with(Arc::new(store)).await;
    let ((pem, key), (later, later_key)) = (made(6), made(400));
    let outcome = daemon.command(&add(&pem, false)).await.unwrap();
    assert!(outcome.changes.iter().any(|line| line.contains("pki/web.pem: CN=")), "{:?}", outcome.changes);
    let check = Assignment {
        key: "check".to_owned(),
        value: "{ type = \"https\", client_cert = \"web\" }".to_owned(),
    };
    daemon.command(&edit(Edit::VipSet { vip: "PACS".to_owned(), assignments: vec![check] })).await.unwrap();
    let expires = |status: &Status| status.problems.iter().any(|line| line.contains("expires within 7 days"));
    wait_for_status(&daemon, "the status says that it expires", expires).await;

    let pki: PkiStatus = daemon.get("/v1/tls").await;
    assert_eq!(pki.certs[0].users, ["check of vip PACS"]);
    assert!(fs::read_to_string(world.dir.path().join("pki/web.pem")).unwrap().contains(&key));
    for asked in ASKED {
        let told = daemon.get::<serde_json::Value>(asked).await.to_string();
        for line in key.lines().filter(|line| !line.is_empty()) {
            assert!(!told.contains(line), "{asked} tells {line}");
        }
    }
    let delete = edit(Edit::Pki(PkiEdit::CertDelete { name: "web".to_owned() }));
    let refused = daemon.command(&delete).await.unwrap_err();
    assert!(refused.contains("in use by check of vip PACS"), "{refused}");
    let refused = daemon.command(&add(&(pem.clone() + &later_key), true)).await.unwrap_err();
    assert!(refused.contains("more than one private key") && !refused.contains("BEGIN"), "{refused}");

    // The file alone changes, and is seen.
    let outcome = daemon.command(&add(&later, true)).await.unwrap();
    assert_eq!(outcome.changes.len(), 1, "{:?}", outcome.changes);
    wait_for_status(&daemon, "nothing expires any more", |status| !expires(status)).await;
    daemon.app.stop().await;
}
