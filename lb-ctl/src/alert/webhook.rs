//! Webhooks: JSON by HTTP POST.

use std::{error::Error, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    message::plain,
    trust::{Trust, root, tls_fault},
};
use crate::model::check::CaFamily;

/// Time for the whole of it.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer that is looked at.
const MAX_ANSWER_BYTES: usize = 4096;
/// Of it, this much is shown.
const MAX_SHOWN_CHARS: usize = 200;

/// Posts JSON; `name` is what the URL is called by. An answer of 200 to 299 means that it was taken.
///
/// # Errors
///
/// Why it was not, with the cure.
pub(super) async fn post(
    url: &str,
    name: &str,
    ca: Option<&CaFamily>,
    json: String,
) -> Result<String, String> {
    match timeout(DEADLINE, exchange(url, name, ca, json)).await {
        Ok(taken) => taken.map(|status| format!("{name} answered {status}")),
        Err(_elapsed) => {
            Err(format!("{name} did not answer within {} s: check that it is up", DEADLINE.as_secs()))
        }
    }
}

async fn exchange(url: &str, name: &str, ca: Option<&CaFamily>, json: String) -> Result<StatusCode, String> {
    let bad = |why: &str| format!("{name} is no URL to post to ({why}): correct `alerts.webhooks`");
    let uri: Uri = url.parse().map_err(|_| bad("it cannot be read"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(bad("a user before its host is not supported"));
    }
    let host = uri.host().ok_or_else(|| bad("it has no host"))?.trim_matches(['[', ']']).to_owned();
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) | None => return Err(bad("it begins neither with http:// nor with https://")),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| {
        format!("cannot reach {name}: {error}: check `alerts.webhooks` and the way there")
    })?;
    if !secure {
        return talk(stream, &uri, name, json).await;
    }
    let server = ServerName::try_from(host).map_err(|_| bad("its host has no valid name"))?;
    let connector = TlsConnector::from(Trust::by(ca).await?.client().await?);
    let stream = connector.connect(server, stream).await.map_err(|error| {
        format!("{name}: {}", tls_fault(&error).unwrap_or_else(|| format!("tls: {error}")))
    })?;
    talk(stream, &uri, name, json).await
}

async fn talk<S>(stream: S, uri: &Uri, name: &str, json: String) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &(dyn Error + 'static)| format!("{name} broke off: {}", root(error));
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, host)
        .header(USER_AGENT, concat!("lbd/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(json)))
        .map_err(|error| format!("{name} cannot be asked: {error}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // Driven beside the request in this task: when the deadline drops one, both go.
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(status);
        }
        // Half of an explanation is better than none, and none is no fault.
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let said = body.map(|body| body.to_bytes()).unwrap_or_default();
        let said: String = plain(&String::from_utf8_lossy(&said)).chars().take(MAX_SHOWN_CHARS).collect();
        let said = said.trim();
        let colon = if said.is_empty() { "" } else { ": " };
        Err(format!("{name} answered {status}{colon}{said}: check `alerts.webhooks`"))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _closed = connection => answer.await,
    }
}
