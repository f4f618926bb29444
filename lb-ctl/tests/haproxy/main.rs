//! The proxy's configuration, whole files of it, as it is written and as HAProxy takes it.
//!
//! `LB_GOLDEN=write` writes the files anew.

mod deployments;
mod samples;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_ctl::{
    haproxy::{
        render::{Places, Rendered, neutral, render, successor, tables},
        rules::faults,
    },
    model::{
        check::Verify,
        proxied::{Proxies, Service, Takes},
    },
};

/// Runtime directory in the golden files.
const RUNTIME_DIR: &str = "/run/lbd";

#[test]
fn plain_vips_are_written_as_before() {
    golden("plain", &samples::plain());
}

#[test]
fn tls_is_written_as_before() {
    golden("tls", &samples::tls());
}

#[test]
fn http_is_written_as_before() {
    golden("http", &samples::http());
}

#[test]
fn switching_is_written_as_before() {
    golden("switch", &samples::switch());
}

#[test]
fn transparent_vips_are_written_as_before() {
    golden("transparent", &samples::transparent());
}

#[test]
fn what_servers_may_do_is_no_reason_for_a_reload_and_anything_else_is() {
    let places = Places::below(Path::new(RUNTIME_DIR));
    let before = samples::plain();
    let mut other_states = before.clone();
    for service in other_states.vips.iter_mut().flat_map(|desired| desired.servers.values_mut()) {
        *service = Service { takes: Takes::Nothing, weight: 7, ends_sessions: true };
    }
    assert_eq!(neutral(&other_states, &places), neutral(&before, &places));
    assert_ne!(render(&other_states, &places), render(&before, &places));
    for change in [
        |proxies: &mut Proxies| proxies.settings.max_connections = 7,
        |proxies: &mut Proxies| proxies.vips[0].vip.rips[0].port = Some(7),
        |proxies: &mut Proxies| drop(proxies.vips.pop()),
    ] {
        let mut changed = before.clone();
        change(&mut changed);
        assert_ne!(neutral(&changed, &places), neutral(&before, &places));
    }
}

#[test]
fn tables_are_those_of_the_text() {
    let all = [samples::plain(), samples::tls(), samples::http(), samples::switch()];
    for proxies in all {
        let text = render(&proxies, &Places::below(Path::new(RUNTIME_DIR))).text;
        let mut section = "";
        let mut written = Vec::new();
        for line in text.lines() {
            match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                ["listen" | "backend", name, ..] => section = name,
                ["stick-table", ..] => written.push(section.to_owned()),
                _ => {}
            }
        }
        let told: Vec<String> = proxies.vips.iter().flat_map(|desired| tables(&desired.vip)).collect();
        assert_eq!(told, written);
    }
}

#[test]
fn a_process_that_follows_another_waits_where_clients_are_remembered_and_nowhere_else() {
    let places = Places::below(Path::new(RUNTIME_DIR));
    let proxies = samples::plain();
    let text = successor(&proxies, &places, 7).text;
    let more = text.lines().count() - render(&proxies, &places).text.lines().count();
    let remembering = proxies.vips.iter().filter(|desired| !tables(&desired.vip).is_empty()).count();
    assert!(remembering > 0 && remembering < proxies.vips.len(), "of both kinds");
    assert_eq!(more, remembering * 4, "{text}");
    assert_eq!(text.matches("date ge 7").count(), remembering);
}

/// The text is that of the golden file, and HAProxy takes it.
fn golden(name: &str, proxies: &Proxies) {
    let Rendered { text, .. } = render(proxies, &Places::below(Path::new(RUNTIME_DIR)));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/haproxy/{name}.cfg"));
    if std::env::var_os("LB_GOLDEN").is_some_and(|word| word == "write") {
        fs::write(&file, &text).expect("the golden file is written");
    }
    let before = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert_eq!(text, before, "LB_GOLDEN=write cargo test -p lb-ctl --test haproxy writes {name}.cfg anew");
    taken_by_haproxy(proxies);
}

/// `haproxy -c` says that the configuration is valid, without a warning.
fn taken_by_haproxy(proxies: &Proxies) {
    let dir = tempfile::tempdir().expect("a directory");
    let places = Places::below(dir.path());
    write_pems(proxies, &places);
    let texts = [
        render(proxies, &places).text,
        neutral(proxies, &places),
        successor(proxies, &places, 1_778_243_841).text,
    ];
    for text in texts {
        assert_eq!(faults(&text), [], "{text}");
        fs::write(places.config(), &text).expect("the configuration is written");
        let checked = Command::new("haproxy").arg("-c").arg("-f").arg(places.config()).output();
        let checked = checked.expect("haproxy is installed: cargo xtask setup");
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{said}\n{text}");
        assert!(!said.contains("WARNING"), "{said}\n{text}");
    }
}

/// A certificate with its key at every place that the configuration names.
fn write_pems(proxies: &Proxies, places: &Places) {
    let made = rcgen::generate_simple_self_signed(["lb.example".to_owned()]).expect("a certificate");
    let cert = made.cert.pem();
    let with_key = format!("{cert}{}", made.signing_key.serialize_pem());
    let put = |file: PathBuf, pem: &str| {
        fs::create_dir_all(file.parent().expect("a directory")).expect("it is made");
        fs::write(file, pem).expect("the certificate is written");
    };
    fs::create_dir_all(places.dir()).expect("the directory is made");
    for proxy in proxies.vips.iter().filter_map(|desired| desired.vip.proxy.as_ref()) {
        if let Some(tls) = &proxy.tls {
            for named in &tls.certs {
                put(places.cert(&named.name), &with_key);
            }
            if let Some(family) = &tls.client_ca {
                put(places.family(&family.name), &cert);
            }
        }
        if let Some(tls) = &proxy.backend_tls {
            if let Verify::Family(family) = &tls.verify {
                put(places.family(&family.name), &cert);
            }
            if let Some(named) = &tls.client_cert {
                put(places.cert(&named.name), &with_key);
            }
        }
    }
}
