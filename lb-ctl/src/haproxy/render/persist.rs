//! Whether clients come back to the same server.
#![forbid(unsafe_code)]

use std::{net::IpAddr, time::Duration};

use super::{
    Context, PEERS,
    text::{Text, quoted, time},
};
use crate::model::{
    config::{Persist, Vip},
    proxy::Proxy,
};

/// Time in which a process hears from the one before it who is remembered. On a machine with much else to do 0.3 s were
/// too short after one of 100 reloads.
const HEARING: &str = "1s";
/// Client addresses that a VIP remembers; beyond it the one that was away longest is forgotten.
const CLIENTS: u32 = 102_400;
/// The one key of a VIP whose clients all stay on the server in use. Of the table's two places the second is for the
/// moment in which one entry replaces another.
const ALL_CLIENTS: &str = "active";
/// Longest time for which the server in use is remembered while nobody comes, where nothing is said.
const LAST_SUCCESSFUL: Duration = Duration::from_secs(12 * 3600);

/// Whether it is kept in a stick table.
pub(super) const fn has_table(persist: &Persist) -> bool {
    match persist {
        Persist::LastSuccessful { .. } | Persist::SourceIp { .. } | Persist::UrlParam { .. } => true,
        Persist::Cookie { .. } | Persist::None => false,
    }
}

/// In a process that follows another, holds clients back for the moment in which it hears who is remembered: one that
/// was given a server before that would be remembered with the wrong one. Rules that wait for what a client says hold it
/// long enough.
pub(super) fn write_wait(text: &mut Text, context: &Context<'_>, vip: &Vip) {
    let Some(until) = context.learns_until_epoch_secs.filter(|_| has_table(&vip.persist)) else { return };
    text.line("# until the process before has told who is remembered");
    text.line(format_args!("tcp-request inspect-delay {HEARING}"));
    text.line(format_args!("tcp-request content accept if {{ date ge {until} }}"));
    text.line("tcp-request content accept if WAIT_END");
}

/// Persistence among the servers of a VIP, or of one of its pools.
pub(super) fn write(text: &mut Text, vip: &Vip, proxy: &Proxy, pool: Option<&str>) {
    match &vip.persist {
        Persist::None => {}
        Persist::Cookie { name, max_idle, max_life } => {
            let name = cookie_name(name, pool);
            let secure = if tls_alone(proxy) { " secure" } else { "" };
            text.line(format_args!(
                "cookie {} insert indirect nocache httponly{secure} maxidle {} maxlife {}",
                quoted(&name),
                time(*max_idle),
                time(*max_life)
            ));
        }
        Persist::LastSuccessful { timeout } => {
            let timeout = time(timeout.unwrap_or(LAST_SUCCESSFUL));
            text.line("# all clients share one entry: the server that serves them");
            text.line(format_args!("stick-table type string len 16 size 2 expire {timeout} peers {PEERS}"));
            text.line(format_args!("stick on str({ALL_CLIENTS})"));
            text.line("# who fails is what the checks say; one connection that fails moves nobody");
            text.line("no option redispatch");
        }
        Persist::SourceIp { prefix_v4, prefix_v6, timeout, group: _ } => {
            // An address out of a PROXY header may be of the other family; IPv6 has room for both.
            let kind = if vip.ip.is_ipv4() && !proxy.accept_proxy { "ip" } else { "ipv6" };
            let expire = time(*timeout);
            text.line(format_args!("stick-table type {kind} size {CLIENTS} expire {expire} peers {PEERS}"));
            let mask = mask(vip.ip, *prefix_v4, *prefix_v6);
            text.line(format_args!("stick on src{mask}"));
        }
        Persist::UrlParam { name, timeout, entries, key_len } => {
            let expire = time(*timeout);
            text.line(format_args!(
                "stick-table type string len {key_len} size {entries} expire {expire} peers {PEERS}"
            ));
            text.line(format_args!("stick on {}", quoted(&format!("url_param({name})"))));
        }
    }
}

/// A cookie of each pool's own: a client that goes to two pools keeps its server in both.
fn cookie_name(name: &str, pool: Option<&str>) -> String {
    // A colon may stand in the name of a pool, and not in that of a cookie (RFC 6265, 4.1.1).
    pool.map_or_else(|| name.to_owned(), |pool| format!("{name}.{}", pool.replace(':', "_")))
}

/// True when no answer of a server reaches a client without TLS.
fn tls_alone(proxy: &Proxy) -> bool {
    proxy.tls.as_ref().is_some_and(|tls| !tls.cleartext || proxy.https_redirect.is_some())
}

fn mask(vip: IpAddr, prefix_v4: u8, prefix_v6: u8) -> String {
    match (vip, prefix_v4, prefix_v6) {
        (_, 32, 128) | (IpAddr::V4(_), 32, _) | (IpAddr::V6(_), _, 128) => String::new(),
        _ => format!(",ipmask({prefix_v4},{prefix_v6})"),
    }
}
