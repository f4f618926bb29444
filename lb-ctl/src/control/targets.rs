//! What should be checked, made of the configuration and of what is known of the network. Pure.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::{
    model::{
        check::{Check, DicomCheck},
        config::{CheckKind, Config, Mode, Ports, Protocols, Rip, Vip},
        health::{DirectPath, PathTarget, RipId, Target, Targets},
        net::{Address, NetFacts},
    },
    net::subnet,
};

/// Every server of every VIP that is served.
pub(super) fn of(config: &Config, facts: &NetFacts) -> Targets {
    let mut targets = Targets::new();
    for vip in config.vips.iter().filter(|v| v.enabled) {
        targets.extend(vip.rips.iter().filter_map(|rip| {
            let check = rip.check.as_ref().unwrap_or(&vip.check);
            // The configuration demands a port of what has none to go by; `off` and `ping` ask none.
            let unasked = (!check.kind.asks_port()).then_some(0);
            let port = check.port.or(rip.port).or_else(|| vip.ports.first()).or(unasked)?;
            Some(Target {
                id: RipId { vip: vip.name.clone(), rip: rip.name.clone() },
                addr: SocketAddr::new(rip.ip, port),
                check: check.clone(),
                vip: SocketAddr::new(vip.ip, vip.ports.first().unwrap_or(0)),
                path: path(config, vip, rip, check, facts),
            })
        }));
    }
    targets
}

/// Whether, and how, the VIP is tried at a server.
fn path(config: &Config, vip: &Vip, rip: &Rip, check: &Check, facts: &NetFacts) -> PathTarget {
    let tried = vip.mode == Mode::L4Dr
        && vip.protocols != Protocols::Udp
        && check.kind != CheckKind::Off
        && check.dr_path;
    match path_port(vip, check) {
        Some(port) if tried => match direct(config, vip.ip, rip.ip, facts) {
            Ok(path) => PathTarget::Direct(Arc::new(DirectPath {
                vip: SocketAddr::new(vip.ip, port),
                echo: echo(vip, check, port),
                ..path
            })),
            Err(why) => PathTarget::Waiting(why),
        },
        _ => PathTarget::Off,
    }
}

/// Port of the VIP that is tried: the check's, if the VIP has it, else the VIP's first.
fn path_port(vip: &Vip, check: &Check) -> Option<u16> {
    let has = |port: &u16| match &vip.ports {
        Ports::All => true,
        Ports::Ranges(ranges) => ranges.iter().any(|range| range.contains(port)),
    };
    check.port.filter(has).or_else(|| vip.ports.first())
}

/// An archive is asked by the VIP what it is asked by its own address, if that is the same port.
fn echo(vip: &Vip, check: &Check, port: u16) -> Option<DicomCheck> {
    let same_port = check.port.or(vip.ports.first()) == Some(port);
    if let CheckKind::DicomEcho(dicom) = &check.kind
        && dicom.tls.is_none()
        && same_port
    {
        return Some(dicom.clone());
    }
    None
}

/// The way to a server, with nothing said yet of the VIP's port; or what is missing.
fn direct(config: &Config, vip: IpAddr, server: IpAddr, facts: &NetFacts) -> Result<DirectPath, String> {
    if !facts.complete {
        return Err("the network's state is not known yet".to_owned());
    }
    // Without it the kernel would take the server's answers for strangers', and end each connection with a RST.
    let usable = |address: &&Address| !address.tentative && !address.duplicate;
    if !facts.addresses.iter().filter(usable).any(|address| address.ip == vip) {
        return Err(format!("VIP {vip} is not claimed yet"));
    }
    let unknown = || format!("waiting for the route to {server}");
    let way = facts.paths.get(&server).ok_or_else(unknown)?;
    let connected = way.ifindex.filter(|_| !way.local && way.gateway.is_none());
    let link = connected.and_then(|ifindex| facts.links.get(&ifindex));
    let link = link.ok_or_else(|| format!("{server} is not in a subnet of an interface of this machine"))?;
    if !(link.up && link.carrier) {
        return Err(format!("interface {} is down or has no carrier", link.name));
    }
    let server_mac = way.mac.ok_or_else(|| format!("the MAC of {server} is not known yet"))?;
    let is_vip = |ip: IpAddr| config.vips.iter().any(|vip| vip.ip == ip);
    let own = facts
        .addresses
        .iter()
        .filter(usable)
        .filter(|own| own.ifindex == link.index && own.prefix < subnet::host_prefix(own.ip))
        .find(|own| subnet::contains(own, server) && !is_vip(own.ip));
    let own = own.ok_or_else(|| {
        format!(
            "{} has no address of its own in the subnet of {server}: give it one that is no VIP",
            link.name
        )
    })?;
    Ok(DirectPath {
        ifindex: link.index,
        interface: link.name.clone(),
        source_mac: link.mac,
        source: own.ip,
        server_mac,
        server,
        vip: SocketAddr::new(vip, 0),
        echo: None,
    })
}

#[cfg(test)]
mod tests {
    use lb_common::net::Mac;

    use super::*;
    use crate::model::net::{Link, Path};

    const VIP: [u8; 4] = [10, 12, 1, 100];
    const SERVER: [u8; 4] = [10, 12, 1, 110];
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn vip(check: Check, ports: Ports) -> Vip {
        Vip {
            check,
            rips: vec![Rip::new("R1", SERVER.into())],
            ..Vip::new("WEB", Mode::L4Dr, VIP.into(), ports)
        }
    }

    fn ports(port: u16) -> Ports {
        Ports::Ranges(vec![port..=port])
    }

    fn address(ip: [u8; 4], prefix: u8) -> Address {
        Address { ifindex: 2, ip: ip.into(), prefix, duplicate: false, tentative: false }
    }

    /// A network in which nothing is missing.
    fn facts() -> NetFacts {
        let way = Path { ifindex: Some(2), gateway: None, local: false, mac: Some(MAC), failed: false };
        NetFacts {
            complete: true,
            links: [(2, Link::ethernet(2, "eth0", Mac([2, 0, 0, 0, 0, 1])))].into(),
            addresses: vec![address(VIP, 32), address([10, 12, 1, 5], 24)],
            paths: [(SERVER.into(), way)].into(),
        }
    }

    fn path_of(vip: Vip, facts: &NetFacts) -> PathTarget {
        let config = Config { vips: vec![vip], ..Config::default() };
        of(&config, facts).remove(0).path
    }

    #[test]
    fn a_check_asks_its_own_port_else_the_servers_else_the_vips_first() {
        let asked = |kind, check: Option<u16>, ports: Ports| {
            let rip = |name: &str, port| Rip { port, ..Rip::new(name, SERVER.into()) };
            let vip = Vip {
                check: Check { kind, port: check, ..Check::default() },
                rips: vec![rip("R1", Some(8080)), rip("R2", None)],
                ..Vip::new("WEB", Mode::L4Nat, VIP.into(), ports)
            };
            let config = Config { vips: vec![vip], ..Config::default() };
            of(&config, &NetFacts::default()).iter().map(|t| t.addr.port()).collect::<Vec<_>>()
        };
        let range = || Ports::Ranges(vec![80..=81]);
        assert_eq!(asked(CheckKind::Connect, None, range()), [8080, 80]);
        assert_eq!(asked(CheckKind::Connect, Some(9000), range()), [9000, 9000]);
        assert_eq!(
            asked(CheckKind::Off, None, Ports::All),
            [8080, 0],
            "nobody is asked, and both count as up"
        );
    }

    #[test]
    fn the_vip_is_tried_from_an_address_of_this_machine_that_is_no_vip() {
        let PathTarget::Direct(path) = path_of(vip(Check::default(), ports(104)), &facts()) else {
            panic!("not tried");
        };
        assert_eq!((path.source, path.server_mac), ([10, 12, 1, 5].into(), MAC));
        assert_eq!((path.vip, path.echo.as_ref()), (SocketAddr::from((VIP, 104)), None));
    }

    #[test]
    fn what_is_missing_is_waited_for_by_name() {
        let waits = |change: fn(&mut NetFacts), word: &str| {
            let mut facts = facts();
            change(&mut facts);
            match path_of(vip(Check::default(), ports(104)), &facts) {
                PathTarget::Waiting(why) => assert!(why.contains(word), "{why}"),
                other @ (PathTarget::Off | PathTarget::Direct(_)) => panic!("{word}: {other:?}"),
            }
        };
        waits(|facts| facts.complete = false, "network's state");
        waits(|facts| facts.addresses[0].tentative = true, "VIP 10.12.1.100 is not claimed yet");
        waits(|facts| facts.paths.clear(), "route to 10.12.1.110");
        waits(|facts| _ = facts.addresses.pop(), "no address of its own");
        waits(|facts| facts.links.clear(), "not in a subnet");
        waits(
            |facts| facts.links.values_mut().for_each(|link| link.carrier = false),
            "interface eth0 is down or has no carrier",
        );
        waits(
            |facts| facts.paths.values_mut().for_each(|path| path.mac = None),
            "MAC of 10.12.1.110 is not known",
        );
    }

    #[test]
    fn other_modes_and_checks_that_are_off_try_no_vip() {
        let is_off = |vip| path_of(vip, &facts()) == PathTarget::Off;
        let check = Check::default;
        assert!(is_off(Vip { mode: Mode::L4Nat, ..vip(check(), ports(104)) }));
        assert!(is_off(Vip { protocols: Protocols::Udp, ..vip(check(), ports(104)) }));
        assert!(is_off(vip(Check { kind: CheckKind::Off, ..check() }, ports(104))));
        assert!(is_off(vip(Check { dr_path: false, ..check() }, ports(104))));
        assert!(is_off(vip(Check { kind: CheckKind::Ping, ..check() }, Ports::All)), "no port to try");
    }

    #[test]
    fn an_archive_is_echoed_by_the_vip_where_it_is_echoed_by_its_own_address() {
        let dicom = DicomCheck::new("LBD", "PACS");
        let tried = |port: Option<u16>, dicom: &DicomCheck| {
            let check = Check { kind: CheckKind::DicomEcho(dicom.clone()), port, ..Check::default() };
            match path_of(vip(check, Ports::Ranges(vec![104..=105])), &facts()) {
                PathTarget::Direct(path) => (path.vip.port(), path.echo.is_some()),
                other @ (PathTarget::Off | PathTarget::Waiting(_)) => panic!("{other:?}"),
            }
        };
        assert_eq!(tried(None, &dicom), (104, true));
        assert_eq!(tried(Some(105), &dicom), (105, true));
        assert_eq!(tried(Some(11112), &dicom), (104, false), "another service");
        let tls = crate::model::check::TlsClient {
            verify: crate::model::check::Verify::Off,
            client_cert: None,
            sni: None,
        };
        assert_eq!(tried(None, &DicomCheck { tls: Some(tls), ..dicom }), (104, false));
    }
}
