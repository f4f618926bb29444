//! Merging, defaults and warnings: what valid texts mean.

use std::time::Duration;

use super::{Code, Loaded, Texts, load_texts};
use crate::model::config::{CheckKind, Persist, Vip};

fn load(text: &str) -> Loaded {
    load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The VIP `V` of a text that has these lines before and in its section.
fn vip(before: &str, keys: &str) -> Vip {
    let text = format!("{before}\n[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\n{keys}\n");
    load(&text).config.vips.remove(0)
}

fn warnings(keys: &str) -> Vec<Code> {
    let text = format!("[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\n{keys}\n");
    load(&text).warnings.iter().map(|warning| warning.code).collect()
}

const SERVERS: &str = "servers = { A = '10.0.0.1' }";
const ECHO: &str = "[profile.p]\ncheck = { type = 'dicom-echo', called_aet = 'PACS', interval = '2s' }\n";

fn echo(called_aet: &str) -> CheckKind {
    CheckKind::DicomEcho { calling_aet: "LOADBALANCER".into(), called_aet: called_aet.into() }
}

#[test]
fn a_vip_lays_its_keys_upon_those_of_its_profile() {
    let check = vip(ECHO, &format!("profile = 'p'\ncheck.called_aet = 'MINE'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.interval), (echo("MINE"), Duration::from_secs(2)));
}

#[test]
fn the_nearest_profile_wins() {
    let base = format!("{ECHO}[profile.q]\nprofile = 'p'\ncheck.called_aet = 'Q'\nidle_timeout = '2h'\n");
    let vip = vip(&base, &format!("profile = 'q'\n{SERVERS}"));
    assert_eq!((vip.check.kind, vip.idle_timeout), (echo("Q"), Duration::from_secs(7200)));
}

#[test]
fn another_type_of_check_keeps_what_has_meaning_for_it() {
    let check = vip(ECHO, &format!("profile = 'p'\ncheck = 'connect'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.interval), (CheckKind::Connect, Duration::from_secs(2)));
    assert_eq!(vip(ECHO, &format!("profile = 'p'\ncheck = 'off'\n{SERVERS}")).check.kind, CheckKind::Off);
}

#[test]
fn servers_of_its_own_replace_the_pool_of_the_profile() {
    let base = "[pool.x]\nservers = { X = '10.0.0.9' }\n[profile.p]\npool = 'x'\n";
    let names = |vip: Vip| vip.rips.into_iter().map(|rip| rip.name).collect::<Vec<_>>();
    assert_eq!(names(vip(base, "profile = 'p'")), ["X"]);
    assert_eq!(names(vip(base, &format!("profile = 'p'\n{SERVERS}"))), ["A"]);
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let check = vip("", &format!("check.interval = '1s'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.timeout), (CheckKind::Connect, Duration::from_secs(1)));
}

#[test]
fn persistence_by_source_address_lasts_five_minutes_by_default() {
    let expected = Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: Duration::from_secs(300) };
    assert_eq!(vip("", &format!("persist = 'source-ip'\n{SERVERS}")).persist, expected);
}

#[test]
fn an_empty_file_is_a_configuration() {
    let loaded = load("");
    assert!(loaded.config.vips.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn a_vip_out_of_service_may_stand_by_with_the_ports_of_another() {
    let text = "[vip]\nA = { mode = 'l4-dr', ip = '10.0.0.100', ports = [1], servers = { S = '10.0.0.1' } }\nB = { mode = \
                'l4-dr', ip = '10.0.0.100', ports = [1], servers = { S = { ip = '10.0.0.2', weight = 0 } }, enabled = \
                false }\n";
    assert_eq!(load(text).config.vips.len(), 2);
}

#[test]
fn what_is_worth_knowing_is_warned_of() {
    assert_eq!(warnings(SERVERS), []);
    assert_eq!(warnings(&format!("check = 'off'\n{SERVERS}")), [Code::CheckOff]);
    assert_eq!(warnings("servers = {}"), [Code::NoServers]);
    let redundant = format!("scheduler = 'source-hash'\npersist = 'source-ip'\n{SERVERS}");
    assert_eq!(warnings(&redundant), [Code::Redundant]);
    let unused = format!("{SERVERS}\n[pool.x]\nservers = {{ X = '10.0.0.9' }}\n[profile.y]\nmode = 'l4-dr'");
    assert_eq!(warnings(&unused), [Code::Unused, Code::Unused]);
}

#[test]
fn more_vips_than_the_tables_hold_are_refused_once() {
    let vip = |n: u32| {
        format!(
            "V{n} = {{ mode = 'l4-dr', ip = '10.1.{}.{}', ports = [1], servers = {{}} }}\n",
            n / 250,
            n % 250 + 1
        )
    };
    let text = |count| (0..count).map(vip).fold("[vip]\n".to_owned(), |text, line| text + &line);
    assert_eq!(load(&text(2048)).config.vips.len(), 2048);
    let errors = load_texts(Texts::single("lbd.toml", text(2060))).unwrap_err().errors;
    let seen: Vec<_> = errors.iter().map(|error| (error.code, error.place.line)).collect();
    assert_eq!(seen, [(Code::TooMany, 2050)]);
}
