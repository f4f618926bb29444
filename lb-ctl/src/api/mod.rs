//! The API of `lbd`: HTTP/1.1 and JSON over a Unix socket. Bodies are the types of [`crate::model::alerts`],
//! [`crate::model::checks`], [`crate::model::command`], [`crate::model::explain`], [`crate::model::history`],
//! [`crate::model::status`], [`crate::model::tables`] and [`crate::model::tls`].
//!
//! | request | query or body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`](crate::model::status::Status) |
//! | `POST /v1/command` | [`Command`](crate::model::command::Command) | [`Outcome`](crate::model::command::Outcome) |
//! | `GET /v1/flows` | [`FlowQuery`](crate::model::status::FlowQuery) | [`FlowList`](crate::model::status::FlowList) |
//! | `GET /v1/flows/count` | [`FlowCountQuery`](crate::model::status::FlowCountQuery) | list of [`FlowCount`](crate::model::status::FlowCount) |
//! | `POST /v1/flows/kill` | [`Kill`](crate::model::tables::Kill) | [`Removed`](crate::model::tables::Removed) |
//! | `GET /v1/tables` | | list of [`TableStatus`](crate::model::tables::TableStatus): who is remembered |
//! | `GET /v1/tables/entries` | [`EntryQuery`](crate::model::tables::EntryQuery) | [`EntryList`](crate::model::tables::EntryList) |
//! | `POST /v1/tables/clear` | [`Clear`](crate::model::tables::Clear) | [`Removed`](crate::model::tables::Removed) |
//! | `GET /v1/checks` | [`CheckQuery`](crate::model::checks::CheckQuery) | list of [`CheckStatus`](crate::model::checks::CheckStatus) |
//! | `GET /v1/checks/history` | [`HistoryQuery`](crate::model::checks::HistoryQuery) | list of [`Transition`](crate::model::health::Transition), the newest last |
//! | `POST /v1/checks/run` | [`CheckQuery`](crate::model::checks::CheckQuery) | list of [`RunStatus`](crate::model::checks::RunStatus), once all have ended |
//! | `GET /v1/explain` | [`ExplainQuery`](crate::model::explain::ExplainQuery) | [`Explanation`](crate::model::explain::Explanation) |
//! | `POST /v1/alerts/test` | | list of [`TestedWay`](crate::model::alerts::TestedWay): a message to everybody |
//! | `GET /v1/tls` | | [`PkiStatus`](crate::model::tls::PkiStatus): certificates, without their keys |
//! | `GET /v1/tls/check` | [`TlsCheckQuery`](crate::model::tls::TlsCheckQuery) | list of [`Finding`](crate::model::tls::Finding): what clients of a VIP meet |
//! | `GET /v1/config` | | [`ConfigText`](crate::model::status::ConfigText): what is in force |
//! | `GET /v1/config/diff` | | [`Outcome`](crate::model::command::Outcome): what `apply` would change, and what becomes of traffic |
//! | `GET /v1/config/history` | | list of [`VersionHead`](crate::model::history::VersionHead), the newest last |
//! | `GET /v1/config/history/NUMBER` | | [`Version`](crate::model::history::Version) |
//!
//! An answer that is not 2xx carries a [`Refusal`](crate::model::command::Refusal): 4xx when the request is at
//! fault, 5xx when the daemon is. Every answer names the daemon in its `server` header, `lbd/VERSION`, so that a
//! client of another version can say so.
#![forbid(unsafe_code)]

mod alerts;
mod checks;
pub mod client;
mod proxy_tables;
pub mod server;
pub mod tables;
mod tls;
