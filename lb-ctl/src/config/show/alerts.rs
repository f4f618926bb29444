//! `[pki]` and `[alerts]` as TOML.

use std::net::Ipv6Addr;

use toml_edit::Key;

use super::{
    Setting,
    text::{list, quoted, time},
};
use crate::model::{
    alerts::{Alerts, MailRoute},
    check::Pki,
};

/// Writes the sections of certificates and families.
pub(super) fn write_pki(text: &mut String, pki: &Pki) {
    for (name, pem) in &pki.certs {
        text.push_str(&format!("\n[pki.cert.{}]\npem = {}\n", Key::new(name), quoted(pem.display())));
    }
    for (name, members) in &pki.families {
        text.push_str(&format!("\n[pki.ca.{}]\n[pki.ca.{0}.members]\n", Key::new(name)));
        for (label, pem) in members {
            text.push_str(&format!("{} = {}\n", Key::new(label), quoted(pem.display())));
        }
    }
}

/// Every file of `[pki]`, by its whole key.
pub(in crate::config) fn pki_keys(pki: &Pki) -> Vec<(String, String)> {
    let certs = pki.certs.iter().map(|(name, pem)| (format!("cert.{name}.pem"), pem));
    let members = pki.families.iter().flat_map(|(name, members)| {
        members.iter().map(move |(label, pem)| (format!("ca.{name}.members.{label}"), pem))
    });
    certs.chain(members).map(|(key, pem)| (key, quoted(pem.display()))).collect()
}

/// Keys of `[alerts]`; what is not set has none. The password's file is named, the password is not.
pub(in crate::config) fn alerts_keys(alerts: &Alerts) -> Vec<Setting> {
    let mut keys = Vec::new();
    if let Some(mail) = &alerts.mail {
        keys.push(Setting::Plain("from", quoted(&mail.from)));
        keys.push(Setting::Plain("to", list(mail.to.iter().map(quoted))));
        if let MailRoute::Relay { host, port, tls, login } = &mail.route {
            let relay = if host.parse::<Ipv6Addr>().is_ok() {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            };
            keys.push(Setting::Plain("relay", quoted(relay)));
            keys.push(Setting::Plain("tls", quoted(tls.name())));
            if let Some(login) = login {
                keys.push(Setting::Plain("user", quoted(&login.user)));
                keys.push(Setting::Plain("password_file", quoted(login.password_file.display())));
            }
        }
    }
    if let Some(family) = alerts.authorities().next() {
        keys.push(Setting::Plain("ca", quoted(&family.name)));
    }
    keys.push(Setting::Plain("webhooks", list(alerts.webhooks.iter().map(|webhook| quoted(&webhook.url)))));
    keys.push(Setting::Plain("syslog", alerts.syslog.to_string()));
    keys.push(Setting::Plain("group", time(alerts.group)));
    let repeat = if alerts.repeat.is_zero() { quoted("off") } else { time(alerts.repeat) };
    keys.push(Setting::Plain("repeat", repeat));
    keys
}
