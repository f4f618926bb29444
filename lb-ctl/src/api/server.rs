//! The daemon's end of the API.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, Path as UrlPath, Query, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header::SERVER},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    alerts, checks,
    tables::{self, Explaining},
    tls,
};
use crate::{
    alert::TestRequest,
    control::{Done, Refused, Reply, Request},
    dataplane::{Error, Flow},
    haproxy,
    health::{RunRequest, journal::HistoryRequest},
    model::{
        command::{Command, Outcome, Refusal},
        health::Targets,
        history::{Version, VersionHead},
        proxied::Proxied,
        status::{ConfigText, CountBy, FlowCount, FlowCountQuery, FlowList, FlowQuery, FlowStatus, Status},
    },
    observe::Observer,
    reconcile::{Chore, Reconciled},
    shutdown::Shutdown,
    telemetry::{Listing, TableRequest},
};

/// Largest request body: a VIP with five hundred servers is a tenth of it.
const MAX_BODY_BYTES: usize = 1 << 20;
/// Time that a change has to reach the data plane and its addresses to be tried.
const APPLY_DEADLINE: Duration = Duration::from_secs(15);
/// Time that an answer from another task may take.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Flows listed when the query does not say.
const DEFAULT_LIMIT: usize = 1000;
/// Flows looked through for one answer, 100 bytes each.
const MAX_FLOWS: usize = 1 << 22;

/// What requests are answered from.
#[derive(Clone, Debug)]
pub struct Api {
    /// What is so.
    pub observer: Observer,
    /// To the task that owns configuration and operator state.
    pub requests: mpsc::Sender<Request>,
    /// To the task that owns the data plane's reader.
    pub listings: mpsc::Sender<Listing>,
    /// What is checked.
    pub targets: watch::Receiver<Targets>,
    /// To the check engine.
    pub runs: mpsc::Sender<RunRequest>,
    /// To the history of verdicts.
    pub histories: mpsc::Sender<HistoryRequest>,
    /// To the task that tells people.
    pub alert_tests: mpsc::Sender<TestRequest>,
    /// To the task that owns the data plane's writer.
    pub chores: mpsc::Sender<Chore>,
    /// What tries packets out.
    pub explaining: Explaining,
    /// To the task that runs the companion proxy.
    pub asks: mpsc::Sender<haproxy::Ask>,
    /// What has reached the data plane.
    pub reconciled: watch::Receiver<Arc<Reconciled>>,
    /// What has reached the companion proxy.
    pub proxied: watch::Receiver<Arc<Proxied>>,
}

/// What was so before a change: what is wrong in it has nothing to do with the change.
pub(super) struct Before {
    reconciled: Arc<Reconciled>,
    proxied: Arc<Proxied>,
}

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers on it.
    #[error("another lbd is running on {}: stop it first (systemctl stop lbd), or choose another --socket", .0.display())]
    InUse(PathBuf),
    /// The path is taken by something that is no socket.
    #[error("{} exists and is no socket: choose another --socket", .0.display())]
    NoSocket(PathBuf),
    /// The file system refuses.
    #[error("cannot listen on {}: {error}; choose a path that lbd can create with --socket", .path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Listens, for root and the socket's group. A socket left over by a daemon that is gone is replaced.
///
/// # Errors
///
/// When another daemon answers there, or the path cannot be used.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |error| BindError::Io { path: path.to_owned(), error };
    if let Some(directory) = path.parent().filter(|d| !d.exists()) {
        fs::create_dir_all(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o750)).map_err(failed)?;
    }
    if refuse_live(path)? {
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Makes sure that nobody answers on a path. True when a socket is left over there.
///
/// # Errors
///
/// When another daemon answers there, or the path is no socket.
pub fn refuse_live(path: &Path) -> Result<bool, BindError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NoSocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(BindError::Io { path: path.to_owned(), error }),
    }
}

/// Serves until shutdown; answers under way are finished.
///
/// # Errors
///
/// When the listener breaks.
pub async fn serve(listener: UnixListener, api: Api, shutdown: Shutdown) -> anyhow::Result<()> {
    axum::serve(listener, router(api)).with_graceful_shutdown(shutdown.requested()).await?;
    Ok(())
}

fn router(api: Api) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/command", post(command))
        .route("/v1/flows", get(flows))
        .route("/v1/flows/count", get(count))
        .merge(alerts::routes())
        .merge(tables::routes())
        .merge(checks::routes())
        .merge(tls::routes())
        .route("/v1/config", get(config))
        .route("/v1/config/diff", get(diff))
        .route("/v1/config/history", get(history))
        .route("/v1/config/history/{number}", get(version))
        .fallback(async || {
            No(StatusCode::NOT_FOUND, "no such request: lbctl and lbd are of different versions".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::map_response(name_the_server))
        .with_state(api)
}

async fn name_the_server(mut response: Response) -> Response {
    const NAME: HeaderValue = HeaderValue::from_static(concat!("lbd/", env!("CARGO_PKG_VERSION")));
    response.headers_mut().insert(SERVER, NAME);
    response
}

/// A refusal on its way out.
#[derive(Debug)]
pub(super) struct No(StatusCode, String);

impl No {
    /// What was asked for is not there, or not to be had.
    pub(super) const fn invalid(text: String) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, text)
    }
}

impl From<&Error> for No {
    fn from(error: &Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.line())
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        (self.0, Json(Refusal { error: self.1 })).into_response()
    }
}

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Invalid(text) => Self::invalid(text),
            Refused::Failed(text) => Self(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

impl From<JsonRejection> for No {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), format!("request not understood: {}", rejection.body_text()))
    }
}

impl From<QueryRejection> for No {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), format!("query not understood: {}", rejection.body_text()))
    }
}

impl From<PathRejection> for No {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), format!("path not understood: {}", rejection.body_text()))
    }
}

async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.observer.status(SystemTime::now()))
}

async fn command(
    State(api): State<Api>,
    body: Result<Json<Command>, JsonRejection>,
) -> Result<Json<Outcome>, No> {
    let Json(command) = body?;
    let dry_run =
        matches!(command, Command::Edit { dry_run: true, .. } | Command::Rollback { dry_run: true, .. });
    let before = api.before();
    let Done { outcome, goal } = api.ask(|reply| Request::Command(Box::new(command), reply)).await?;
    if dry_run {
        return Ok(Json(outcome));
    }
    api.confirm(goal, outcome, &before).await.map(Json)
}

async fn diff(State(api): State<Api>) -> Result<Json<Outcome>, No> {
    api.ask(Request::Diff).await.map(Json)
}

async fn history(State(api): State<Api>) -> Result<Json<Vec<VersionHead>>, No> {
    api.ask(Request::History).await.map(Json)
}

async fn version(
    State(api): State<Api>,
    number: Result<UrlPath<u64>, PathRejection>,
) -> Result<Json<Version>, No> {
    let UrlPath(number) = number?;
    api.ask(|reply| Request::Version(number, reply)).await.map(Json)
}

async fn config(State(api): State<Api>) -> Result<Json<ConfigText>, No> {
    let toml = api.ask(Request::Show).await?;
    Ok(Json(ConfigText { toml }))
}

async fn flows(
    State(api): State<Api>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<FlowList>, No> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if query.vip.is_none() && query.rip.is_none() && query.client.is_none() {
        let (flows, total) = api.read_flows(limit.min(MAX_FLOWS)).await?;
        return Ok(Json(FlowList { flows: api.named(&flows), total }));
    }
    let mut matching = api.named(&api.every_flow().await?);
    matching.retain(|flow| {
        let wanted = |name: &Option<String>, has: &Option<String>| name.is_none() || name == has;
        wanted(&query.vip, &flow.vip)
            && wanted(&query.rip, &flow.rip)
            && query.client.is_none_or(|c| c == flow.client)
    });
    let total = matching.len() as u64;
    matching.truncate(limit);
    Ok(Json(FlowList { flows: matching, total }))
}

async fn count(
    State(api): State<Api>,
    query: Result<Query<FlowCountQuery>, QueryRejection>,
) -> Result<Json<Vec<FlowCount>>, No> {
    let Query(FlowCountQuery { by }) = query?;
    let mut counts = BTreeMap::<String, u64>::new();
    for flow in api.named(&api.every_flow().await?) {
        *counts.entry(count_key(by, flow)).or_default() += 1;
    }
    let mut counts: Vec<FlowCount> =
        counts.into_iter().map(|(key, flows)| FlowCount { key, flows }).collect();
    // The sort is stable: equal counts stay in the order of their keys.
    counts.sort_by_key(|c| std::cmp::Reverse(c.flows));
    Ok(Json(counts))
}

/// What a flow is counted under; `?` stands for a VIP or server that is gone.
fn count_key(by: CountBy, flow: FlowStatus) -> String {
    let known = |name: Option<String>| name.unwrap_or_else(|| "?".to_owned());
    match by {
        CountBy::Client => flow.client.to_string(),
        CountBy::Rip => format!("{}/{}", known(flow.vip), known(flow.rip)),
        CountBy::State => flow.state,
        CountBy::Vip => known(flow.vip),
    }
}

impl Api {
    /// Asks the controller.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, No> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(request(reply)).await.map_err(|_gone| stopping())?;
            answer.await.map_err(|_gone| stopping())?.map_err(No::from)
        };
        in_time(asked).await
    }

    /// Waits until the data plane and the companion proxy hold a goal, and its addresses were tried.
    pub(super) async fn confirm(
        &self,
        goal: u64,
        mut outcome: Outcome,
        before: &Before,
    ) -> Result<Outcome, No> {
        let deadline = Instant::now() + APPLY_DEADLINE;
        let Before { reconciled: before, proxied: proxied_before } = before;
        let mut reconciled = self.reconciled.clone();
        let arrived = reconciled.wait_for(|r| r.number >= goal && r.settled);
        let arrived = match timeout_at(deadline, arrived).await {
            Ok(Ok(arrived)) => Arc::clone(&arrived),
            Ok(Err(_gone)) => return Err(stopping()),
            Err(_elapsed) => {
                let text = format!(
                    "saved, but not in the data plane after {} s; lbd keeps trying: see `lbctl status`",
                    APPLY_DEADLINE.as_secs()
                );
                return Err(No(StatusCode::SERVICE_UNAVAILABLE, text));
            }
        };
        // What was wrong before is in the status; only what is new can have to do with this change.
        if let Some(problem) = arrived.problems.iter().find(|p| !before.problems.contains(p)) {
            let text =
                format!("saved, but the data plane refuses: {problem}; lbd keeps trying: see `lbctl status`");
            return Err(No(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        let vips = arrived.vips.iter().filter(|(vip, problem)| before.vips.get(*vip) != Some(problem));
        outcome.warnings.extend(vips.map(|(vip, problem)| format!("VIP {vip}: {problem}")));
        let addresses = arrived.addresses.iter().filter(|(ip, text)| before.addresses.get(ip) != Some(text));
        outcome.warnings.extend(addresses.map(|(_, text)| text.clone()));
        let mut proxied = self.proxied.clone();
        let arrived = match timeout_at(deadline, proxied.wait_for(|p| p.number >= goal)).await {
            Ok(Ok(arrived)) => Arc::clone(&arrived),
            Ok(Err(_gone)) => return Err(stopping()),
            Err(_elapsed) => {
                let text = format!(
                    "saved, but not in haproxy after {} s; lbd keeps trying: see `lbctl status`",
                    APPLY_DEADLINE.as_secs()
                );
                return Err(No(StatusCode::SERVICE_UNAVAILABLE, text));
            }
        };
        let refused =
            arrived.refused.iter().filter(|(vip, why)| proxied_before.refused.get(*vip) != Some(why));
        outcome.warnings.extend(refused.map(|(vip, why)| format!("VIP {vip}: {why}")));
        let problems = arrived.problems.iter().filter(|problem| !proxied_before.problems.contains(problem));
        outcome.warnings.extend(problems.cloned());
        Ok(outcome)
    }

    /// What is so before a change.
    pub(super) fn before(&self) -> Before {
        Before {
            reconciled: Arc::clone(&self.reconciled.borrow()),
            proxied: Arc::clone(&self.proxied.borrow()),
        }
    }

    async fn read_flows(&self, limit: usize) -> Result<(Vec<Flow>, u64), No> {
        self.list(limit, Listing::Flows).await
    }

    /// Asks the owner of the data plane's reader.
    pub(super) async fn list<T>(
        &self,
        limit: usize,
        listing: impl FnOnce(TableRequest<T>) -> Listing,
    ) -> Result<(Vec<T>, u64), No> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let request = listing(TableRequest { limit, reply });
            self.listings.send(request).await.map_err(|_gone| stopping())?;
            answer.await.map_err(|_gone| stopping())?.map_err(|error| No::from(&error))
        };
        in_time(asked).await
    }

    /// Asks the owner of the data plane's writer.
    pub(super) async fn have_done(
        &self,
        chore: impl FnOnce(oneshot::Sender<Result<u64, Error>>) -> Chore,
    ) -> Result<u64, No> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.chores.send(chore(reply)).await.map_err(|_gone| stopping())?;
            answer.await.map_err(|_gone| stopping())?.map_err(|error| No::from(&error))
        };
        in_time(asked).await
    }

    /// All flows, or a refusal: half of them would be a wrong answer.
    pub(super) async fn every_flow(&self) -> Result<Vec<Flow>, No> {
        let (flows, total) = self.read_flows(MAX_FLOWS).await?;
        if flows.len() as u64 == total {
            return Ok(flows);
        }
        let text = format!(
            "{total} flows are more than the {MAX_FLOWS} that are looked through for one answer: use `lbctl status` for the count of each server"
        );
        Err(No(StatusCode::SERVICE_UNAVAILABLE, text))
    }

    fn named(&self, flows: &[Flow]) -> Vec<FlowStatus> {
        let installed = Arc::clone(&self.reconciled.borrow().installed);
        flows.iter().map(|flow| Observer::flow(flow, &installed)).collect()
    }
}

/// What an answer of another task is, or that it took too long.
pub(super) async fn in_time<T>(asked: impl Future<Output = Result<T, No>>) -> Result<T, No> {
    timeout(ANSWER_DEADLINE, asked).await.unwrap_or_else(|_elapsed| Err(busy()))
}

pub(super) fn stopping() -> No {
    No(StatusCode::SERVICE_UNAVAILABLE, "lbd is stopping: try again once it runs".to_owned())
}

pub(super) fn busy() -> No {
    let text = format!("lbd did not come to it within {} s: see its journal", ANSWER_DEADLINE.as_secs());
    No(StatusCode::SERVICE_UNAVAILABLE, text)
}
