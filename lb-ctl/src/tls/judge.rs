//! What is to be said of certificates: how long they last, what they may be used for, whether their chain is whole. Pure.

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use super::{
    facts::{CLIENT_AUTH, SERVER_AUTH, facts, may},
    pem::{parse, signed_by},
};
use crate::model::{
    operator::utc,
    tls::{CertificateFacts, EXPIRY_STEPS_DAYS, Finding},
};

/// Seconds of a day.
const DAY_SECS: i64 = 24 * 3600;

/// As what a certificate is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Roles {
    /// To clients, by the VIP.
    pub server: bool,
    /// To servers, which ask who we are.
    pub client: bool,
}

/// Authorities that are known here: those of the system, and of families.
#[derive(Clone, Debug, Default)]
pub struct Known(Vec<CertificateDer<'static>>);

impl Known {
    /// Those of this machine's system, with others. Reads their files.
    #[must_use]
    pub fn with_system(mut others: Vec<CertificateDer<'static>>) -> Self {
        others.extend(rustls_native_certs::load_native_certs().certs);
        Self(others)
    }

    /// The one that has signed a certificate.
    fn issuer_of(&self, signed: &X509Certificate<'_>) -> Option<CertificateFacts> {
        let mut parsed = self.0.iter().filter_map(|certificate| parse(certificate));
        parsed.find(|issuer| signed_by(signed, issuer)).map(|issuer| facts(&issuer))
    }
}

/// Days of the step that has been reached, 0 once the certificate has ended; `None` = it lasts long enough.
#[must_use]
pub fn step_days(not_after_epoch_secs: i64, now_epoch_secs: i64) -> Option<u32> {
    let left_secs = not_after_epoch_secs.saturating_sub(now_epoch_secs);
    if left_secs <= 0 {
        return Some(0);
    }
    EXPIRY_STEPS_DAYS.into_iter().find(|days| left_secs <= i64::from(*days) * DAY_SECS)
}

/// A time of a certificate, for people.
#[must_use]
pub fn date(epoch_secs: i64) -> String {
    u64::try_from(epoch_secs).map_or_else(|_before| "before 1970".to_owned(), utc)
}

/// What is to be said of a certificate with its chain, the certificate first.
#[must_use]
pub fn identity(
    chain: &[CertificateDer<'_>],
    roles: Roles,
    known: &Known,
    now_epoch_secs: i64,
) -> Vec<Finding> {
    let parsed: Vec<X509Certificate<'_>> =
        chain.iter().filter_map(|certificate| parse(certificate)).collect();
    let Some(own) = parsed.first() else { return Vec::new() };
    let linked = 1 + parsed.windows(2).take_while(|pair| matches!(pair, [a, b] if signed_by(a, b))).count();
    let own_facts = facts(own);
    let mut findings = vec![lasting(&own_facts, "it", now_epoch_secs)];
    for upper in parsed.iter().take(linked).skip(1) {
        let upper = facts(upper);
        let lasts = lasting(&upper, &format!("{}, of its chain,", upper.subject), now_epoch_secs);
        if step_days(upper.not_after_epoch_secs, now_epoch_secs).is_some() {
            findings.push(lasts);
        }
    }
    findings.extend(usage(&own_facts, roles));
    findings.extend(parsed.iter().take(linked).next_back().map(|top| completeness(top, linked, known)));
    for stranger in parsed.iter().skip(linked) {
        let subject = facts(stranger).subject;
        findings.push(Finding::advice(format!(
            "{subject} stands in its file and is no part of its chain: take it out"
        )));
    }
    findings
}

/// How long certificates of authorities last.
#[must_use]
pub fn dates(members: &[CertificateDer<'_>], now_epoch_secs: i64) -> Vec<Finding> {
    let says = members.iter().filter_map(|member| parse(member)).map(|member| facts(&member));
    says.map(|says| lasting(&says, &says.subject, now_epoch_secs)).collect()
}

/// How long a certificate lasts; `whose` begins the sentence.
fn lasting(facts: &CertificateFacts, whose: &str, now_epoch_secs: i64) -> Finding {
    let until = date(facts.not_after_epoch_secs);
    if facts.not_before_epoch_secs > now_epoch_secs {
        let from = date(facts.not_before_epoch_secs);
        return Finding::fault(format!("{whose} counts from {from} on, not yet: check this machine's clock"));
    }
    match step_days(facts.not_after_epoch_secs, now_epoch_secs) {
        None => Finding::well(format!("{whose} lasts until {until}")),
        Some(0) => Finding::fault(format!("{whose} has expired, on {until}: put another in its place")),
        Some(days) => Finding::advice(format!(
            "{whose} expires on {until}, within {}: put another in its place",
            days_word(days)
        )),
    }
}

/// `1 day`, `7 days`.
#[must_use]
pub fn days_word(days: u32) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

fn usage(facts: &CertificateFacts, roles: Roles) -> Vec<Finding> {
    let has = facts.usages.as_ref().map(|usages| usages.join(", ")).unwrap_or_default();
    let judged = [
        (roles.server, SERVER_AUTH, "clients", "a server"),
        (roles.client, CLIENT_AUTH, "servers", "a client"),
    ];
    let mut findings = Vec::new();
    for (_, usage, peers, role) in judged.into_iter().filter(|(is_shown, ..)| *is_shown) {
        findings.push(if may(facts, usage) {
            Finding::well(format!("it may prove {role}"))
        } else {
            Finding::fault(format!(
                "it may not prove {role} (its extended key usage is {has}): {peers} refuse it; have it made anew with {usage}"
            ))
        });
    }
    findings
}

/// What is to be said of a certificate that nothing uses yet: what it will not do.
#[must_use]
pub fn limits(own: &CertificateFacts) -> Option<Finding> {
    match (may(own, SERVER_AUTH), may(own, CLIENT_AUTH)) {
        (true, true) => None,
        (true, false) => Some(Finding::advice(format!(
            "it may prove a server alone: shown to servers ({CLIENT_KEYS}), it is refused; for both, have it made with serverAuth \
             and clientAuth"
        ))),
        (false, true) => Some(Finding::advice(
            "it may prove a client alone: shown to clients (tls.cert), it is refused; for both, have it made with serverAuth and \
             clientAuth",
        )),
        (false, false) => Some(Finding::fault(format!(
            "it may prove neither a server nor a client (its extended key usage is {}): have it made anew with serverAuth",
            own.usages.as_ref().map(|usages| usages.join(", ")).unwrap_or_default()
        ))),
    }
}

/// Keys by which servers are shown a certificate.
const CLIENT_KEYS: &str = "backend_tls.client_cert, check.client_cert";

/// Whether those who are shown a chain can follow it; `top` is its last certificate, the `linked`th.
fn completeness(top: &X509Certificate<'_>, linked: usize, known: &Known) -> Finding {
    let (name, issuer) = (facts(top).subject, facts(top).issuer);
    if name == issuer {
        return if linked == 1 {
            Finding::advice("it is signed by itself: everybody who is to believe it must be given it")
        } else {
            Finding::well(format!("its chain is whole, up to {name}"))
        };
    }
    match known.issuer_of(top) {
        Some(root) if root.subject == root.issuer => {
            Finding::well(format!("its chain is whole, up to {issuer}, an authority that is known here"))
        }
        Some(_) => Finding::fault(format!(
            "its chain ends with {name}: append {issuer}, which is known here, and who signed that"
        )),
        None => Finding::advice(format!(
            "its chain ends with {name}, signed by {issuer}, which is not known here: if that is no authority that others know \
             themselves, append its certificate"
        )),
    }
}

/// What is to be said of a family of authorities.
#[must_use]
pub fn family(members: &[CertificateDer<'_>], now_epoch_secs: i64) -> Vec<Finding> {
    let parsed: Vec<X509Certificate<'_>> =
        members.iter().filter_map(|certificate| parse(certificate)).collect();
    let mut findings = Vec::new();
    for member in &parsed {
        let says = facts(member);
        findings.push(lasting(&says, &says.subject, now_epoch_secs));
        let is_own_root = says.subject == says.issuer;
        if !is_own_root && !parsed.iter().any(|other| signed_by(member, other)) {
            // The proxy believes nobody whose line does not end in one who signs himself.
            findings.push(Finding::fault(format!(
                "{} counts for nothing while {}, which signed it, is not in the family: add that one too",
                says.subject, says.issuer
            )));
        }
        if is_own_root && !says.authority {
            findings.push(Finding::advice(format!(
                "{} is no authority: it vouches for itself alone",
                says.subject
            )));
        }
    }
    findings
}
