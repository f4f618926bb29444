//! Edits of who gets a connection: persistence, limits, slow start, fallback, and what the diff says of them.

use std::time::Duration;

use lb_ctl::model::{
    command::{Edit, VipSpec},
    config::{Fallback, Persist, Scheduler, Unattended},
};

use crate::{assign, dicom_spec, plan, refusal, rip_set, start, vip_add, vip_set};

#[test]
fn every_key_is_set_by_a_word_and_told_by_a_line() {
    for (key, typed, line) in [
        ("fallback", "10.0.0.99", "fallback reject -> 10.0.0.99"),
        ("fallback", "drop", "fallback reject -> drop"),
        ("scheduler", "wrr", "scheduler wlc -> wrr"),
        ("slow_start", "30s", "slow_start 0s -> 30s"),
        ("unattended", "refuse", "unattended serve -> refuse"),
    ] {
        let edited = plan(&start(), &vip_set("HL7", key, typed));
        assert_eq!(edited.changes, [format!("vip HL7: {line}")], "{key}={typed}");
    }
    assert!(refusal(&vip_set("HL7", "slow_start", "30")).contains("`slow_start` is 30 without a unit"));
    assert!(refusal(&vip_set("HL7", "fallback", "10.0.0.99:80")).contains("config::dr-port"));
}

#[test]
fn persistence_is_set_as_a_word_or_key_by_key() {
    let edit = Edit::VipSet {
        vip: "HL7".into(),
        assignments: [assign("scheduler", "first"), assign("persist", "last-successful")].concat(),
    };
    let edited = plan(&start(), &edit);
    let expected = ["vip HL7: scheduler wlc -> first", "vip HL7: persist.type none -> last-successful"];
    assert_eq!(edited.changes, expected);
    let back = refusal_after(&edited, &vip_set("HL7", "scheduler", "wlc"));
    assert!(back.contains("write `scheduler = \"first\"`, or `persist = \"source-ip\"`"), "{back}");

    let by_address = plan(&start(), &vip_set("HL7", "persist", "source-ip"));
    let shared = plan(&by_address.loaded, &vip_set("HL7", "persist.group", "engines"));
    assert_eq!(shared.changes, ["vip HL7: persist.group (not set) -> engines"]);
}

/// Why an edit is refused after another.
fn refusal_after(edited: &lb_ctl::config::Edited, edit: &Edit) -> String {
    lb_ctl::config::plan_edit(&edited.loaded, edit).unwrap_err().to_string()
}

#[test]
fn limits_are_set_and_added_and_told() {
    let edited = plan(&start(), &rip_set("HL7", "H1", "max_connections", "50"));
    assert_eq!(edited.changes, ["vip HL7: H1 max_connections 0 -> 50"]);
    let and = plan(&edited.loaded, &rip_set("HL7", "H1", "min_connections", "40"));
    assert_eq!(and.changes, ["vip HL7: H1 min_connections 0 -> 40"]);
    assert!(refusal(&rip_set("HL7", "H1", "min_connections", "40")).contains("config::bad-limits"));

    let add = Edit::RipAdd {
        vip: "HL7".into(),
        rip: "H3".into(),
        ip: "10.0.0.23".parse().unwrap(),
        port: None,
        weight: None,
        max_connections: Some(50),
        min_connections: Some(40),
    };
    let added = plan(&start(), &add);
    assert_eq!(added.changes, ["vip HL7: + H3 10.0.0.23 w100 max 50 min 40"]);
    let line = "H3 = { ip = \"10.0.0.23\", max_connections = 50, min_connections = 40 }";
    assert!(added.rewrites[0].after.contains(line), "{}", added.rewrites[0].after);
}

#[test]
fn a_vip_is_added_with_everything_that_was_typed() {
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        mode: "l4-nat".into(),
        ports: "80".into(),
        scheduler: text("wlc"),
        persist: text("source-ip"),
        persist_group: text("pacs"),
        fallback: text("10.12.1.119:8080"),
        slow_start: text("30s"),
        unattended: text("refuse"),
        ..dicom_spec()
    };
    let edited = plan(&start(), &vip_add(spec));
    let after = &edited.rewrites[0].after;
    for line in [
        "fallback = \"10.12.1.119:8080\"\nslow_start = \"30s\"\nunattended = \"refuse\"\n",
        "persist = { type = \"source-ip\", group = \"pacs\" }\n",
    ] {
        assert!(after.contains(line), "{after}");
    }
    let vip = edited.loaded.config.vips.last().unwrap();
    let fallback = Fallback::Server { ip: "10.12.1.119".parse().unwrap(), port: Some(8080) };
    assert_eq!((vip.scheduler, vip.fallback, vip.unattended), (Scheduler::Wlc, fallback, Unattended::Refuse));
    assert_eq!(vip.slow_start, Duration::from_secs(30));
    assert!(matches!(&vip.persist, Persist::SourceIp { group: Some(group), .. } if group == "pacs"));

    let list = VipSpec { scheduler: text("first"), persist: text("last-successful"), ..dicom_spec() };
    let vip = plan(&start(), &vip_add(list)).loaded.config.vips.pop().unwrap();
    assert_eq!((vip.scheduler, vip.persist), (Scheduler::First, Persist::LastSuccessful { timeout: None }));
}
