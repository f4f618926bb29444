//! Certificates and keys in PEM (RFC 7468).

use data_encoding::BASE64;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, error::X509Error, prelude::FromDer as _};

use super::{
    key::{Kind, PublicHalf},
    strength::too_weak,
};

/// A certificate with its chain and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate that belongs to the key, then the one that signed it, and so on; last, what is no part of that.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// Reads a certificate with its key, in whichever order they stand.
///
/// # Errors
///
/// What is wrong with the text, and the cure, to follow the file's name.
pub fn identity(text: &[u8]) -> Result<Identity, String> {
    if is_encrypted(text) {
        return Err("has a private key under a passphrase, which nobody is there to type: take it off with `openssl pkey \
                    -in FILE`"
            .to_owned());
    }
    let certificates = certificates(text)?;
    let mut keys = PrivateKeyDer::pem_slice_iter(text);
    let key = match keys.next() {
        None => {
            return Err(
                "has no private key: append the certificate's key in PEM, without a passphrase".to_owned()
            );
        }
        Some(Err(error)) => return Err(format!("has a private key that is broken: {error}: get it anew")),
        Some(Ok(key)) => key,
    };
    if keys.next().is_some() {
        return Err("has more than one private key: leave the one that belongs to the certificate".to_owned());
    }
    let public = PublicHalf::of(&key).map_err(|what| format!("cannot be used: {what}"))?;
    let chain = in_order(certificates, &public)?;
    let weak = |certificate: &CertificateDer<'_>| too_weak(&parse(certificate)?);
    match chain.iter().find_map(weak) {
        Some(why) => Err(why),
        None => Ok(Identity { chain, key }),
    }
}

/// Reads certificates of authorities.
///
/// # Errors
///
/// What is wrong with the text, and the cure, to follow the file's name.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let number = found.len() + 1;
        let certificate =
            certificate.map_err(|error| format!("is broken as PEM: {error}: get the file anew"))?;
        if parse(&certificate).is_none() {
            return Err(format!("cannot be read: certificate {number} in it is broken: get the file anew"));
        }
        found.push(certificate);
    }
    if found.is_empty() {
        return Err("has no certificate in PEM, which begins with `-----BEGIN CERTIFICATE-----`".to_owned());
    }
    Ok(found)
}

/// The parts of a certificate; `None` = it is none.
#[must_use]
pub fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (rest, parsed) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(parsed)
}

/// Certificates in PEM.
#[must_use]
pub fn write(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| block("CERTIFICATE", certificate)).collect()
}

/// A key in PEM.
#[must_use]
pub fn write_key(key: &PrivateKeyDer<'_>) -> String {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        PrivateKeyDer::Pkcs8(_) | _ => "PRIVATE KEY",
    };
    block(label, key.secret_der())
}

/// Begins with the certificate of the key, and goes on with who signed what stands before it.
fn in_order(
    mut certificates: Vec<CertificateDer<'static>>,
    public: &PublicHalf,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let own = certificates.iter().position(|certificate| {
        parse(certificate).is_some_and(|parsed| PublicHalf::of_certificate(parsed.public_key()) == *public)
    });
    let Some(own) = own else {
        return Err(
            "has a key and certificates that do not belong together: put the certificate's own key in \
                    place of this one"
                .to_owned(),
        );
    };
    let mut chain = vec![certificates.remove(own)];
    while let Some(last) = chain.last()
        && let Some(next) = certificates.iter().position(|candidate| has_signed(candidate, last))
    {
        let next = certificates.remove(next);
        chain.push(next);
    }
    chain.append(&mut certificates);
    Ok(chain)
}

fn has_signed(issuer: &CertificateDer<'_>, signed: &CertificateDer<'_>) -> bool {
    parse(issuer).zip(parse(signed)).is_some_and(|(issuer, signed)| signed_by(&signed, &issuer))
}

/// True when the one certificate has signed the other. Where a signature is of a kind that cannot be looked into here, the
/// names decide.
#[must_use]
pub fn signed_by(signed: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    if signed.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    let is_judged = match Kind::of(issuer.public_key()) {
        Kind::Rsa { bits } => bits >= JUDGED_RSA_BITS,
        Kind::Curve { .. } | Kind::Other(_) => true,
    };
    let verified = signed.verify_signature(Some(issuer.public_key()));
    !is_judged || !matches!(verified, Err(X509Error::SignatureVerificationError))
}

/// Shorter moduli are refused by the library, whatever the signature.
const JUDGED_RSA_BITS: usize = 2048;

/// RFC 7468, 11, and the older way of RFC 1421, 4.6.1.1.
fn is_encrypted(text: &[u8]) -> bool {
    let has = |what: &[u8]| text.windows(what.len()).any(|window| window == what);
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn block(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
