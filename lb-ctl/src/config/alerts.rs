//! `[alerts]`: who is told, and how (R82). `alert_to` of a VIP (R14) is read here as well.

use std::time::Duration;

use lettre::Address;

use super::{
    check::Scope,
    diag::{Code, Report},
    file::{Entry, Span, Table, Value},
    files::{self, Purpose},
    hosts::{host_and_port, is_web_address},
    pki,
    read::{self, Times, missing},
    sections::entries,
    service::Draft,
};
use crate::model::alerts::{Alerts, Login, Mail, MailRoute, RelayTls, Webhook};

const KEYS: [&str; 11] =
    ["from", "to", "relay", "tls", "user", "password_file", "ca", "webhooks", "syslog", "group", "repeat"];
const RELAY_KEYS: [&str; 3] = ["tls", "user", "password_file"];
const TLS: [(&str, RelayTls); 3] =
    [("starttls", RelayTls::Starttls), ("tls", RelayTls::Tls), ("off", RelayTls::Off)];
const FROM_EXAMPLE: &str = "\"lb@hospital.example\"";
const TO_EXAMPLE: &str = "[\"pacs@hospital.example\"]";
const RELAY_EXAMPLE: &str = "\"mail.hospital.example:587\"";
/// SMTP (RFC 5321, 4.5.4.2), and submission over TLS (RFC 8314, 3.3).
const SMTP_PORT: u16 = 25;
const SUBMISSIONS_PORT: u16 = 465;

/// Reads the section. What is reported keeps its default, for the configuration is refused anyway.
pub(super) fn read_alerts(vips: &[Draft], scope: Scope<'_>, report: &mut Report<'_>) -> Alerts {
    let mut alerts = Alerts::default();
    const NOTHING: &Table = &Table { entries: Vec::new() };
    let section = scope.sections.alerts.as_ref();
    let table = section.map_or(NOTHING, entries);
    read::check_keys(table, "`[alerts]`", &KEYS, &[], report);
    alerts.mail = read_mail(table, scope, report);
    if let Some(entry) = table.get("webhooks") {
        alerts.webhooks = read_webhooks(entry, report);
    }
    if let Some(entry) = table.get("syslog") {
        alerts.syslog = read::boolean(entry, report).unwrap_or_default();
    }
    let group = Times { range: Duration::ZERO..=Duration::from_secs(600), whole_secs: false, example: "3s" };
    if let Some(entry) = table.get("group") {
        alerts.group = read::duration(entry, &group, report).unwrap_or(alerts.group);
    }
    if let Some(entry) = table.get("repeat") {
        alerts.repeat = read_repeat(entry, report).unwrap_or(alerts.repeat);
    }
    if let Some(entry) = table.get("ca") {
        read_ca(entry, &mut alerts, scope, report);
    }
    recipients(&alerts, section, vips, scope, report);
    alerts
}

/// Mail is sent when anything is said of it.
fn read_mail(table: &Table, scope: Scope<'_>, report: &mut Report<'_>) -> Option<Mail> {
    let to = table.get("to").map(|entry| read_addresses(entry, report)).unwrap_or_default();
    let from = table
        .get("from")
        .and_then(|entry| read_address(read::string(entry, FROM_EXAMPLE, report)?, entry.node.span, report));
    let route = match table.get("relay") {
        Some(relay) => read_relay(relay, table, scope, report),
        None => {
            for Entry { key, .. } in RELAY_KEYS.into_iter().filter_map(|key| table.get(key)) {
                let name = &key.value;
                report.error(
                    Code::MisplacedKey,
                    key.span,
                    format!("`{name}` means nothing without `relay`: mail goes to the recipients' own servers (MX)"),
                    format!("write `relay = {RELAY_EXAMPLE}`, or remove `{name}`"),
                );
            }
            Some(MailRoute::Mx)
        }
    };
    if let Some(Entry { key, .. }) = table.get("to").or_else(|| table.get("relay"))
        && !table.has("from")
    {
        missing("from", "mail of `[alerts]`", key.span, FROM_EXAMPLE, report);
    }
    Some(Mail { from: from?, to, route: route?, ca: None })
}

fn read_relay(relay: &Entry, table: &Table, scope: Scope<'_>, report: &mut Report<'_>) -> Option<MailRoute> {
    let tls = match table.get("tls") {
        Some(entry) => read::word(entry, &TLS, &[], report),
        None => Some(RelayTls::default()),
    };
    let login = read_login(table, tls, scope, report);
    let text = read::string(relay, RELAY_EXAMPLE, report)?;
    let Some((host, port)) = host_and_port(text) else {
        report.error(
            Code::BadMail,
            relay.node.span,
            format!("`relay` is \"{text}\", which is not a machine, nor one with a port"),
            format!("write its name or address, with the port if need be: `relay = {RELAY_EXAMPLE}`"),
        );
        return None;
    };
    let tls = tls?;
    let usual = if tls == RelayTls::Tls { SUBMISSIONS_PORT } else { SMTP_PORT };
    Some(MailRoute::Relay { host: host.to_owned(), port: port.unwrap_or(usual), tls, login: login? })
}

/// `None`: there is one, and it was reported.
fn read_login(
    table: &Table,
    tls: Option<RelayTls>,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Option<Login>> {
    let (user, file) = match (table.get("user"), table.get("password_file")) {
        (None, None) => return Some(None),
        (Some(user), Some(file)) => (user, file),
        (Some(Entry { key, .. }), None) => {
            missing("password_file", "a login with `user`", key.span, "\"secrets/mail\"", report);
            return None;
        }
        (None, Some(Entry { key, .. })) => {
            missing("user", "a login with `password_file`", key.span, "\"lb\"", report);
            return None;
        }
    };
    let path = read::file(file, scope.directory, "\"secrets/mail\"", report);
    if let Some(path) = &path {
        files::advise(path, Purpose::Password, file.node.span, report);
    }
    if tls == Some(RelayTls::Off) {
        report.warning(
            Code::Cleartext,
            user.key.span,
            "user and password go to the relay in the clear",
            "write `tls = \"starttls\"` or `\"tls\"`",
        );
    }
    let name = read::string(user, "\"lb\"", report)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        let message = "`user` is empty or contains control characters";
        report.error(Code::BadMail, user.node.span, message, "write the name that the relay knows");
        return None;
    }
    Some(Some(Login { user: name.to_owned(), password_file: path? }))
}

/// Reads a list of mail addresses.
pub(super) fn read_addresses(entry: &Entry, report: &mut Report<'_>) -> Vec<String> {
    read::list_of(entry, "a recipient", TO_EXAMPLE, report, read_address)
}

fn read_address(text: &str, span: Span, report: &mut Report<'_>) -> Option<String> {
    if let Err(error) = text.parse::<Address>() {
        report.error(
            Code::BadMail,
            span,
            format!("\"{text}\" is not an address of mail: {}", error.to_string().to_lowercase()),
            "write the address alone, such as \"pacs@hospital.example\"",
        );
        return None;
    }
    Some(text.to_owned())
}

fn read_webhooks(entry: &Entry, report: &mut Report<'_>) -> Vec<Webhook> {
    let example = "[\"https://hooks.example/lb\"]";
    read::list_of(entry, "a webhook", example, report, |url, span, report| {
        if !is_web_address(url) {
            report.error(
                Code::BadUrl,
                span,
                format!("\"{url}\" is not an address that can be posted to"),
                "write `http://` or `https://`, a name or address and a path: \"https://hooks.example/lb\"",
            );
            return None;
        }
        Some(Webhook { url: url.to_owned(), ca: None })
    })
}

/// `"24h"`; `"off"` and `"0s"` are never.
fn read_repeat(entry: &Entry, report: &mut Report<'_>) -> Option<Duration> {
    if matches!(&entry.node.value, Value::String(word) if word == "off") {
        return Some(Duration::ZERO);
    }
    let range = Duration::ZERO..=Duration::from_secs(30 * 24 * 3600);
    let time = read::duration(entry, &Times { range, whole_secs: true, example: "24h" }, report)?;
    let least = Duration::from_secs(60);
    if !time.is_zero() && time < least {
        report.error(
            Code::OutOfRange,
            entry.node.span,
            format!("`repeat` is {}, which would be a flood", humantime::format_duration(time)),
            "write at least \"1m\", or \"off\" to be told once",
        );
        return None;
    }
    Some(time)
}

/// Gives the authorities to every way that goes over TLS.
fn read_ca(entry: &Entry, alerts: &mut Alerts, scope: Scope<'_>, report: &mut Report<'_>) {
    let Some(family) = pki::family(entry, scope.sections, scope.pki, report) else { return };
    let mut of_use = false;
    if let Some(mail) = &mut alerts.mail
        && !matches!(mail.route, MailRoute::Relay { tls: RelayTls::Off, .. })
    {
        mail.ca = Some(family.clone());
        of_use = true;
    }
    for webhook in alerts.webhooks.iter_mut().filter(|webhook| webhook.url.starts_with("https:")) {
        webhook.ca = Some(family.clone());
        of_use = true;
    }
    // A way that was reported would have taken it.
    let meant = |key| scope.sections.alerts.as_ref().is_some_and(|section| entries(section).has(key));
    let reported = alerts.mail.is_none() && meant("from") || alerts.webhooks.is_empty() && meant("webhooks");
    if !of_use && !reported {
        report.error(
            Code::MisplacedKey,
            entry.key.span,
            "`ca` means nothing here: nothing is sent over TLS",
            "write where to send to, or remove `ca`",
        );
    }
}

/// Mail needs somebody who gets it, and a VIP's own recipients need mail.
fn recipients(
    alerts: &Alerts,
    section: Option<&Entry>,
    vips: &[Draft],
    scope: Scope<'_>,
    report: &mut Report<'_>,
) {
    let own = || vips.iter().filter_map(|vip| vip.alert_to.as_ref()).filter(|to| !to.value.is_empty());
    match (&alerts.mail, section) {
        (Some(mail), Some(section)) => {
            if mail.to.is_empty() && own().next().is_none() {
                report.warning(
                    Code::Redundant,
                    section.key.span,
                    "nobody gets the mail of `[alerts]`",
                    format!("write `to = {TO_EXAMPLE}` there, or `alert_to` in a VIP"),
                );
            }
        }
        // A file that cannot be read may say how mail is sent, and a fault in the section was reported.
        _ if scope.sections.incomplete || section.is_some_and(|section| entries(section).has("from")) => {}
        _ => {
            for to in own() {
                report.error(
                    Code::MissingKey,
                    to.span,
                    "`alert_to` names who gets mail, but `[alerts]` does not say from whom it is",
                    format!("add `from = {FROM_EXAMPLE}` to `[alerts]`, or remove `alert_to`"),
                );
            }
        }
    }
}
