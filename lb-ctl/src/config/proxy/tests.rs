//! Defaults, merging and warnings of layer 7: what valid texts mean.

use std::time::Duration;

use crate::{
    config::{Code, Loaded, Texts, load_texts},
    model::{
        config::{Fallback, Persist, SourceAddresses, Vip},
        proxy::{Proxy, ProxySettings, SwitchOn, Unintelligible},
    },
};

fn load(text: &str) -> Loaded {
    load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

const PKI: &str = "[pki]\ncert.web.pem = 'web.pem'\nca.hospital.members = { root = 'root.pem' }\n";
const TLS: &str = "tls = { port = 443, cert = 'web' }";

/// The VIP `V` of a text that has these lines before and in its section.
fn vip(before: &str, mode: &str, keys: &str) -> Vip {
    load(&text(before, mode, keys)).config.vips.remove(0)
}

fn text(before: &str, mode: &str, keys: &str) -> String {
    let servers = if keys.contains("servers") { "" } else { "servers = { A = '10.0.0.1:80' }" };
    format!("{PKI}{before}\n[vip.V]\nmode = '{mode}'\nip = '10.0.0.100'\nports = [80]\n{keys}\n{servers}\n")
}

/// Warnings but those of files that are not there, and of names that nothing uses.
fn warnings(mode: &str, keys: &str) -> Vec<(Code, String)> {
    let loaded = load(&text("", mode, keys));
    let told = loaded.warnings.into_iter().filter(|w| !matches!(w.code, Code::Unreadable | Code::Unused));
    told.map(|warning| (warning.code, warning.help)).collect()
}

fn proxy(vip: &Vip) -> &Proxy {
    vip.proxy.as_deref().unwrap()
}

const fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * 3600)
}

#[test]
fn a_vip_that_says_nothing_is_as_the_model_has_it() {
    let tcp = vip("", "l7-tcp", "");
    assert_eq!(*proxy(&tcp), Proxy::new(&ProxySettings::default()));
    let by_address = Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: hours(1), group: None };
    assert_eq!((&tcp.persist, tcp.fallback), (&by_address, Fallback::Reject));
    let http = vip("", "l7-http", "");
    assert_eq!(*proxy(&http), Proxy::new(&ProxySettings::default()));
    assert_eq!((&http.persist, http.fallback), (&Persist::None, Fallback::Page));
    assert!(vip("", "l4-nat", "").proxy.is_none());
}

#[test]
fn persistence_has_the_guides_times() {
    let persist = |mode: &str, keys: &str| vip("", mode, keys).persist;
    assert_eq!(
        persist("l7-tcp", "scheduler = 'first'\npersist = 'last-successful'"),
        Persist::LastSuccessful { timeout: Some(hours(12)) }
    );
    assert_eq!(
        persist("l7-http", "persist = 'cookie'"),
        Persist::Cookie {
            name: "SERVERID".to_owned(),
            max_idle: Duration::from_secs(1800),
            max_life: hours(12)
        }
    );
    assert_eq!(
        persist("l7-http", "persist = { type = 'url-param', name = 'shardKey' }"),
        Persist::UrlParam {
            name: "shardKey".to_owned(),
            timeout: Duration::from_secs(1800),
            entries: 10_240,
            key_len: 128
        }
    );
    assert_eq!(
        persist("l7-http", "persist = 'source-ip'"),
        Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: hours(1), group: None }
    );
}

#[test]
fn what_remembers_anew_takes_no_time_from_a_profile_that_remembers_otherwise() {
    let profile = "[profile.p]\npersist = { type = 'source-ip', timeout = '5m' }\n";
    let vip = vip(profile, "l7-tcp", "profile = 'p'\nscheduler = 'first'\npersist = 'last-successful'");
    assert_eq!(vip.persist, Persist::LastSuccessful { timeout: Some(hours(12)) });
}

#[test]
fn limits_are_the_vip_s_or_those_of_all_and_bare_numbers_are_milliseconds() {
    let settings = "[proxy]\nconnect_timeout = 2500\nclient_timeout = '2h'\nmax_connections = 9\n";
    let loaded = load(&text(settings, "l7-tcp", "timeouts = { server = '12h', client = 7000 }"));
    let limits = proxy(&loaded.config.vips[0]).timeouts;
    let expected = (Duration::from_millis(2500), Duration::from_secs(7), hours(12));
    assert_eq!((limits.connect, limits.client, limits.server), expected);
    assert_eq!(loaded.config.proxy.timeouts.client, hours(2));
    assert_eq!(
        (loaded.config.proxy.max_connections, proxy(&loaded.config.vips[0]).max_connections),
        (9, None)
    );
}

#[test]
fn tables_are_laid_over_a_profile_s_key_by_key() {
    let profile = "[profile.p]\ntls = { cert = 'web', client_ca = 'hospital' }\nhttp.accept_invalid = true\n\
                   timeouts = { client = '3h' }\nhttps_redirect = 301\n";
    let keys = "profile = 'p'\ntls.port = 8443\nhttp.keep_alive = 'off'\ntimeouts.server = '4h'\nhttps_redirect = 'off'";
    let vip = vip(profile, "l7-http", keys);
    let proxy = proxy(&vip);
    let tls = proxy.tls.as_ref().unwrap();
    assert_eq!((tls.port, tls.certs[0].name.as_str(), tls.client_required), (8443, "web", true));
    assert!(!tls.cleartext, "a port without TLS would be a side door");
    assert!(proxy.http.accept_invalid && proxy.http.keep_alive.name() == "off");
    assert_eq!((proxy.timeouts.client, proxy.timeouts.server), (hours(3), hours(4)));
    assert_eq!(proxy.https_redirect, None);
}

#[test]
fn ports_without_tls_are_served_unless_clients_need_certificates() {
    let cleartext = |more: &str| {
        let keys = format!("tls = {{ port = 443, cert = 'web'{more} }}");
        proxy(&vip("", "l7-http", &keys)).tls.as_ref().unwrap().cleartext
    };
    assert!(cleartext(""));
    assert!(!cleartext(", client_ca = 'hospital'"));
    assert!(!cleartext(", cleartext = false"));
    assert!(cleartext(", client_ca = 'hospital', cleartext = true"));
}

#[test]
fn a_port_that_is_closed_is_free_for_tls_and_for_another_vip() {
    let keys = "tls = { port = 80, cert = 'web', client_ca = 'hospital' }";
    assert_eq!(proxy(&vip("", "l7-http", keys)).tls.as_ref().unwrap().port, 80);
    let other =
        "[vip.W]\nmode = 'l7-http'\nip = '10.0.0.100'\nports = [80]\nservers = { A = '10.0.0.1:81' }\n";
    let keys = "tls = { port = 443, cert = 'web', client_ca = 'hospital' }";
    assert_eq!(load(&text(other, "l7-http", keys)).config.vips.len(), 2);
}

#[test]
fn a_rule_brings_the_servers_of_its_pool_once_after_the_vip_s_own() {
    let pools = "[pool.us]\nservers = { U1 = '10.0.1.1', U2 = '10.0.1.2:105' }\n[pool.de]\nservers = { D1 = '10.0.2.1' }\n";
    let keys = "rip_port = 104\nswitch = [{ called_aet = ['US', 'US2'], pool = 'us' }, { calling_aet = 'MR', pool = 'de' }, \
                { sni = 'a.example', pool = 'us' }]";
    let vip = vip(pools, "l7-tcp", keys);
    let of = |rip: &crate::model::config::Rip| {
        (rip.name.clone(), rip.pool.clone().unwrap_or_default(), rip.port.unwrap_or_default())
    };
    let rips: Vec<_> = vip.rips.iter().map(of).collect();
    let expected = [("A", "", 80), ("U1", "us", 104), ("U2", "us", 105), ("D1", "de", 104)]
        .map(|(name, pool, port)| (name.to_owned(), pool.to_owned(), port));
    assert_eq!(rips, expected);
    let on = &proxy(&vip).switch[0].on;
    assert_eq!(*on, SwitchOn::CalledAet(vec!["US".to_owned(), "US2".to_owned()]));
    // No server of layer 4 is led to by a rule.
    let text = text(pools, "l4-nat", keys);
    assert_eq!(load(&text).config.vips[0].rips.len(), 1);
}

#[test]
fn pools_of_rules_are_used() {
    let pools = "[pool.us]\nservers = { U1 = '10.0.1.1' }\n";
    let keys = "switch = [{ called_aet = 'US', pool = 'us' }]";
    let warnings = load(&text(pools, "l7-tcp", keys)).warnings;
    assert!(warnings.iter().all(|warning| !warning.message.contains("pool")), "{warnings:?}");
}

#[test]
fn certificates_and_families_of_vips_are_used() {
    let unused = |keys: &str| {
        let warnings = load(&text("", "l7-tcp", keys)).warnings.into_iter();
        warnings
            .filter(|warning| warning.code == Code::Unused)
            .map(|warning| warning.message)
            .collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(unused("tls = { port = 443, cert = 'web', client_ca = 'hospital' }"), none);
    assert_eq!(unused("backend_tls = { verify = 'hospital', client_cert = 'web' }"), none);
    assert_eq!(unused(TLS), ["pki.ca `hospital` is not used"]);
}

#[test]
fn the_proxy_has_one_source_and_its_ports_are_the_kernel_s() {
    let source = vip("", "l7-tcp", "source = ['10.0.0.5']").source;
    assert_eq!(source.addresses, SourceAddresses::Pool(vec!["10.0.0.5".parse().unwrap()]));
    let told = warnings("l7-tcp", "source_ports = '20000-29999'");
    assert_eq!(told, [redundant("source_ports")]);
    let vip = vip("", "l7-tcp", "source_ports = '20000-29999'");
    assert_eq!(vip.source, Default::default());
}

fn redundant(key: &str) -> (Code, String) {
    (Code::Redundant, format!("remove `{key}`, or leave it for a mode that has it"))
}

#[test]
fn a_key_of_the_other_layer_is_warned_of_and_left_alone() {
    for keys in ["idle_timeout = '2h'", "return = 'route'", "unattended = 'refuse'"] {
        let key = keys.split(' ').next().unwrap();
        assert_eq!(warnings("l7-tcp", keys), [redundant(key)], "{key}");
        assert_eq!(vip("", "l7-tcp", keys), vip("", "l7-tcp", ""), "{key}");
    }
    for keys in [
        TLS,
        "backend_tls = { verify = 'off' }",
        "timeouts = { client = '2h' }",
        "http = { accept_invalid = true }",
        "https_redirect = 308",
        "headers = [{ delete = 'Server' }]",
        "switch = [{ called_aet = 'US', pool = 'us' }]",
        "unintelligible = 'refuse'",
        "accept_proxy = true",
        "send_proxy = 'v2-ssl'",
        "transparent = true",
        "max_connections = 5",
        "haproxy_extra = ['option tcpka']",
    ] {
        let key = keys.split(' ').next().unwrap();
        let us = "[pool.us]\nservers = { U = '10.0.1.1' }\n";
        let warned: Vec<_> = load(&text(us, "l4-nat", keys)).warnings.into_iter().collect();
        let told = |warning: &&crate::config::Diagnostic| warning.code == Code::Redundant;
        let told: Vec<_> = warned.iter().filter(told).map(|warning| warning.help.clone()).collect();
        assert_eq!(told, [redundant(key).1], "{key}");
        assert_eq!(vip(us, "l4-nat", keys), vip("", "l4-nat", ""), "{key}");
    }
    let told = warnings("l7-tcp", "persist = { type = 'source-ip', group = 'g' }");
    assert_eq!(told, [(Code::Redundant, "remove `group`, or leave it for a VIP of layer 4".to_owned())]);
    let told = warnings("l7-tcp", "check = { type = 'connect', dr_path = false }");
    assert_eq!(told, [(Code::Redundant, "remove `dr_path`, or leave it for a VIP that has it".to_owned())]);
}

#[test]
fn what_is_worth_knowing_is_warned_of() {
    let open = "tls = { port = 443, cert = 'web', client_ca = 'hospital', cleartext = true }";
    let told =
        |mode: &str, keys: &str| warnings(mode, keys).into_iter().map(|(code, _)| code).collect::<Vec<_>>();
    assert_eq!(told("l7-tcp", open), [Code::SideDoor]);
    assert_eq!(told("l7-tcp", &open.replace("true", "false")), []);
    let param = "persist = { type = 'url-param', name = 'k', key_len = 31 }";
    assert_eq!(told("l7-http", param), [Code::ShortKey]);
    assert_eq!(told("l7-http", &param.replace("31", "64")), []);
    assert_eq!(told("l7-tcp", "fallback = 'page'"), [Code::Redundant]);
    assert_eq!(told("l7-tcp", &format!("fallback = 'page'\n{TLS}")), []);
    assert_eq!(told("l7-http", "fallback = 'page'"), []);
    assert_eq!(told("l7-tcp", "check = 'off'"), [Code::CheckOff]);
    assert_eq!(told("l7-tcp", "unintelligible = 'refuse'"), [Code::Redundant]);
    assert_eq!(told("l7-http", &format!("https_redirect = 308\n{TLS}")), []);
    let closed = format!("https_redirect = 308\n{}", TLS.replace(" }", ", cleartext = false }"));
    assert_eq!(told("l7-http", &closed), [Code::Redundant]);
    // What is the mode's default needs no word, and long limits are kept alive.
    assert_eq!(told("l7-tcp", "scheduler = 'source-hash'"), []);
    assert_eq!(told("l7-tcp", "timeouts = { client = '12h', server = '12h' }"), []);
}

#[test]
fn what_means_nothing_without_ae_titles_has_its_default() {
    assert_eq!(
        proxy(&vip("", "l7-tcp", "unintelligible = 'refuse'")).unintelligible,
        Unintelligible::Default
    );
    let pool = "[pool.us]\nservers = { U = '10.0.1.1' }\n";
    let keys = "unintelligible = 'refuse'\nswitch = [{ called_aet = 'US', pool = 'us' }]";
    assert_eq!(proxy(&vip(pool, "l7-tcp", keys)).unintelligible, Unintelligible::Refuse);
}

#[test]
fn raw_lines_may_persist_where_nothing_else_does() {
    let keys = "persist = 'none'\nhaproxy_extra = ['stick-table type string size 10k expire 30m', 'stick on url_param(shardKey)']";
    assert_eq!(proxy(&vip("", "l7-http", keys)).extra.len(), 2);
}

#[test]
fn a_server_of_layer_7_may_be_one_of_layer_4_that_keeps_the_client_s_address() {
    // R05 is about SNAT, and about one port.
    let other = |mode: &str, port: u16| {
        format!(
            "[vip.W]\nmode = '{mode}'\nip = '10.0.0.101'\nports = [{port}]\nservers = {{ A = '10.0.0.1' }}\n"
        )
    };
    for (mode, port) in [("l4-dr", 80), ("l4-nat", 80), ("l4-snat", 81), ("l7-http", 80)] {
        assert_eq!(load(&text(&other(mode, port), "l7-tcp", "")).config.vips.len(), 2, "{mode} {port}");
    }
    let standby = format!("{}enabled = false\n", other("l4-snat", 80));
    assert_eq!(load(&text(&standby, "l7-tcp", "")).config.vips.len(), 2);
}
