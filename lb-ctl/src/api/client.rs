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
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::model::{
    alerts::TestedWay,
    checks::{CheckQuery, CheckStatus, HistoryQuery, RunStatus},
    command::{Command, Outcome, Refusal},
    explain::{ExplainQuery, Explanation},
    health::Transition,
    history::{Version, VersionHead},
    status::{ConfigText, CountBy, FlowCount, FlowList, FlowQuery, Status},
    tables::{Clear, EntryList, EntryQuery, Kill, Removed, TableStatus},
    tls::{Finding, PkiStatus, TlsCheckQuery},
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
        self.post("/v1/command", command).await
    }

    /// `GET /v1/flows`.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowList, ClientError> {
        self.get(&flows_path(query)).await
    }

    /// `GET /v1/flows/count`.
    pub async fn flow_counts(&self, by: CountBy) -> Result<Vec<FlowCount>, ClientError> {
        self.get(count_path(by)).await
    }

    /// `POST /v1/flows/kill`.
    pub async fn kill(&self, kill: &Kill) -> Result<Removed, ClientError> {
        self.post("/v1/flows/kill", kill).await
    }

    /// `GET /v1/tables`.
    pub async fn tables(&self) -> Result<Vec<TableStatus>, ClientError> {
        self.get("/v1/tables").await
    }

    /// `GET /v1/tables/entries`.
    pub async fn table_entries(&self, query: &EntryQuery) -> Result<EntryList, ClientError> {
        self.get(&entries_path(query)).await
    }

    /// `POST /v1/tables/clear`.
    pub async fn clear(&self, clear: &Clear) -> Result<Removed, ClientError> {
        self.post("/v1/tables/clear", clear).await
    }

    /// `POST /v1/alerts/test`.
    pub async fn test_alerts(&self) -> Result<Vec<TestedWay>, ClientError> {
        self.post("/v1/alerts/test", &()).await
    }

    /// `GET /v1/checks`.
    pub async fn checks(&self, query: &CheckQuery) -> Result<Vec<CheckStatus>, ClientError> {
        let CheckQuery { vip, rip } = query;
        self.get(&path("/v1/checks", [("vip", text(vip)), ("rip", text(rip))])).await
    }

    /// `GET /v1/checks/history`.
    pub async fn check_history(&self, query: &HistoryQuery) -> Result<Vec<Transition>, ClientError> {
        let HistoryQuery { vip, rip, limit } = query;
        let pairs = [("vip", Some(vip.clone())), ("rip", Some(rip.clone())), ("limit", text(limit))];
        self.get(&path("/v1/checks/history", pairs)).await
    }

    /// `POST /v1/checks/run`. The deadline ends the waiting, not the checks.
    pub async fn run_checks(&self, which: &CheckQuery) -> Result<Vec<RunStatus>, ClientError> {
        self.post("/v1/checks/run", which).await
    }

    /// `GET /v1/explain`.
    pub async fn explain(&self, query: &ExplainQuery) -> Result<Explanation, ClientError> {
        self.get(&explain_path(query)).await
    }

    /// `GET /v1/tls`.
    pub async fn tls(&self) -> Result<PkiStatus, ClientError> {
        self.get("/v1/tls").await
    }

    /// `GET /v1/tls/check`.
    pub async fn tls_check(&self, query: &TlsCheckQuery) -> Result<Vec<Finding>, ClientError> {
        let TlsCheckQuery { vip, name } = query;
        self.get(&path("/v1/tls/check", [("vip", Some(vip.clone())), ("name", name.clone())])).await
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

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ClientError::Encode { call: format!("POST {path}"), error })?;
        self.ask(Method::POST, path, body).await
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
    path(
        "/v1/flows",
        [("limit", text(limit)), ("vip", text(vip)), ("rip", text(rip)), ("client", text(client))],
    )
}

fn entries_path(query: &EntryQuery) -> String {
    let EntryQuery { vip, client, key, rip, limit } = query;
    path(
        "/v1/tables/entries",
        [
            ("vip", Some(vip.clone())),
            ("client", text(client)),
            ("key", text(key)),
            ("rip", text(rip)),
            ("limit", text(limit)),
        ],
    )
}

fn explain_path(query: &ExplainQuery) -> String {
    let ExplainQuery { client, port, vip, vip_port, protocol } = query;
    path(
        "/v1/explain",
        [
            ("client", Some(client.to_string())),
            ("port", text(port)),
            ("vip", Some(vip.clone())),
            ("vip_port", Some(vip_port.to_string())),
            ("protocol", Some(protocol.name().to_owned())),
        ],
    )
}

fn text(value: &Option<impl ToString>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

/// A path with those keys of its query that have a value.
fn path<const N: usize>(base: &str, pairs: [(&str, Option<String>); N]) -> String {
    let mut path = base.to_owned();
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
