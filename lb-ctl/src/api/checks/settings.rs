//! What a kind of check alone has, in words: names as in TOML.
#![forbid(unsafe_code)]

use crate::model::{
    check::{BodyMatch, CheckKind, DicomCheck, HttpCheck, MllpCheck, Part, TlsClient, Verify},
    checks::Setting,
};

/// Settings of a check, in the order of its documentation.
pub(super) fn of(kind: &CheckKind) -> Vec<Setting> {
    match kind {
        CheckKind::Off | CheckKind::Connect | CheckKind::Ping | CheckKind::Agent => Vec::new(),
        CheckKind::Http(http) => of_http(http),
        CheckKind::DicomEcho(dicom) => of_dicom(dicom),
        CheckKind::Mllp(mllp) => of_mllp(mllp),
        CheckKind::Script(script) => vec![setting("script", script.path.display())],
        CheckKind::Track { vip } => vec![setting("vip", vip)],
        CheckKind::All(parts) | CheckKind::Any(parts) => parts.iter().enumerate().flat_map(of_part).collect(),
    }
}

fn of_http(http: &HttpCheck) -> Vec<Setting> {
    let status: Vec<String> = http
        .status
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        })
        .collect();
    let mut settings = vec![setting("method", &http.method), setting("path", &http.path)];
    settings.extend(http.host.as_ref().map(|host| setting("host", host)));
    settings.push(setting("status", status.join(", ")));
    settings.extend(http.body.as_ref().map(|body| match body {
        BodyMatch::Equals(text) => setting("body equals", text),
        BodyMatch::Contains(text) => setting("body contains", text),
        BodyMatch::Regex(regex) => setting("body regex", regex),
    }));
    settings.extend(http.tls.as_ref().map(of_tls).unwrap_or_default());
    settings
}

fn of_dicom(dicom: &DicomCheck) -> Vec<Setting> {
    let mut settings =
        vec![setting("calling_aet", &dicom.calling_aet), setting("called_aet", &dicom.called_aet)];
    settings.extend(dicom.find.map(|model| setting("find", model.name())));
    settings.extend(dicom.accept_reject.then(|| setting("accept_reject", true)));
    settings.extend(dicom.tls.as_ref().map(of_tls).unwrap_or_default());
    settings
}

fn of_mllp(mllp: &MllpCheck) -> Vec<Setting> {
    // A message has the names of patients, even if only of ones made up: it is in the configuration, not here.
    let Some(message) = &mllp.message else {
        return vec![setting("message", "none: the connection alone is tried")];
    };
    let accept = if mllp.accept.is_empty() { "AA".to_owned() } else { mllp.accept.join(", ") };
    vec![setting("message", format!("{} bytes", message.len())), setting("accept", accept)]
}

fn of_tls(tls: &TlsClient) -> Vec<Setting> {
    let verify = match &tls.verify {
        Verify::Off => "off".to_owned(),
        Verify::System => "system".to_owned(),
        Verify::Family(family) => family.name.clone(),
    };
    let mut settings = vec![setting("verify", verify)];
    settings.extend(tls.client_cert.as_ref().map(|cert| setting("client_cert", &cert.name)));
    settings.extend(tls.sni.as_ref().map(|sni| setting("sni", sni)));
    settings
}

fn of_part((index, part): (usize, &Part)) -> Vec<Setting> {
    let name = format!("part {}", index + 1);
    let kind = part.kind.name();
    let head = part.port.map_or_else(|| kind.to_owned(), |port| format!("{kind}, port {port}"));
    let own = of(&part.kind).into_iter();
    let own = own.map(|inner| setting(format!("{name} {}", inner.name), inner.value));
    std::iter::once(setting(&name, head)).chain(own).collect()
}

fn setting(name: impl ToString, value: impl ToString) -> Setting {
    Setting { name: name.to_string(), value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_within_parts_say_whose_settings_they_are() {
        let part = |kind, port| Part { kind, port };
        let track = part(CheckKind::Track { vip: "DB".to_owned() }, None);
        let kind = CheckKind::All(vec![
            part(CheckKind::Connect, Some(104)),
            part(CheckKind::Any(vec![track]), None),
        ]);
        let lines: Vec<String> =
            of(&kind).into_iter().map(|Setting { name, value }| format!("{name} = {value}")).collect();
        assert_eq!(
            lines,
            ["part 1 = connect, port 104", "part 2 = any", "part 2 part 1 = track", "part 2 part 1 vip = DB"]
        );
    }
}
