//! A VIP: its `listen` section, and a `backend` section for each pool that switch rules lead to.
#![forbid(unsafe_code)]

use super::{
    Context, bind, http, persist, pools, section_name, server, switch,
    text::{Text, time},
};
use crate::model::{
    config::{Mode, Scheduler, Vip},
    proxied::DesiredProxy,
    proxy::Proxy,
};

pub(super) fn write(text: &mut Text, context: &Context<'_>, desired: &DesiredProxy, proxy: &Proxy) {
    let vip = &desired.vip;
    let is_http = vip.mode == Mode::L7Http;
    let defaults = if is_http { "http" } else { "tcp" };
    text.gap();
    text.margin(format_args!("# {}", purpose(vip, proxy)));
    text.margin(format_args!("listen {} from {defaults}", vip.name));
    bind::write(text, context, vip, proxy);
    if let Some(most) = proxy.max_connections {
        text.line(format_args!("maxconn {most}"));
    }
    timeouts(text, context, proxy, true);
    if !switch::write_wait(text, vip, proxy) {
        persist::write_wait(text, context, vip);
    }
    if is_http {
        http::write(text, vip, proxy);
    }
    for line in &proxy.extra {
        text.line(line);
    }
    switch::write(text, vip, proxy);
    distribution(text, vip, proxy, None);
    server::write(text, context, desired, proxy, None);
    for pool in pools(vip) {
        text.gap();
        text.margin(format_args!("# pool {pool} of {}", vip.name));
        text.margin(format_args!("backend {} from {defaults}", section_name(&vip.name, Some(pool))));
        timeouts(text, context, proxy, false);
        distribution(text, vip, proxy, Some(pool));
        server::write(text, context, desired, proxy, Some(pool));
    }
}

/// What the VIP is for, in a line.
fn purpose(vip: &Vip, proxy: &Proxy) -> String {
    let what = if vip.mode == Mode::L7Http { "HTTP" } else { "TCP" };
    let Some(tls) = &proxy.tls else {
        return format!("{}: {what} on {}", vip.name, vip.ports);
    };
    let clients = match (&tls.client_ca, tls.client_required) {
        (None, _) => String::new(),
        (Some(family), true) => format!(" for clients with a certificate of {}", family.name),
        (Some(family), false) => format!(", clients may show a certificate of {}", family.name),
    };
    let (name, ports, port) = (&vip.name, &vip.ports, tls.port);
    if tls.cleartext {
        return format!("{name}: {what} on {ports}, over TLS on {port}{clients}");
    }
    format!("{name}: {what} over TLS on {port}{clients}; {ports} would be a way round it and is closed")
}

/// Time limits that are others than those of most VIPs. A pool has no clients of its own.
fn timeouts(text: &mut Text, context: &Context<'_>, proxy: &Proxy, has_clients: bool) {
    let usual = &context.proxies.settings.timeouts;
    let mut line = |name: &str, limit, usual| {
        if limit != usual {
            text.line(format_args!("timeout {name} {}", time(limit)));
        }
    };
    line("connect", proxy.timeouts.connect, usual.connect);
    if has_clients {
        line("client", proxy.timeouts.client, usual.client);
    }
    line("server", proxy.timeouts.server, usual.server);
}

/// Which of the servers a client gets.
fn distribution(text: &mut Text, vip: &Vip, proxy: &Proxy, pool: Option<&str>) {
    if vip.mode == Mode::L7Http {
        http::write_servers(text, proxy);
    }
    match vip.scheduler {
        Scheduler::First => text.line("balance first"),
        Scheduler::Maglev | Scheduler::SourceHash => {
            text.line("balance source");
            text.line("hash-type consistent");
        }
        Scheduler::Wlc => text.line("balance leastconn"),
        Scheduler::Wrr => text.line("balance roundrobin"),
    }
    persist::write(text, vip, proxy, pool);
}
