//! What an operator does about single clients: who is remembered, which server is next, and ending a connection.

use std::time::Duration;

use lb_ctl::model::{
    explain::{Explanation, Treatment},
    status::FlowList,
    tables::{EntryList, TableKind, TableStatus},
};
use lb_tests::lab::{EchoLoop, Lab, Lbd, require_root, wait_until};
use serde::de::DeserializeOwned;

use crate::{ARCHIVE, DICOM, archives, start_green};

/// An answer of lbctl is there within this, also on a loaded machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_client_is_remembered_explained_ended_and_forgotten() {
    if !require_root("a_client_is_remembered_explained_ended_and_forgotten") {
        return;
    }
    let lab = Lab::new();
    let _archives = archives(&lab);
    let lbd = start_green(&lab, &format!("{DICOM}persist = {{ type = \"source-ip\", timeout = \"10m\" }}\n"));
    let association = EchoLoop::start(lab.host("client"), ARCHIVE, Duration::from_millis(20));
    let echoes_on = || {
        let goal = association.echoes() + 3;
        wait_until(SOON, "the association echoes on", || association.echoes() >= goal);
    };
    echoes_on();
    let flow = json::<FlowList>(&lbd, &["flows", "list", "--vip", "DICOM"]).flows.pop().expect("a flow");
    let (client, rip) = (flow.client.to_string(), flow.rip.expect("a server"));

    let tables: Vec<TableStatus> = json(&lbd, &["table", "list"]);
    let TableKind::SourceIp { entries, timeout_secs, .. } = &tables[0].kind else { panic!("{tables:?}") };
    assert_eq!((tables[0].vip.as_str(), *entries, *timeout_secs), ("DICOM", 1, 600));
    let shown = || json::<EntryList>(&lbd, &["table", "show", "DICOM", "--client", &client]);
    let entry = shown().entries.pop().expect("the client is remembered");
    assert_eq!((entry.client.as_str(), entry.rip.as_deref()), (client.as_str(), Some(rip.as_str())));

    // A new connection would go where the client's last one did; the one in progress stays there.
    let explain = |client: &str| json::<Explanation>(&lbd, &["explain", client, "DICOM:104"]);
    let new = explain(&client);
    assert_eq!((new.treatment, new.rip.as_deref()), (Treatment::Forwarded, Some(rip.as_str())));
    assert!(new.client_port_made_up && new.lines[1].contains("persistence"), "{:?}", new.lines);
    let going = explain(&format!("{client}:{}", flow.client_port));
    assert_eq!((going.treatment, going.rip.as_deref()), (Treatment::Forwarded, Some(rip.as_str())));
    assert!(going.lines[1].contains("connection in progress"), "{:?}", going.lines);
    assert_eq!(
        going.leaves.map(|leaves| leaves.dst),
        Some(ARCHIVE),
        "direct routing leaves the packet alone"
    );
    echoes_on();

    // What is not there is refused with what is.
    let refused = lbd.ctl(&["explain", &client, "DICOM:105"]).expect_code(2);
    assert!(refused.stderr.contains("DICOM (10.10.0.100, tcp 104)"), "{refused:?}");

    // Nobody was asked, so nothing happens; then it ends.
    let unconfirmed = lbd.ctl(&["flows", "kill", "--client", &client]).expect_code(1);
    assert!(unconfirmed.stderr.contains("this would end 1 connection: say so with --yes"), "{unconfirmed:?}");
    echoes_on();
    let ended = lbd.ctl(&["flows", "kill", "--client", &client, "--rip", &format!("DICOM/{rip}"), "--yes"]);
    let ended = ended.expect_success();
    assert!(ended.stdout.starts_with("1 connection ended\n"), "{ended:?}");
    wait_until(SOON, "the association ends", || association.has_ended());

    let cleared = lbd.ctl(&["table", "clear", "DICOM", "--client", &client]).expect_success();
    assert_eq!(cleared.stdout, "1 client forgotten\n");
    assert_eq!(shown(), EntryList::default());
    let anew = explain(&client);
    assert!(!anew.lines.iter().any(|line| line.contains("persistence")), "{:?}", anew.lines);
}

/// What lbctl says in JSON.
#[track_caller]
fn json<T: DeserializeOwned>(lbd: &Lbd, args: &[&str]) -> T {
    let said = lbd.ctl(&[args, &["-o", "json"]].concat()).expect_success();
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}
