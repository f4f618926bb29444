//! History, rollback and prediction, with the configuration in real files.

use std::{fs, path::PathBuf};

use super::*;
use crate::{edges::Files, model::config::Sources};

struct Place {
    world: World,
    daemon: Daemon,
    main: PathBuf,
}

fn text(weight: u16, more: &str) -> String {
    format!(
        "[vip.PACS]\nmode = \"l4-dr\"\nip = \"10.12.1.100\"\nports = [104]\nscheduler = \"wrr\"\nservers = {{ R1 = \"10.12.1.110\", R2 = {{ ip = \"10.12.1.111\", weight = {weight} }}{more} }}\n"
    )
}

impl Place {
    async fn start() -> Self {
        let world = World::new(config(Vec::new()));
        let main = world.dir.path().join("lbd.toml");
        fs::write(&main, text(100, "")).unwrap();
        let store = Files::new(Sources { main: main.clone() }, world.dir.path());
        store.keep(&store.load().unwrap(), Cause::Start).unwrap();
        let daemon = world.start_with(Arc::new(store)).await;
        daemon.both_up().await;
        Self { world, daemon, main }
    }

    async fn apply(&self, text: &str) {
        fs::write(&self.main, text).unwrap();
        self.daemon.command(&Command::Apply).await.unwrap();
    }

    async fn versions(&self) -> Vec<(u64, Cause, Vec<String>)> {
        let heads: Vec<VersionHead> = self.daemon.get("/v1/config/history").await;
        heads.into_iter().map(|head| (head.number, head.cause, head.changes)).collect()
    }

    fn weights(&self) -> Vec<u16> {
        let installed = self.world.fake.installed();
        installed.tables.values().flat_map(|table| table.entrants.iter().map(|e| e.weight)).collect()
    }
}

const fn rollback(to: Option<u64>, force: bool, dry_run: bool) -> Command {
    Command::Rollback { to, force, dry_run }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_into_force_is_listed_shown_and_put_back() {
    let place = Place::start().await;
    place.apply(&text(50, "")).await;
    assert_eq!(place.weights(), [100, 50]);
    let change = |line: &str| vec![line.to_owned()];
    let down = change("vip PACS: R2 weight 100 -> 50");
    assert_eq!(place.versions().await[1], (2, Cause::Apply, down));

    let dry = place.daemon.command(&rollback(None, false, true)).await.unwrap();
    assert_eq!(dry.changes, ["vip PACS: R2 weight 50 -> 100"]);
    assert_eq!(dry.traffic, ["PACS: new connections: R1 66.7 % -> 50.0 %, R2 33.3 % -> 50.0 %"]);
    assert_eq!(place.weights(), [100, 50], "a dry run changes nothing");

    place.daemon.command(&rollback(None, false, false)).await.unwrap();
    assert_eq!(place.weights(), [100, 100], "in the data plane when answered");
    assert_eq!(fs::read_to_string(&place.main).unwrap(), text(100, ""));
    let up = change("vip PACS: R2 weight 50 -> 100");
    assert_eq!(place.versions().await[2], (3, Cause::Rollback { to: 1 }, up));
    let version: Version = place.daemon.get("/v1/config/history/2").await;
    assert_eq!(version.files[0].text, text(50, ""));
    place.daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_does_not_lose_what_was_edited_by_hand_unless_it_is_forced_to() {
    let place = Place::start().await;
    place.apply(&text(50, "")).await;
    fs::write(&place.main, text(7, "")).unwrap();
    let refused = place.daemon.command(&rollback(None, false, false)).await.unwrap_err();
    assert!(refused.contains("was edited since version 2") && refused.contains("--force"), "{refused}");
    assert_eq!(fs::read_to_string(&place.main).unwrap(), text(7, ""));
    assert_eq!(place.weights(), [100, 50]);
    let refused = place.daemon.command(&rollback(Some(9), false, false)).await.unwrap_err();
    assert_eq!(refused, "no version 9 is kept: there are 1 to 2; see `lbctl config history`");

    // What is in force can be put back as well: nothing changes but the file.
    let outcome = place.daemon.command(&rollback(Some(2), true, false)).await.unwrap();
    assert_eq!(outcome.changes, ["the files are those of version 2, which says what is in force"]);
    assert_eq!(fs::read_to_string(&place.main).unwrap(), text(50, ""));
    assert_eq!(place.versions().await.len(), 2);
    place.daemon.app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_kept_and_what_it_would_do_to_traffic_is_told_before() {
    let place = Place::start().await;
    let add = |dry_run| {
        let (vip, rip, ip) = ("PACS".to_owned(), "R3".to_owned(), "10.12.1.112".parse().unwrap());
        let (max_connections, min_connections) = (None, None);
        let edit = Edit::RipAdd { vip, rip, ip, port: None, weight: None, max_connections, min_connections };
        Command::Edit { edit: Box::new(edit), dry_run }
    };
    let told = [
        "PACS: new connections: R1 50.0 % -> 33.3 %, R2 50.0 % -> 33.3 %, R3 joins with 33.3 % once its check passes",
    ];
    assert_eq!(place.daemon.command(&add(true)).await.unwrap().traffic, told);
    fs::write(&place.main, text(100, ", R3 = \"10.12.1.112\"")).unwrap();
    let diff: Outcome = place.daemon.get("/v1/config/diff").await;
    assert_eq!(diff.traffic, told);
    fs::write(&place.main, text(100, "")).unwrap();
    place.daemon.command(&add(false)).await.unwrap();
    let (number, cause, changes) = place.versions().await.pop().unwrap();
    assert_eq!((number, cause, changes.len()), (2, Cause::Edit, 1));
    place.daemon.app.stop().await;
}
