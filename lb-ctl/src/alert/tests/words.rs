//! Subject lines, texts, JSON.

use super::{
    super::{
        message::{Context, body, by_recipients, json, log_lines, subject_line},
        teller::{Event, Kind},
    },
    *,
};
use crate::model::config::{Config, Mode, Ports, Rip, Vip};

fn event(subject: Subject, kind: Kind, text: &str) -> Event {
    Event {
        kind,
        subject,
        reason: Some(FailureReason::RejectedCalledAet),
        text: text.into(),
        since_epoch_secs: EPOCH,
    }
}

fn outage(kind: Kind) -> Event {
    event(Subject::Outage { vip: "DICOM".into() }, kind, "no real server is left: 2 down")
}

fn config() -> Config {
    let vip = |name: &str, to: &[&str]| Vip {
        alert_to: to.iter().map(|&to| to.to_owned()).collect(),
        rips: vec![Rip::new("R1", "10.12.1.111".parse().unwrap())],
        ..Vip::new(name, Mode::L4Dr, "10.12.1.100".parse().unwrap(), Ports::Ranges(vec![104..=104]))
    };
    Config {
        vips: vec![vip("DICOM", &[]), vip("HL7", &["hl7@h.example", "it@h.example"])],
        ..Config::default()
    }
}

#[test]
fn a_subject_line_names_one_and_counts_several_the_worst_first() {
    let down = |n: usize| {
        (0..n).map(|i| event(server(&format!("R{i}")), Kind::Failed, "refused")).collect::<Vec<_>>()
    };
    let back = event(server("B"), Kind::Recovered, "refused");
    let table = [
        (down(1), "[lb1] DOWN: DICOM/R0 (refused)"),
        (vec![back.clone()], "[lb1] UP: DICOM/B (refused)"),
        (vec![outage(Kind::Failed)], "[lb1] OUT OF SERVICE: DICOM (no real server is left: 2 down)"),
        (down(1000), "[lb1] 1000 servers down"),
        ([down(2), vec![outage(Kind::Failed)]].concat(), "[lb1] DICOM has no server left, 2 servers down"),
        ([down(1), vec![back]].concat(), "[lb1] DICOM/R0 down, DICOM/B back"),
        (
            vec![event(server("R1"), Kind::Failed, &format!("bad\r\nBcc: x{}", "y".repeat(200)))],
            &format!("[lb1] DOWN: DICOM/R1 (bad  Bcc: x{}...)", "y".repeat(89)),
        ),
    ];
    for (events, expected) in table {
        assert_eq!(subject_line("lb1", &events), expected);
    }
}

#[test]
fn a_text_lists_by_vip_what_failed_since_when_what_is_left_and_what_to_run() {
    let config = config();
    let situation = situation(&[]);
    let context = Context { node: "lb1", epoch_secs: EPOCH + 63, situation: &situation, config: &config };
    let events = [
        event(server("R1"), Kind::Failed, "A-ASSOCIATE-RJ: called AE title not recognised"),
        event(
            Subject::Server(RipId { vip: "HL7".into(), rip: "R1".into() }),
            Kind::Recovered,
            "connect refused",
        ),
    ];
    assert_eq!(
        body(&context, &events),
        "lb1 at 2026-05-08 12:38:24 UTC\n\n\
         DICOM (10.12.1.100, ports 104): 0 of 0 real servers left\n\
         \x20 DOWN: R1 since 2026-05-08 12:37:21 UTC: A-ASSOCIATE-RJ: called AE title not recognised\n\
         \x20     lbctl check show DICOM/R1\n\n\
         HL7 (10.12.1.100, ports 104): 0 of 0 real servers left\n\
         \x20 UP: R1, which failed at 2026-05-08 12:37:21 UTC for at most 1m 3s: connect refused\n"
    );
    let posted: serde_json::Value = serde_json::from_str(&json(&context, &events, 7).unwrap()).unwrap();
    assert_eq!(posted["text"], "[lb1] DICOM/R1 down, HL7/R1 back");
    let first = &posted["events"][0];
    for (key, value) in [
        ("kind", "failed"),
        ("what", "server"),
        ("vip", "DICOM"),
        ("rip", "R1"),
        ("reason", "rejected-called-aet"),
    ] {
        assert_eq!(first[key], value, "{first}");
    }
    assert_eq!(
        log_lines(&events, EPOCH)[1].1,
        "HL7: UP: R1, which failed at 2026-05-08 12:37:21 UTC for at most 0s: connect refused"
    );
}

#[test]
fn a_flood_is_cut_and_said_to_be() {
    let events: Vec<Event> =
        (0..600).map(|i| event(server(&format!("R{i:03}")), Kind::Failed, "x")).collect();
    let (config, situation) = (config(), situation(&[]));
    let context = Context { node: "lb1", epoch_secs: EPOCH, situation: &situation, config: &config };
    let text = body(&context, &events);
    assert!(text.contains("DOWN: R499 ") && !text.contains("DOWN: R500 "), "{text}");
    assert!(text.contains("and 100 more: see `lbctl status`"), "{text}");
    assert_eq!(log_lines(&events, EPOCH).len(), 501);
}

#[test]
fn who_is_told_of_a_vip_is_its_own_people_or_everybodys() {
    let config = config();
    let hl7 = Subject::Server(RipId { vip: "HL7".into(), rip: "R1".into() });
    let events = [event(server("R1"), Kind::Failed, "x"), event(hl7.clone(), Kind::Failed, "x")];
    let to_all = ["pacs@h.example".to_owned(), "it@h.example".to_owned(), "it@h.example".to_owned()];
    let groups: Vec<_> = by_recipients(&events, &config, &to_all).into_iter().collect();
    let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].0, names(["hl7@h.example", "it@h.example"]));
    assert_eq!(groups[0].1[0].subject, hl7);
    assert_eq!(groups[1].0, names(["it@h.example", "pacs@h.example"]));
    assert_eq!(by_recipients(&events, &config, &[]).len(), 1, "nobody is told of DICOM");
}
