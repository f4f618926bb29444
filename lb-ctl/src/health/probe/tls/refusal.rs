//! Why a handshake failed, or what a server thought of our certificate after one, in a class and a line.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "alerts and errors of the library that need no words of their own are shown as they are"
)]

use std::{fmt, io, time::SystemTime};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::{
    super::{failure, legible},
    certificate::{Facts, day},
    verifier::Witness,
};
use crate::model::{
    check::{TlsClient, Verify},
    health::{Failure, FailureReason},
};

/// Names of a certificate that are shown at most.
const MAX_NAMES: usize = 4;
/// Longest name of another machine's making that is shown.
const MAX_NAME_CHARS: usize = 80;

/// What a failed handshake failed for.
pub(super) fn of_handshake(error: &io::Error, client: &TlsClient, name: &str, witness: &Witness) -> Failure {
    use FailureReason::{Local, TlsHandshake, Unreachable};
    match tls_error(error) {
        Some(Error::InvalidCertificate(why)) => certificate(why, client, name, witness),
        Some(Error::AlertReceived(alert)) => alerted(*alert, client, name, witness),
        // A first byte that begins no record: the server answered a greeting that it took for something else.
        Some(Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        )) => failure(
            TlsHandshake,
            "tls: the server does not speak TLS on this port: correct port, or check without TLS".to_owned(),
        ),
        Some(Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )) => failure(TlsHandshake, too_old()),
        Some(other) => failure(TlsHandshake, format!("tls: handshake failed: {other}")),
        None => match error.raw_os_error() {
            _ if was_ended(error) && witness.was_asked() => ended_after_asking("closed", client, witness),
            _ if was_ended(error) => failure(
                TlsHandshake,
                "tls: connection closed by the server during the handshake: it may not speak TLS on this port"
                    .to_owned(),
            ),
            Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                failure(Unreachable, format!("tls: the server became unreachable: {error}"))
            }
            _ => failure(Local, format!("tls: {error}")),
        },
    }
}

/// What came first after a handshake, when it was no data. A server that refuses our certificate says so in an alert, and closes; when
/// what we sent meanwhile meets a closed socket, its reset may overtake the alert.
pub(super) fn of_first_read(
    outcome: io::Result<()>,
    client: &TlsClient,
    witness: &Witness,
) -> io::Result<()> {
    let failure = match &outcome {
        Err(error) => match tls_error(error) {
            Some(Error::AlertReceived(alert)) => Some(refused(*alert, client, witness)),
            Some(_) => None,
            None => (was_ended(error) && witness.was_asked())
                .then(|| ended_after_asking("reset", client, witness)),
        },
        Ok(()) => witness.was_asked().then(|| ended_after_asking("closed", client, witness)),
    };
    match failure {
        Some(failure) => Err(io::Error::other(Refused(failure))),
        None => outcome,
    }
}

/// The failure that an error of a [`Session`](super::Session) carries.
pub(in crate::health::probe) fn failure_in(error: &io::Error) -> Option<&Failure> {
    error.get_ref()?.downcast_ref::<Refused>().map(|Refused(failure)| failure)
}

/// A failure on its way through code that knows errors of input and output alone.
#[derive(Debug)]
struct Refused(Failure);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Refused {}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn was_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE))
}

fn too_old() -> String {
    "tls: the server takes neither TLS 1.2 nor 1.3: update it, or check without TLS".to_owned()
}

/// A certificate of the server's that does not count.
fn certificate(why: &CertificateError, client: &TlsClient, name: &str, witness: &Witness) -> Failure {
    use FailureReason::{TlsExpired, TlsHandshake, TlsUnknownIssuer, TlsWrongName};
    let shown = witness.shown();
    let subject = shown.map_or("no name", |facts| facts.subject.as_str());
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let text = match shown {
                Some(facts) if facts.not_after < SystemTime::now() => {
                    format!("certificate expired on {} ({subject})", day(facts.not_after))
                }
                _ => format!("a certificate of the server's chain has expired (not its own, {subject})"),
            };
            failure(TlsExpired, format!("tls: {text}: renew it on the server"))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let text = match shown {
                Some(facts) if facts.not_before > SystemTime::now() => {
                    format!("certificate is not valid before {} ({subject})", day(facts.not_before))
                }
                _ => format!("a certificate of the server's chain is not valid yet (not its own, {subject})"),
            };
            failure(TlsExpired, format!("tls: {text}: compare the clocks of server and load balancer"))
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            failure(TlsUnknownIssuer, unknown_issuer(why, shown, client))
        }
        // One that a device signed for itself is marked as an authority's: the library complains of that first.
        CertificateError::Other(_) if shown.is_some_and(|facts| facts.is_self_signed) => {
            failure(TlsUnknownIssuer, unknown_issuer(why, shown, client))
        }
        CertificateError::Other(other) => {
            failure(TlsHandshake, format!("tls: certificate ({subject}) cannot be used: {other}"))
        }
        CertificateError::NotValidForName => failure(TlsWrongName, wrong_name(&[], subject, name)),
        CertificateError::NotValidForNameContext { presented, .. } => {
            failure(TlsWrongName, wrong_name(presented, subject, name))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => failure(
            TlsHandshake,
            format!("tls: certificate ({subject}) is not meant for a server: its extended key usage says so"),
        ),
        other => failure(TlsHandshake, format!("tls: certificate ({subject}) cannot be used: {other}")),
    }
}

fn unknown_issuer(why: &CertificateError, shown: Option<&Facts>, client: &TlsClient) -> String {
    let place = match &client.verify {
        Verify::Family(family) => format!("[pki.ca.{}]", family.name),
        Verify::System | Verify::Off => "the system's authorities".to_owned(),
    };
    match shown {
        Some(facts) if facts.is_self_signed => {
            format!(
                "tls: certificate ({}) is signed by itself, and not in {place}: add it there",
                facts.subject
            )
        }
        Some(Facts { subject, issuer, .. }) if *why == CertificateError::BadSignature => format!(
            "tls: certificate ({subject}) was not signed by the {issuer} that is in {place}, but by another of that name"
        ),
        Some(Facts { subject, issuer, .. }) => format!(
            "tls: certificate ({subject}) is signed by {issuer}, which leads to nobody in {place}: add that authority \
             there, or have the server send the whole chain"
        ),
        None => format!("tls: certificate is signed by nobody in {place}"),
    }
}

fn wrong_name(presented: &[String], subject: &str, name: &str) -> String {
    let mut names: Vec<String> =
        presented.iter().take(MAX_NAMES).map(|one| legible(&plain(one), MAX_NAME_CHARS)).collect();
    if presented.len() > MAX_NAMES {
        names.push(format!("{} more", presented.len() - MAX_NAMES));
    }
    if names.is_empty() {
        return format!(
            "tls: certificate ({subject}) names no host, so it is not for {name}: renew it with a subjectAltName"
        );
    }
    format!(
        "tls: certificate ({subject}) is for {}, not for {name}: correct sni, or renew it",
        names.join(", ")
    )
}

/// The library names what it presents by its type: `DnsName("archive")`, `IpAddress(10.0.0.1)`.
fn plain(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"').to_owned()
}

/// An alert during the handshake.
fn alerted(alert: AlertDescription, client: &TlsClient, name: &str, witness: &Witness) -> Failure {
    use FailureReason::TlsHandshake;
    match alert {
        _ if is_of_certificate(alert) && witness.was_asked() => refused(alert, client, witness),
        // What TLS 1.2 has for a certificate that was wanted and not shown (RFC 5246 7.4.6).
        AlertDescription::HandshakeFailure if witness.was_asked() => refused(alert, client, witness),
        AlertDescription::HandshakeFailure => failure(
            TlsHandshake,
            "tls: the server and lbd have no cipher suite in common: allow one with forward secrecy on the server"
                .to_owned(),
        ),
        AlertDescription::ProtocolVersion => failure(TlsHandshake, too_old()),
        AlertDescription::UnrecognisedName => {
            failure(TlsHandshake, format!("tls: the server does not know the name {name}: correct sni"))
        }
        other => failure(TlsHandshake, format!("tls: the server refused the handshake: {}", in_words(other))),
    }
}

/// Alerts that are about the certificate of whom they are sent to (RFC 8446 6.2).
const fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// The server says that it will not have us.
fn refused(alert: AlertDescription, client: &TlsClient, witness: &Witness) -> Failure {
    let Some(cert) = &client.client_cert else {
        return failure(FailureReason::TlsClientCertificate, wants_certificate());
    };
    let why = in_words(alert);
    failure(
        FailureReason::TlsClientCertificate,
        format!("tls: the server refuses client certificate {}: {why}", ours(&cert.name, witness)),
    )
}

/// The server asked for a certificate, and ended the connection before it said anything.
fn ended_after_asking(how: &str, client: &TlsClient, witness: &Witness) -> Failure {
    let Some(cert) = &client.client_cert else {
        return failure(FailureReason::TlsClientCertificate, wants_certificate());
    };
    failure(
        FailureReason::TlsClientCertificate,
        format!(
            "tls: connection {how} by the server once it had seen client certificate {}: does it know who signed it?",
            ours(&cert.name, witness)
        ),
    )
}

pub(in crate::health::probe) fn wants_certificate() -> String {
    "tls: the server wants a client certificate and got none: set client_cert".to_owned()
}

/// `lb (CN=lb, signed by CN=Hospital CA)`, with a word about the time if that alone would explain a refusal.
fn ours(name: &str, witness: &Witness) -> String {
    let Some(facts) = witness.ours() else {
        return name.to_owned();
    };
    let expired = if facts.not_after < SystemTime::now() {
        format!(", expired on {}", day(facts.not_after))
    } else {
        String::new()
    };
    format!("{name} ({}, signed by {}{expired})", facts.subject, facts.issuer)
}

/// Alerts for people.
fn in_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnknownCA => "it does not know who signed it",
        AlertDescription::CertificateExpired => "it counts as expired",
        AlertDescription::CertificateRevoked => "it counts as revoked",
        AlertDescription::BadCertificate => "it counts as broken, or is signed by nobody it trusts",
        AlertDescription::UnsupportedCertificate => "it is of a kind or for a purpose that is not taken",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::InternalError => "internal error of the server",
        other => return format!("alert {other:?}"),
    };
    words.to_owned()
}
