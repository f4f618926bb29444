//! TLS as a client: what is verified, what is shown, and what went wrong, classified.
#![forbid(unsafe_code)]

mod certificate;
mod material;
mod refusal;
#[cfg(test)]
mod tests;
mod verifier;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout_at,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use self::{
    material::{Material, Shelf, Wanted},
    verifier::Witness,
};
use super::{Stopwatch, failure, in_words};
use crate::model::{
    check::{TlsClient, Verify},
    health::{Failure, FailureReason},
};

pub(super) use self::refusal::failure_in;

/// A certificate that ends sooner than this is worth a note.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// What certificates and authorities were read as, for as long as their files stay the same.
#[derive(Debug)]
pub(in crate::health) struct Store {
    provider: Arc<CryptoProvider>,
    shelf: Shelf,
}

impl Default for Store {
    fn default() -> Self {
        Self { provider: Arc::new(ring::default_provider()), shelf: Shelf::default() }
    }
}

impl Store {
    /// Shakes hands over a connection: the step `tls` of a check. `name` is the server's, where the check gives none:
    /// a host name without a port, or an address.
    ///
    /// No session is taken up again: every check sees the certificate that the server has now, and shows ours anew.
    pub(super) async fn wrap<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        client: &TlsClient,
        name: &str,
        clock: &mut Stopwatch,
    ) -> Result<Session<S>, Failure> {
        let name = client.sni.as_deref().unwrap_or(name);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_invalid| {
            local(&format!("{name:?} is neither a host name nor an address: correct sni or host"))
        })?;
        let material = self.material(client, clock).await?;
        let witness = Arc::new(Witness::new(material.verifier, material.client));
        let config = self.config(&witness).map_err(|error| local(&error.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        let shaking = async {
            let shaken = connector.connect(server_name, stream).await;
            shaken.map_err(|error| refusal::of_handshake(&error, client, name, &witness))
        };
        let stream = clock.step("tls", FailureReason::TlsHandshake, "", shaking).await?;
        if let Some(note) = note(client, &witness, SystemTime::now()) {
            clock.note(note);
        }
        Ok(Session { stream, client: client.clone(), witness, heard: false })
    }

    async fn material(&self, client: &TlsClient, clock: &Stopwatch) -> Result<Material, Failure> {
        let wanted = Wanted { verify: client.verify.clone(), client_cert: client.client_cert.clone() };
        match timeout_at(clock.deadline(), self.shelf.take(&wanted, &self.provider)).await {
            Ok(outcome) => outcome.map_err(|why| local(&why)),
            Err(_elapsed) => Err(local(&format!(
                "certificates were not read within {}: the disk is slow, or the machine is overloaded",
                in_words(clock.timeout)
            ))),
        }
    }

    fn config(&self, witness: &Arc<Witness>) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Witness>::clone(witness))
            .with_client_cert_resolver(Arc::<Witness>::clone(witness));
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

fn local(why: &str) -> Failure {
    failure(FailureReason::Local, format!("tls: not tried, {why}"))
}

/// What is worth knowing of a certificate that passed.
fn note(client: &TlsClient, witness: &Witness, now: SystemTime) -> Option<String> {
    let facts = witness.shown()?;
    let day = certificate::day(facts.not_after);
    // One that counted when it was verified may end in this moment: it ends soon.
    if facts.not_after < now && client.verify == Verify::Off {
        return Some(format!("tls: certificate expired on {day} ({}); verify is off", facts.subject));
    }
    let is_soon = facts.not_after < now + ENDS_SOON;
    is_soon.then(|| format!("tls: certificate ends on {day} ({}): renew it on the server", facts.subject))
}

/// A connection over TLS. What the server says of our certificate after the handshake (in TLS 1.3 it can do so only
/// then, RFC 8446 4.4.2.4) comes with the first bytes that are read: an error that [`failure_in`] understands.
#[derive(Debug)]
pub(super) struct Session<S> {
    stream: TlsStream<S>,
    client: TlsClient,
    witness: Arc<Witness>,
    /// The server has said something under TLS.
    heard: bool,
}

impl<S> Session<S> {
    /// Whether the server asked for a certificate, and there was none to show.
    pub(super) fn is_without_certificate(&self) -> bool {
        self.witness.was_asked() && self.client.client_cert.is_none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Session<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if self.heard {
            return Poll::Ready(outcome);
        }
        if buffer.filled().len() > before {
            self.heard = true;
            return Poll::Ready(outcome);
        }
        Poll::Ready(refusal::of_first_read(outcome, &self.client, &self.witness))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Session<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
