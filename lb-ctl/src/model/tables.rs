//! Who is connected and who is remembered: bodies of the API's requests about the kernel's tables.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Body of `POST /v1/flows/kill`: flows that satisfy every condition that is there, of which there must be one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// VIP's name.
    pub vip: Option<String>,
    /// Real server's name, in whichever VIP.
    pub rip: Option<String>,
    /// Client's address.
    pub client: Option<IpAddr>,
    /// Client's port; with its address only.
    pub client_port: Option<u16>,
    /// Only count them.
    pub dry_run: bool,
}

/// Answer when something was taken out of the kernel's tables, or would be.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Removed {
    /// How much.
    pub count: u64,
    /// What was done and what is worth knowing of it, a line each.
    pub lines: Vec<String>,
}

/// A VIP that remembers clients or a server: an element of `GET /v1/tables`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TableStatus {
    /// VIP's name.
    pub vip: String,
    /// What is remembered.
    #[serde(flatten)]
    pub kind: TableKind,
}

/// What a VIP remembers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "persist")]
pub enum TableKind {
    /// The server in use.
    LastSuccessful {
        /// Its name; `None` = no server takes connections.
        server: Option<String>,
    },
    /// The server of each client.
    SourceIp {
        /// Leading bits of a client's address that count.
        prefix: u8,
        /// Seconds that a client is remembered for after its last connection.
        timeout_secs: u64,
        /// Name that other VIPs share the entries by.
        group: Option<String>,
        /// Clients that are remembered.
        entries: u64,
    },
    /// The server of each value of a parameter of the URL.
    UrlParam {
        /// The parameter.
        name: String,
        /// Seconds that a value is remembered for after its last request.
        timeout_secs: u64,
        /// Values that are remembered.
        entries: u64,
    },
}

/// Query of `GET /v1/tables/entries`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EntryQuery {
    /// VIP's name.
    pub vip: String,
    /// Client's address.
    pub client: Option<IpAddr>,
    /// Value of the parameter that clients are known by; of a VIP whose persistence is `url-param` only.
    pub key: Option<String>,
    /// Real server's name.
    pub rip: Option<String>,
    /// At most this many; the total counts all that match.
    pub limit: Option<usize>,
}

/// Answer to `GET /v1/tables/entries`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct EntryList {
    /// Entries that match the query, as many as its limit allows.
    pub entries: Vec<EntryStatus>,
    /// How many match it.
    pub total: u64,
}

/// A client that is remembered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EntryStatus {
    /// Client's address, or its network, `10.12.7.0/24`, or the value of the parameter that it is known by.
    pub client: String,
    /// Real server that the client goes to; `None` = it is gone, and the client is scheduled anew.
    pub rip: Option<String>,
    /// Seconds since its last connection.
    pub idle_secs: u64,
    /// Seconds that it is remembered for from now on, if it makes no connection.
    pub left_secs: u64,
}

/// Body of `POST /v1/tables/clear`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Clear {
    /// VIP's name.
    pub vip: String,
    /// Only this client.
    pub client: Option<IpAddr>,
    /// Only the client of this value of the parameter; of a VIP whose persistence is `url-param` only.
    pub key: Option<String>,
    /// Only those that go to this real server.
    pub rip: Option<String>,
}
