//! A server that speaks the daemon's API on a Unix socket, and the built program run against it.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State},
    http::{StatusCode, header::SERVER},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use lb_ctl::model::{
    checks::{CheckQuery, CheckStatus, HistoryQuery, RunStatus},
    command::{Command, Outcome, Refusal},
    explain::{ExplainQuery, Explanation},
    health::Transition,
    history::{Version, VersionHead},
    status::{ConfigText, CountBy, FlowCount, FlowCountQuery, FlowList, FlowQuery, Status},
    tables::{Clear, EntryList, EntryQuery, Kill, Removed, TableStatus},
};
use tempfile::TempDir;
use tokio::{net::UnixListener, process::Command as Process, task::JoinHandle};

use crate::samples::empty;

/// Longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon says, and what it was asked.
#[derive(Debug)]
pub(crate) struct Script {
    status: Status,
    /// What is said of the status first, each once.
    pub(crate) at_first: Mutex<VecDeque<Status>>,
    pub(crate) outcome: Result<Outcome, Refusal>,
    pub(crate) flows: FlowList,
    pub(crate) versions: Vec<Version>,
    commands: Mutex<Vec<Command>>,
    pub(crate) queries: Mutex<Vec<FlowQuery>>,
    pub(crate) counted_by: Mutex<Vec<CountBy>>,
    pub(crate) removed: Removed,
    pub(crate) tables: Vec<TableStatus>,
    pub(crate) entries: EntryList,
    pub(crate) explanation: Option<Explanation>,
    pub(crate) killed: Mutex<Vec<Kill>>,
    pub(crate) cleared: Mutex<Vec<Clear>>,
    pub(crate) looked_for: Mutex<Vec<EntryQuery>>,
    pub(crate) asked_about: Mutex<Vec<ExplainQuery>>,
    pub(crate) checks: Vec<CheckStatus>,
    pub(crate) turns: Vec<Transition>,
    pub(crate) runs: Vec<RunStatus>,
    /// Which checks were to be listed or run.
    pub(crate) checks_meant: Mutex<Vec<CheckQuery>>,
    pub(crate) pasts_meant: Mutex<Vec<HistoryQuery>>,
}

impl Script {
    pub(crate) fn new(status: Status) -> Self {
        Self {
            status,
            at_first: Mutex::default(),
            outcome: Ok(Outcome::default()),
            flows: FlowList::default(),
            versions: Vec::new(),
            commands: Mutex::default(),
            queries: Mutex::default(),
            counted_by: Mutex::default(),
            removed: Removed::default(),
            tables: Vec::new(),
            entries: EntryList::default(),
            explanation: None,
            killed: Mutex::default(),
            cleared: Mutex::default(),
            looked_for: Mutex::default(),
            asked_about: Mutex::default(),
            checks: Vec::new(),
            turns: Vec::new(),
            runs: Vec::new(),
            checks_meant: Mutex::default(),
            pasts_meant: Mutex::default(),
        }
    }
}

/// A server on a socket of its own, until dropped.
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    pub(crate) script: Arc<Script>,
    task: JoinHandle<io::Result<()>>,
    _dir: TempDir,
}

impl Daemon {
    pub(crate) fn serve(script: Script) -> Self {
        let script = Arc::new(script);
        let router = Router::new()
            .route("/v1/status", get(tell_status))
            .route("/v1/command", post(obey))
            .route("/v1/flows", get(list_flows))
            .route("/v1/flows/count", get(count_flows))
            .route("/v1/flows/kill", post(kill))
            .route("/v1/tables", get(async |State(script): Shared| Json(script.tables.clone())))
            .route("/v1/tables/entries", get(list_entries))
            .route("/v1/tables/clear", post(clear))
            .route("/v1/checks", get(list_checks))
            .route("/v1/checks/history", get(tell_past))
            .route("/v1/checks/run", post(run_checks))
            .route("/v1/explain", get(explain))
            .route("/v1/config", get(async || Json(ConfigText { toml: "[vip.DICOM]\n".to_owned() })))
            .route("/v1/config/diff", get(async |State(script): Shared| answer(&script)))
            .route("/v1/config/history", get(list_versions))
            .route("/v1/config/history/{number}", get(show_version))
            .with_state(Arc::clone(&script));
        Self::serve_router(script, router)
    }

    /// Serves a status that only another version would serve.
    pub(crate) fn of_another_version(body: &'static str, code: StatusCode) -> Self {
        let router =
            Router::new().route("/v1/status", get(async move || (code, [(SERVER, "lbd/9.9.9")], body)));
        Self::serve_router(Arc::new(Script::new(empty())), router)
    }

    fn serve_router(script: Arc<Script>, router: Router) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("lbd.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let task = tokio::spawn(axum::serve(listener, router).into_future());
        Self { socket, script, task, _dir: dir }
    }

    /// Runs lbctl against this daemon.
    pub(crate) async fn lbctl(&self, line: &str) -> Ran {
        lbctl(&self.socket, line).await
    }

    /// What was commanded, oldest first.
    pub(crate) fn commands(&self) -> Vec<Command> {
        self.script.commands.lock().expect("no panic").clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Shared = State<Arc<Script>>;

async fn tell_status(State(script): Shared) -> Json<Status> {
    let first = script.at_first.lock().expect("no panic").pop_front();
    Json(first.unwrap_or_else(|| script.status.clone()))
}

async fn obey(State(script): Shared, Json(command): Json<Command>) -> Response {
    script.commands.lock().expect("no panic").push(command);
    answer(&script)
}

async fn list_versions(State(script): Shared) -> Json<Vec<VersionHead>> {
    Json(script.versions.iter().map(|version| version.head.clone()).collect())
}

async fn show_version(State(script): Shared, UrlPath(number): UrlPath<u64>) -> Response {
    match script.versions.iter().find(|version| version.head.number == number) {
        Some(version) => Json(version.clone()).into_response(),
        None => {
            let error = format!("no version {number} is kept");
            (StatusCode::UNPROCESSABLE_ENTITY, Json(Refusal { error })).into_response()
        }
    }
}

async fn list_flows(State(script): Shared, Query(query): Query<FlowQuery>) -> Json<FlowList> {
    script.queries.lock().expect("no panic").push(query);
    Json(script.flows.clone())
}

async fn count_flows(State(script): Shared, Query(query): Query<FlowCountQuery>) -> Json<Vec<FlowCount>> {
    script.counted_by.lock().expect("no panic").push(query.by);
    Json(vec![FlowCount { key: "10.12.7.4".to_owned(), flows: 7 }])
}

async fn kill(State(script): Shared, Json(kill): Json<Kill>) -> Json<Removed> {
    script.killed.lock().expect("no panic").push(kill);
    Json(script.removed.clone())
}

async fn list_entries(State(script): Shared, Query(query): Query<EntryQuery>) -> Json<EntryList> {
    script.looked_for.lock().expect("no panic").push(query);
    Json(script.entries.clone())
}

async fn clear(State(script): Shared, Json(clear): Json<Clear>) -> Json<Removed> {
    script.cleared.lock().expect("no panic").push(clear);
    Json(script.removed.clone())
}

async fn explain(State(script): Shared, Query(query): Query<ExplainQuery>) -> Json<Explanation> {
    script.asked_about.lock().expect("no panic").push(query);
    Json(script.explanation.clone().expect("the script has an explanation"))
}

async fn list_checks(State(script): Shared, Query(query): Query<CheckQuery>) -> Json<Vec<CheckStatus>> {
    script.checks_meant.lock().expect("no panic").push(query);
    Json(script.checks.clone())
}

async fn tell_past(State(script): Shared, Query(query): Query<HistoryQuery>) -> Json<Vec<Transition>> {
    script.pasts_meant.lock().expect("no panic").push(query);
    Json(script.turns.clone())
}

async fn run_checks(State(script): Shared, Json(query): Json<CheckQuery>) -> Json<Vec<RunStatus>> {
    script.checks_meant.lock().expect("no panic").push(query);
    Json(script.runs.clone())
}

fn answer(script: &Script) -> Response {
    match &script.outcome {
        Ok(outcome) => Json(outcome.clone()).into_response(),
        Err(refusal) => (StatusCode::CONFLICT, Json(refusal.clone())).into_response(),
    }
}

/// How a program ended.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs lbctl with a socket; the words of `line` are its arguments.
pub(crate) async fn lbctl(socket: &Path, line: &str) -> Ran {
    finish(program(socket).args(line.split_whitespace())).await
}

pub(crate) fn program(socket: &Path) -> Process {
    let mut program = Process::new(env!("CARGO_BIN_EXE_lbctl"));
    program.arg("--socket").arg(socket);
    program
}

pub(crate) async fn finish(program: &mut Process) -> Ran {
    let output = program.stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(PATIENCE, output).await.expect("it ends").expect("it runs").into()
}
