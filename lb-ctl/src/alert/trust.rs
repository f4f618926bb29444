//! By whose certificates mail servers and webhooks are believed, and why they are not, in words.

use std::{error::Error, io, sync::Arc};

use lettre::transport::smtp::client::{Certificate, CertificateStore, TlsParameters};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::model::check::CaFamily;

/// What a certificate is held against.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// Nothing: the encryption is for those who only listen.
    Anybody,
    /// The system's authorities.
    System,
    /// Those of PEM files.
    Pem(Vec<u8>),
}

impl Trust {
    /// That of a configuration: a family of authorities, or the system's.
    ///
    /// # Errors
    ///
    /// Names the file that cannot be read.
    pub(super) async fn by(ca: Option<&CaFamily>) -> Result<Self, String> {
        let Some(CaFamily { name, pems }) = ca else {
            return Ok(Self::System);
        };
        let mut all = Vec::new();
        for path in pems {
            let pem = tokio::fs::read(path).await.map_err(|error| {
                let path = path.display();
                format!("cannot read {path}: {error}: check `pki.ca.{name}`, which `alerts.ca` names")
            })?;
            all.extend(pem);
            all.push(b'\n');
        }
        Ok(Self::Pem(all))
    }

    /// For lettre, and a server of this name.
    ///
    /// # Errors
    ///
    /// When there is no authority among what was read.
    pub(super) async fn parameters(self, host: &str) -> Result<TlsParameters, String> {
        let builder = TlsParameters::builder(host.to_owned());
        let builder = match self {
            Self::Anybody => builder
                .certificate_store(CertificateStore::None)
                .dangerous_accept_invalid_certs(true)
                .dangerous_accept_invalid_hostnames(true),
            Self::System => builder,
            Self::Pem(pem) => {
                let authorities = Certificate::from_pem(&pem).map_err(|error| no_authority(&error))?;
                builder.certificate_store(CertificateStore::None).add_root_certificate(authorities)
            }
        };
        // The system's authorities are a few hundred files.
        let built = tokio::task::spawn_blocking(move || builder.build()).await;
        let built = built.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        built.map_err(|error| format!("tls: {}: check `alerts.ca`", root(&error)))
    }

    /// For rustls.
    ///
    /// # Errors
    ///
    /// When there is no authority to be found.
    pub(super) async fn client(self) -> Result<Arc<ClientConfig>, String> {
        let built = tokio::task::spawn_blocking(move || self.client_blocking()).await;
        built.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn client_blocking(self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        let certificates = match self {
            Self::Anybody => Vec::new(),
            Self::System => rustls_native_certs::load_native_certs().certs,
            Self::Pem(pem) => CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| no_authority(&error))?,
        };
        // Systems carry authorities that are no longer well-formed; those that are count.
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err("tls: no authority is known here: install the package ca-certificates, or name one \
                        with `alerts.ca`"
                .to_owned());
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("tls: {error}"))?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

fn no_authority(error: &dyn std::fmt::Display) -> String {
    format!("tls: `alerts.ca` holds no PEM certificate that can be read: {error}")
}

/// What went wrong with TLS, if it was TLS, and what to do about it.
pub(super) fn tls_fault(error: &(dyn Error + 'static)) -> Option<String> {
    let fault = chain(error).find_map(|cause| {
        let wrapped = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        cause.downcast_ref().or_else(|| wrapped?.downcast_ref::<rustls::Error>())
    })?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "rustls keeps its errors open")]
    Some(match fault {
        rustls::Error::InvalidCertificate(why) => match why {
            // The second is an authority of the right name with another key: one that was made anew.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "tls: no authority that counts has signed its certificate: name the one that has with `alerts.ca`"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "tls: its certificate has expired: renew it on the server".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "tls: its certificate is for another name: address the server by the name in it".to_owned()
            }
            other => format!("tls: its certificate is not valid: {other}"),
        },
        rustls::Error::InvalidMessage(_) => {
            "tls: it does not speak TLS on this port: check the port and `alerts.tls`".to_owned()
        }
        other => format!("tls: {other}"),
    })
}

/// The innermost cause: the outer ones say that there was one.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}
