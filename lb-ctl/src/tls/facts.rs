//! What a certificate says, in words.

use std::net::IpAddr;

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{ExtendedKeyUsage, GeneralName},
};

use super::key::Kind;
use crate::model::tls::CertificateFacts;

/// Proves a server (RFC 5280, 4.2.1.12).
pub const SERVER_AUTH: &str = "serverAuth";
/// Proves a client.
pub const CLIENT_AUTH: &str = "clientAuth";
/// Proves anything.
const ANY: &str = "any";

/// All of it that people ask for.
#[must_use]
pub fn facts(certificate: &X509Certificate<'_>) -> CertificateFacts {
    let validity = certificate.validity();
    let constraints = certificate.basic_constraints().ok().flatten();
    CertificateFacts {
        subject: plain(&certificate.subject().to_string()),
        issuer: plain(&certificate.issuer().to_string()),
        serial: hexadecimal(certificate.raw_serial()),
        not_before_epoch_secs: validity.not_before.timestamp(),
        not_after_epoch_secs: validity.not_after.timestamp(),
        names: names(certificate),
        key: Kind::of(certificate.public_key()).to_string(),
        authority: constraints.is_some_and(|constraints| constraints.value.ca),
        usages: certificate.extended_key_usage().ok().flatten().map(|usages| named(usages.value)),
        sha256: sha256(certificate.as_raw()),
    }
}

/// SHA-256, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    // The cipher suite's own hash; one that has none does not exist.
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(bytes));
    hash.map_or_else(String::new, |hash| hexadecimal(hash.as_ref()))
}

/// True when a certificate may be used so: it says so, or says nothing.
#[must_use]
pub fn may(facts: &CertificateFacts, usage: &str) -> bool {
    facts.usages.as_ref().is_none_or(|usages| usages.iter().any(|has| has == usage || has == ANY))
}

/// True when a certificate is for a name or address (RFC 9525, 6.3).
#[must_use]
pub fn covers(facts: &CertificateFacts, wanted: &str) -> bool {
    facts.names.iter().any(|name| is_name_of(name, wanted))
}

fn is_name_of(name: &str, wanted: &str) -> bool {
    if let Ok(address) = wanted.parse::<IpAddr>() {
        return name.parse() == Ok(address);
    }
    // A star stands for one label, the whole first one.
    match (name.strip_prefix("*."), wanted.split_once('.')) {
        (Some(name), Some((first, rest))) => !first.is_empty() && name.eq_ignore_ascii_case(rest),
        (Some(_), None) => false,
        (None, _) => name.eq_ignore_ascii_case(wanted),
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| {
        if let GeneralName::IPAddress(bytes) = name {
            return address(bytes).map(|address| address.to_string());
        }
        if let GeneralName::DNSName(name) = name { Some(plain(name)) } else { None }
    };
    names.value.general_names.iter().filter_map(name).collect()
}

/// Four octets, or sixteen (RFC 5280, 4.2.1.6).
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn named(usages: &ExtendedKeyUsage<'_>) -> Vec<String> {
    let named = [
        (usages.any, ANY),
        (usages.server_auth, SERVER_AUTH),
        (usages.client_auth, CLIENT_AUTH),
        (usages.code_signing, "codeSigning"),
        (usages.email_protection, "emailProtection"),
        (usages.time_stamping, "timeStamping"),
        (usages.ocsp_signing, "OCSPSigning"),
    ];
    let named = named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned());
    named.chain(usages.other.iter().map(|number| number.to_id_string())).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One line without control characters: whoever made the certificate chose what it says.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
