//! Handshakes with rustls as the server, over memory: what a real web server does not do, or not at will.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::{advance, pause, resume},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::model::check::{CaFamily, ClientCert};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Whom a server takes.
#[derive(Clone, Copy)]
enum Clients<'a> {
    Anybody,
    /// It asks for a certificate of this authority, and goes on without one.
    MayShow(&'a Ca),
    MustShow(&'a Ca),
}

/// An authority.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key in PEM.
    fn issue(&self, name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.signed_by(&key, &self.0).unwrap().pem() + &key.serialize_pem()
    }

    /// A server's side, with a certificate of this authority.
    fn server(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        clients: Clients<'_>,
    ) -> TlsAcceptor {
        let pem = self.issue("archive.test");
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let verifier = |ca: &Self| {
            let mut roots = RootCertStore::empty();
            roots.add(ca.0.der().clone()).unwrap();
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        };
        let builder = match clients {
            Clients::Anybody => builder.with_no_client_auth(),
            Clients::MayShow(ca) => {
                builder.with_client_cert_verifier(verifier(ca).allow_unauthenticated().build().unwrap())
            }
            Clients::MustShow(ca) => builder.with_client_cert_verifier(verifier(ca).build().unwrap()),
        };
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

fn unverified() -> TlsClient {
    TlsClient { verify: Verify::Off, client_cert: None, sni: None }
}

fn by_family(pem: &Path) -> TlsClient {
    let family = CaFamily { name: "mTLS".to_owned(), pems: vec![pem.to_owned()] };
    TlsClient { verify: Verify::Family(family), ..unverified() }
}

fn showing(pem: &Path) -> TlsClient {
    TlsClient { client_cert: Some(ClientCert { name: "lb".to_owned(), pem: pem.to_owned() }), ..unverified() }
}

/// Shakes hands with a server, says a word to it and reads its answer.
async fn talk(
    store: &Store,
    client: &TlsClient,
    server: impl AsyncFnOnce(DuplexStream),
) -> Result<String, Failure> {
    let (ours, theirs) = duplex(64 * 1024);
    let mut clock = Stopwatch::start(TIMEOUT);
    let asking = async {
        let mut session = store.wrap(ours, client, "archive.test", &mut clock).await?;
        // A server that has gone says why to the one who reads.
        let _gone = session.write_all(b"hello").await;
        let mut answer = String::new();
        match session.read_to_string(&mut answer).await {
            Ok(_) => Ok(answer),
            Err(error) => Err(failure_in(&error).cloned().unwrap_or_else(|| panic!("no failure in {error}"))),
        }
    };
    tokio::join!(asking, server(theirs)).0
}

/// Takes the handshake, and answers if it is to its liking.
async fn answer(acceptor: TlsAcceptor, stream: DuplexStream) {
    if let Ok(mut session) = acceptor.accept(stream).await {
        let mut word = [0; 5];
        session.read_exact(&mut word).await.unwrap();
        session.write_all(b"well").await.unwrap();
        session.shutdown().await.unwrap();
    }
}

async fn talk_to(store: &Store, client: &TlsClient, acceptor: TlsAcceptor) -> Result<String, Failure> {
    talk(store, client, async |stream| answer(acceptor, stream).await).await
}

fn file(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_or_strange_is_named_whenever_the_server_says_so() {
    let (ours, strange) = (Ca::new("Hospital CA"), Ca::new("Strange CA"));
    let dir = tempfile::tempdir().unwrap();
    let right = file(dir.path(), "right.pem", &ours.issue("lb"));
    let wrong = file(dir.path(), "wrong.pem", &strange.issue("lb"));
    for version in [&TLS12, &TLS13] {
        let store = Store::default();
        let ask = |client| {
            let (store, acceptor) = (&store, ours.server(&[version], Clients::MustShow(&ours)));
            async move { talk_to(store, &client, acceptor).await }
        };
        assert_eq!(ask(showing(&right)).await, Ok("well".to_owned()), "{version:?}");
        let failure = ask(unverified()).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::TlsClientCertificate, "{version:?}");
        assert_eq!(failure.text, "tls: the server wants a client certificate and got none: set client_cert");
        let failure = ask(showing(&wrong)).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::TlsClientCertificate, "{version:?}");
        assert_eq!(
            failure.text,
            "tls: the server refuses client certificate lb (CN=lb, signed by CN=Strange CA): it does not know who \
             signed it"
        );
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_and_hangs_up_without_a_word_is_understood() {
    let ca = Ca::new("Hospital CA");
    let dir = tempfile::tempdir().unwrap();
    let pem = file(dir.path(), "lb.pem", &ca.issue("lb"));
    for (client, text) in [
        (unverified(), "tls: the server wants a client certificate and got none: set client_cert"),
        (
            showing(&pem),
            "tls: connection closed by the server once it had seen client certificate lb (CN=lb, signed by \
             CN=Hospital CA): does it know who signed it?",
        ),
    ] {
        let acceptor = ca.server(&[&TLS13], Clients::MayShow(&ca));
        let hang_up = async |stream: DuplexStream| {
            acceptor.accept(stream).await.unwrap().shutdown().await.unwrap();
        };
        let failure = talk(&Store::default(), &client, hang_up).await.unwrap_err();
        assert_eq!((failure.reason, failure.text.as_str()), (FailureReason::TlsClientCertificate, text));
    }
}

#[tokio::test]
async fn what_is_no_tls_at_all_is_told_apart() {
    let outcome = async |said: &'static [u8]| {
        let say = async |mut stream: DuplexStream| {
            let mut greeting = [0; 64];
            let _ = stream.read(&mut greeting).await;
            let _ = stream.write_all(said).await;
        };
        let failure = talk(&Store::default(), &unverified(), say).await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::TlsHandshake, "{}", failure.text);
        failure.text
    };
    let no_tls = "tls: the server does not speak TLS on this port: correct port, or check without TLS";
    for said in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[7, 0, 0, 0, 0, 4, 0, 0, 2, 1],
    ] {
        assert_eq!(outcome(said).await, no_tls);
    }
    let closed =
        "tls: connection closed by the server during the handshake: it may not speak TLS on this port";
    assert_eq!(outcome(b"").await, closed);
    let alert = &[0x15, 3, 3, 0, 2, 2, 70];
    assert!(outcome(alert).await.contains("neither TLS 1.2 nor 1.3"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_has_until_the_deadline() {
    let say_nothing = async |stream: DuplexStream| {
        tokio::time::sleep(2 * TIMEOUT).await;
        drop(stream);
    };
    let failure = talk(&Store::default(), &unverified(), say_nothing).await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::TlsHandshake);
    assert_eq!(failure.text, "tls: no answer within 20 s");
}

/// Lets files be looked at again.
async fn a_moment_later() {
    pause();
    advance(Duration::from_secs(2)).await;
    resume();
}

#[tokio::test]
async fn a_file_that_was_replaced_is_read_again_and_one_that_is_missing_is_our_own_fault() {
    let (first, second) = (Ca::new("First CA"), Ca::new("Second CA"));
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "ca.pem", &second.0.pem());
    let (store, client) = (Store::default(), by_family(&path));
    let ask = || talk_to(&store, &client, first.server(&[&TLS13], Clients::Anybody));

    let failure = ask().await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::TlsUnknownIssuer, "{}", failure.text);
    assert!(failure.text.contains("CN=First CA, which leads to nobody in [pki.ca.mTLS]"), "{}", failure.text);

    fs::write(dir.path().join("new"), first.0.pem()).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    a_moment_later().await;
    assert_eq!(ask().await, Ok("well".to_owned()));

    for (text, why) in [
        ("", "has no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "cannot be used"),
    ] {
        fs::write(&path, text).unwrap();
        a_moment_later().await;
        let failure = ask().await.unwrap_err();
        assert_eq!(failure.reason, FailureReason::Local, "{}", failure.text);
        assert!(
            failure.text.contains(&path.display().to_string()) && failure.text.contains(why),
            "{}",
            failure.text
        );
    }
    fs::remove_file(&path).unwrap();
    a_moment_later().await;
    let failure = ask().await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::Local);
    assert!(failure.text.ends_with("put it there, or correct [pki.ca.mTLS]"), "{}", failure.text);
    fs::write(&path, first.0.pem()).unwrap();
    a_moment_later().await;
    assert_eq!(ask().await, Ok("well".to_owned()), "it is tried again by itself");
}

#[tokio::test]
async fn a_client_certificate_that_cannot_be_used_is_our_own_fault() {
    let ca = Ca::new("Hospital CA");
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (ca.issue("lb"), ca.issue("lb"));
    let certificate =
        |pem: &str| pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap().to_owned();
    let key = |pem: &str| pem.replace(&certificate(pem), "");
    for (text, why) in [
        (certificate(&one), "has no private key that can be read"),
        (key(&one), "has no certificate in PEM"),
        (certificate(&one) + &key(&other), "cannot be used together"),
    ] {
        let path = file(dir.path(), "lb.pem", &text);
        let outcome =
            talk_to(&Store::default(), &showing(&path), ca.server(&[&TLS13], Clients::Anybody)).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.reason, FailureReason::Local, "{}", failure.text);
        assert!(failure.text.contains(why), "{}", failure.text);
    }
}

#[tokio::test]
async fn a_name_that_is_none_is_our_own_fault() {
    let client = TlsClient { sni: Some("no name".to_owned()), ..unverified() };
    let failure = talk(&Store::default(), &client, async |_stream| {}).await.unwrap_err();
    assert_eq!(failure.reason, FailureReason::Local);
    assert!(failure.text.contains("\"no name\""), "{}", failure.text);
}
