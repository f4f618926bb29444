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
    let path = files::read_path(file, scope.directory, "\"secrets/mail\"", report);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, Texts, load_texts};

    fn load(text: &str) -> Loaded {
        load_texts(Texts::single("/etc/lbd/lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// `[alerts]` with these keys, and a family to name.
    fn alerts(keys: &str) -> Alerts {
        load(&format!("[pki]\nca.own.members.root = '/p/root.pem'\n[alerts]\n{keys}\n")).config.alerts
    }

    fn route(keys: &str) -> MailRoute {
        alerts(&format!("from = 'lb@example.org'\n{keys}")).mail.unwrap().route
    }

    fn relay(host: &str, port: u16, tls: RelayTls) -> MailRoute {
        MailRoute::Relay { host: host.to_owned(), port, tls, login: None }
    }

    #[test]
    fn nobody_is_told_unless_said_and_then_soon_and_once_a_day() {
        for text in ["", "[alerts]"] {
            assert_eq!(load(text).config.alerts, Alerts::default());
        }
        let alerts = alerts("syslog = true\ngroup = '500ms'\nrepeat = '0s'");
        let expected = Alerts {
            syslog: true,
            group: Duration::from_millis(500),
            repeat: Duration::ZERO,
            ..Alerts::default()
        };
        assert_eq!(alerts, expected);
    }

    #[test]
    fn mail_goes_to_the_recipients_servers_or_to_a_relay() {
        assert_eq!(route(""), MailRoute::Mx);
        assert_eq!(route("relay = 'mail'"), relay("mail", 25, RelayTls::Starttls));
        assert_eq!(route("relay = 'mail'\ntls = 'off'"), relay("mail", 25, RelayTls::Off));
        assert_eq!(route("relay = 'mail'\ntls = 'tls'"), relay("mail", 465, RelayTls::Tls));
        assert_eq!(route("relay = 'mail:587'\ntls = 'tls'"), relay("mail", 587, RelayTls::Tls));
        assert_eq!(route("relay = '[2001:db8::25]:26'"), relay("2001:db8::25", 26, RelayTls::Starttls));
        assert_eq!(route("relay = '2001:db8::25'"), relay("2001:db8::25", 25, RelayTls::Starttls));
    }

    #[test]
    fn a_password_stands_in_a_file_and_is_not_sent_in_the_clear_unnoticed() {
        let keys = "from = 'lb@example.org'\nto = ['a@example.org']\nrelay = 'mail'\nuser = 'lb'\npassword_file = \
                    'secrets/mail'\n";
        let loaded = load(&format!("[alerts]\n{keys}tls = 'off'\n"));
        let Some(Mail { route: MailRoute::Relay { login: Some(login), .. }, .. }) = loaded.config.alerts.mail
        else {
            panic!("no login")
        };
        assert_eq!(login.user, "lb");
        assert_eq!(login.password_file, std::path::Path::new("/etc/lbd/secrets/mail"));
        let codes: Vec<_> = loaded.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, [Code::Cleartext, Code::Unreadable]);
    }

    #[test]
    fn authorities_count_on_every_way_that_is_encrypted() {
        let keys = "ca = 'own'\nwebhooks = ['https://a.example/x', 'http://b.example']\nfrom = 'lb@example.org'\nto = \
                    ['a@example.org']\n";
        let told = alerts(keys);
        let names = |alerts: &Alerts| alerts.authorities().map(|ca| ca.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&told), ["own", "own"]);
        assert!(told.webhooks[0].ca.is_some() && told.webhooks[1].ca.is_none());
        let clear = alerts(&format!("{keys}relay = 'mail'\ntls = 'off'"));
        assert!(clear.mail.unwrap().ca.is_none());
    }

    #[test]
    fn mail_that_nobody_gets_is_warned_of() {
        let from = "[alerts]\nfrom = 'lb@example.org'\n";
        let said = |text: &str| load(text).warnings.into_iter().map(|w| w.message).collect::<Vec<_>>();
        assert_eq!(said(from), ["nobody gets the mail of `[alerts]`"]);
        let own = "[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [1]\nservers = { A = '10.0.0.1' }\nalert_to = \
                   ['a@example.org']\n";
        let none: [&str; 0] = [];
        assert_eq!(said(&format!("{from}{own}")), none);
        assert_eq!(load(&format!("{from}{own}")).config.vips[0].alert_to, ["a@example.org"]);
    }

    #[test]
    fn certificates_that_nothing_names_are_warned_of() {
        let text = "[pki]\ncert.lb.pem = '/dev/null'\nca.own.members.root = '/dev/null'\n";
        let codes = |text: &str| load(text).warnings.iter().map(|w| w.message.clone()).collect::<Vec<_>>();
        let unread = "cannot use /dev/null: not a regular file";
        assert_eq!(codes(text), ["pki.cert `lb` is not used", unread, "pki.ca `own` is not used", unread]);
    }
}
