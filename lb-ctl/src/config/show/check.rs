//! A check as TOML.

use std::ops::RangeInclusive;

use super::{
    Keys,
    text::{list, quoted, table, time},
};
use crate::{
    config::check::tries_path,
    model::{
        check::{BodyMatch, CheckKind, DicomCheck, HttpCheck, MllpCheck, Part, TlsClient, Verify},
        config::{Check, Mode, Protocols},
    },
};

/// Keys of a check; those that mean nothing in this mode or with these protocols are left out.
pub(in crate::config) fn check_keys(check: &Check, mode: Mode, protocols: Protocols) -> Keys {
    let mut keys = kind_keys(&check.kind);
    if check.kind == CheckKind::Off {
        return keys;
    }
    keys.extend(check.port.map(|port| ("port", port.to_string())));
    keys.extend(check.source.map(|source| ("source", quoted(source))));
    keys.push(("interval", time(check.interval)));
    keys.push(("timeout", time(check.timeout)));
    keys.push(("rise", check.rise.to_string()));
    keys.push(("fall", check.fall.to_string()));
    if tries_path(mode, protocols) {
        keys.push(("dr_path", check.dr_path.to_string()));
    }
    if protocols != Protocols::Udp {
        keys.push(("syn_repeats", quoted(check.syn_repeats.name())));
    }
    keys
}

fn kind_keys(kind: &CheckKind) -> Keys {
    let combination = |parts: &[Part]| list(parts.iter().map(part));
    let mut keys = vec![("type", quoted(kind.name()))];
    match kind {
        CheckKind::All(parts) => return vec![("all", combination(parts))],
        CheckKind::Any(parts) => return vec![("any", combination(parts))],
        CheckKind::Http(http) => keys.extend(http_keys(http)),
        CheckKind::DicomEcho(dicom) => keys.extend(dicom_keys(dicom)),
        CheckKind::Mllp(MllpCheck { message, accept }) => {
            keys.extend(message.as_ref().map(|message| ("message", quoted(message))));
            // Nothing is sent, so nothing is acknowledged.
            let codes = message.as_ref().map(|_sent| list(accept.iter().map(quoted)));
            keys.extend(codes.map(|codes| ("accept", codes)));
        }
        CheckKind::Script(script) => keys.push(("script", quoted(&script.name))),
        CheckKind::Track { vip } => keys.push(("vip", quoted(vip))),
        CheckKind::Off | CheckKind::Connect | CheckKind::Ping | CheckKind::Agent => {}
    }
    keys
}

fn part(part: &Part) -> String {
    let mut keys = kind_keys(&part.kind);
    keys.extend(part.port.map(|port| ("port", port.to_string())));
    table(&keys)
}

fn http_keys(http: &HttpCheck) -> Keys {
    let mut keys = vec![("method", quoted(&http.method)), ("path", quoted(&http.path))];
    keys.extend(http.host.as_ref().map(|host| ("host", quoted(host))));
    keys.push(("status", list(http.status.iter().map(status))));
    keys.extend(http.body.as_ref().map(|body| {
        let (key, text) = match body {
            BodyMatch::Equals(text) => ("equals", text),
            BodyMatch::Contains(text) => ("contains", text),
            BodyMatch::Regex(text) => ("regex", text),
        };
        ("body", table(&[(key, quoted(text))]))
    }));
    keys.push(("max_body_bytes", http.max_body_bytes.to_string()));
    keys.extend(http.tls.iter().flat_map(tls_keys));
    keys
}

fn status(range: &RangeInclusive<u16>) -> String {
    match (range.start(), range.end()) {
        (low, high) if low == high => low.to_string(),
        (low, high) => quoted(format!("{low}-{high}")),
    }
}

fn dicom_keys(dicom: &DicomCheck) -> Keys {
    let mut keys =
        vec![("calling_aet", quoted(&dicom.calling_aet)), ("called_aet", quoted(&dicom.called_aet))];
    keys.push(("tls", dicom.tls.is_some().to_string()));
    keys.extend(dicom.tls.iter().flat_map(tls_keys));
    keys.extend(dicom.find.map(|find| ("find", quoted(find.name()))));
    keys.push(("accept_reject", dicom.accept_reject.to_string()));
    keys
}

fn tls_keys(tls: &TlsClient) -> Keys {
    let verify = match &tls.verify {
        Verify::Off => "off",
        Verify::System => "system",
        Verify::Family(family) => &family.name,
    };
    let mut keys = vec![("verify", quoted(verify))];
    keys.extend(tls.client_cert.as_ref().map(|cert| ("client_cert", quoted(&cert.name))));
    keys.extend(tls.sni.as_ref().map(|sni| ("sni", quoted(sni))));
    keys
}
