//! Client of the daemon's API. One connection per request, one deadline over the whole of it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderMap, SERVER},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::model::{
    command::{Command, Outcome, Refusal},
    history::{Version, VersionHead},
    status::{ConfigText, CountBy, FlowCount, FlowList, FlowQuery, Status},
};

/// Where the daemon listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/lbd/lbd.sock";

/// Largest answer that is read, in bytes: some 200 000 flows.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Version that this client speaks: its own.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Asks one daemon. Holds no connection. Each request gives the answer, or the [`ClientError`] that says what is in
/// its way and what to do about it.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
}

impl Client {
    /// A client of the daemon that listens on `socket`; no request takes longer than `deadline`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, deadline: Duration) -> Self {
        Self { socket: socket.into(), deadline }
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// `POST /v1/command`. The deadline ends the waiting, not the command: the daemon finishes what it began.
    pub async fn command(&self, command: &Command) -> Result<Outcome, ClientError> {
        let call = "POST /v1/command";
        let body = serde_json::to_vec(command)
            .map_err(|error| ClientError::Encode { call: call.to_owned(), error })?;
        self.ask(Method::POST, "/v1/command", body).await
    }

    /// `GET /v1/flows`.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowList, ClientError> {
        self.get(&flows_path(query)).await
    }

    /// `GET /v1/flows/count`.
    pub async fn flow_counts(&self, by: CountBy) -> Result<Vec<FlowCount>, ClientError> {
        self.get(count_path(by)).await
    }

    /// `GET /v1/config`.
    pub async fn config(&self) -> Result<ConfigText, ClientError> {
        self.get("/v1/config").await
    }

    /// `GET /v1/config/diff`.
    pub async fn config_diff(&self) -> Result<Outcome, ClientError> {
        self.get("/v1/config/diff").await
    }

    /// `GET /v1/config/history`.
    pub async fn config_history(&self) -> Result<Vec<VersionHead>, ClientError> {
        self.get("/v1/config/history").await
    }

    /// `GET /v1/config/history/NUMBER`.
    pub async fn config_version(&self, number: u64) -> Result<Version, ClientError> {
        self.get(&format!("/v1/config/history/{number}")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Vec::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let call = format!("{method} {path}");
        match tokio::time::timeout(self.deadline, self.exchange(method, path, body, &call)).await {
            Ok(answer) => read_answer(&call, &answer?),
            Err(_elapsed) => {
                Err(ClientError::Deadline { socket: self.socket.clone(), call, deadline: self.deadline })
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        call: &str,
    ) -> Result<Answer, ClientError> {
        let broken = |error: hyper::Error| ClientError::Broken {
            socket: self.socket.clone(),
            call: call.to_owned(),
            error,
        };
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.socket, error))?;
        let (mut sender, connection) =
            http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(broken)?;
        // The host of a Unix socket means nothing, but HTTP/1.1 demands one (RFC 9112 3.2).
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "lbd")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::BadRequest { call: call.to_owned(), error })?;

        // The connection is driven beside the request, in this task: when the deadline drops one, both go. It
        // ends first when the daemon closes behind its answer, which is then already in the sender's hands.
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let server = server_version(response.headers());
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let body = body.collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => broken(*error),
                Err(_limit) => ClientError::TooLong { call: call.to_owned() },
            })?;
            Ok(Answer { status, server, body: body.to_bytes() })
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _closed = connection => answer.await,
        }
    }
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "cannot reach lbd at {}: no such file; is lbd running? start it with `systemctl start lbd`, or name its \
         socket with --socket",
        .socket.display()
    )]
    NoSocket {
        /// Path asked.
        socket: PathBuf,
    },
    /// There is a socket and nobody behind it.
    #[error(
        "cannot reach lbd at {}: connection refused: nobody listens there, so the socket is left over from a daemon \
         that is gone; start it with `systemctl start lbd`",
        .socket.display()
    )]
    Refused {
        /// Path asked.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error("cannot reach lbd at {}: permission denied; run lbctl as root (`sudo lbctl ...`)", .socket.display())]
    PermissionDenied {
        /// Path asked.
        socket: PathBuf,
    },
    /// Any other error of connecting.
    #[error("cannot reach lbd at {}: {error}; name its socket with --socket", .socket.display())]
    Unreachable {
        /// Path asked.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error(
        "lbd at {} broke off in the middle of {call}: {error}; see `systemctl status lbd` and its journal",
        .socket.display()
    )]
    Broken {
        /// Path asked.
        socket: PathBuf,
        /// Method and path.
        call: String,
        /// What HTTP said.
        error: hyper::Error,
    },
    /// No answer before the deadline.
    #[error(
        "lbd at {} did not answer {call} within {}; wait longer with --answer-timeout, or see its journal",
        .socket.display(),
        humantime::format_duration(*.deadline)
    )]
    Deadline {
        /// Path asked.
        socket: PathBuf,
        /// Method and path.
        call: String,
        /// How long it had.
        deadline: Duration,
    },
    /// The daemon said no, and why.
    #[error("{error}")]
    Refusal {
        /// The daemon's words, which name the cure. May have several lines.
        error: String,
    },
    /// The daemon does not know the request, or its answer is not understood.
    #[error(
        "lbd {} answered {call} in a way that lbctl {VERSION} does not understand ({detail}); use the lbctl that was \
         installed with the daemon, or restart the daemon after an upgrade: `systemctl restart lbd`",
        ServerVersion(.server)
    )]
    OtherVersion {
        /// Version of the daemon, if it gave one.
        server: Option<String>,
        /// Method and path.
        call: String,
        /// What was not understood.
        detail: String,
    },
    /// The answer is longer than any answer should be.
    #[error(
        "the answer of lbd to {call} is longer than {} MiB; ask for less, e.g. with --limit",
        MAX_ANSWER_BYTES >> 20
    )]
    TooLong {
        /// Method and path.
        call: String,
    },
    /// The request cannot be written as JSON.
    #[error("cannot encode {call}: {error}; please report this as a fault of lbctl")]
    Encode {
        /// Method and path.
        call: String,
        /// What JSON said.
        error: serde_json::Error,
    },
    /// The request is not HTTP.
    #[error("cannot build {call}: {error}; please report this as a fault of lbctl")]
    BadRequest {
        /// Method and path.
        call: String,
        /// What HTTP said.
        error: hyper::http::Error,
    },
}

/// What came back.
struct Answer {
    status: StatusCode,
    server: Option<String>,
    body: Bytes,
}

struct ServerVersion<'a>(&'a Option<String>);

impl fmt::Display for ServerVersion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("of unknown version"))
    }
}

fn unreachable(socket: &Path, error: io::Error) -> ClientError {
    let socket = socket.to_owned();
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "io::ErrorKind cannot be listed: it is non-exhaustive"
    )]
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket { socket },
        io::ErrorKind::ConnectionRefused => ClientError::Refused { socket },
        io::ErrorKind::PermissionDenied => ClientError::PermissionDenied { socket },
        _ => ClientError::Unreachable { socket, error },
    }
}

fn read_answer<T: DeserializeOwned>(call: &str, answer: &Answer) -> Result<T, ClientError> {
    let not_understood = |detail: String| ClientError::OtherVersion {
        server: answer.server.clone(),
        call: call.to_owned(),
        detail,
    };
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body).map_err(|error| not_understood(error.to_string()));
    }
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(Refusal { error }) => Err(ClientError::Refusal { error }),
        Err(_not_a_refusal) => Err(not_understood(format!("HTTP status {}", answer.status))),
    }
}

/// The version in `server: lbd/VERSION`.
fn server_version(headers: &HeaderMap) -> Option<String> {
    headers.get(SERVER)?.to_str().ok()?.strip_prefix("lbd/").map(str::to_owned)
}

fn flows_path(query: &FlowQuery) -> String {
    let FlowQuery { limit, vip, rip, client } = query;
    let pairs = [
        ("limit", limit.map(|limit| limit.to_string())),
        ("vip", vip.clone()),
        ("rip", rip.clone()),
        ("client", client.map(|client| client.to_string())),
    ];
    let mut path = String::from("/v1/flows");
    for (key, value) in pairs {
        if let Some(value) = value {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(key);
            path.push('=');
            push_encoded(&mut path, &value);
        }
    }
    path
}

const fn count_path(by: CountBy) -> &'static str {
    match by {
        CountBy::Client => "/v1/flows/count?by=client",
        CountBy::Rip => "/v1/flows/count?by=rip",
        CountBy::State => "/v1/flows/count?by=state",
        CountBy::Vip => "/v1/flows/count?by=vip",
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986 2.3.
fn push_encoded(to: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            to.push(char::from(byte));
        } else {
            to.push_str(&format!("%{byte:02X}"));
        }
    }
}
