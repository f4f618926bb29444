//! A balancer whose cable is a bond. Not every kernel has them: `cargo xtask vmtest` runs this under those that do.

#![forbid(unsafe_code)]

use std::net::SocketAddr;

use lb_tests::lab::{Host, Lab, Lbd, UdpEcho, require_root, topology::VIP4, udp};

#[test]
#[ignore = "needs a kernel with bonding; run `cargo xtask vmtest`"]
fn a_bond_is_balanced_by_and_its_ports_are_refused_with_the_cure() {
    if !require_root("a_bond_is_balanced_by_and_its_ports_are_refused_with_the_cure") {
        return;
    }
    let lab = Lab::new();
    let balancer = lab.host("lb");
    bond(balancer);
    for host in ["pacs1", "pacs2"] {
        lab.host(host).carry_vip(VIP4);
    }
    let _servers = ["pacs1", "pacs2"].map(|host| UdpEcho::start(lab.host(host), VIP4, 9000));
    let mut lbd = Lbd::start(&lab, "lb", &service("bond0"));
    lbd.wait_status("the program is in the bond's driver", |status| {
        status.links.iter().any(|link| (link.name.as_str(), link.xdp.as_str()) == ("bond0", "native"))
    });

    let to = SocketAddr::new(VIP4, 9000);
    for number in 0..20 {
        udp::ask(lab.host("client"), to, &format!("datagram {number}"))
            .unwrap_or_else(|error| panic!("datagram {number} through the bond: {error}"));
    }

    lbd.write_config(&service("eth0"));
    lbd.reload();
    lbd.wait_status("the port is refused, and the bond is named", |status| {
        format!("{status:?}").contains("interface eth0 is part of bond bond0: use bond0 instead")
    });
}

/// Puts the host's cable into a bond in active-backup mode, which takes over its addresses.
fn bond(host: &Host) {
    host.netns.ip(&format!(
        "link add bond0 type bond mode active-backup miimon 100
         link set eth0 down
         addr flush dev eth0
         link set eth0 master bond0
         link set bond0 up
         addr add {}/24 dev bond0
         addr add {}/64 dev bond0 nodad",
        host.v4, host.v6
    ));
}

fn service(interface: &str) -> String {
    format!(
        "[vip.ECHO]\nmode = \"l4-dr\"\nip = \"{VIP4}\"\nports = [9000]\nprotocol = \"udp\"\ncheck = \"off\"\n\
         interface = \"{interface}\"\nscheduler = \"wrr\"\n\
         servers = {{ A = \"10.10.0.11\", B = \"10.10.0.12\" }}\n"
    )
}
