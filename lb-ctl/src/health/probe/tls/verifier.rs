//! Who decides whether a server's certificate counts.
#![forbid(unsafe_code)]

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
    sign::CertifiedKey,
};

use super::certificate::Facts;

/// Takes any certificate. Its key is not asked to prove itself either: nothing is known of whose it is, and old devices
/// have keys that no proof of today is made with.
#[derive(Debug)]
pub(super) struct Unverified(Vec<SignatureScheme>);

impl Unverified {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms.supported_schemes())
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Goes by a family of authorities. A server's own certificate may be a member: devices sign their own, and mark it as
/// an authority's, which a chain may not end in.
#[derive(Debug)]
pub(super) struct Pinned {
    members: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl Pinned {
    pub(super) const fn new(
        members: Vec<CertificateDer<'static>>,
        chains: Arc<WebPkiServerVerifier>,
    ) -> Self {
        Self { members, chains }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.members.contains(end_entity) {
            let chains = &self.chains;
            return chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        if let Some(facts) = Facts::of(end_entity) {
            let unix = |time: SystemTime| {
                UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
            };
            let (not_before, not_after) = (unix(facts.not_before), unix(facts.not_after));
            if now > not_after {
                return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
            }
            if now < not_before {
                return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
            }
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Looks on at one handshake: which certificate the server showed, and whether it asked for ours.
#[derive(Debug)]
pub(super) struct Witness {
    verifier: Arc<dyn ServerCertVerifier>,
    client: Option<Arc<CertifiedKey>>,
    shown: OnceLock<Facts>,
    asked: OnceLock<()>,
}

impl Witness {
    pub(super) const fn new(
        verifier: Arc<dyn ServerCertVerifier>,
        client: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self { verifier, client, shown: OnceLock::new(), asked: OnceLock::new() }
    }

    /// The certificate that the server showed.
    pub(super) fn shown(&self) -> Option<&Facts> {
        self.shown.get()
    }

    /// Whether the server asked for a certificate of ours.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.get().is_some()
    }

    /// The certificate that we have to show.
    pub(super) fn ours(&self) -> Option<Facts> {
        Facts::of(self.client.as_ref()?.cert.first()?)
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(facts) = Facts::of(end_entity) {
            self.shown.get_or_init(|| facts);
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.get_or_init(|| ());
        self.client.clone()
    }

    fn has_certs(&self) -> bool {
        self.client.is_some()
    }
}
