//! Certificates for one test: an authority, and whatever it is to sign, good or bad in a chosen way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    /// From 2020 to 2090.
    Now,
    /// Until 2 January 2021.
    Expired,
    /// From 2 January 2090.
    NotYet,
}

impl Authority {
    /// Makes one of this name.
    ///
    /// # Panics
    ///
    /// When the library refuses.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        let mut params = params(common_name, &[], Validity::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, key());
        Self(issuer.unwrap_or_else(|error| panic!("cannot make authority {common_name}: {error}")))
    }

    /// Its certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, in PEM, for hosts by name or address.
    ///
    /// # Panics
    ///
    /// When a host is neither.
    #[must_use]
    pub fn issue(&self, common_name: &str, hosts: &[&str], validity: Validity) -> String {
        self.sign(common_name, params(common_name, hosts, validity))
    }

    /// The same for one that says it is both a server's and a client's: the certificate of a load balancer that has TLS on
    /// either side.
    ///
    /// # Panics
    ///
    /// When a host is neither a name nor an address.
    #[must_use]
    pub fn issue_for_both_sides(&self, common_name: &str, hosts: &[&str]) -> String {
        let mut params = params(common_name, hosts, Validity::Now);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(common_name, params)
    }

    fn sign(&self, common_name: &str, params: CertificateParams) -> String {
        let key = key();
        let certificate = params
            .signed_by(&key, &self.0)
            .unwrap_or_else(|error| panic!("cannot sign for {common_name}: {error}"));
        certificate.pem() + &key.serialize_pem()
    }
}

/// Certificate and key, in PEM, that a device signs for itself, and marks as an authority's: what `openssl req -x509`
/// makes.
///
/// # Panics
///
/// When a host is neither a name nor an address.
#[must_use]
pub fn self_signed(common_name: &str, hosts: &[&str], validity: Validity) -> String {
    let key = key();
    let mut params = params(common_name, hosts, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate =
        params.self_signed(&key).unwrap_or_else(|error| panic!("cannot sign for {common_name}: {error}"));
    certificate.pem() + &key.serialize_pem()
}

/// Writes a file, and gives its path.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn write(dir: &Path, name: &str, pem: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, pem).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    path
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap_or_else(|error| panic!("cannot make a key: {error}"))
}

fn params(common_name: &str, hosts: &[&str], validity: Validity) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params =
        CertificateParams::new(hosts).unwrap_or_else(|error| panic!("no hosts for {common_name}: {error}"));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let (from, until) = match validity {
        Validity::Now => (2020, 2090),
        Validity::Expired => (2020, 2021),
        Validity::NotYet => (2090, 2091),
    };
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 2), date_time_ymd(until, 1, 2));
    params
}
