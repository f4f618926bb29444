//! Requests about checks: what is asked of servers, what they answered, what became of it; and asking now.
#![forbid(unsafe_code)]

mod settings;

use std::time::{Duration, UNIX_EPOCH};

use axum::{
    Json, Router,
    extract::{
        Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    routing::{get, post},
};
use tokio::{sync::oneshot, time::timeout};

use super::server::{ANSWER_DEADLINE, Api, No, busy, in_time, stopping};
use crate::{
    health::{RunRequest, journal::HistoryRequest},
    model::{
        check::SynRepeats,
        checks::{Attempt, CheckQuery, CheckStatus, HistoryQuery, RunStatus},
        config::Config,
        health::{DirectPath, Health, PathTarget, RipId, Target, Transition, Verdict},
        operator::Word,
    },
};

/// Changes of verdict that are told when the query does not say.
const DEFAULT_LIMIT: usize = 20;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/checks", get(list))
        .route("/v1/checks/history", get(history))
        .route("/v1/checks/run", post(run))
}

async fn list(
    State(api): State<Api>,
    query: Result<Query<CheckQuery>, QueryRejection>,
) -> Result<Json<Vec<CheckStatus>>, No> {
    let Query(query) = query?;
    let targets = api.checked(&query)?;
    let health = api.observer.health.borrow().clone();
    let operator = api.observer.view.borrow().operator.clone();
    let status = |target: &Target| {
        check_status(target, health.get(&target.id), operator.get(&target.id).copied().unwrap_or_default())
    };
    Ok(Json(targets.iter().map(status).collect()))
}

async fn history(
    State(api): State<Api>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Vec<Transition>>, No> {
    let Query(HistoryQuery { vip, rip, limit }) = query?;
    is_there(&api.observer.view.borrow().config, &vip, Some(&rip))?;
    let (reply, answer) = oneshot::channel();
    let request = HistoryRequest { id: RipId { vip, rip }, limit: limit.unwrap_or(DEFAULT_LIMIT), reply };
    let asked = async {
        api.histories.send(request).await.map_err(|_gone| stopping())?;
        answer.await.map_err(|_gone| stopping())
    };
    in_time(asked).await.map(Json)
}

async fn run(
    State(api): State<Api>,
    body: Result<Json<CheckQuery>, JsonRejection>,
) -> Result<Json<Vec<RunStatus>>, No> {
    let Json(query) = body?;
    let targets = api.checked(&query)?;
    let longest = targets.iter().map(|target| target.check.timeout).max().unwrap_or(Duration::ZERO);
    let rips = targets.into_iter().map(|target| target.id).collect();
    let (reply, answer) = oneshot::channel();
    let asked = async {
        api.runs.send(RunRequest { rips, reply }).await.map_err(|_gone| stopping())?;
        answer.await.map_err(|_gone| stopping())
    };
    // One that is under way must end first.
    let results = timeout(longest.saturating_mul(2).saturating_add(ANSWER_DEADLINE), asked);
    let results = results.await.map_err(|_elapsed| busy())??;
    let status = |(id, asked, result)| RunStatus { id, asked, attempt: Attempt::from(&result) };
    Ok(Json(results.into_iter().map(status).collect()))
}

impl Api {
    /// Servers that are checked, of those that are named.
    fn checked(&self, query: &CheckQuery) -> Result<Vec<Target>, No> {
        let CheckQuery { vip, rip } = query;
        match vip {
            Some(vip) => is_there(&self.observer.view.borrow().config, vip, rip.as_deref())?,
            None if rip.is_some() => {
                return Err(No::invalid(
                    "a real server is named by its VIP and its own name: VIP/RIP".to_owned(),
                ));
            }
            None => {}
        }
        let is_meant = |target: &&Target| {
            vip.as_ref().is_none_or(|vip| *vip == target.id.vip)
                && rip.as_ref().is_none_or(|rip| *rip == target.id.rip)
        };
        let targets: Vec<Target> = self.targets.borrow().iter().filter(is_meant).cloned().collect();
        match vip {
            Some(vip) if targets.is_empty() => Err(No::invalid(format!(
                "no server of VIP {vip} is checked: it is switched off or has none; see `lbctl vip show {vip}`"
            ))),
            _ => Ok(targets),
        }
    }
}

/// Refuses names that the configuration does not have.
fn is_there(config: &Config, vip: &str, rip: Option<&str>) -> Result<(), No> {
    let listed = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let Some(found) = config.vips.iter().find(|found| found.name == vip) else {
        let names = config.vips.iter().map(|vip| vip.name.as_str()).collect();
        return Err(No::invalid(format!("no VIP {vip}: there are {}", listed(names))));
    };
    match rip {
        Some(rip) if !found.rips.iter().any(|found| found.name == rip) => {
            let names = found.rips.iter().map(|rip| rip.name.as_str()).collect();
            Err(No::invalid(format!("no real server {rip} in VIP {vip}: there are {}", listed(names))))
        }
        _ => Ok(()),
    }
}

fn check_status(target: &Target, health: Option<&Health>, operator: Word) -> CheckStatus {
    let check = &target.check;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let failure = health.and_then(Health::failure);
    let waiting =
        health.and_then(|health| health.waiting.as_ref()).map(|why| format!("vip not tried: {why}"));
    CheckStatus {
        id: target.id.clone(),
        kind: check.kind.name().to_owned(),
        addr: target.addr,
        source: check.source,
        interval_millis: millis(check.interval),
        timeout_millis: millis(check.timeout),
        rise: check.rise,
        damping: health.map_or(1, |health| health.damping),
        fall: check.fall,
        settings: settings::of(&check.kind),
        verdict: health.map_or(Verdict::Unknown, |health| health.verdict),
        since_epoch_millis: health
            .map(|health| millis(health.since.duration_since(UNIX_EPOCH).unwrap_or_default())),
        operator,
        reason: failure.map(|failure| failure.reason),
        text: failure.map(|failure| failure.text.clone()).or(waiting),
        server: health.and_then(|health| health.last.as_ref()).map(Attempt::from),
        way: way(&target.path),
        path: health.and_then(|health| health.path.as_ref()).map(Attempt::from),
        advice: health.map(|health| health.advice).unwrap_or_default(),
        syn_repeats: health.map_or(0, |health| health.syn_repeats),
        syn_repeats_count: check.syn_repeats == SynRepeats::Count,
    }
}

fn way(path: &PathTarget) -> Option<String> {
    match path {
        PathTarget::Off => None,
        PathTarget::Waiting(why) => Some(format!("not yet: {why}")),
        PathTarget::Direct(path) => {
            let DirectPath { interface, source, server_mac, vip, echo, .. } = path.as_ref();
            let asked = if echo.is_some() { "dicom-echo" } else { "connect" };
            Some(format!("{asked} to {vip} at {server_mac} by {interface}, from {source}"))
        }
    }
}
