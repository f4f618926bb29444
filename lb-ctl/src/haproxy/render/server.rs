//! Servers: where they are, what they may do now, and how they are spoken to.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Context, FALLBACK, States,
    text::{Text, bare, quoted, with_port},
};
use crate::model::{
    check::Verify,
    config::{Fallback, Persist, Rip, SourceAddresses, Vip},
    proxied::{DesiredProxy, Takes},
    proxy::{BackendTls, Proxy, ProxyHeader},
};

/// The servers of a VIP or of one of its pools, in the order of the configuration, and the fallback server.
pub(super) fn write(
    text: &mut Text,
    context: &Context<'_>,
    desired: &DesiredProxy,
    proxy: &Proxy,
    pool: Option<&str>,
) {
    let vip = &desired.vip;
    let manner = manner(context, vip, proxy);
    for rip in vip.rips.iter().filter(|rip| rip.pool.as_deref() == pool) {
        let place = place(rip.ip, rip.port, vip);
        let limit = if rip.max_connections == 0 {
            String::new()
        } else {
            format!(" maxconn {}", rip.max_connections)
        };
        let cookie = match &vip.persist {
            Persist::Cookie { .. } => format!(" cookie {}", cookie(&vip.name, rip)),
            Persist::LastSuccessful { .. }
            | Persist::None
            | Persist::SourceIp { .. }
            | Persist::UrlParam { .. } => String::new(),
        };
        let state = match context.states {
            States::Shown => state(desired, rip),
            States::Left => String::new(),
        };
        text.line(format_args!("server {} {place}{state}{limit}{cookie}{manner}", rip.name));
    }
    let fallback = match vip.fallback {
        Fallback::Page => {
            let page = context.proxies.settings.fallback_listen;
            Some(with_port(reachable(page), page.port()))
        }
        Fallback::Server { ip, port } => Some(place(ip, port, vip)),
        Fallback::Drop | Fallback::Reject => None,
    };
    if let Some(place) = fallback {
        text.line(format_args!("server {FALLBACK} {place} backup non-stick"));
    }
}

/// Where the page is asked for when it is served on every address.
const fn reachable(page: SocketAddr) -> IpAddr {
    match page.ip() {
        IpAddr::V4(ip) => IpAddr::V4(if ip.is_unspecified() { Ipv4Addr::LOCALHOST } else { ip }),
        IpAddr::V6(ip) => IpAddr::V6(if ip.is_unspecified() { Ipv6Addr::LOCALHOST } else { ip }),
    }
}

/// Address and port. Without a port the client's is taken, which is that of TLS where TLS ends at the VIP: a VIP that
/// has one port says it.
fn place(ip: IpAddr, port: Option<u16>, vip: &Vip) -> String {
    let mut keys = vip.ports.keys();
    let only = keys.next().filter(|_| keys.next().is_none());
    port.or(only).map_or_else(|| bare(ip), |port| with_port(ip, port))
}

fn state(desired: &DesiredProxy, rip: &Rip) -> String {
    match desired.servers.get(&rip.name) {
        Some(service) => match service.takes {
            Takes::Everything => format!(" weight {}", service.weight),
            Takes::Persistent => " weight 0".to_owned(),
            Takes::Nothing => format!(" weight {} disabled", service.weight),
        },
        None => " disabled".to_owned(),
    }
}

/// What all servers of a VIP have in common.
fn manner(context: &Context<'_>, vip: &Vip, proxy: &Proxy) -> String {
    let mut words = String::new();
    if let Some(tls) = &proxy.backend_tls {
        words.push_str(&tls_words(tls, context));
    }
    words.push_str(match proxy.send_proxy {
        None => "",
        Some(ProxyHeader::V1) => " send-proxy",
        Some(ProxyHeader::V2) => " send-proxy-v2",
        Some(ProxyHeader::V2Ssl) => " send-proxy-v2-ssl",
        Some(ProxyHeader::V2SslCn) => " send-proxy-v2-ssl-cn",
    });
    if proxy.transparent {
        words.push_str(match vip.ip {
            IpAddr::V4(_) => " source 0.0.0.0 usesrc clientip",
            IpAddr::V6(_) => " source [::] usesrc clientip",
        });
        return words;
    }
    let source = match &vip.source.addresses {
        SourceAddresses::Interface => None,
        SourceAddresses::Vip => Some(vip.ip),
        SourceAddresses::Pool(addresses) => addresses.first().copied(),
    };
    if let Some(source) = source {
        words.push_str(" source ");
        words.push_str(&bare(source));
    }
    words
}

fn tls_words(tls: &BackendTls, context: &Context<'_>) -> String {
    let mut words = String::from(" ssl");
    match &tls.verify {
        Verify::Off => words.push_str(" verify none"),
        Verify::System => words.push_str(" verify required ca-file @system-ca"),
        Verify::Family(family) => {
            words.push_str(" verify required ca-file ");
            words.push_str(&quoted(&context.places.family(&family.name).to_string_lossy()));
        }
    }
    if let Some(name) = &tls.name {
        words.push_str(" verifyhost ");
        words.push_str(&quoted(name));
    }
    if let Some(sni) = &tls.sni {
        words.push_str(" sni ");
        words.push_str(&quoted(&format!("str({sni})")));
    }
    if let Some(cert) = &tls.client_cert {
        words.push_str(" crt ");
        words.push_str(&quoted(&context.places.cert(&cert.name).to_string_lossy()));
    }
    words
}

/// What a client's cookie says of its server: the same on every node and in every release, and no name that the inside
/// of the network goes by. FNV-1a in 64 bits (draft-eastlake-fnv, 2 and 5).
fn cookie(vip: &str, rip: &Rip) -> String {
    let bytes = vip.bytes().chain([0]).chain(rip.name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
