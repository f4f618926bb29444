//! Any VIP of layer 7, and any `[proxy]`, for [`crate::shown`].

use std::{net::SocketAddr, time::Duration};

use lb_ctl::model::{
    check::Verify,
    config::{Fallback, Mode, Persist, Ports, Protocols, Rip, Scheduler, Source, SourceAddresses, Vip},
    proxy::{
        BackendTls, HeaderAction, HeaderOf, HeaderRule, Http, KeepAlive, Proxy, ProxyHeader, ProxySettings,
        Security, SwitchOn, SwitchRule, Termination, Timeouts, Unintelligible,
    },
};
use proptest::prelude::*;

use crate::any_check::{family, own_cert};

/// One line of any text, as headers have it.
const TEXT: &str = "[!-~\u{e4}\"'\\\\][ -~\u{e4}\"'\\\\]{0,12}";

pub(crate) fn any_settings() -> impl Strategy<Value = ProxySettings> {
    let listens = (1u16..30_000, 30_000u16.., any::<bool>());
    let page = prop::option::of("/[a-z]{1,8}( [a-z]{1,3})?");
    (any_timeouts(), 1u32..=1_000_000, listens, page).prop_map(
        |(timeouts, max_connections, (one, other, v6), page)| {
            let ip = if v6 { "::1" } else { "127.0.0.1" }.parse().unwrap();
            ProxySettings {
                timeouts,
                max_connections,
                fallback_listen: SocketAddr::new(ip, one),
                fallback_page: page.map(Into::into),
                table_sync: SocketAddr::new(ip, other),
            }
        },
    )
}

fn any_timeouts() -> impl Strategy<Value = Timeouts> {
    let limit = || (10u64..=2_073_600_000).prop_map(Duration::from_millis);
    (limit(), limit(), limit()).prop_map(|(connect, client, server)| Timeouts { connect, client, server })
}

/// A VIP of layer 4 that goes over to layer 7.
pub(crate) fn on_layer7(vips: impl Strategy<Value = Vip>) -> impl Strategy<Value = Vip> {
    let mode = prop::sample::select(vec![Mode::L7Tcp, Mode::L7Http]);
    let ports = prop::collection::btree_set(1u16..1000, 1..3);
    let pools = prop::collection::vec(prop::option::of(prop::sample::select(vec!["us", "de"])), 4);
    let shape = (ports, pools, 0u8..3, 0u8..3);
    (vips, mode, shape, any_persist(), any_proxy(), any_rules()).prop_map(
        |(mut vip, mode, (ports, pools, source, fallback), persist, proxy, rules)| {
            let plain = Vip::new(&vip.name, mode, vip.ip, vip.ports.clone());
            vip.name = vip.name.replace(|c: char| !c.is_ascii(), "_");
            vip.ports = Ports::Ranges(ports.into_iter().rev().map(|port| port..=port).collect());
            (vip.mode, vip.protocols, vip.return_path) = (mode, Protocols::Tcp, plain.return_path);
            (vip.idle_timeout, vip.unattended) = (plain.idle_timeout, plain.unattended);
            if vip.scheduler == Scheduler::Maglev {
                vip.scheduler = Scheduler::SourceHash;
            }
            vip.persist = fitting_persist(persist, &vip);
            vip.fallback = match (fallback, vip.fallback) {
                (0, _) => Fallback::Page,
                (_, server @ Fallback::Server { .. }) => server,
                _ => Fallback::Reject,
            };
            let own = if vip.ip.is_ipv4() { "10.2.0.1" } else { "2001:db8::2:1" };
            vip.source = Source {
                addresses: match source {
                    0 => SourceAddresses::Vip,
                    1 => SourceAddresses::Pool(vec![own.parse().unwrap()]),
                    _ => SourceAddresses::Interface,
                },
                ..Source::default()
            };
            for ((n, rip), pool) in vip.rips.iter_mut().enumerate().zip(pools) {
                rip.name = format!("{}{n}", rip.name.replace(|c: char| !c.is_ascii(), "_"));
                rip.pool = pool.map(str::to_owned);
                // No server of layer 4 has such an address.
                let ip = if vip.ip.is_ipv4() {
                    format!("10.8.0.{}", n + 1)
                } else {
                    format!("2001:db8::8:{}", n + 1)
                };
                rip.ip = ip.parse().unwrap();
                rip.port.get_or_insert(104);
            }
            let rules = fitting_rules(rules, mode, &vip.rips, proxy.tls.is_some());
            vip.proxy = Some(Box::new(fitting_proxy(proxy, rules, &vip)));
            vip
        },
    )
}

fn any_persist() -> impl Strategy<Value = Persist> {
    let time = || (1u64..=2_073_600).prop_map(Duration::from_secs);
    prop_oneof![
        Just(Persist::None),
        ("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", time(), time())
            .prop_map(|(name, max_idle, max_life)| Persist::Cookie { name, max_idle, max_life }),
        time().prop_map(|timeout| Persist::LastSuccessful { timeout: Some(timeout) }),
        (1u8..=32, time()).prop_map(|(prefix, timeout)| Persist::SourceIp {
            prefix_v4: prefix,
            prefix_v6: prefix,
            timeout,
            group: None
        }),
        ("[A-Za-z0-9_.~-]{1,12}", time(), 1u32..=10_000_000, 1u16..=1024).prop_map(
            |(name, timeout, entries, key_len)| Persist::UrlParam { name, timeout, entries, key_len }
        ),
    ]
}

fn fitting_persist(persist: Persist, vip: &Vip) -> Persist {
    match persist {
        Persist::Cookie { .. } | Persist::UrlParam { .. } if vip.mode == Mode::L7Tcp => Persist::None,
        Persist::LastSuccessful { .. } if vip.scheduler != Scheduler::First => Persist::None,
        Persist::SourceIp { prefix_v4, prefix_v6, timeout, group } => Persist::SourceIp {
            prefix_v4: if vip.ip.is_ipv4() { prefix_v4 } else { 32 },
            prefix_v6: if vip.ip.is_ipv4() { 128 } else { prefix_v6 },
            timeout,
            group,
        },
        Persist::Cookie { .. }
        | Persist::LastSuccessful { .. }
        | Persist::None
        | Persist::UrlParam { .. } => persist,
    }
}

fn any_proxy() -> impl Strategy<Value = Proxy> {
    let tls = prop::option::of((any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3)).prop_map(|tls| {
        tls.map(|(verified, required, cleartext, security)| Termination {
            port: 4443,
            certs: vec![own_cert()],
            client_ca: verified.then(family),
            client_required: required || !verified,
            security: [Security::High, Security::Compatible, Security::Fips][security],
            cleartext,
        })
    });
    let verify = prop::sample::select(vec![Verify::Off, Verify::System, Verify::Family(family())]);
    let backend = prop::option::of((verify, any::<bool>(), any::<bool>(), any::<bool>()));
    let keep_alive =
        prop::sample::select(vec![KeepAlive::Both, KeepAlive::Off, KeepAlive::Client, KeepAlive::Pretend]);
    let http = (keep_alive, any::<bool>(), prop::option::of(100u64..=3_600_000), any::<bool>());
    let redirect = prop::option::of(prop::sample::select(vec![301, 302, 303, 307, 308]));
    let header = prop::option::of(prop::sample::select(vec![
        ProxyHeader::V1,
        ProxyHeader::V2,
        ProxyHeader::V2Ssl,
        ProxyHeader::V2SslCn,
    ]));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let extra = prop::sample::subsequence(vec!["option tcpka", "acl x src 10.0.0.0/8 # \"a\\b\""], 0..=2);
    let rest = (redirect, header, flags, prop::option::of(1u32..=1_000_000), extra);
    let headers = prop::collection::vec(any_header(), 0..3);
    (tls, backend, any_timeouts(), http, headers, rest).prop_map(
        |(tls, backend, timeouts, (keep_alive, accept_invalid, request, forwarded_for), headers, rest)| {
            let (https_redirect, send_proxy, (refuse, accept_proxy, transparent), max_connections, extra) =
                rest;
            Proxy {
                tls,
                backend_tls: backend.map(|(verify, named, sni, cert)| BackendTls {
                    name: (named && verify != Verify::Off).then(|| "pacs.example".to_owned()),
                    verify,
                    sni: sni.then(|| "sni.example".to_owned()),
                    client_cert: cert.then(own_cert),
                }),
                timeouts,
                http: Http {
                    keep_alive,
                    accept_invalid,
                    request_timeout: request.map(Duration::from_millis),
                    forwarded_for,
                },
                https_redirect,
                headers,
                switch: Vec::new(),
                unintelligible: if refuse { Unintelligible::Refuse } else { Unintelligible::Default },
                accept_proxy,
                send_proxy,
                transparent,
                max_connections,
                extra: extra.into_iter().map(str::to_owned).collect(),
            }
        },
    )
}

fn any_header() -> impl Strategy<Value = HeaderRule> {
    let action = prop_oneof![
        TEXT.prop_map(HeaderAction::Add),
        TEXT.prop_map(HeaderAction::Set),
        Just(HeaderAction::Delete),
        (TEXT, prop_oneof![TEXT.boxed(), Just(String::new()).boxed()])
            .prop_map(|(pattern, with)| HeaderAction::Replace { pattern, with }),
    ];
    let of = prop::sample::select(vec![HeaderOf::Request, HeaderOf::Response]);
    ("[A-Za-z0-9-]{1,10}", of, action).prop_map(|(name, of, action)| HeaderRule { of, action, name })
}

/// What rules may compare, whatever the mode.
fn any_rules() -> impl Strategy<Value = Vec<SwitchOn>> {
    let titles = || prop::collection::btree_set("[!-\\[\\]-~][ -\\[\\]-~]{0,14}[!-\\[\\]-~]", 1..3);
    let hosts = || prop::sample::subsequence(vec!["a.example", "b.example"], 1..=2);
    let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
    let on = prop_oneof![
        titles().prop_map(|titles| SwitchOn::CalledAet(titles.into_iter().collect())),
        titles().prop_map(|titles| SwitchOn::CallingAet(titles.into_iter().collect())),
        hosts().prop_map(move |hosts| SwitchOn::Host(owned(hosts))),
        Just(SwitchOn::PathPrefix(vec!["/wado".to_owned(), "/".to_owned()])),
        hosts().prop_map(move |hosts| SwitchOn::Sni(owned(hosts))),
    ];
    prop::collection::vec(on, 4)
}

/// A rule to each pool that there is, of those that the mode has, and one more if there are any.
fn fitting_rules(rules: Vec<SwitchOn>, mode: Mode, rips: &[Rip], tls: bool) -> Vec<SwitchRule> {
    let fits = |on: &SwitchOn| match on {
        SwitchOn::CalledAet(_) | SwitchOn::CallingAet(_) => mode == Mode::L7Tcp,
        SwitchOn::Host(_) | SwitchOn::PathPrefix(_) => mode == Mode::L7Http,
        SwitchOn::Sni(_) => mode == Mode::L7Tcp || tls,
    };
    let named = vec!["c.example".to_owned()];
    let otherwise = if mode == Mode::L7Http { SwitchOn::Host(named) } else { SwitchOn::Sni(named) };
    let pools: Vec<_> = rips.iter().filter_map(|rip| rip.pool.clone()).collect();
    let rule = |(on, pool): (SwitchOn, &String)| SwitchRule {
        on: if fits(&on) { on } else { otherwise.clone() },
        pool: pool.clone(),
    };
    rules.into_iter().zip(pools.iter().chain(pools.first())).map(rule).collect()
}

fn fitting_proxy(mut proxy: Proxy, switch: Vec<SwitchRule>, vip: &Vip) -> Proxy {
    let plain = Proxy::new(&ProxySettings::default());
    proxy.switch = switch;
    if vip.mode == Mode::L7Tcp {
        (proxy.http, proxy.headers) = (plain.http, plain.headers);
    }
    if vip.mode == Mode::L7Tcp || proxy.tls.is_none() {
        proxy.https_redirect = None;
    }
    if proxy.tls.is_none() && matches!(proxy.send_proxy, Some(ProxyHeader::V2Ssl | ProxyHeader::V2SslCn)) {
        proxy.send_proxy = Some(ProxyHeader::V2);
    }
    if !proxy.reads_ae_titles() {
        proxy.unintelligible = Unintelligible::Default;
    }
    proxy.transparent &= vip.source.addresses == SourceAddresses::Interface;
    proxy
}
