//! Clients that come back: to the same server by every port and VIP of a group, for as long as they are remembered and
//! not a second longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use lb_ctl::model::status::RipState;
use lb_tests::lab::{
    Host, Lab, Lbd, MllpLink, MllpServer, Persisted,
    lbd::rip,
    require_root,
    topology::{Plan, VIP4},
    wait_until,
};

use crate::{carry, start_green};

/// A second VIP beside the usual one.
const OTHER_VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 10, 0, 101));
/// Seconds that a client is remembered.
const REMEMBERED_SECS: u32 = 3600;
/// Hosts: clients, the balancer, servers.
const HOSTS: [(&str, u8); 7] = [
    ("client", 50),
    ("client2", 51),
    ("client3", 52),
    ("client4", 53),
    ("lb", 2),
    ("pacs1", 11),
    ("pacs2", 12),
];

/// Two VIPs whose clients are the same people.
const GROUP: &str = r#"[vip.DICOM]
mode = "l4-dr"
ip = "10.10.0.100"
ports = [104, 11112]
scheduler = "wrr"
check = "off"
persist = { type = "source-ip", timeout = "3600s", group = "pacs" }
servers = { PACS1 = "10.10.0.11", PACS2 = "10.10.0.12" }

[vip.RESULTS]
mode = "l4-dr"
ip = "10.10.0.101"
ports = [2575]
scheduler = "wrr"
check = "off"
persist = { type = "source-ip", timeout = "3600s", group = "pacs" }
servers = { ARCHIVE2 = "10.10.0.12", ARCHIVE1 = "10.10.0.11" }
"#;

/// Names of the servers of each host.
const SERVERS: [(&str, [&str; 2]); 2] =
    [("pacs1", ["DICOM/PACS1", "RESULTS/ARCHIVE1"]), ("pacs2", ["DICOM/PACS2", "RESULTS/ARCHIVE2"])];

/// Every service of the group.
const SERVICES: [SocketAddr; 3] =
    [SocketAddr::new(VIP4, 104), SocketAddr::new(VIP4, 11112), SocketAddr::new(OTHER_VIP, 2575)];

/// The site, its servers running.
struct Stand {
    // Dropped in this order: who runs on a host before the host.
    lbd: Lbd,
    _servers: Vec<MllpServer>,
    lab: Lab,
}

impl Stand {
    fn new() -> Self {
        let lab = Lab::build(&Plan { hosts: &HOSTS, kept_as: None });
        carry(&lab, VIP4);
        carry(&lab, OTHER_VIP);
        let ports = SERVICES.map(|service| service.port());
        let servers = ["pacs1", "pacs2"]
            .iter()
            .flat_map(|host| ports.map(|port| MllpServer::start(lab.host(host), port)))
            .collect();
        let lbd = start_green(&lab, GROUP);
        Self { lbd, _servers: servers, lab }
    }

    fn client(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// No new clients for a host, by whichever VIP.
    fn drain(&self, host: &str) {
        let (_, ids) = SERVERS.iter().find(|(name, _)| *name == host).expect("a server's host");
        for id in ids {
            self.lbd.ctl(&["rip", "drain", id]).expect_success();
        }
        self.lbd.wait_status("the server drains", |status| {
            ids.iter().all(|id| {
                let (vip, name) = id.split_once('/').expect("VIP and server");
                rip(status, vip, name).state == RipState::Drain
            })
        });
    }

    /// The tick that it is now: when somebody who was not known comes for the first time.
    fn now(&self, kept: &mut Persisted, stranger: &str) -> u32 {
        let stranger = self.client(stranger);
        kept.forget(stranger.v4.into());
        served_by(stranger, SERVICES[0]);
        kept.of(stranger.v4.into()).expect("whoever came is known").1.last_seen
    }
}

/// The host that answers a new connection.
#[track_caller]
fn served_by(client: &Host, to: SocketAddr) -> String {
    let link = MllpLink::open(client, to);
    link.and_then(|mut link| link.exchange())
        .unwrap_or_else(|error| panic!("{} to {to}: {error}", client.name))
}

#[test]
fn a_client_reaches_one_server_by_every_port_and_vip_of_its_group() {
    if !require_root("a_client_reaches_one_server_by_every_port_and_vip_of_its_group") {
        return;
    }
    let stand = Stand::new();
    let clients = ["client", "client2", "client3", "client4"];
    let mut homes = BTreeMap::new();
    // Each begins elsewhere, so that every service is somebody's first.
    for (at, name) in clients.iter().enumerate() {
        homes.insert(*name, served_by(stand.client(name), SERVICES[at % SERVICES.len()]));
    }
    assert_eq!(homes.values().collect::<BTreeSet<_>>().len(), 2, "round robin uses both: {homes:?}");
    for _ in 0..3 {
        for to in SERVICES {
            for (name, home) in &homes {
                assert_eq!(served_by(stand.client(name), to), *home, "{name} to {to}");
            }
        }
    }
    // One entry serves them all: where it is not shared, there would be several.
    let kept = Persisted::open(&stand.lbd);
    for name in clients {
        assert!(kept.of(stand.client(name).v4.into()).is_some(), "{name} is not known");
    }
}

#[test]
fn a_client_is_remembered_for_as_long_as_it_says_and_not_longer() {
    if !require_root("a_client_is_remembered_for_as_long_as_it_says_and_not_longer") {
        return;
    }
    let stand = Stand::new();
    let client = stand.client("client");
    let home = served_by(client, SERVICES[0]);
    // Only who is remembered reaches a draining server: nobody gets there by chance.
    stand.drain(&home);
    let mut kept = Persisted::open(&stand.lbd);

    // A second before its time: it counts unless more than a second goes by before it is asked for.
    let mut attempts = 0;
    loop {
        attempts += 1;
        let now = stand.now(&mut kept, "client2");
        let begun = Instant::now();
        kept.set_idle(client.v4.into(), now, REMEMBERED_SECS - 1);
        let served = served_by(client, SERVICES[1]);
        if served == home {
            break;
        }
        let late = begun.elapsed() > Duration::from_millis(700);
        assert!(late && attempts < 10, "forgotten too early, after attempt {attempts}");
    }
    let now = stand.now(&mut kept, "client2");
    kept.set_idle(client.v4.into(), now, REMEMBERED_SECS + 1);
    assert_ne!(served_by(client, SERVICES[1]), home, "its time was over");
}

#[test]
fn a_client_with_a_connection_in_flight_is_not_forgotten() {
    if !require_root("a_client_with_a_connection_in_flight_is_not_forgotten") {
        return;
    }
    let stand = Stand::new();
    let client = stand.client("client");
    let mut link = MllpLink::open(client, SERVICES[0]).expect("a connection");
    let home = link.exchange_many(3).expect("messages are acknowledged");
    stand.drain(&home);
    let mut kept = Persisted::open(&stand.lbd);
    let now = stand.now(&mut kept, "client2");
    link.exchange().expect("the connection goes on");
    // A client without one, which is forgotten at the same time.
    let other = stand.client("client3");
    served_by(other, SERVICES[0]);
    for host in [client, other] {
        kept.set_idle(host.v4.into(), now, REMEMBERED_SECS - 1);
    }
    wait_until(Duration::from_secs(15), "the entry is as young as the connection's last packet", || {
        let entry = kept.of(client.v4.into()).map(|(_, entry)| entry);
        entry.is_some_and(|entry| kept.idle_secs(entry, now) < 60)
    });
    wait_until(Duration::from_secs(15), "the other client is forgotten", || {
        kept.of(other.v4.into()).is_none()
    });
    assert_eq!(served_by(client, SERVICES[2]), home, "where its connection is");
    assert_eq!(link.exchange().expect("the connection goes on"), home);
}
