//! A test message by every way at once, past the spool: who asked for it waits.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use tokio::{
    task::JoinSet,
    time::{Duration, timeout},
};

use super::{
    Tested, cannot_log, has_a_way, message,
    outbox::{destinations, send},
    situation::epoch_secs,
    spool::{Content, Destination, Parcel},
    syslog::{self, Severity},
};
use crate::model::config::Config;

/// Time for one way.
const DEADLINE: Duration = Duration::from_secs(20);

/// Tells everybody that this is a test.
pub(super) async fn every_way(config: Arc<Config>, host: String) -> Tested {
    if !has_a_way(&config.alerts) {
        let none = "nobody is told of anything: set `alerts.from` and `alerts.to`, `alerts.webhooks` or `alerts.syslog`";
        return vec![("alerts".to_owned(), Err(none.to_owned()))];
    }
    let node = config.node.name.clone().unwrap_or(host);
    let at_epoch_secs = epoch_secs(SystemTime::now());
    let words = message::test(&node, at_epoch_secs);
    let mut ways = JoinSet::new();
    let mut tested = BTreeMap::new();
    for destination in destinations(&config) {
        let text = match &destination {
            Destination::Mail(_) => words.body.clone(),
            Destination::Webhook(_) => words.json.clone(),
        };
        let all = match &destination {
            Destination::Mail(to) => vec![to.clone()],
            Destination::Webhook(_) => Vec::new(),
        };
        let content = Content { node: node.clone(), subject: words.subject.clone(), text, all };
        let parcel = Parcel { number: 0, part: 0, at_epoch_secs, destination: destination.clone(), content };
        let config = Arc::clone(&config);
        tested.insert(destination.clone(), Err("the test ended badly: see the log of lbd".to_owned()));
        ways.spawn(async move {
            let sent = timeout(DEADLINE, send(&parcel, &config.alerts)).await;
            let late =
                |_| Err(format!("it was not taken within {} s: check that it is up", DEADLINE.as_secs()));
            (parcel.destination, sent.unwrap_or_else(late))
        });
    }
    while let Some(ended) = ways.join_next().await {
        match ended {
            Ok((way, sent)) => _ = tested.insert(way, sent),
            Err(error) => tracing::error!("a test of alerts ended badly: {error}"),
        }
    }
    let named = |(destination, sent): (Destination, _)| (destination.to_string(), sent);
    let mut tested: Tested = tested.into_iter().map(named).collect();
    if config.alerts.syslog {
        let written = syslog::write(Path::new(syslog::SOCKET), &[(Severity::Notice, words.subject)]);
        let way = format!("the system's log ({})", syslog::SOCKET);
        tested.push((way, written.map(|()| "written".to_owned()).map_err(|error| cannot_log(&error))));
    }
    tested
}
