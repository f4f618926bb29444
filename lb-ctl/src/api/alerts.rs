//! Requests about alerts: a message to everybody, now.
#![forbid(unsafe_code)]

use axum::{Json, Router, extract::State, routing::post};
use tokio::sync::oneshot;

use super::server::{Api, No, in_time, stopping};
use crate::{alert::TestRequest, model::alerts::TestedWay};

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/alerts/test", post(test))
}

async fn test(State(api): State<Api>) -> Result<Json<Vec<TestedWay>>, No> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        api.alert_tests.send(TestRequest { reply }).await.map_err(|_gone| stopping())?;
        answer.await.map_err(|_gone| stopping())
    };
    let way = |(way, went): (String, Result<String, String>)| {
        let (is_ok, text) = match went {
            Ok(how) => (true, how),
            Err(why) => (false, why),
        };
        TestedWay { way, ok: is_ok, text }
    };
    Ok(Json(in_time(asked).await?.into_iter().map(way).collect()))
}
