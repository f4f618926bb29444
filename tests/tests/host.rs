//! What the daemon makes of the machine itself, against a real kernel: a router between two networks, and an end of
//! a connection that is made to speak.

#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use lb_common::{
    backend::{self, Backend},
    flow::{Ends, Hop},
    net::{Mac, PROTO_TCP},
};
use lb_ctl::{
    control::{Controller, View},
    dataplane::{PairedFlow, Pairs, Place},
    edges::Wire,
    haproxy::{
        render::{Places, render},
        rules::faults,
    },
    model::{
        config::{Config, Gateway, GatewayAddress, Mode, Ports, Protocol, Rip, Vip},
        net::{Link, NetFacts, Watched},
        proxied::{DesiredProxy, Proxies, Service, Takes},
        proxy::ProxySettings,
    },
    net::watch as net_watch,
    reset::{Death, Ended, Resets},
    routing::{self, Problems},
    shutdown, source_ports,
};
use lb_tests::lab::{
    Lab, Netns, Proc,
    netns::{Lifetime, test_name},
    require_root, wait_until,
};
use tokio::{
    sync::{mpsc, watch},
    time::{interval, timeout},
};

/// Longest wait for anything: above the quarter of a minute after which lookers look again.
const DEADLINE: Duration = Duration::from_secs(40);

/// `server` - `eth0` `lb` `eth1` - `outside`. The server's default route leads to `lb`, and `outside` knows no
/// way to the server's network.
struct Site {
    server: Netns,
    lb: Netns,
    outside: Netns,
}

const LB_INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 21, 0, 1));
const LB_OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 22, 0, 1));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 22, 0, 9));
const LB_OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd22, 0, 0, 0, 0, 0, 0, 1));
const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd22, 0, 0, 0, 0, 0, 0, 9));

impl Site {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1000);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = |role| Netns::new(&test_name(number, role), Lifetime::WithProgram);
        let site = Self { server: namespace("server"), lb: namespace("lb"), outside: namespace("outside") };
        for (name, far, net, host) in [("eth0", &site.server, 21, 5), ("eth1", &site.outside, 22, 9)] {
            site.lb.ip(&format!(
                "link add {name} type veth peer name eth0 netns {}\n\
                 link set {name} up\n\
                 addr add 10.{net}.0.1/24 dev {name}\n\
                 addr add fd{net}::1/64 dev {name} nodad",
                far.name()
            ));
            far.ip(&format!(
                "link set eth0 up\n\
                 addr add 10.{net}.0.{host}/24 dev eth0\n\
                 addr add fd{net}::{host}/64 dev eth0 nodad"
            ));
        }
        site.server.ip("route add default via 10.21.0.1\n-6 route add default via fd21::1");
        // The balancer talks to the outside by its inner address, so that its own traffic can be told apart.
        site.lb.ip("route add 10.22.0.9/32 dev eth1 src 10.21.0.1");
        site.outside.ip("route add 10.21.0.1/32 via 10.22.0.1");
        site
    }

    /// Whom a listener outside sees when `from` connects, if it gets through at all.
    fn peer_outside(&self, from: &Netns, to: IpAddr) -> Option<IpAddr> {
        let listener = self.outside.enter(|| TcpListener::bind((to, 0)).expect("a listener"));
        let at = listener.local_addr().expect("an address");
        let _stream = from.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(2))).ok()?;
        listener.accept().ok().map(|(_, peer)| peer.ip())
    }

    fn sysctl(&self, path: &str) -> String {
        let text = self.lb.enter(|| fs::read_to_string(format!("/proc/sys/{path}")).expect("a parameter"));
        text.trim().to_owned()
    }

    fn nft(&self, arguments: &str) -> String {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        self.lb.run("nft", &arguments).expect_success().stdout
    }
}

/// The routing task, running in a namespace until it is dropped.
struct Router {
    view: watch::Sender<Arc<View>>,
    problems: watch::Receiver<Problems>,
}

fn view(config: &Config) -> Arc<View> {
    Arc::new(Controller::first_view(config))
}

/// Runs `work` beside a routing task in the balancer's namespace. The first goal is `config`.
fn with_router(site: &Site, config: &Config, work: impl AsyncFnOnce(Router) + Send) {
    site.lb.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (_watched, watched) = watch::channel(Watched::default());
            let (facts_out, facts) = watch::channel(NetFacts::default());
            let (view_out, view) = watch::channel(view(config));
            let (problems_out, problems) = watch::channel(Problems::default());
            let (_trigger, shutdown) = shutdown::channel();
            let connections = routing::Connections { view, facts, problems: problems_out };
            tokio::select! {
                ended = net_watch::run(watched, facts_out) => panic!("{ended:?}"),
                ended = routing::run(connections, shutdown) => panic!("{ended:?}"),
                () = work(Router { view: view_out, problems }) => {}
            }
        });
    });
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let mut polls = interval(Duration::from_millis(50));
    let wait = async {
        while !holds() {
            polls.tick().await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
}

fn vip(mode: Mode, ip: &str) -> Vip {
    Vip::new(ip, mode, ip.parse().expect("an address"), Ports::Ranges(vec![104..=104]))
}

fn config(vips: Vec<Vip>, gateway: Gateway) -> Config {
    Config { gateway, vips, ..Config::default() }
}

fn masquerading() -> Config {
    let address = |text: &str| GatewayAddress { ip: text.parse().expect("an address"), interface: None };
    let gateway = Gateway {
        addresses: vec![address("10.21.0.250"), address("fd21::250")],
        masquerade: vec!["eth1".to_owned()],
    };
    config(Vec::new(), gateway)
}

#[test]
fn servers_own_traffic_is_forwarded_and_masqueraded_and_the_machines_own_is_not() {
    if !require_root("servers_own_traffic_is_forwarded_and_masqueraded_and_the_machines_own_is_not") {
        return;
    }
    let site = Site::new();
    site.nft("add table inet somebody");
    assert_eq!(site.peer_outside(&site.server, OUTSIDE), None, "nobody forwards yet");
    with_router(&site, &masquerading(), async |router| {
        until("the table", || site.nft("list tables").contains("table inet lbd")).await;
        assert_eq!(site.sysctl("net/ipv4/ip_forward"), "1");
        assert_eq!(site.sysctl("net/ipv6/conf/all/forwarding"), "1");
        for link in ["all", "eth0", "eth1"] {
            assert_eq!(site.sysctl(&format!("net/ipv4/conf/{link}/send_redirects")), "0", "{link}");
        }
        assert_eq!(site.peer_outside(&site.server, OUTSIDE), Some(LB_OUTSIDE));
        assert_eq!(site.peer_outside(&site.server, OUTSIDE_V6), Some(LB_OUTSIDE_V6));
        assert_eq!(site.peer_outside(&site.lb, OUTSIDE), Some(LB_INSIDE));
        assert_eq!(**router.problems.borrow(), [""; 0]);

        // What somebody flushes is put back, whatever else there was.
        site.nft("flush ruleset");
        until("the table again", || site.nft("list tables").contains("table inet lbd")).await;
        assert_eq!(site.peer_outside(&site.server, OUTSIDE), Some(LB_OUTSIDE));

        site.nft("add table inet somebody");
        router.view.send_replace(view(&config(vec![vip(Mode::L4Dr, "10.21.0.100")], Gateway::default())));
        until("no table", || !site.nft("list tables").contains("table inet lbd")).await;
        assert!(site.nft("list tables").contains("table inet somebody"), "not ours to remove");
        assert_eq!(site.sysctl("net/ipv4/ip_forward"), "1", "forwarding stays");
    });
}

#[test]
fn a_daemon_that_starts_again_removes_a_table_that_nothing_wants_any_more() {
    if !require_root("a_daemon_that_starts_again_removes_a_table_that_nothing_wants_any_more") {
        return;
    }
    let site = Site::new();
    with_router(&site, &masquerading(), async |_router| {
        until("the table", || site.nft("list tables").contains("table inet lbd")).await;
    });
    let nothing = config(vec![vip(Mode::L4Dr, "10.21.0.100")], Gateway::default());
    with_router(&site, &nothing, async |_router| {
        until("no table", || !site.nft("list tables").contains("table inet lbd")).await;
    });
}

/// VIPs of both families on the balancer's outer addresses, whose servers see the clients' addresses.
fn transparent() -> Config {
    let served = [(LB_OUTSIDE, "10.21.0.5", "v4"), (LB_OUTSIDE_V6, "fd21::5", "v6")];
    let vips = served.map(|(ip, server, name)| {
        let mut vip = Vip::new(name, Mode::L7Tcp, ip, Ports::Ranges(vec![104..=104]));
        vip.rips = vec![Rip::new("archive", server.parse().expect("an address"))];
        vip.proxy.as_mut().expect("a layer-7 VIP").transparent = true;
        vip
    });
    config(vips.into(), Gateway::default())
}

/// The companion proxy, alone, as it is for a configuration all of whose servers are up.
fn haproxy(site: &Site, config: &Config, dir: &Path) -> Proc {
    let whole = Service { takes: Takes::Everything, weight: 100, ends_sessions: false };
    let desired = |vip: &Vip| DesiredProxy {
        servers: vip.rips.iter().map(|rip| (rip.name.clone(), whole)).collect(),
        vip: vip.clone(),
    };
    let settings = ProxySettings { max_connections: 100, ..ProxySettings::default() };
    let proxies = Proxies { settings, vips: config.vips.iter().map(desired).collect() };
    let places = Places::below(dir);
    fs::create_dir_all(places.dir()).expect("a directory");
    let rendered = render(&proxies, &places);
    assert_eq!(faults(&rendered.text), []);
    assert!(rendered.as_root);
    fs::write(places.config(), rendered.text).expect("the configuration is written");
    let mut command = site.lb.command("haproxy");
    command.arg("-db").arg("-f").arg(places.config());
    let mut proxy = Proc::spawn("haproxy", &site.lb, dir, &mut command);
    proxy.wait_ready(|_| places.admin_socket().exists());
    proxy
}

#[test]
fn servers_of_a_transparent_vip_see_the_client_and_their_replies_reach_the_proxy() {
    if !require_root("servers_of_a_transparent_vip_see_the_client_and_their_replies_reach_the_proxy") {
        return;
    }
    let site = Site::new();
    site.lb.ip("rule add priority 100 fwmark 7 table 7");
    let dir = tempfile::tempdir().expect("a directory");
    let config = transparent();
    let _proxy = haproxy(&site, &config, dir.path());
    let listener = |ip: &str| {
        let at = (ip.parse::<IpAddr>().expect("an address"), 104);
        let listener = site.server.enter(|| TcpListener::bind(at).expect("a listener"));
        listener.set_nonblocking(true).expect("a listener that does not wait");
        listener
    };
    let servers =
        [(LB_OUTSIDE, listener("10.21.0.5"), OUTSIDE), (LB_OUTSIDE_V6, listener("fd21::5"), OUTSIDE_V6)];
    let connect = |vip: IpAddr| {
        let connect = || TcpStream::connect_timeout(&(vip, 104).into(), Duration::from_secs(2));
        site.outside.enter(connect).expect("the proxy listens")
    };
    let ours = || {
        let shown = |family| site.lb.run("ip", &[family, "rule", "show"]).expect_success().stdout;
        shown("-4").matches("0x6c6264").count() + shown("-6").matches("0x6c6264").count()
    };
    with_router(&site, &config, async |router| {
        until("a rule in both families", || ours() == 2).await;
        until("the table", || site.nft("list tables").contains("table inet lbd")).await;
        for (vip, listener, client) in &servers {
            let mut near = connect(*vip);
            let mut accepted = None;
            until("a connection at the server", || {
                accepted = listener.accept().ok();
                accepted.is_some()
            })
            .await;
            let (mut far, peer) = accepted.expect("a connection");
            assert_eq!(peer.ip(), *client);
            far.set_nonblocking(false).expect("a connection that waits");
            far.write_all(b"hello").expect("sent");
            let mut said = [0; 5];
            near.read_exact(&mut said).expect("the server's words arrive");
            assert_eq!(&said, b"hello");
        }
        assert_eq!(**router.problems.borrow(), [""; 0]);

        // Once no VIP is transparent, replies are no longer led here; what others have made stays.
        router.view.send_replace(view(&config_without(&config)));
        until("no rule", || ours() == 0).await;
        until("no table", || !site.nft("list tables").contains("table inet lbd")).await;
        let rules = site.lb.run("ip", &["rule", "show"]).expect_success().stdout;
        assert!(rules.contains("fwmark 0x7"), "{rules}");
        let routes = site.lb.run("ip", &["route", "show", "table", "all"]).expect_success().stdout;
        assert!(!routes.contains("local default"), "{routes}");
        let (vip, listener, _) = &servers[0];
        let _near = connect(*vip);
        let unheard = timeout(Duration::from_secs(2), until("", || listener.accept().is_ok())).await;
        assert!(unheard.is_err(), "replies reached the proxy without the rule: the test shows nothing");
    });
}

fn config_without(config: &Config) -> Config {
    let mut config = config.clone();
    for proxy in config.vips.iter_mut().filter_map(|vip| vip.proxy.as_mut()) {
        proxy.transparent = false;
    }
    config
}

#[test]
fn a_daemon_that_detaches_leaves_no_rule_for_replies() {
    if !require_root("a_daemon_that_detaches_leaves_no_rule_for_replies") {
        return;
    }
    let site = Site::new();
    let shown = || site.lb.run("ip", &["rule", "show"]).expect_success().stdout;
    with_router(&site, &transparent(), async |_router| {
        until("the rule", || shown().contains("0x6c6264")).await;
        until("the table", || site.nft("list tables").contains("table inet lbd")).await;
    });
    site.lb.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let removed = runtime.block_on(routing::remove()).expect("removed");
        assert_eq!(removed.len(), 2, "{removed:?}");
        let removed = runtime.block_on(routing::remove()).expect("nothing to remove");
        assert_eq!(removed, [""; 0]);
    });
    assert!(!shown().contains("0x6c6264"), "{}", shown());
    assert!(!site.nft("list tables").contains("table inet lbd"));
}

#[test]
fn no_ipv6_redirect_leaves_where_replies_of_servers_pass() {
    if !require_root("no_ipv6_redirect_leaves_where_replies_of_servers_pass") {
        return;
    }
    let site = Site::new();
    // A host on the servers' own link that they reach by their router: the case for a redirect.
    site.lb.sysctls(&[("net/ipv6/conf/all/forwarding", "1")]);
    site.lb.ip("addr add fd98::1/64 dev eth0 nodad");
    let counter = |name: &str| {
        let text = site.lb.enter(|| fs::read_to_string("/proc/thread-self/net/snmp6").expect("counters"));
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse::<u64>().ok()).expect("a counter")
    };
    let (redirects, forwarded) = (|| counter("Icmp6OutRedirects"), || counter("Ip6OutForwDatagrams"));
    let socket = site.server.enter(|| UdpSocket::bind("[::]:0").expect("a socket"));
    // A server that was redirected asks its router for this host no more: each try needs another one.
    let ask = |host: u8| {
        let before = forwarded();
        wait_until(DEADLINE, "a packet to be forwarded", || {
            socket.send_to(b"?", (format!("fd98::{host}"), 9)).expect("sent");
            forwarded() > before
        });
    };
    ask(7);
    let before = redirects();
    assert!(before > 0, "without rules the kernel sends one");
    let gateway = Gateway { masquerade: Vec::new(), ..masquerading().gateway };
    let config = config(vec![vip(Mode::L4Nat, "fd21::100")], gateway);
    with_router(&site, &config, async |_router| {
        until("the table", || site.nft("list tables").contains("table inet lbd")).await;
        for host in [11, 12, 13] {
            ask(host);
        }
        assert_eq!(redirects(), before);
    });
}

#[test]
fn ports_in_use_are_those_of_the_namespace() {
    if !require_root("ports_in_use_are_those_of_the_namespace") {
        return;
    }
    let site = Site::new();
    site.lb.sysctls(&[
        ("net/ipv4/ip_local_port_range", "20000 29999"),
        ("net/ipv4/ip_local_reserved_ports", "21000-21999,25000"),
    ]);
    let listener = site.lb.enter(|| TcpListener::bind("[::]:11112").expect("a listener"));
    let facts = site.lb.enter(|| source_ports::gather().expect("facts"));
    assert_eq!(facts.ephemeral, 20_000..=29_999);
    assert_eq!(facts.reserved, [21_000..=21_999, 25_000..=25_000]);
    let at = listener.local_addr().expect("an address");
    assert_eq!(facts.listeners, [source_ports::Listener { protocol: Protocol::Tcp, at }]);
    let conflicts =
        source_ports::conflicts(&config(vec![vip(Mode::L4Snat, "10.21.0.100")], Gateway::default()), &facts);
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
}

/// One connection, as if it stood in the flow tables.
struct OneFlow(PairedFlow);

impl Pairs for OneFlow {
    fn flows_of(&self, dead: &BTreeSet<(u16, u16)>, _limit: usize) -> (Vec<PairedFlow>, u64) {
        let found: Vec<_> = [self.0].into_iter().filter(|f| dead.contains(&(f.slot, f.generation))).collect();
        let total = found.len() as u64;
        (found, total)
    }

    fn stands(&self, _flow: &PairedFlow) -> bool {
        true
    }
}

/// A TCP segment without payload as tcpdump tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Bare {
    from_client: bool,
    seq: u32,
    ack: u32,
}

/// Bare ACKs in the text of `tcpdump -S -vv`.
fn bare_acks(text: &str, client: SocketAddr) -> Vec<Bare> {
    let client = format!("{}.{}", client.ip(), client.port());
    let number = |line: &str, name: &str| {
        let rest = line.split(name).nth(1)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    text.lines()
        .filter(|line| line.contains("Flags [.]") && line.contains("length 0"))
        .filter_map(|line| {
            let from_client = line.split(" > ").next()?.contains(&client);
            Some(Bare { from_client, seq: number(line, "seq ")?, ack: number(line, "ack ")? })
        })
        .collect()
}

#[test]
fn either_end_of_a_silent_connection_answers_with_its_true_numbers_when_poked() {
    if !require_root("either_end_of_a_silent_connection_answers_with_its_true_numbers_when_poked") {
        return;
    }
    let lab = Lab::new();
    let (client, server, lb) = (lab.host("client"), lab.host("pacs1"), lab.host("lb"));
    for at in [IpAddr::V4(server.v4), IpAddr::V6(server.v6)] {
        let listener = server.netns.enter(|| TcpListener::bind((at, 0)).expect("a listener"));
        let there = listener.local_addr().expect("an address");
        let mut command = lab.switch().command("tcpdump");
        command.args("--immediate-mode -l -n -S -vv -Z root -i client tcp and port".split(' '));
        command.arg(there.port().to_string());
        let name = format!("tcpdump-{}", if at.is_ipv4() { "v4" } else { "v6" });
        let mut tcpdump = Proc::spawn(&name, lab.switch(), lab.dir(), &mut command);
        tcpdump.wait_ready(|tcpdump| tcpdump.log_text().contains("listening on"));
        let mut near = client.netns.enter(|| TcpStream::connect(there).expect("a connection"));
        let here = near.local_addr().expect("an address");
        let (mut far, _) = listener.accept().expect("accepted");

        let shown = lb.netns.run("ip", &["-o", "link", "show", "dev", "eth0"]).expect_success().stdout;
        let index: u32 = shown.split(':').next().and_then(|index| index.parse().ok()).expect("an index");
        let seen = Ends::between(here, there, PROTO_TCP);
        let hop = Hop { mac: Mac(client.mac), ifindex: index as u16, ..Hop::default() };
        let place = Place { table: 0, entry: 0, control: 0 };
        let flow = PairedFlow { client: seen, server: seen, hop, slot: 1, generation: 1, place };
        let record = Backend {
            generation: 1,
            state: backend::state::LIVE,
            ifindex: index,
            dst_mac: Mac(server.mac),
            src_mac: Mac(lb.mac),
            ..Backend::default()
        };
        let link = Link::ethernet(index, "eth0", Mac(lb.mac));
        let facts =
            NetFacts { complete: true, links: BTreeMap::from([(index, link)]), ..NetFacts::default() };
        let acks = |from_client| -> Vec<Bare> {
            let all = bare_acks(&tcpdump.log_text(), here);
            all.into_iter().filter(|bare| bare.from_client == from_client).collect()
        };
        lb.netns.enter(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                // The end of the handshake tells both numbers.
                until("the handshake's end", || !acks(true).is_empty()).await;
                let Bare { seq, ack, .. } = acks(true)[0];
                let (deaths, deaths_in) = mpsc::channel(1);
                let (_facts, facts) = watch::channel(facts);
                let (_trigger, shutdown) = shutdown::channel();
                let resets = Resets::new(Arc::new(OneFlow(flow)), deaths_in, facts, Wire::default());
                let death = Death { who: "PACS/pacs1".into(), slot: 1, backend: record };
                deaths.send(Ended::Servers(vec![death])).await.expect("a queue");
                let answered = async {
                    let of_client = Bare { from_client: true, seq, ack };
                    let of_server = Bare { from_client: false, seq: ack, ack: seq };
                    // One from the client is the handshake's.
                    until("the client's answer", || {
                        acks(true).iter().filter(|bare| **bare == of_client).count() > 1
                    })
                    .await;
                    until("the server's answer", || acks(false).contains(&of_server)).await;
                };
                tokio::select! {
                    ended = resets.run(shutdown) => panic!("{ended:?}"),
                    () = answered => {}
                }
            });
        });
        // Where nothing answers with a RST, as here, no harm is done.
        near.write_all(b"still there").expect("sent");
        let mut said = [0; 11];
        far.read_exact(&mut said).expect("received");
        assert_eq!(&said, b"still there");
    }
}
