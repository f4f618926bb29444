//! Certificates as the API shows them, and how they are put in place. What is shown holds no key.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A text that is written to a file and shown nowhere: a private key.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for those who need it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An edit of `[pki]` and of the files that it names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "pki")]
pub enum PkiEdit {
    /// Add a certificate, or put another in its place.
    CertAdd {
        /// Name.
        name: String,
        /// Certificate, chain and key in PEM.
        pem: Secret,
        /// In place of what is there.
        replace: bool,
    },
    /// Remove a certificate that nothing uses, and its file.
    CertDelete {
        /// Name.
        name: String,
    },
    /// Add a member to a family of authorities, which begins with its first one.
    AuthorityAdd {
        /// Family.
        family: String,
        /// Member's label.
        name: String,
        /// Certificates in PEM.
        pem: String,
        /// In place of what is there.
        replace: bool,
    },
    /// Remove a member of a family, or all of it.
    AuthorityDelete {
        /// Family.
        family: String,
        /// Member's label; `None` = the whole family, which nothing may use.
        name: Option<String>,
    },
}

/// Answer to `GET /v1/tls`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PkiStatus {
    /// Certificates with keys, by name.
    pub certs: Vec<CertStatus>,
    /// Families of authorities, by name.
    pub families: Vec<FamilyStatus>,
}

/// A certificate with its chain.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertStatus {
    /// Name in `[pki.cert]`.
    pub name: String,
    /// File.
    pub file: PathBuf,
    /// What uses it: `vip WEB (tls)`, `check of vip WEB`.
    pub users: Vec<String>,
    /// Why it cannot be used, with the cure.
    pub problem: Option<String>,
    /// Its certificate, then the one that signed it, and so on; empty when it cannot be read.
    pub chain: Vec<CertificateFacts>,
    /// What is to be said of it, whatever it is used for.
    pub findings: Vec<Finding>,
}

/// A family of authorities.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FamilyStatus {
    /// Name in `[pki.ca]`.
    pub name: String,
    /// What uses it.
    pub users: Vec<String>,
    /// Members, by label.
    pub members: Vec<MemberStatus>,
    /// What is to be said of them together.
    pub findings: Vec<Finding>,
}

/// A member of a family.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MemberStatus {
    /// Label.
    pub name: String,
    /// File.
    pub file: PathBuf,
    /// Why it cannot be used, with the cure.
    pub problem: Option<String>,
    /// Certificates in it.
    pub certificates: Vec<CertificateFacts>,
}

/// What a certificate says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateFacts {
    /// Whose it is: `CN=pacs.example, O=Clinic`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Serial number, in hexadecimal.
    pub serial: String,
    /// Seconds since the epoch from which on it counts.
    pub not_before_epoch_secs: i64,
    /// Seconds since the epoch after which it does not.
    pub not_after_epoch_secs: i64,
    /// Names and addresses that it is for (RFC 5280, 4.2.1.6).
    pub names: Vec<String>,
    /// Its key: `RSA 2048`.
    pub key: String,
    /// It may sign others.
    pub authority: bool,
    /// What it may be used for (RFC 5280, 4.2.1.12): `serverAuth`, `clientAuth`; `None` = it does not say, which is anything.
    pub usages: Option<Vec<String>>,
    /// SHA-256 of the whole of it, in hexadecimal.
    pub sha256: String,
}

/// Something that was looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// One line, with the cure where there is something to cure.
    pub text: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Well,
    /// Some will stumble over it.
    Advice,
    /// It does not work.
    Fault,
}

impl Finding {
    /// As it should be.
    pub fn well(text: impl Into<String>) -> Self {
        Self { level: Level::Well, text: text.into() }
    }

    /// Some will stumble over it.
    pub fn advice(text: impl Into<String>) -> Self {
        Self { level: Level::Advice, text: text.into() }
    }

    /// It does not work.
    pub fn fault(text: impl Into<String>) -> Self {
        Self { level: Level::Fault, text: text.into() }
    }
}

/// Query of `GET /v1/tls/check`: what clients of a VIP meet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsCheckQuery {
    /// VIP's name.
    pub vip: String,
    /// Name or address that clients are configured with.
    pub name: Option<String>,
}

/// How a certificate that something uses stands with time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Validity {
    /// What it is called: `certificate pacs`, `authority ca of family clinic`.
    pub name: String,
    /// How it stands.
    pub lasts: Lasts,
}

/// Whether a certificate lasts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lasts {
    /// Longer than anybody need know.
    Long,
    /// It ends within this many days; 0 = it has ended.
    Within {
        /// One of [`EXPIRY_STEPS_DAYS`], or 0.
        days: u32,
        /// One line with the cure, the same until the next step.
        text: String,
    },
    /// It cannot be read, which others say.
    Unknown,
}

/// People are told so many days before a certificate ends, and when it has.
pub const EXPIRY_STEPS_DAYS: [u32; 3] = [1, 7, 30];
