//! An interface engine and its stand-by: messages go to one at a time, and stay where they are until somebody says
//! otherwise (R50).

use std::{net::SocketAddr, time::Duration};

use lb_ctl::model::status::RipState;
use lb_tests::lab::{
    Host, Lab, Lbd, MllpLink, MllpServer, lbd::rip, require_root, topology::VIP4, wait_until,
};

use crate::{carry, green};

/// Two engines, of which one works.
const ENGINES: &str = r#"[vip.HL7]
mode = "l4-dr"
ip = "10.10.0.100"
ports = [2575]
scheduler = "first"
persist = "last-successful"
check = { type = "connect", interval = "300ms", timeout = "300ms", rise = 1, fall = 2 }
servers = { ENGINE1 = "10.10.0.11", ENGINE2 = "10.10.0.12" }
"#;

/// Port of the engines.
const PORT: u16 = 2575;
/// New connections that show where messages go.
const LINES: usize = 4;

/// The engine that answers on new connections, all of them.
#[track_caller]
fn in_use(client: &Host) -> String {
    let to = SocketAddr::new(VIP4, PORT);
    let answered = |_| {
        let link = MllpLink::open(client, to);
        link.and_then(|mut link| link.exchange()).unwrap_or_else(|error| panic!("{to}: {error}"))
    };
    let mut names: Vec<String> = (0..LINES).map(answered).collect();
    names.dedup();
    assert_eq!(names.len(), 1, "connections side by side go to several engines: {names:?}");
    names.remove(0)
}

/// The first engine fails and comes back.
fn fail_first(lab: &Lab, lbd: &Lbd, first: MllpServer) -> MllpServer {
    let client = lab.host("client");
    drop(first);
    lbd.wait_status("the first engine is down", |status| {
        rip(status, "HL7", "ENGINE1").state == RipState::Down
    });
    assert_eq!(in_use(client), "pacs2", "the first has failed");
    let first = MllpServer::start(lab.host("pacs1"), PORT);
    lbd.wait_status("both engines work", green);
    assert_eq!(in_use(client), "pacs2", "that the first is back moves nobody");
    first
}

#[test]
fn messages_stay_on_the_second_engine_until_the_table_is_cleared_or_it_is_halted() {
    if !require_root("messages_stay_on_the_second_engine_until_the_table_is_cleared_or_it_is_halted") {
        return;
    }
    let lab = Lab::new();
    carry(&lab, VIP4);
    let client = lab.host("client");
    let first = MllpServer::start(lab.host("pacs1"), PORT);
    let mut lbd = Lbd::start(&lab, "lb", ENGINES);
    // Whoever passes a check first is the one in use; the second must not be it.
    lbd.wait_status("the first engine works", |status| {
        rip(status, "HL7", "ENGINE1").state == RipState::Active
    });
    let _second = MllpServer::start(lab.host("pacs2"), PORT);
    lbd.wait_status("both engines work", green);
    assert_eq!(in_use(client), "pacs1", "the first of the list");

    let first = fail_first(&lab, &lbd, first);
    let mut link = MllpLink::open(client, SocketAddr::new(VIP4, PORT)).expect("a connection");
    assert_eq!(link.exchange_many(5).expect("messages are acknowledged"), "pacs2");
    for stop in [Lbd::stop as fn(&mut Lbd), Lbd::kill] {
        stop(&mut lbd);
        assert_eq!(in_use(client), "pacs2", "without a daemon");
        lbd.start_again();
        lbd.wait_status("both engines work after a restart", green);
        assert_eq!(in_use(client), "pacs2", "a restart moves nobody");
    }
    // An edit that has nothing to do with it.
    lbd.write_config(&ENGINES.replace("fall = 2", "fall = 3"));
    lbd.ctl(&["config", "apply"]).expect_success();
    lbd.wait_status("both engines work after an edit", green);
    assert_eq!(in_use(client), "pacs2", "an edit moves nobody");
    let shown = lbd.ctl(&["table", "list"]).expect_success().stdout;
    assert!(shown.contains("HL7") && shown.contains("ENGINE2"), "{shown}");

    lbd.ctl(&["table", "clear", "HL7"]).expect_success();
    wait_until(Duration::from_secs(10), "a cleared table begins with the first again", || {
        in_use(client) == "pacs1"
    });
    assert_eq!(link.exchange_many(5).expect("the connection goes on"), "pacs2", "it was only about new ones");

    let _first = fail_first(&lab, &lbd, first);
    lbd.ctl(&["rip", "halt", "HL7/ENGINE2"]).expect_success();
    lbd.wait_status("the second engine is halted", |status| {
        rip(status, "HL7", "ENGINE2").state == RipState::Halt
    });
    assert_eq!(in_use(client), "pacs1", "the one in use was halted");
    lbd.ctl(&["rip", "online", "HL7/ENGINE2"]).expect_success();
    lbd.wait_status("both engines work", green);
    assert_eq!(in_use(client), "pacs1", "that the second is back moves nobody");
}
