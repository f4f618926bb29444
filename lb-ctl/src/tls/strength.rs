//! What the proxy's TLS library takes at its usual level of security (OpenSSL, level 2: 112 bits). One certificate below
//! it, of those that are shown, and the proxy refuses its whole configuration.

use x509_parser::certificate::X509Certificate;

use super::key::Kind;

/// Shortest modulus of RSA, in bits.
const MIN_RSA_BITS: usize = 2048;
/// Smallest curve, in bits.
const MIN_CURVE_BITS: usize = 224;

/// Signatures by hashes that can be forged: RSA with MD2, MD4, MD5 and SHA-1 (RFC 8017, A.2.4), ECDSA (RFC 3279, 2.2.3)
/// and DSA (2.2.2) with SHA-1.
const FORGEABLE: [&str; 6] = [
    "1.2.840.113549.1.1.2",
    "1.2.840.113549.1.1.3",
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.2.840.10045.4.1",
    "1.2.840.10040.4.3",
];

/// Why a certificate is too weak to be shown, with the cure, to follow the file's name.
#[must_use]
pub fn too_weak(certificate: &X509Certificate<'_>) -> Option<String> {
    let subject = certificate.subject();
    let kind = Kind::of(certificate.public_key());
    let is_short = match kind {
        Kind::Rsa { bits } => bits < MIN_RSA_BITS,
        Kind::Curve { bits, .. } => bits < MIN_CURVE_BITS,
        Kind::Other(_) => false,
    };
    if is_short {
        return Some(format!(
            "has a certificate, {subject}, whose key ({kind}) is too short to be taken: have it made anew, with RSA 2048 or \
             P-256"
        ));
    }
    // Who signs himself is believed or not, whatever the signature.
    let is_signed_by_other = subject.as_raw() != certificate.issuer().as_raw();
    let algorithm = certificate.signature_algorithm.algorithm.to_id_string();
    (is_signed_by_other && FORGEABLE.contains(&algorithm.as_str())).then(|| {
        format!(
            "has a certificate, {subject}, that is signed with SHA-1 or MD5, which is not taken any more: have it signed anew \
             with SHA-256"
        )
    })
}
