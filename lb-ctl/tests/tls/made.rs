//! Certificates for tests: authorities, what they sign, good or bad in a chosen way.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Made {
    pub(crate) fn together(&self) -> String {
        self.certificate.clone() + &self.key
    }
}

impl Authority {
    /// One that signs itself.
    pub(crate) fn root(name: &str) -> Self {
        Self::made(name, None, |_| {})
    }

    /// One that this one signs.
    pub(crate) fn below(&self, name: &str) -> Self {
        Self::made(name, Some(self), |_| {})
    }

    /// One that another signs, or it itself, with something about it changed.
    pub(crate) fn made(
        name: &str,
        above: Option<&Self>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority(name);
        change(&mut params);
        let made = match above {
            Some(above) => CertifiedIssuer::signed_by(params, key(), &above.0),
            None => CertifiedIssuer::self_signed(params, key()),
        };
        Self(made.unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for hosts.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Made {
        self.issue_with(name, hosts, |_| {})
    }

    /// A certificate for hosts, with something about it changed.
    pub(crate) fn issue_with(
        &self,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Made {
        let key = key();
        let mut params = params(name, hosts);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        Made { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// A certificate of nothing but a name and hosts, from 2020 to 2090.
pub(crate) fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params =
        CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2020, 1, 2), rcgen::date_time_ymd(2090, 1, 2));
    params
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// Writes a file, and gives its path.
pub(crate) fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

/// Runs openssl in a directory.
pub(crate) fn openssl(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let run = std::process::Command::new("openssl").args(arguments).current_dir(directory).output();
    let run = run.unwrap_or_else(|error| panic!("openssl, which is needed here (package openssl): {error}"));
    assert!(run.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}
