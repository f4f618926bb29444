//! Any configuration at all: what is shown of it means the same.

use std::{net::IpAddr, time::Duration};

use lb_ctl::{
    config::{Texts, diff, load_texts, show},
    model::config::{
        Config, Fallback, Gateway, GatewayAddress, Mode, Node, Persist, Ports, Protocols, ReturnPath, Rip,
        Scheduler, Source, SourceAddresses, Unattended, Vip,
    },
};
use proptest::prelude::*;

use crate::{
    any_check::{any_alerts, any_check, any_pki, settle},
    any_proxy::{any_settings, on_layer7},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_shown_means_the_same_and_differs_in_nothing(config in any_config(), other in any_config()) {
        let shown = show(&config);
        let again = load_texts(Texts::single("shown.toml", shown.clone()));
        let again = again.map_err(|errors| TestCaseError::fail(format!("{errors}\n{shown}")))?;
        prop_assert_eq!(&again.config, &config);
        prop_assert!(diff(&config, &again.config).is_empty());
        prop_assert_eq!(diff(&config, &other).is_empty(), config == other, "{:?}", diff(&config, &other));
    }
}

fn any_config() -> impl Strategy<Value = Config> {
    let vip = prop_oneof![any_vip().boxed(), on_layer7(any_vip()).boxed()];
    let vips = prop::collection::vec(vip, 0..4);
    let interfaces = prop::sample::subsequence(vec!["eth0", "eth1.100", "bond0"], 0..3);
    let named = prop::option::of("[a-zA-Z0-9][a-zA-Z0-9.-]{0,20}");
    let told = (any_pki(), any_alerts(), any_settings());
    (named, interfaces, 1024u32..99999, any_gateway(), told, vips).prop_map(
        |(name, interfaces, flows, gateway, (pki, alerts, proxy), vips)| {
            let vips = vips.into_iter().enumerate().map(|(n, mut vip)| {
                vip.name = format!("{}{n}", vip.name);
                vip.ip = match vip.ip {
                    IpAddr::V4(_) => format!("10.1.0.{}", n + 1).parse().unwrap(),
                    IpAddr::V6(_) => format!("2001:db8::1:{}", n + 1).parse().unwrap(),
                };
                vip
            });
            let node = Node {
                name,
                interfaces: interfaces.into_iter().map(str::to_owned).collect(),
                flows_v4: flows,
                flows_v6: flows + 1,
                half_open: flows + 2,
            };
            let mut config = Config { node, gateway, pki, alerts, proxy, vips: vips.collect() };
            settle(&mut config);
            config
        },
    )
}

fn any_vip() -> impl Strategy<Value = Vip> {
    let scheduler = prop::sample::select(vec![
        Scheduler::First,
        Scheduler::Maglev,
        Scheduler::SourceHash,
        Scheduler::Wlc,
        Scheduler::Wrr,
    ]);
    let rips = prop::collection::btree_map(
        "[\\p{Lu}a-z_][a-zA-Z0-9_.-]{0,8}",
        (
            (1u16..=256, 1u8.., prop::option::of(1u16..)),
            (any::<u16>(), any::<u16>()),
            prop::option::of(any_check()),
        ),
        0..4,
    );
    let flags = (any::<bool>(), any::<bool>(), prop::option::of(Just("eth0".to_owned())));
    let persist = prop::option::of((1u64..2_592_000, 1u8..=32, any::<bool>()));
    let fallback = (0u8..3, prop::option::of(1u16..));
    let rest = (1u64..2_592_000, persist, fallback, 0u64..=3600, any::<bool>());
    let shape = (any_ports(), any_protocols(), any_translation());
    let check = (any_check(), prop::sample::subsequence(vec!["a@b.example", "\u{e4}@c.example"], 0..=2));
    ("[A-Za-z\u{c4}_][A-Za-z0-9_.-]{0,12}", shape, scheduler, check, flags, rest, rips).prop_map(
        |(name, shape, scheduler, (check, alert_to), (v6, enabled, interface), rest, rips)| {
            let (idle, persist, (fallback, fallback_port), slow_start, refuse) = rest;
            let (ports, protocols, (mode, source, return_path, reset)) = shape;
            let takes_ports = mode != Mode::L4Dr && ports != Ports::All;
            let ip = if v6 { "2001:db8::1".parse().unwrap() } else { IpAddr::from([10, 0, 0, 1]) };
            let mut vip = Vip { protocols, ..Vip::new(&name, mode, ip, ports) };
            vip.alert_to = alert_to.into_iter().map(str::to_owned).collect();
            if mode != Mode::L4Dr {
                (vip.return_path, vip.reset) = (return_path, reset);
            }
            if mode == Mode::L4Snat {
                vip.source = source_of(source, v6);
            }
            let unpersistent = if scheduler == Scheduler::First {
                Persist::LastSuccessful { timeout: None }
            } else {
                Persist::None
            };
            vip.persist = persist.map_or(unpersistent, |(secs, prefix, shared)| Persist::SourceIp {
                prefix_v4: if v6 { 32 } else { prefix },
                prefix_v6: if v6 { prefix } else { 128 },
                timeout: Duration::from_secs(secs),
                group: shared.then(|| format!("of-{name}")),
            });
            (vip.scheduler, vip.check, vip.interface, vip.enabled) = (scheduler, check, interface, enabled);
            vip.fallback = match fallback {
                0 => Fallback::Reject,
                1 => Fallback::Drop,
                _ => Fallback::Server {
                    ip: if v6 { "2001:db8::4:1" } else { "10.4.0.1" }.parse().unwrap(),
                    port: fallback_port.filter(|_| takes_ports),
                },
            };
            vip.slow_start = Duration::from_secs(slow_start);
            vip.unattended = if refuse { Unattended::Refuse } else { Unattended::Serve };
            vip.idle_timeout = Duration::from_secs(idle);
            for (n, (name, ((weight, host, port), (one, other), own))) in rips.into_iter().enumerate() {
                let ip = if v6 { format!("2001:db8::{n}:{host:x}:0") } else { format!("10.9.{n}.{host}") };
                let port = port.filter(|_| takes_ports);
                let (max_connections, min_connections) = (one.max(other), one.min(other));
                let ip = ip.parse().unwrap();
                vip.rips.push(Rip {
                    name,
                    ip,
                    port,
                    weight,
                    max_connections,
                    min_connections,
                    check: own,
                    pool: None,
                });
            }
            vip
        },
    )
}

/// Ranges that don't overlap, the highest first; or every port.
fn any_ports() -> impl Strategy<Value = Ports> {
    let ranges = prop::collection::btree_map(0u16..64, (1u16..1000, 0u16..20), 1..4);
    prop_oneof![
        1 => Just(Ports::All),
        4 => ranges.prop_map(|ranges| {
            let range = |(n, (low, more)): (u16, (u16, u16))| n * 1020 + low..=n * 1020 + low + more;
            Ports::Ranges(ranges.into_iter().rev().map(range).collect())
        }),
    ]
}

fn any_protocols() -> impl Strategy<Value = Protocols> {
    prop::sample::select(vec![Protocols::Tcp, Protocols::Udp, Protocols::TcpUdp])
}

/// Source addresses by number, and the lowest of the source ports with how many more there are.
#[derive(Clone, Debug)]
enum Addresses {
    Interface,
    Vip,
    Pool(Vec<u16>),
}

fn any_translation() -> impl Strategy<Value = (Mode, (Addresses, (u16, u16)), ReturnPath, bool)> {
    let mode = prop::sample::select(vec![Mode::L4Dr, Mode::L4Nat, Mode::L4Snat]);
    let addresses = prop_oneof![
        Just(Addresses::Interface),
        Just(Addresses::Vip),
        prop::collection::btree_set(1u16..200, 1..=16)
            .prop_map(|pool| Addresses::Pool(pool.into_iter().rev().collect())),
    ];
    let source = (addresses, (1024u16..40000, 0u16..20000));
    let return_path = prop::sample::select(vec![ReturnPath::LastHop, ReturnPath::Route]);
    (mode, source, return_path, any::<bool>())
}

fn source_of((addresses, (low, more)): (Addresses, (u16, u16)), v6: bool) -> Source {
    let address = |n: u16| if v6 { format!("2001:db8::2:{n}") } else { format!("10.2.0.{n}") };
    let addresses = match addresses {
        Addresses::Interface => SourceAddresses::Interface,
        Addresses::Vip => SourceAddresses::Vip,
        Addresses::Pool(pool) => {
            SourceAddresses::Pool(pool.into_iter().map(|n| address(n).parse().unwrap()).collect())
        }
    };
    Source { addresses, ports: low..=low + more }
}

fn any_gateway() -> impl Strategy<Value = Gateway> {
    let interface = prop::sample::select(vec![None, Some("eth0".to_owned()), Some("eth1.100".to_owned())]);
    let addresses = prop::collection::btree_map(1u8..=254, (any::<bool>(), interface), 0..3);
    let masquerade = prop::sample::subsequence(vec!["eth1", "ppp0"], 0..=2);
    (addresses, masquerade).prop_map(|(addresses, masquerade)| Gateway {
        addresses: addresses
            .into_iter()
            .map(|(n, (v6, interface))| {
                let ip = if v6 { format!("2001:db8::3:{n:x}") } else { format!("10.3.0.{n}") };
                GatewayAddress { ip: ip.parse().unwrap(), interface }
            })
            .collect(),
        masquerade: masquerade.into_iter().map(str::to_owned).collect(),
    })
}
