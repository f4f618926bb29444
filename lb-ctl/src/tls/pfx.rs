//! PFX files (PKCS #12, RFC 7292): what Windows exports a certificate with its key as.

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::der_parser::parse_der;

use super::pem;
use crate::model::tls::Secret;

/// Why a PFX file gives no certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PfxError {
    /// Another password opens it.
    #[error("the password is wrong")]
    Password,
    /// It is not understood, or does not hold what is wanted.
    #[error("{0}")]
    Content(String),
}

/// True for what can only be a PFX file: a sequence that begins with its version, 3 (RFC 7292, 4).
#[must_use]
pub fn is_pfx(bytes: &[u8]) -> bool {
    let Ok((_, outer)) = parse_der(bytes) else { return false };
    let version = outer.as_sequence().ok().and_then(|parts| parts.first()?.as_u32().ok());
    version == Some(3)
}

/// Certificate, chain and key in PEM.
///
/// # Errors
///
/// When the password does not open it, or it has no certificate with its key.
pub fn to_pem(bytes: &[u8], password: &str) -> Result<Secret, PfxError> {
    let archive = Pkcs12Archive::from_pkcs12(bytes, password).map_err(|error| {
        if matches!(error, Error::MacError(_) | Error::UnpadError) {
            return PfxError::Password;
        }
        PfxError::Content(format!(
            "it cannot be read ({error}): export it anew with AES-256 and SHA-256, or turn it into PEM with `openssl pkcs12 -in \
             FILE -nodes`"
        ))
    })?;
    let [key] = archive.keys.as_slice() else {
        return Err(PfxError::Content(match archive.keys.len() {
            0 => "it has no private key: export the certificate with its key".to_owned(),
            several => format!("it has {several} private keys: export the one certificate alone"),
        }));
    };
    let key = PrivatePkcs8KeyDer::from(key.key.as_der()).into();
    let chain: Vec<CertificateDer<'_>> =
        archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der())).collect();
    Ok(Secret::new(pem::write(&chain) + &pem::write_key(&key)))
}
