//! `[proxy]`, and the keys of a VIP that have meaning on layer 7 alone, as TOML.

use super::{
    Keys, Setting,
    text::{list, quoted, table, time},
};
use crate::model::{
    check::Verify,
    config::Mode,
    proxy::{
        BackendTls, HeaderAction, HeaderOf, HeaderRule, Http, Proxy, ProxySettings, SwitchOn, SwitchRule,
        Termination, Unintelligible,
    },
};

/// Stands for none where a key takes a word.
const OFF: &str = "off";

/// Keys of `[proxy]`.
pub(in crate::config) fn settings_keys(settings: &ProxySettings) -> Vec<Setting> {
    let mut keys = vec![
        Setting::Plain("connect_timeout", time(settings.timeouts.connect)),
        Setting::Plain("client_timeout", time(settings.timeouts.client)),
        Setting::Plain("server_timeout", time(settings.timeouts.server)),
        Setting::Plain("max_connections", settings.max_connections.to_string()),
        Setting::Plain("fallback_listen", quoted(settings.fallback_listen)),
    ];
    if let Some(page) = &settings.fallback_page {
        keys.push(Setting::Plain("fallback_page", quoted(page.display())));
    }
    keys.push(Setting::Plain("table_sync", quoted(settings.table_sync)));
    keys
}

/// Keys of a VIP; what reads HTTP is left out where nothing does.
pub(super) fn proxy_keys(proxy: &Proxy, mode: Mode) -> Vec<Setting> {
    let mut keys = Vec::new();
    keys.extend(proxy.tls.as_ref().map(|tls| Setting::Table("tls", termination_keys(tls))));
    keys.extend(proxy.backend_tls.as_ref().map(|tls| Setting::Table("backend_tls", backend_keys(tls))));
    let timeouts = [
        ("connect", proxy.timeouts.connect),
        ("client", proxy.timeouts.client),
        ("server", proxy.timeouts.server),
    ];
    keys.push(Setting::Table("timeouts", timeouts.map(|(key, limit)| (key, time(limit))).to_vec()));
    if mode == Mode::L7Http {
        keys.push(Setting::Table("http", http_keys(&proxy.http)));
        let redirect = proxy.https_redirect.map_or_else(|| quoted(OFF), |status| status.to_string());
        keys.push(Setting::Plain("https_redirect", redirect));
        keys.push(Setting::Plain("headers", list(proxy.headers.iter().map(header))));
    }
    keys.push(Setting::Plain("switch", list(proxy.switch.iter().map(switch))));
    if proxy.reads_ae_titles() {
        let word = match proxy.unintelligible {
            Unintelligible::Default => "default",
            Unintelligible::Refuse => "refuse",
        };
        keys.push(Setting::Plain("unintelligible", quoted(word)));
    }
    keys.push(Setting::Plain("accept_proxy", proxy.accept_proxy.to_string()));
    let header = proxy.send_proxy.map_or(OFF, |header| header.name());
    keys.push(Setting::Plain("send_proxy", quoted(header)));
    keys.push(Setting::Plain("transparent", proxy.transparent.to_string()));
    keys.extend(proxy.max_connections.map(|most| Setting::Plain("max_connections", most.to_string())));
    keys.push(Setting::Plain("haproxy_extra", list(proxy.extra.iter().map(quoted))));
    keys
}

fn termination_keys(tls: &Termination) -> Keys {
    let mut keys =
        vec![("port", tls.port.to_string()), ("cert", list(tls.certs.iter().map(|cert| quoted(&cert.name))))];
    if let Some(family) = &tls.client_ca {
        keys.push(("client_ca", quoted(&family.name)));
        keys.push(("client_cert", quoted(if tls.client_required { "required" } else { "optional" })));
    }
    keys.push(("security", quoted(tls.security.name())));
    keys.push(("cleartext", tls.cleartext.to_string()));
    keys
}

fn backend_keys(tls: &BackendTls) -> Keys {
    let verify = match &tls.verify {
        Verify::Off => OFF,
        Verify::System => "system",
        Verify::Family(family) => &family.name,
    };
    let mut keys = vec![("verify", quoted(verify))];
    keys.extend(tls.name.as_ref().map(|name| ("name", quoted(name))));
    keys.extend(tls.sni.as_ref().map(|sni| ("sni", quoted(sni))));
    keys.extend(tls.client_cert.as_ref().map(|cert| ("client_cert", quoted(&cert.name))));
    keys
}

fn http_keys(http: &Http) -> Keys {
    vec![
        ("keep_alive", quoted(http.keep_alive.name())),
        ("accept_invalid", http.accept_invalid.to_string()),
        ("request_timeout", http.request_timeout.map_or_else(|| quoted(OFF), time)),
        ("forwarded_for", http.forwarded_for.to_string()),
    ]
}

fn header(rule: &HeaderRule) -> String {
    let name = quoted(&rule.name);
    let mut keys = match &rule.action {
        HeaderAction::Add(value) => vec![("add", name), ("value", quoted(value))],
        HeaderAction::Set(value) => vec![("set", name), ("value", quoted(value))],
        HeaderAction::Delete => vec![("delete", name)],
        HeaderAction::Replace { pattern, with } => {
            vec![("replace", name), ("pattern", quoted(pattern)), ("with", quoted(with))]
        }
    };
    let of = match rule.of {
        HeaderOf::Request => "request",
        HeaderOf::Response => "response",
    };
    keys.push(("of", quoted(of)));
    table(&keys)
}

fn switch(rule: &SwitchRule) -> String {
    let (key, texts) = match &rule.on {
        SwitchOn::CalledAet(titles) => ("called_aet", titles),
        SwitchOn::CallingAet(titles) => ("calling_aet", titles),
        SwitchOn::Host(hosts) => ("host", hosts),
        SwitchOn::PathPrefix(paths) => ("path_prefix", paths),
        SwitchOn::Sni(hosts) => ("sni", hosts),
    };
    table(&[(key, list(texts.iter().map(quoted))), ("pool", quoted(&rule.pool))])
}
