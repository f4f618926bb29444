//! What the companion proxy remembers: the stick tables of layer-7 VIPs.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use tokio::sync::oneshot;

use super::{
    server::{Api, No, in_time, stopping},
    tables::{DEFAULT_LIMIT, plural},
};
use crate::{
    explain::network,
    haproxy::{Ask, Forget, Remembered},
    model::{
        config::{Persist, Vip},
        tables::{Clear, EntryList, EntryQuery, EntryStatus, Removed, TableKind},
    },
};

/// What a VIP remembers; `None` = nothing that this machine knows.
pub(super) async fn kind(api: &Api, vip: &Vip) -> Option<TableKind> {
    // A VIP that the proxy does not serve remembers nobody; its status says why it is not served.
    let remembered = || async { remembered(api, vip).await.unwrap_or_default() };
    match &vip.persist {
        // The client remembers.
        Persist::Cookie { .. } | Persist::None => None,
        Persist::LastSuccessful { .. } => {
            let server = remembered().await.into_iter().find_map(|entry| entry.rip);
            Some(TableKind::LastSuccessful { server })
        }
        Persist::SourceIp { timeout, group, prefix_v4, prefix_v6 } => Some(TableKind::SourceIp {
            prefix: if vip.ip.is_ipv4() { *prefix_v4 } else { *prefix_v6 },
            timeout_secs: timeout.as_secs(),
            group: group.clone(),
            entries: remembered().await.len() as u64,
        }),
        Persist::UrlParam { name, timeout, .. } => Some(TableKind::UrlParam {
            name: name.clone(),
            timeout_secs: timeout.as_secs(),
            entries: remembered().await.len() as u64,
        }),
    }
}

/// Whom a VIP remembers.
pub(super) async fn entries(api: &Api, vip: &Vip, query: &EntryQuery) -> Result<EntryList, No> {
    let timeout = match &vip.persist {
        Persist::SourceIp { timeout, .. } | Persist::UrlParam { timeout, .. } => *timeout,
        Persist::Cookie { .. } | Persist::LastSuccessful { .. } | Persist::None => return Err(nobody(vip)),
    };
    known(vip, query.rip.as_deref())?;
    let wanted = key(vip, query.client, query.key.as_deref())?;
    let mut entries = Vec::new();
    let mut total = 0;
    for entry in remembered(api, vip).await? {
        if query.rip.is_some() && query.rip != entry.rip
            || wanted.as_ref().is_some_and(|key| *key != entry.key)
        {
            continue;
        }
        total += 1;
        if entries.len() < query.limit.unwrap_or(DEFAULT_LIMIT) {
            entries.push(EntryStatus {
                client: shown(vip, &entry.key),
                rip: entry.rip,
                idle_secs: timeout.as_secs().saturating_sub(entry.left_secs),
                left_secs: entry.left_secs,
            });
        }
    }
    Ok(EntryList { entries, total })
}

/// Forgets some of them, or the server in use.
pub(super) async fn clear(api: &Api, vip: &Vip, clear: &Clear) -> Result<Removed, No> {
    let server_in_use = matches!(vip.persist, Persist::LastSuccessful { .. });
    if server_in_use && (clear.client.is_some() || clear.rip.is_some() || clear.key.is_some()) {
        return Err(No::invalid(format!(
            "VIP {} remembers one server for all clients (last-successful): clear it without naming a client or server",
            vip.name
        )));
    }
    if matches!(vip.persist, Persist::Cookie { .. }) {
        return Err(nobody(vip));
    }
    known(vip, clear.rip.as_deref())?;
    let key = key(vip, clear.client, clear.key.as_deref())?;
    let which = Forget { vip: vip.name.clone(), rip: clear.rip.clone(), key };
    let count = ask(api, |reply| Ask::Forget(which, reply)).await?;
    tracing::info!("an operator had {count} entries of the proxy forgotten: {clear:?}");
    let line = if server_in_use {
        format!("{}: the server in use is forgotten; the next client goes to the first that is up", vip.name)
    } else {
        format!("{} forgotten", plural(count, "client"))
    };
    Ok(Removed { count, lines: vec![line] })
}

async fn remembered(api: &Api, vip: &Vip) -> Result<Vec<Remembered>, No> {
    ask(api, |reply| Ask::Entries(vip.name.clone(), reply)).await
}

/// Asks the owner of the proxy.
async fn ask<T>(api: &Api, ask: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Ask) -> Result<T, No> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        api.asks.send(ask(reply)).await.map_err(|_gone| stopping())?;
        answer.await.map_err(|_gone| stopping())?.map_err(No::invalid)
    };
    in_time(asked).await
}

fn nobody(vip: &Vip) -> No {
    let name = &vip.name;
    No::invalid(match vip.persist {
        Persist::Cookie { .. } => {
            format!("VIP {name} remembers no clients: they keep a cookie that names their server")
        }
        Persist::LastSuccessful { .. } => format!(
            "VIP {name} remembers no clients, its persistence is last-successful: see the server in use with `lbctl table list`"
        ),
        Persist::None | Persist::SourceIp { .. } | Persist::UrlParam { .. } => {
            format!("VIP {name} remembers no clients")
        }
    })
}

fn known(vip: &Vip, rip: Option<&str>) -> Result<(), No> {
    let Some(rip) = rip.filter(|rip| !vip.rips.iter().any(|known| known.name == **rip)) else {
        return Ok(());
    };
    let names: Vec<&str> = vip.rips.iter().map(|rip| rip.name.as_str()).collect();
    Err(No::invalid(format!("no real server {rip} in VIP {}: there are {}", vip.name, names.join(", "))))
}

/// The key of the table that a client's address or a value means.
fn key(vip: &Vip, client: Option<IpAddr>, key: Option<&str>) -> Result<Option<String>, No> {
    match (&vip.persist, client, key) {
        (_, None, None) => Ok(None),
        (Persist::SourceIp { .. }, Some(client), None) => {
            let network = shown(vip, &client.to_string());
            Ok(network.split('/').next().map(ToOwned::to_owned))
        }
        (Persist::UrlParam { .. }, None, Some(key)) => Ok(Some(key.to_owned())),
        (Persist::UrlParam { name, .. }, Some(_), _) => Err(No::invalid(format!(
            "VIP {} knows clients by the parameter {name}, not by their address: name a value with --key",
            vip.name
        ))),
        _ => Err(No::invalid(format!(
            "VIP {} knows clients by their address: name one with --client",
            vip.name
        ))),
    }
}

/// An address as the network that counts, and any other key as it is.
fn shown(vip: &Vip, key: &str) -> String {
    let Persist::SourceIp { prefix_v4, prefix_v6, .. } = &vip.persist else { return key.to_owned() };
    match key.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(ip) => network(ip, if ip.is_ipv4() { *prefix_v4 } else { *prefix_v6 }),
        Err(_) => key.to_owned(),
    }
}
