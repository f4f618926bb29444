//! What holds for all VIPs: the process, its defaults, and the section in which stick tables are handed on.
#![forbid(unsafe_code)]

use super::{
    Context, PEERS,
    text::{Text, time},
};

/// Silence after which the other end of a connection is asked whether it still lives. Half an hour is when firewalls
/// forget connections that say nothing; the kernel's own two hours are too long for them.
const KEEPALIVE_IDLE: &str = "5m";
/// How long a connection that has carried requests waits for the next one.
const NEXT_REQUEST: &str = "1m";

pub(super) fn write(text: &mut Text, context: &Context<'_>, as_root: bool) {
    let settings = &context.proxies.settings;
    text.margin("# Written by lbd, and written again when something changes: what is edited here is lost.");
    text.margin("global");
    if as_root {
        text.line("# a VIP is transparent: only root may send as a client's address");
    } else {
        text.line("user haproxy");
        text.line("group haproxy");
    }
    text.line(format_args!("maxconn {}", settings.max_connections));
    text.line(format_args!(
        "stats socket {} mode 600 level admin expose-fd listeners",
        context.places.admin_socket().display()
    ));
    text.line(format_args!("localpeer {PEERS}"));
    // Certificates are what lbd has put together; files beside them with the same name mean nothing.
    text.line("ssl-load-extra-files none");
    text.gap();

    text.margin("# Stick tables outlive a reload: the old process hands them to the new one.");
    text.margin(format_args!("peers {PEERS}"));
    text.line(format_args!("peer {PEERS} {}", settings.table_sync));
    text.gap();

    text.margin("defaults tcp");
    text.line("mode tcp");
    text.line(format_args!("timeout connect {}", time(settings.timeouts.connect)));
    text.line(format_args!("timeout client {}", time(settings.timeouts.client)));
    text.line(format_args!("timeout server {}", time(settings.timeouts.server)));
    text.line("option redispatch");
    text.line("# associations that are idle for hours stay in the memory of firewalls");
    text.line("option clitcpka");
    text.line(format_args!("clitcpka-idle {KEEPALIVE_IDLE}"));
    text.line("option srvtcpka");
    text.line(format_args!("srvtcpka-idle {KEEPALIVE_IDLE}"));
    text.gap();

    text.margin("defaults http from tcp");
    text.line("mode http");
    text.line(format_args!("timeout http-keep-alive {NEXT_REQUEST}"));
}
