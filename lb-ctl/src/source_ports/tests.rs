//! Facts and configurations in, conflicts out.

use super::*;
use crate::model::config::{Ports, Protocols, Source};

fn snat(addresses: SourceAddresses, ports: RangeInclusive<u16>) -> Vip {
    Vip {
        source: Source { addresses, ports },
        ..Vip::new("HL7", Mode::L4Snat, "10.12.1.100".parse().unwrap(), Ports::Ranges(vec![2575..=2575]))
    }
}

fn of(vip: Vip, facts: &PortFacts) -> Vec<String> {
    let config = Config { vips: vec![vip], ..Config::default() };
    conflicts(&config, facts).iter().map(Conflict::to_string).collect()
}

fn facts(listeners: &[(Protocol, &str)]) -> PortFacts {
    let listeners = listeners.iter().map(|&(protocol, at)| Listener { protocol, at: at.parse().unwrap() });
    PortFacts { ephemeral: 32_768..=60_999, reserved: Vec::new(), listeners: listeners.collect() }
}

#[test]
fn the_default_ports_are_free_on_a_machine_with_the_kernels_defaults() {
    let default = Source::default();
    assert_eq!(of(snat(default.addresses, default.ports), &facts(&[(Protocol::Tcp, "0.0.0.0:22")])), [""; 0]);
}

#[test]
fn ports_that_the_kernel_gives_away_are_refused_unless_they_are_reserved() {
    let vip = || snat(SourceAddresses::Interface, 30_000..=40_000);
    let mut facts = facts(&[]);
    assert_eq!(
        of(vip(), &facts),
        [
            "VIP HL7: source ports 30000-40000 overlap 32768-60999, from which the kernel takes ports for connections \
          of this machine (net.ipv4.ip_local_port_range): choose `source_ports` of [vip.HL7] outside, or keep the \
          kernel off them: sysctl -w net.ipv4.ip_local_reserved_ports=32768-40000, and in /etc/sysctl.d"
        ]
    );
    facts.reserved = vec![8080..=8080, 32_768..=39_999];
    assert_eq!(of(vip(), &facts).len(), 1);
    facts.reserved.push(40_000..=40_000);
    assert_eq!(of(vip(), &facts), [""; 0]);
    assert_eq!(of(Vip { mode: Mode::L4Nat, ..vip() }, &self::facts(&[])), [""; 0]);
    assert_eq!(of(Vip { enabled: false, ..vip() }, &self::facts(&[])), [""; 0]);
}

#[test]
fn a_listener_is_in_the_way_when_replies_could_reach_it() {
    use Protocol::{Tcp, Udp};
    let own = || SourceAddresses::Interface;
    let pool = || SourceAddresses::Pool(vec!["10.12.1.7".parse().unwrap()]);
    for (addresses, listener, conflict) in [
        (own(), (Tcp, "0.0.0.0:11112"), true),
        (own(), (Tcp, "[::]:11112"), true),
        (own(), (Tcp, "10.12.1.5:11112"), true),
        (own(), (Tcp, "127.0.0.1:11112"), false),
        (own(), (Tcp, "[2001:db8::5]:11112"), false),
        (own(), (Udp, "0.0.0.0:11112"), false),
        (own(), (Tcp, "0.0.0.0:9999"), false),
        (own(), (Tcp, "0.0.0.0:32768"), false),
        (SourceAddresses::Vip, (Tcp, "10.12.1.100:11112"), true),
        (SourceAddresses::Vip, (Tcp, "10.12.1.5:11112"), false),
        (pool(), (Tcp, "10.12.1.7:11112"), true),
        (pool(), (Tcp, "10.12.1.5:11112"), false),
        (pool(), (Tcp, "0.0.0.0:11112"), true),
    ] {
        let found = of(snat(addresses.clone(), 10_000..=32_767), &facts(&[listener]));
        assert_eq!(found.len(), usize::from(conflict), "{addresses:?} {listener:?} {found:?}");
    }
}

#[test]
fn only_the_protocols_of_the_vip_count_and_an_ipv4_wildcard_is_not_one_of_ipv6() {
    let vip = |protocols, ip: &str| Vip {
        protocols,
        ip: ip.parse().unwrap(),
        ..snat(SourceAddresses::Interface, 10_000..=32_767)
    };
    let udp = facts(&[(Protocol::Udp, "0.0.0.0:12000")]);
    assert_eq!(of(vip(Protocols::TcpUdp, "10.12.1.100"), &udp).len(), 1);
    assert_eq!(of(vip(Protocols::TcpUdp, "2001:db8::1"), &udp), [""; 0]);
}

#[test]
fn the_first_listener_is_named_and_the_rest_are_counted() {
    let many = facts(&[(Protocol::Tcp, "0.0.0.0:20002"), (Protocol::Tcp, "0.0.0.0:20001")]);
    assert_eq!(
        of(snat(SourceAddresses::Interface, 10_000..=32_767), &many),
        [
            "VIP HL7: a program of this machine waits on tcp 0.0.0.0:20001 and 1 more, which is among source ports \
             10000-32767: choose `source_ports` of [vip.HL7] without it, or stop the program (`ss -lntp sport = \
             :20001` names it)"
        ]
    );
}
