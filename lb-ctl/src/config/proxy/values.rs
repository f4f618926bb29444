//! Time limits of connections.

use std::time::Duration;

use super::super::{
    diag::Report,
    file::{At, Entry, Value},
    read::{self, Times},
};
use crate::model::proxy::Timeouts;

/// Longest time that the proxy counts: it does so in milliseconds and 31 bits.
pub(in crate::config) const MAX_TIME: Duration = Duration::from_secs(24 * 24 * 3600);

/// Reads `timeouts` of a VIP; what it does not say is as in `[proxy]`.
pub(super) fn read_timeouts(entry: Option<&Entry>, default: Timeouts, report: &mut Report<'_>) -> Timeouts {
    let table = entry.and_then(|entry| read::table(entry, "{ client = \"12h\", server = \"12h\" }", report));
    let Some(table) = table else { return default };
    let limit = |key: &str, default: Duration, report: &mut Report<'_>| {
        table.get(key).and_then(|entry| read_limit(entry, report)).unwrap_or(default)
    };
    Timeouts {
        connect: limit("connect", default.connect, report),
        client: limit("client", default.client, report),
        server: limit("server", default.server, report),
    }
}

/// A time limit; a bare number is milliseconds, as in the guides' forms (R33).
pub(super) fn read_limit(entry: &Entry, report: &mut Report<'_>) -> Option<Duration> {
    let times = Times { range: Duration::from_millis(10)..=MAX_TIME, whole_secs: false, example: "1h" };
    let Value::Integer(Some(number @ 0..)) = entry.node.value else {
        return read::duration(entry, &times, report);
    };
    let with_unit = At { value: Value::String(format!("{number}ms")), span: entry.node.span };
    read::duration(&Entry { key: entry.key.clone(), node: with_unit }, &times, report)
}
