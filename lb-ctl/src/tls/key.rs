//! Keys: of which kind they are, and whether a private one belongs to a certificate.

use std::fmt;

use rustls::{crypto::ring, pki_types::PrivateKeyDer};
use x509_parser::{
    der_parser::{ber::BerObjectContent, der::DerObject, parse_der},
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// The public half of a private key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicHalf(Half);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Half {
    /// As it stands in a certificate (RFC 5280, 4.1.2.7).
    Bits(Vec<u8>),
    /// RSA: modulus and exponent, without zeros before them.
    Rsa(Vec<u8>, Vec<u8>),
}

impl PublicHalf {
    /// That of a key.
    ///
    /// # Errors
    ///
    /// A few words: what is wrong with the key.
    pub fn of(key: &PrivateKeyDer<'_>) -> Result<Self, String> {
        if let Ok(signing) = ring::sign::any_supported_type(key)
            && let Some(info) = signing.public_key()
            && let Ok((_, info)) = SubjectPublicKeyInfo::from_der(info.as_ref())
        {
            return Ok(Self::of_certificate(&info));
        }
        // Longer keys and rarer curves than lbd itself would sign with, which the proxy does.
        read(key).map(Self).ok_or_else(|| {
            "the private key is broken, or of another kind than RSA, ECDSA and Ed25519".to_owned()
        })
    }

    /// The key that a certificate is about.
    #[must_use]
    pub fn of_certificate(info: &SubjectPublicKeyInfo<'_>) -> Self {
        Self(match info.parsed() {
            Ok(PublicKey::RSA(key)) => {
                Half::Rsa(significant(key.modulus).to_vec(), significant(key.exponent).to_vec())
            }
            Ok(_) | Err(_) => Half::Bits(info.subject_public_key.data.to_vec()),
        })
    }
}

/// Kind of a public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Kind {
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
    /// ECDSA.
    Curve {
        /// Name of the curve, or its number.
        name: String,
        /// Its size.
        bits: usize,
    },
    /// Another, by name or number.
    Other(String),
}

impl Kind {
    /// That of the key that a certificate is about.
    #[must_use]
    pub fn of(info: &SubjectPublicKeyInfo<'_>) -> Self {
        match info.parsed() {
            Ok(PublicKey::RSA(key)) => {
                let modulus = significant(key.modulus);
                let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
                Self::Rsa { bits: modulus.len() * 8 - zeros }
            }
            Ok(PublicKey::EC(point)) => {
                let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
                let number = curve.map_or_else(|| "unnamed".to_owned(), |curve| curve.to_id_string());
                let named = CURVES.iter().find(|(oid, ..)| *oid == number);
                let (name, bits) =
                    named.map_or((number.as_str(), point.key_size()), |(_, name, bits)| (name, *bits));
                Self::Curve { name: name.to_owned(), bits }
            }
            Ok(_) | Err(_) => {
                let number = info.algorithm.algorithm.to_id_string();
                // RFC 8410, 3.
                Self::Other(if number == "1.3.101.112" { "Ed25519".to_owned() } else { number })
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::Curve { name, .. } if name.starts_with("P-") => write!(f, "EC {name}"),
            Self::Curve { name, bits } => write!(f, "EC {name} with {bits} bits"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// RFC 5480, 2.1.1.1.
const CURVES: [(&str, &str, usize); 4] = [
    ("1.3.132.0.33", "P-224", 224),
    ("1.2.840.10045.3.1.7", "P-256", 256),
    ("1.3.132.0.34", "P-384", 384),
    ("1.3.132.0.35", "P-521", 521),
];

fn read(key: &PrivateKeyDer<'_>) -> Option<Half> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => elliptic(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => {
            // RFC 5958, 2: version, algorithm, the key in its own form.
            let (_, outer) = parse_der(key.secret_pkcs8_der()).ok()?;
            let inner = outer.as_sequence().ok()?.get(2)?.as_slice().ok()?;
            rsa(inner).or_else(|| elliptic(inner))
        }
        _ => None,
    }
}

/// RFC 8017, A.1.2: version, modulus, public exponent, and what is secret.
fn rsa(der: &[u8]) -> Option<Half> {
    let (_, key) = parse_der(der).ok()?;
    let parts = key.as_sequence().ok()?;
    let number = |at: usize| Some(significant(integer(parts.get(at)?)?).to_vec());
    Some(Half::Rsa(number(1)?, number(2)?))
}

/// RFC 5915, 3: version, the secret, and the public key under tag 1.
fn elliptic(der: &[u8]) -> Option<Half> {
    let (_, key) = parse_der(der).ok()?;
    let public = key.as_sequence().ok()?.iter().find(|part| part.header.raw_tag() == Some(&[0xa1]))?;
    let (_, bits) = parse_der(public.as_slice().ok()?).ok()?;
    let BerObjectContent::BitString(_, bits) = bits.content else { return None };
    Some(Half::Bits(bits.data.to_vec()))
}

const fn integer<'a>(part: &DerObject<'a>) -> Option<&'a [u8]> {
    let BerObjectContent::Integer(bytes) = part.content else { return None };
    Some(bytes)
}

fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
