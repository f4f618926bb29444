//! What checks mean: defaults, what is laid upon what, and what is worth knowing.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use crate::{
    config::{Code, Loaded, Texts, load_texts},
    model::{
        check::{
            BodyMatch, Check, CheckKind, DicomCheck, FindModel, HttpCheck, MllpCheck, Part, SynRepeats,
            TlsClient, Verify,
        },
        config::Vip,
    },
};

fn load(text: &str) -> Loaded {
    load_texts(Texts::single("/etc/lbd/lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A VIP with these lines before its section, and these keys.
fn text(before: &str, keys: &str) -> String {
    let servers = if keys.contains("servers") { "" } else { "servers = { A = '10.0.0.1' }" };
    format!("{before}\n[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\n{keys}\n{servers}\n")
}

fn vip(before: &str, keys: &str) -> Vip {
    load(&text(before, keys)).config.vips.remove(0)
}

fn kind(check: &str) -> CheckKind {
    vip("", &format!("check = {check}")).check.kind
}

fn warnings(loaded: &Loaded) -> Vec<(Code, &str)> {
    loaded.warnings.iter().map(|warning| (warning.code, warning.message.as_str())).collect()
}

fn plain_http() -> HttpCheck {
    HttpCheck {
        tls: None,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        host: None,
        status: vec![200..=299],
        body: None,
        max_body_bytes: 65_536,
    }
}

const PLAIN_TLS: TlsClient = TlsClient { verify: Verify::Off, client_cert: None, sni: None };

#[test]
fn a_word_is_a_check_of_that_type_with_its_defaults() {
    assert_eq!(kind("'connect'"), CheckKind::Connect);
    assert_eq!(kind("'ping'"), CheckKind::Ping);
    assert_eq!(kind("'agent'"), CheckKind::Agent);
    assert_eq!(kind("'off'"), CheckKind::Off);
    assert_eq!(kind("'mllp'"), CheckKind::Mllp(MllpCheck::default()));
    assert_eq!(kind("'http'"), CheckKind::Http(Box::new(plain_http())));
    let https = HttpCheck { tls: Some(PLAIN_TLS), ..plain_http() };
    assert_eq!(kind("'https'"), CheckKind::Http(Box::new(https)));
    assert_eq!(vip("", "").check, Check::default());
}

#[test]
fn a_request_says_what_is_asked_and_what_passes() {
    let http = |keys: &str| {
        let CheckKind::Http(http) = kind(&format!("{{ type = 'http', {keys} }}")) else { panic!("{keys}") };
        *http
    };
    let health = http(
        "path = '/api/health/?a=b', host = 'pacs.example:8080', method = 'POST', body = { equals = 'allServicesOperative' }",
    );
    let expected = HttpCheck {
        method: "POST".to_owned(),
        path: "/api/health/?a=b".to_owned(),
        host: Some("pacs.example:8080".to_owned()),
        body: Some(BodyMatch::Equals("allServicesOperative".to_owned())),
        ..plain_http()
    };
    assert_eq!(health, expected);
    assert_eq!(http("status = 204").status, [204..=204]);
    assert_eq!(http("status = '301'").status, [301..=301]);
    assert_eq!(http("status = [200, '300-399']").status, [200..=200, 300..=399]);
    assert_eq!(http("body = { regex = '^v\\d+$' }").body, Some(BodyMatch::Regex("^v\\d+$".to_owned())));
}

#[test]
fn dicom_may_go_over_tls_and_ask_a_query() {
    let pki = "[pki]\ncert.lb.pem = 'pki/lb.pem'\nca.hospital.members = { b = 'pki/b.pem', a = '/a.pem' }";
    let check = "check = { type = 'dicom-echo', called_aet = 'PACS', tls = true, verify = 'hospital', client_cert = 'lb', \
                 sni = 'pacs.example', find = 'worklist', accept_reject = true }";
    let CheckKind::DicomEcho(dicom) = vip(pki, check).check.kind else { panic!("no dicom-echo") };
    assert_eq!((dicom.find, dicom.accept_reject), (Some(FindModel::Worklist), true));
    let tls = dicom.tls.unwrap();
    assert_eq!(tls.sni.as_deref(), Some("pacs.example"));
    let cert = tls.client_cert.unwrap();
    assert_eq!((cert.name.as_str(), cert.pem.as_path()), ("lb", Path::new("/etc/lbd/pki/lb.pem")));
    let Verify::Family(family) = tls.verify else { panic!("{:?}", tls.verify) };
    assert_eq!(family.name, "hospital");
    assert_eq!(family.pems, [Path::new("/a.pem"), Path::new("/etc/lbd/pki/b.pem")]);
}

#[test]
fn a_message_passes_with_an_accept_unless_said_otherwise() {
    let mllp = |keys: &str| kind(&format!("{{ type = 'mllp', message = 'MSH|^~\\&|LB', {keys} }}"));
    let expected = |accept: &[&str]| {
        CheckKind::Mllp(MllpCheck {
            message: Some("MSH|^~\\&|LB".to_owned()),
            accept: accept.iter().map(|code| (*code).to_owned()).collect(),
        })
    };
    assert_eq!(mllp(""), expected(&["AA"]));
    assert_eq!(mllp("accept = ['AE', 'AA']"), expected(&["AE", "AA"]));
}

#[test]
fn several_checks_are_one() {
    let parts = kind("{ any = ['ping', { type = 'http', port = 8080 }, { all = ['connect', 'agent'] }] }");
    let part = |kind, port| Part { kind, port };
    let all = CheckKind::All(vec![part(CheckKind::Connect, None), part(CheckKind::Agent, None)]);
    let http = CheckKind::Http(Box::new(plain_http()));
    let expected = CheckKind::Any(vec![part(CheckKind::Ping, None), part(http, Some(8080)), part(all, None)]);
    assert_eq!(parts, expected);
    assert!(parts.asks_port());
}

#[test]
fn what_holds_for_the_whole_check_is_said_once() {
    let check = vip(
        "",
        "check = { all = ['ping'], source = '10.0.0.5', interval = '1s', rise = 3, dr_path = false, syn_repeats = 'count' }",
    )
    .check;
    assert_eq!(check.source, Some([10, 0, 0, 5].into()));
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(1), Duration::from_secs(1)));
    assert_eq!((check.rise, check.fall), (3, 2));
    assert_eq!((check.dr_path, check.syn_repeats), (false, SynRepeats::Count));
}

#[test]
fn a_tracked_vip_has_counted_already() {
    let other = "[vip.W]\nmode = 'l4-dr'\nip = '10.0.0.101'\nports = [1]\nservers = { B = '10.0.0.2' }\n";
    let config = load(&format!("{}{other}", text("", "check = { type = 'track', vip = 'W' }"))).config;
    let check = &config.vips[0].check;
    assert_eq!(check.kind, CheckKind::Track { vip: "W".to_owned() });
    assert_eq!((check.rise, check.fall), (1, 1));
}

#[test]
fn keys_of_another_type_fall_away_and_those_of_all_types_stay() {
    let profile = "[profile.p]\ncheck = { type = 'http', path = '/health', port = 8080, interval = '2s', source = '10.0.0.5' }";
    let of = |check: &str| vip(profile, &format!("profile = 'p'\ncheck = {check}")).check;
    let CheckKind::Http(https) = of("'https'").kind else { panic!("no https") };
    assert_eq!((https.path.as_str(), https.tls.is_some()), ("/health", true));
    let dicom = of("{ type = 'dicom-echo', called_aet = 'PACS' }");
    assert_eq!((dicom.port, dicom.interval), (Some(8080), Duration::from_secs(2)));
    let ping = of("'ping'");
    assert_eq!((ping.port, ping.source.is_some()), (None, true));
    assert_eq!(of("{ any = ['ping'] }").port, Some(8080));
    let script = of("{ type = 'script', script = 'a.sh' }");
    assert_eq!((script.port, script.source), (Some(8080), None));
    assert_eq!(of("'off'"), Check { kind: CheckKind::Off, ..Check::default() });

    let any = "[profile.p]\ncheck = { any = ['ping', 'connect'], rise = 5 }";
    let word = vip(any, "profile = 'p'\ncheck = 'agent'").check;
    assert_eq!((word.kind, word.rise), (CheckKind::Agent, 5));
    let kept = vip(any, "profile = 'p'\ncheck.rise = 6").check;
    assert!(matches!(kept.kind, CheckKind::Any(parts) if parts.len() == 2) && kept.rise == 6);

    let encrypted = "[profile.p]\ncheck = { type = 'dicom-echo', tls = true, verify = 'system' }";
    let clear = vip(encrypted, "profile = 'p'\ncheck = { called_aet = 'PACS', tls = false }").check.kind;
    assert_eq!(clear, CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", "PACS")));
}

#[test]
fn a_server_lays_its_check_upon_that_of_the_vip() {
    let keys = "check = { type = 'dicom-echo', called_aet = 'PACS', interval = '2s' }\nservers = { A = { ip = '10.0.0.1', check \
                = { called_aet = 'OTHER', port = 11112 } }, B = { ip = '10.0.0.2', check = 'ping' }, C = { ip = '10.0.0.3', \
                check = { called_aet = 'PACS' } }, D = '10.0.0.4' }";
    let vip = vip("", keys);
    let own = |rip: usize| vip.rips[rip].check.clone();
    let expected = Check {
        kind: CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", "OTHER")),
        port: Some(11112),
        ..vip.check.clone()
    };
    assert_eq!(own(0), Some(expected));
    assert_eq!(own(1), Some(Check { kind: CheckKind::Ping, ..vip.check.clone() }));
    assert_eq!((own(2), own(3)), (None, None), "what says nothing else is the VIP's");
}

#[test]
fn servers_of_a_pool_lay_theirs_upon_each_vip_that_has_them() {
    let pool = "[pool.p]\nservers = { A = { ip = '10.0.0.1', check = { port = 9000 } } }\n[vip.W]\nmode = 'l4-dr'\nip = \
                '10.0.0.101'\nports = [1]\ncheck = 'http'\npool = 'p'\n";
    let text = text(pool, "check = 'mllp'\npool = 'p'").replace("servers = { A = '10.0.0.1' }", "");
    let vips = load(&text).config.vips;
    let names: Vec<_> = vips.iter().map(|vip| vip.rips[0].check.as_ref().unwrap()).collect();
    let said: Vec<_> = names.iter().map(|check| (check.kind.name(), check.port)).collect();
    assert_eq!(said, [("http", Some(9000)), ("mllp", Some(9000))]);
}

#[test]
fn a_service_without_a_port_to_ask_may_be_asked_otherwise() {
    for keys in [
        "check = 'ping'",
        "check = { any = ['ping', { type = 'http', port = 80 }] }",
        "check = { type = 'script', script = 'a.sh', port = 1 }",
    ] {
        load(&text("", keys).replace("ports = [104]", "ports = 'all'"));
        load(&text("", &format!("{keys}\nprotocol = 'udp'")));
    }
    // A script may ask by UDP itself.
    load(&text("", "check = { type = 'script', script = 'a.sh' }\nprotocol = 'udp'"));
}

#[test]
fn the_way_of_clients_is_tried_where_there_is_one() {
    let of = |mode: &str, keys: &str| load(&text("", keys).replace("l4-dr", mode));
    let no = "check.dr_path = false";
    assert!(!of("l4-dr", no).config.vips[0].check.dr_path);
    let nat = of("l4-nat", no);
    assert!(nat.config.vips[0].check.dr_path, "what means nothing has its default");
    let said =
        "`dr_path` means nothing in mode \"l4-nat\" of vip `V`: checks go the way of clients' packets there";
    assert_eq!(warnings(&nat), [(Code::Redundant, said)]);
    let udp =
        of("l4-dr", "protocol = 'udp'\ncheck = { type = 'ping', dr_path = true, syn_repeats = 'count' }");
    let said = [
        (
            Code::Redundant,
            "`dr_path` means nothing with protocol \"udp\" of vip `V`: the VIP is tried by TCP",
        ),
        (Code::Redundant, "`syn_repeats` means nothing with protocol \"udp\" of vip `V`: there are no SYNs"),
    ];
    assert_eq!(warnings(&udp), said);
    assert_eq!(udp.config.vips[0].check.syn_repeats, SynRepeats::Show);
}

#[test]
fn a_vip_that_tracks_one_out_of_service_is_told() {
    let other = "[vip.W]\nmode = 'l4-dr'\nip = '10.0.0.101'\nports = [1]\nenabled = false\nservers = { B = '10.0.0.2' }\n";
    let loaded = load(&format!("{}{other}", text("", "check = { type = 'track', vip = 'W' }")));
    let said = "vip `V` tracks vip `W`, which is not enabled: its servers count as down";
    assert_eq!(warnings(&loaded), [(Code::Redundant, said)]);
}

#[test]
fn a_file_that_is_not_there_yet_is_worth_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("lbd.toml");
    let load = |text: &str| {
        let loaded = load_texts(Texts::single(&main, text)).unwrap_or_else(|errors| panic!("{errors}"));
        let said = loaded.warnings.iter().map(|w| (w.code, w.message.clone(), w.help.clone()));
        (said.collect::<Vec<_>>(), loaded.config)
    };
    let script = directory.path().join("scripts/sectra-shs.sh");
    let text = text("", "check = { type = 'script', script = 'sectra-shs.sh' }");
    let (said, config) = load(&text);
    let path = script.display();
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0].0, said[0].1.starts_with(&format!("cannot use {path}: "))), (Code::Unreadable, true));
    assert_eq!(said[0].2, "put the file there, or correct the name; until it can be run, the check fails");
    let CheckKind::Script(check) = &config.vips[0].check.kind else { panic!("no script") };
    assert_eq!((check.name.as_str(), &check.path), ("sectra-shs.sh", &script));

    // The script may be called by another name than the file has: it switches on that.
    fs::create_dir(directory.path().join("scripts")).unwrap();
    let file = directory.path().join("one.sh");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink(&file, &script).unwrap();
    let (said, config) = load(&text);
    assert_eq!(said[0].2, format!("run `chmod 755 {path}`; until it can be run, the check fails"));
    let CheckKind::Script(check) = &config.vips[0].check.kind else { panic!("no script") };
    assert_eq!(check.path, script);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(load(&text).0, []);
}
