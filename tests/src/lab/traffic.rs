//! Everything that a hospital sends, once through whatever stands between: images, messages, streams, datagrams small
//! and large, and a download whose packets are too long for a link on the way. The same traffic proves plain routing
//! and every mode of the balancer; only where clients send to, and whom servers see, differs.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    thread,
};

use super::{
    Instance, IperfServer, MllpLink, MllpServer, Orthanc, Payload, Relay, Routed, UdpEcho, Web, dicom, iperf,
    scu, servers::Spread, udp,
};

/// Ports of the servers.
pub mod port {
    /// DICOM archive.
    pub const DICOM: u16 = 8104;
    /// HL7 over MLLP.
    pub const HL7: u16 = 8575;
    /// Web server.
    pub const WEB: u16 = 8080;
    /// iperf3, over TCP and UDP.
    pub const STREAM: u16 = 8201;
    /// Questions and answers over UDP.
    pub const DATAGRAM: u16 = 8053;
}

/// What the narrow link carries.
const NARROW: u16 = 1400;
/// What every other link carries.
const USUAL: u16 = 1500;
/// Length of a datagram that takes three fragments.
const LARGE: usize = 4000;
/// Length of the download.
const MEGABYTES: u64 = 100;

/// What lives as long as the lab: archives and the file to download.
#[derive(Debug)]
pub struct Everything<'lab> {
    routed: &'lab Routed,
    archives: [Orthanc<'lab>; 2],
    payload: Payload,
}

/// Where the traffic of one address family goes, and who it seems to come from.
#[derive(Clone, Debug)]
pub struct Course {
    /// What is tested, for messages.
    pub name: String,
    /// Where clients send to.
    pub to: IpAddr,
    /// The client's port is the server's less this: 0 unless ports are translated.
    pub port_shift: u16,
    /// Addresses that the servers' services answer from.
    pub listen: [IpAddr; 2],
    /// The address that servers see.
    pub seen: IpAddr,
    /// Servers that get some of the traffic.
    pub serving: usize,
}

/// The services of one course, and their books.
struct Services {
    messages: [MllpServer; 2],
    streams: [IperfServer; 2],
    datagrams: [UdpEcho; 2],
    webs: [Web; 2],
}

impl<'lab> Everything<'lab> {
    /// Starts the archives and writes the file.
    ///
    /// # Panics
    ///
    /// When a part does not start.
    #[must_use]
    pub fn start(routed: &'lab Routed) -> Self {
        let archives = ["pacs1", "pacs2"].map(|host| Orthanc::start(routed.lab(), host, port::DICOM));
        Self { routed, archives, payload: Payload::write(routed.client(), MEGABYTES) }
    }

    /// Sends everything once.
    ///
    /// # Panics
    ///
    /// When anything is lost or changed on the way, or servers see another address than they should.
    #[track_caller]
    pub fn exercise(&self, course: &Course) {
        let services = self.serve(course);
        self.images(course);
        self.messages(course, &services);
        self.datagrams(course, &services);
        self.streams(course, &services);
        self.download(course, &services);
    }

    fn serve(&self, course: &Course) -> Services {
        let servers = self.routed.servers();
        let at = |which: usize, port| SocketAddr::new(course.listen[which], port);
        Services {
            messages: servers.map(|host| MllpServer::start(host, port::HL7)),
            streams: [0, 1].map(|which| IperfServer::start(servers[which], at(which, port::STREAM))),
            datagrams: [0, 1]
                .map(|which| UdpEcho::start(servers[which], course.listen[which], port::DATAGRAM)),
            webs: servers.map(|host| Web::start(host, port::WEB, &self.payload)),
        }
    }

    /// Stores images; every one is in exactly one archive.
    #[track_caller]
    fn images(&self, course: &Course) {
        let (client, name) = (self.routed.client(), &course.name);
        let mut relays = Vec::new();
        let mut to = course.at(port::DICOM);
        if course.to.is_ipv6() {
            for (host, listen) in self.routed.servers().into_iter().zip(course.listen) {
                let archive = SocketAddr::new(host.v4.into(), port::DICOM);
                relays.push(Relay::start(host, SocketAddr::new(listen, port::DICOM), archive));
            }
            let client_end = Relay::start(client, SocketAddr::new(client.v4.into(), 0), to);
            to = client_end.address();
            relays.push(client_end);
        }
        let instances = dicom::generate(&client.dir(), 4, 512);
        let before = self.archives.each_ref().map(|archive| archive.instances());
        for Instance { path, .. } in &instances {
            scu::store(client, to, &[path]).expect_success();
        }
        let held = self.archives.each_ref().map(Orthanc::instances);
        let new = [0, 1].map(|which| {
            let old: BTreeSet<_> = before[which].iter().collect();
            held[which].iter().filter(|uid| !old.contains(uid)).cloned().collect()
        });
        let spread = Spread::of(&new, instances.iter().map(|instance| &instance.uid));
        assert!(spread.exact(), "{name}: {spread:?}");
        if course.to.is_ipv4() {
            for (archive, uids) in self.archives.iter().zip(&new) {
                for uid in uids {
                    assert_eq!(archive.remote_address(uid), course.seen, "{name}: who stored {uid}");
                }
            }
        }
    }

    /// Exchanges messages on long connections, so many that some CPU steers two of them, and not to one server.
    #[track_caller]
    fn messages(&self, course: &Course, services: &Services) {
        const MESSAGES: u64 = 200;
        let (client, name, to) = (self.routed.client(), &course.name, course.at(port::HL7));
        let failed = |error: io::Error| -> ! { panic!("{name}: HL7 to {to}: {error}") };
        let count = thread::available_parallelism().map_or(2, NonZero::get) as u64 + 1;
        let mut links: Vec<_> =
            (0..count).map(|_| MllpLink::open(client, to).unwrap_or_else(|error| failed(error))).collect();
        let answered: Vec<_> = links
            .iter_mut()
            .map(|link| link.exchange_many(MESSAGES).unwrap_or_else(|error| failed(error)))
            .collect();
        let servers: BTreeSet<_> = answered.iter().collect();
        assert_eq!(servers.len(), course.serving, "{name}: {answered:?}");
        let total: u64 = services.messages.iter().map(MllpServer::messages).sum();
        assert_eq!(total, count * MESSAGES, "{name}: messages that servers counted");
        let connections: Vec<_> = services.messages.iter().flat_map(MllpServer::connections).collect();
        let peers: BTreeSet<_> = connections.iter().map(|connection| connection.peer.ip()).collect();
        assert_eq!(peers, [course.seen].into(), "{name}: whom servers see");
    }

    /// Questions and answers: many short flows, one long one, and datagrams in fragments both ways.
    #[track_caller]
    fn datagrams(&self, course: &Course, services: &Services) {
        let (client, name, to) = (self.routed.client(), &course.name, course.at(port::DATAGRAM));
        let questions: Vec<_> = (0..100).map(|number| format!("question {number}")).collect();
        let questions: Vec<_> = questions.iter().map(String::as_str).collect();
        let (short, long) = questions.split_at(20);
        let answered: BTreeSet<_> = short
            .iter()
            .map(|text| udp::ask(client, to, text).unwrap_or_else(|error| panic!("{name}: {to}: {error}")))
            .collect();
        assert_eq!(answered.len(), course.serving, "{name}: {answered:?}");
        udp::ask_in_turn(client, to, long).unwrap_or_else(|error| panic!("{name}: {to}: {error}"));
        let large = "0123456789".repeat(LARGE / 10);
        udp::ask_in_turn(client, to, &[large.as_str(); 10])
            .unwrap_or_else(|error| panic!("{name}: {LARGE} bytes to {to}: {error}"));
        let peers: BTreeSet<_> = services.datagrams.iter().flat_map(UdpEcho::peers).collect();
        assert_eq!(peers, [course.seen].into(), "{name}: whom servers see");
    }

    /// A second of TCP and one of UDP, both ways at once.
    #[track_caller]
    fn streams(&self, course: &Course, services: &Services) {
        let (client, name, to) = (self.routed.client(), &course.name, course.at(port::STREAM));
        let tcp = iperf::tcp(client, to);
        assert!(tcp.bytes.iter().all(|bytes| *bytes > 1_000_000), "{name}: TCP to {to}: {tcp:?}");
        let udp = iperf::udp(client, to);
        assert!(udp.bytes.iter().all(|bytes| *bytes > 250_000), "{name}: UDP to {to}: {udp:?}");
        assert!(udp.lost_percent.iter().all(|lost| *lost < 5.0), "{name}: UDP to {to}: {udp:?}");
        let peers: BTreeSet<_> = services.streams.iter().flat_map(IperfServer::peers).collect();
        assert_eq!(peers, [course.seen].into(), "{name}: whom servers see");
    }

    /// A download through a link that takes shorter packets than server and client do: unless the router's word
    /// reaches the server that sends, it stalls for ever.
    #[track_caller]
    fn download(&self, course: &Course, services: &Services) {
        let (client, name, from) = (self.routed.client(), &course.name, course.at(port::WEB));
        let servers = self.routed.servers();
        for server in servers {
            server.netns.ip("route flush cache\n-6 route flush cache");
        }
        let told = || servers.map(|server| server.netns.told_too_big(course.to));
        let before = told();
        self.routed.set_far_mtu(NARROW);
        let run = self.payload.download(client, from);
        self.routed.set_far_mtu(USUAL);
        assert!(run.success(), "{name}: download from {from}: {run:?}");

        let requests = services.webs.each_ref().map(Web::requests);
        let all: Vec<_> = requests.iter().flatten().collect();
        assert_eq!(all.len(), 1, "{name}: {requests:?}");
        assert_eq!((all[0].status, all[0].bytes), (200, MEGABYTES * 1_000_000), "{name}");
        assert_eq!(all[0].peer, course.seen, "{name}: whom the server sees");
        for (which, (after, before)) in told().into_iter().zip(before).enumerate() {
            let sends = !requests[which].is_empty();
            assert_eq!(after > before, sends, "{name}: {} is told of the narrow link", servers[which].name);
            if sends {
                let route =
                    servers[which].run("ip", &["route", "get", &course.seen.to_string()]).expect_success();
                assert!(route.stdout.contains(&format!("mtu {NARROW}")), "{name}: {}", route.stdout);
            }
        }
    }
}

impl Course {
    /// Where the client finds the service that has this port at the servers.
    #[must_use]
    pub const fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.to, port - self.port_shift)
    }
}
