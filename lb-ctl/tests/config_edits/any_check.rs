//! Any check, any pki and any alerts at all, for [`crate::shown`].

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use lb_ctl::model::{
    alerts::{Alerts, Login, Mail, MailRoute, RelayTls, Webhook},
    check::{
        BodyMatch, CaFamily, Check, CheckKind, ClientCert, DicomCheck, FindModel, HttpCheck, MllpCheck, Part,
        Pki, ScriptCheck, SynRepeats, TlsClient, Verify,
    },
    config::{Config, Mode, Ports, Protocols, Vip},
};
use proptest::prelude::*;

/// Any text: what is shown of it must read the same.
const TEXT: &str = "[ -~\u{e4}\n\r\t\"'\\\\]{1,12}";
/// Name of the certificate and the family that [`with_names`] defines.
const CERT: &str = "client";
const FAMILY: &str = "hospital";

fn path(relative: &str) -> PathBuf {
    std::env::current_dir().unwrap().join(relative)
}

pub(crate) fn family() -> CaFamily {
    CaFamily { name: FAMILY.to_owned(), pems: vec![path("a.pem"), "/b.pem".into()] }
}

pub(crate) fn own_cert() -> ClientCert {
    ClientCert { name: CERT.to_owned(), pem: path("c.pem") }
}

/// Certificates and families beside those that checks name.
pub(crate) fn any_pki() -> impl Strategy<Value = Pki> {
    let file = || "[a-z]{1,8}( [a-z]{1,3})?".prop_map(|name| path(&name));
    let certs = prop::collection::btree_map("x[A-Za-z0-9_.-]{0,8}", file(), 0..3);
    let members = prop::collection::btree_map("[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}", file(), 1..4);
    let families = prop::collection::btree_map("x[A-Za-z0-9_.-]{0,8}", members, 0..3);
    (certs, families).prop_map(|(certs, families)| Pki { certs, families })
}

pub(crate) fn any_alerts() -> impl Strategy<Value = Alerts> {
    let login =
        prop::option::of((TEXT.prop_filter("a name", |text| !text.contains(char::is_control)), "[a-z]{1,8}"));
    let tls = prop::sample::select(vec![RelayTls::Off, RelayTls::Starttls, RelayTls::Tls]);
    let host = prop::sample::select(vec!["mail.example", "10.0.0.25", "2001:db8::25"]);
    let route = prop::option::of((host, 1u16.., tls, login));
    let to = prop::sample::subsequence(vec!["a@example.org", "b.c+d@example.org"], 0..=2);
    let mail = prop::option::of((to, route));
    let webhooks = prop::sample::subsequence(
        vec!["https://hooks.example/lb?a=b", "http://10.0.0.9:8080", "https://[2001:db8::9]/x"],
        0..=3,
    );
    let times = (0u64..=600_000, prop::option::of(60u64..=2_592_000));
    (mail, webhooks, any::<bool>(), any::<bool>(), times).prop_map(
        |(mail, webhooks, ca, syslog, (group, repeat))| {
            let ca = ca.then(family);
            let mail = mail.map(|(to, route)| {
                let route = route.map_or(MailRoute::Mx, |(host, port, tls, login)| MailRoute::Relay {
                    host: host.to_owned(),
                    port,
                    tls,
                    login: login.map(|(user, file)| Login { user, password_file: path(&file) }),
                });
                let encrypted = !matches!(route, MailRoute::Relay { tls: RelayTls::Off, .. });
                let to = to.into_iter().map(str::to_owned).collect();
                Mail { from: "lb@example.org".to_owned(), to, route, ca: ca.clone().filter(|_| encrypted) }
            });
            let webhook = |url: &str| Webhook {
                url: url.to_owned(),
                ca: ca.clone().filter(|_| url.starts_with("https:")),
            };
            Alerts {
                mail,
                webhooks: webhooks.into_iter().map(webhook).collect(),
                syslog,
                group: Duration::from_millis(group),
                repeat: repeat.map_or(Duration::ZERO, Duration::from_secs),
            }
        },
    )
}

pub(crate) fn any_check() -> impl Strategy<Value = Check> {
    let counts = (100u64..5000, 1u32..=100, 1u32..=100);
    let rest = (prop::option::of(1u16..), any::<bool>(), any::<bool>(), any::<bool>());
    (any_kind(), counts, rest).prop_map(
        |(kind, (interval, rise, fall), (port, source, dr_path, count_syns))| {
            if kind == CheckKind::Off {
                return Check { kind, ..Check::default() };
            }
            let syn_repeats = if count_syns { SynRepeats::Count } else { SynRepeats::Show };
            let asks_port = !matches!(kind, CheckKind::Ping | CheckKind::Track { .. });
            let takes_source = !matches!(kind, CheckKind::Script(_) | CheckKind::Track { .. });
            Check {
                kind,
                port: port.filter(|_| asks_port),
                // Which one is said where the VIP's family is known.
                source: (source && takes_source).then_some([0, 0, 0, 0].into()),
                interval: Duration::from_millis(interval),
                timeout: Duration::from_millis(interval / 2),
                rise,
                fall,
                dr_path,
                syn_repeats,
            }
        },
    )
}

/// A server's check as it is when laid upon the VIP's: what it does not say it has from there.
fn own_check(vips: &Check, mut own: Check) -> Check {
    if own.kind == CheckKind::Off || vips.kind == CheckKind::Off {
        return own;
    }
    if !matches!(own.kind, CheckKind::Ping | CheckKind::Track { .. }) {
        own.port = own.port.or(vips.port);
    }
    if !matches!(own.kind, CheckKind::Script(_) | CheckKind::Track { .. }) {
        own.source = own.source.or(vips.source);
    }
    match (&mut own.kind, &vips.kind) {
        (CheckKind::Http(own), CheckKind::Http(vips)) => {
            own.host = own.host.take().or_else(|| vips.host.clone());
            own.body = own.body.take().or_else(|| vips.body.clone());
            inherit_tls(own.tls.as_mut(), vips.tls.as_ref());
            if own.body.is_some() && own.method == "HEAD" {
                own.method = "GET".to_owned();
            }
        }
        (CheckKind::Http(own), CheckKind::DicomEcho(vips)) => {
            inherit_tls(own.tls.as_mut(), vips.tls.as_ref());
        }
        (CheckKind::DicomEcho(own), CheckKind::Http(vips)) => {
            inherit_tls(own.tls.as_mut(), vips.tls.as_ref());
        }
        (CheckKind::DicomEcho(own), CheckKind::DicomEcho(vips)) => {
            own.find = own.find.or(vips.find);
            inherit_tls(own.tls.as_mut(), vips.tls.as_ref());
        }
        (CheckKind::Mllp(own), CheckKind::Mllp(vips)) if own.message.is_none() => *own = vips.clone(),
        _ => {}
    }
    own
}

fn inherit_tls(own: Option<&mut TlsClient>, vips: Option<&TlsClient>) {
    if let (Some(own), Some(vips)) = (own, vips) {
        own.client_cert = own.client_cert.take().or_else(|| vips.client_cert.clone());
        own.sni = own.sni.take().or_else(|| vips.sni.clone());
    }
}

fn any_kind() -> impl Strategy<Value = CheckKind> {
    let leaf = prop_oneof![
        2 => Just(CheckKind::Off),
        8 => any_leaf(),
    ];
    let part = || (any_leaf(), prop::option::of(1u16..)).prop_map(part_of);
    let inner = (any::<bool>(), prop::collection::vec(part(), 1..4));
    let inner = inner.prop_map(|(any, parts)| part_of((combined(any, parts), None))).boxed();
    let outer = (any::<bool>(), prop::collection::vec(prop_oneof![part().boxed(), inner], 1..4));
    let outer = outer.prop_map(|(any, parts)| combined(any, parts));
    prop_oneof![10 => leaf, 2 => outer]
}

fn part_of((kind, port): (CheckKind, Option<u16>)) -> Part {
    let asks_port = !matches!(kind, CheckKind::Ping | CheckKind::Track { .. });
    Part { kind, port: port.filter(|_| asks_port) }
}

const fn combined(any: bool, parts: Vec<Part>) -> CheckKind {
    if any { CheckKind::Any(parts) } else { CheckKind::All(parts) }
}

fn any_leaf() -> impl Strategy<Value = CheckKind> {
    let message = (prop::sample::subsequence(vec!["AA", "AE", "CA"], 1..=3), TEXT);
    let mllp = prop::option::of(message).prop_map(|message| {
        CheckKind::Mllp(message.map_or_else(MllpCheck::default, |(accept, text)| MllpCheck {
            message: Some(format!("MSH|^~\\&|{text}")),
            accept: accept.into_iter().map(str::to_owned).collect(),
        }))
    });
    prop_oneof![
        Just(CheckKind::Connect),
        any_http().prop_map(|http| CheckKind::Http(Box::new(http))),
        any_dicom().prop_map(CheckKind::DicomEcho),
        mllp,
        Just(CheckKind::Ping),
        "[a-z][a-z .-]{0,10}".prop_map(|name| {
            let path = path("scripts").join(&name);
            CheckKind::Script(ScriptCheck { name, path })
        }),
        Just(CheckKind::Agent),
        // Which one is said where the VIPs are known.
        Just(CheckKind::Track { vip: String::new() }),
    ]
}

fn any_tls() -> impl Strategy<Value = TlsClient> {
    let verify = prop::sample::select(vec![Verify::Off, Verify::System, Verify::Family(family())]);
    let sni = prop::option::of(prop::sample::select(vec!["pacs.example", "10.0.0.7"]));
    (verify, any::<bool>(), sni).prop_map(|(verify, cert, sni)| TlsClient {
        verify,
        client_cert: cert.then(own_cert),
        sni: sni.map(str::to_owned),
    })
}

fn any_http() -> impl Strategy<Value = HttpCheck> {
    let body = prop::option::of(prop_oneof![
        TEXT.prop_map(BodyMatch::Equals),
        Just(BodyMatch::Equals(String::new())),
        TEXT.prop_map(BodyMatch::Contains),
        "[a-z]{1,4}\\\\d\\+\"?".prop_map(BodyMatch::Regex),
    ]);
    let method = prop::sample::select(vec!["GET", "HEAD", "OPTIONS", "POST"]);
    let host = prop::option::of(prop::sample::select(vec!["pacs.example:8080", "[2001:db8::1]", "p"]));
    let status = prop::collection::vec((200u16..=599, 0u16..=50), 1..4);
    let path = "/[a-zA-Z0-9/?&=%._~-]{0,12}";
    (prop::option::of(any_tls()), method, path, host, status, body, 1u32..=1_048_576).prop_map(
        |(tls, method, path, host, status, body, max_body_bytes)| {
            let range = |(low, more): (u16, u16)| -> RangeInclusive<u16> { low..=(low + more).min(599) };
            HttpCheck {
                tls,
                method: if body.is_some() && method == "HEAD" { "GET" } else { method }.to_owned(),
                path,
                host: host.map(str::to_owned),
                status: status.into_iter().map(range).collect(),
                body,
                max_body_bytes,
            }
        },
    )
}

fn any_dicom() -> impl Strategy<Value = DicomCheck> {
    let titles = ("[!-\\[\\]-~][ -\\[\\]-~]{0,14}[!-\\[\\]-~]", "[A-Z]{1,16}");
    let models = vec![FindModel::Patient, FindModel::Study, FindModel::Worklist];
    let find = prop::option::of(prop::sample::select(models));
    (titles, prop::option::of(any_tls()), find, any::<bool>()).prop_map(
        |((calling_aet, called_aet), tls, find, accept_reject)| DicomCheck {
            calling_aet,
            called_aet,
            tls,
            find,
            accept_reject,
        },
    )
}

/// Makes checks and alerts what they can be in this configuration: every VIP tracks the one after it, the last one none;
/// certificates and families are defined; servers have what they do not say from their VIP.
pub(crate) fn settle(config: &mut Config) {
    config.pki.certs.insert(CERT.to_owned(), path("c.pem"));
    let members = [("1", path("a.pem")), ("2", "/b.pem".into())].map(|(label, pem)| (label.to_owned(), pem));
    config.pki.families.insert(FAMILY.to_owned(), BTreeMap::from(members));
    let names: Vec<_> = config.vips.iter().map(|vip| vip.name.clone()).collect();
    for (number, vip) in config.vips.iter_mut().enumerate() {
        let next = names.get(number + 1);
        name_in(&mut vip.check.kind, next);
        vip.check = fitting(vip.check.clone(), vip);
        for mut rip in std::mem::take(&mut vip.rips) {
            rip.check = rip.check.map(|mut own| {
                name_in(&mut own.kind, next);
                fitting(own_check(&vip.check, own), vip)
            });
            rip.check.take_if(|check| *check == vip.check);
            vip.rips.push(rip);
        }
    }
    if config.alerts.mail.is_none() {
        config.vips.iter_mut().for_each(|vip| vip.alert_to.clear());
    }
}

/// The check as it can stand in the VIP: what means nothing there has its default, and what asks a port has one.
fn fitting(mut check: Check, vip: &Vip) -> Check {
    let default = Check::default();
    if vip.mode != Mode::L4Dr || vip.protocols == Protocols::Udp {
        check.dr_path = default.dr_path;
    }
    if vip.protocols == Protocols::Udp {
        check.syn_repeats = default.syn_repeats;
    }
    check.source = check.source.map(|_any| match vip.ip {
        IpAddr::V4(_) => IpAddr::from([10, 12, 1, 5]),
        IpAddr::V6(_) => "2001:db8::5:1".parse().unwrap(),
    });
    if check.kind.asks_port() && (vip.protocols == Protocols::Udp || vip.ports == Ports::All) {
        check.port = check.port.or(Some(104));
    }
    check
}

fn name_in(kind: &mut CheckKind, next: Option<&String>) {
    match kind {
        CheckKind::Track { vip } => match next {
            Some(next) => vip.clone_from(next),
            None => *kind = CheckKind::Ping,
        },
        CheckKind::All(parts) | CheckKind::Any(parts) => {
            parts.iter_mut().for_each(|part| name_in(&mut part.kind, next));
        }
        CheckKind::Off
        | CheckKind::Connect
        | CheckKind::Http(_)
        | CheckKind::DicomEcho(_)
        | CheckKind::Mllp(_)
        | CheckKind::Ping
        | CheckKind::Script(_)
        | CheckKind::Agent => {}
    }
}
