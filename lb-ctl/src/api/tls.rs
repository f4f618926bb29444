//! Requests about certificates. No answer holds a key: what is given was made from certificates alone.
#![forbid(unsafe_code)]

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};

use super::server::{Api, No, in_time};
use crate::{
    model::{
        config::Config,
        tls::{Finding, PkiStatus, TlsCheckQuery},
    },
    tls::report,
};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/tls", get(pki)).route("/v1/tls/check", get(check))
}

async fn pki(State(api): State<Api>) -> Result<Json<PkiStatus>, No> {
    let config = config(&api);
    read(move || Ok(report::pki(&config, SystemTime::now()))).await.map(Json)
}

async fn check(
    State(api): State<Api>,
    query: Result<Query<TlsCheckQuery>, QueryRejection>,
) -> Result<Json<Vec<Finding>>, No> {
    let Query(TlsCheckQuery { vip, name }) = query?;
    let config = config(&api);
    let judge = move || {
        let found = config.vips.iter().find(|other| other.name == vip);
        let found = found.ok_or_else(|| format!("there is no vip `{vip}`: see `lbctl vip list`"))?;
        report::vip(&config, found, name.as_deref(), SystemTime::now())
    };
    read(judge).await.map(Json)
}

fn config(api: &Api) -> Arc<Config> {
    Arc::clone(&api.observer.view.borrow().config)
}

/// Has files read where they may take their time.
async fn read<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, No> {
    in_time(async {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(No::invalid)
    })
    .await
}
