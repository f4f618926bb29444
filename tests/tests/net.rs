//! The controller's view of the network, against a real kernel: a bridge, the machine under test and two hosts, each
//! in its own network namespace.

use std::{
    fs::File,
    future::Future,
    io::Write as _,
    net::IpAddr,
    os::fd::AsFd as _,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use lb_ctl::{
    doctor::{self, Severity},
    model::{
        config::{Check, CheckKind, Config, Mode, Ports, Rip, Scheduler, Vip},
        net::{NetFacts, VipAddress, VlanTag, Watched},
    },
    net::{
        addresses::{self, Claim},
        watch as net_watch,
    },
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{sync::watch, time::timeout};

/// Longest wait for any fact: well above the slowest thing waited for, a MAC that changes without a word.
const DEADLINE: Duration = Duration::from_secs(40);
/// Time within which a fact that the kernel announces is published.
const SOON: Duration = Duration::from_secs(3);

const VIP4: &str = "10.12.1.100";
const VIP6: &str = "2001:db8:12::100";
const HOST1: &str = "10.12.1.110";
const HOST1_V6: &str = "2001:db8:12::110";
const NOBODY: &str = "10.12.1.199";
const MAC1: &str = "02:00:00:00:01:10";

#[test]
fn facts_are_whole_and_name_the_servers_macs() {
    lab(|lab| {
        lab.inside("lb", async {
            let net = Net::watch(&[HOST1, HOST1_V6, "10.12.1.5", "192.0.2.1", "203.0.113.9"]);
            let facts = net
                .until(DEADLINE, "both MACs", |facts| {
                    [HOST1, HOST1_V6].iter().all(|ip| mac(facts, ip).as_deref() == Some(MAC1))
                })
                .await;
            assert!(facts.complete);
            let eth0 = facts.links.values().find(|link| link.name == "eth0").expect("eth0");
            assert_eq!(eth0.kind.as_deref(), Some("veth"));
            assert_eq!((eth0.mtu, eth0.up, eth0.carrier, eth0.parent), (1500, true, true, None));
            assert_eq!(eth0.mac.to_string(), "02:00:00:00:01:05");
            assert!(facts.links.values().any(|link| link.name == "lo"));

            let own = &facts.paths[&ip("10.12.1.5")];
            assert_eq!(
                (own.local, own.ifindex),
                (true, Some(eth0.index)),
                "an own address is on eth0, not on lo"
            );
            let behind = &facts.paths[&ip("192.0.2.1")];
            assert_eq!(behind.gateway, Some(ip(HOST1)), "a gateway stands between");
            assert_eq!(behind.mac, None, "and its MAC is not the server's");
            assert_eq!(facts.paths[&ip("203.0.113.9")].ifindex, None, "no route at all");
        });
    });
}

#[test]
fn facts_follow_links_addresses_and_routes() {
    lab(|lab| {
        let lb = lab.name("lb");
        lab.inside("lb", async move {
            let net = Net::watch(&[HOST1, VIP4]);
            net.until(DEADLINE, "a MAC", |facts| mac(facts, HOST1).is_some()).await;

            ip_in(&lb, "link set eth0 down");
            net.until(SOON, "link down, no path", |facts| {
                !link(facts, "eth0").up && facts.paths[&ip(HOST1)].ifindex.is_none()
            })
            .await;
            ip_in(&lb, "link set eth0 up");
            net.until(SOON, "link up, path and MAC again", |facts| {
                link(facts, "eth0").carrier && mac(facts, HOST1).as_deref() == Some(MAC1)
            })
            .await;

            ip_in(&lb, &format!("address add {VIP4}/32 dev eth0"));
            net.until(SOON, "an own address", |facts| {
                facts.paths[&ip(VIP4)].local
                    && facts.addresses.iter().any(|a| a.ip == ip(VIP4) && a.prefix == 32)
            })
            .await;
            ip_in(&lb, &format!("address del {VIP4}/32 dev eth0"));
            net.until(SOON, "nobody's address", |facts| {
                !facts.paths[&ip(VIP4)].local && !facts.addresses.iter().any(|a| a.ip == ip(VIP4))
            })
            .await;

            ip_in(&lb, &format!("route add {VIP4}/32 via {HOST1}"));
            net.until(SOON, "a gateway", |facts| facts.paths[&ip(VIP4)].gateway == Some(ip(HOST1))).await;
        });
    });
}

#[test]
fn an_address_watched_later_is_resolved_at_once() {
    lab(|lab| {
        lab.inside("lb", async {
            let net = Net::watch(&[]);
            net.until(DEADLINE, "complete facts", |facts| facts.complete && facts.paths.is_empty()).await;
            net.watched.send_replace(Watched::from([ip(HOST1)]));
            net.until(SOON, "its MAC", |facts| mac(facts, HOST1).as_deref() == Some(MAC1)).await;
        });
    });
}

#[test]
fn a_mac_that_changes_is_published_whether_or_not_the_server_says_so() {
    lab(|lab| {
        let host = lab.name("host1");
        lab.inside("lb", async move {
            let net = Net::watch(&[HOST1]);
            net.until(DEADLINE, "the first MAC", |facts| mac(facts, HOST1).as_deref() == Some(MAC1)).await;

            // The kernel announces a new MAC when it is told to.
            run("ip", &["netns", "exec", &host, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"]);
            ip_in(&host, "link set eth0 address 02:00:00:00:aa:01");
            net.until(SOON, "the announced MAC", |facts| {
                mac(facts, HOST1).as_deref() == Some("02:00:00:00:aa:01")
            })
            .await;

            run("ip", &["netns", "exec", &host, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=0"]);
            ip_in(&host, "link set eth0 address 02:00:00:00:aa:02");
            net.until(DEADLINE, "the MAC nobody announced", |facts| {
                mac(facts, HOST1).as_deref() == Some("02:00:00:00:aa:02")
            })
            .await;
        });
    });
}

#[test]
fn facts_are_whole_again_after_more_changes_than_the_socket_holds() {
    lab(|lab| {
        let lb = lab.name("lb");
        lab.inside("lb", async move {
            let net = Net::watch(&[HOST1]);
            net.until(DEADLINE, "complete facts", |facts| facts.complete).await;
            // The watch task shares this thread, and so reads nothing while it waits for ip(8).
            let batch = |verb: &str| -> String {
                (0..MANY)
                    .map(|i| format!("address {verb} 10.200.{}.{}/32 dev lo\n", i / 250, i % 250 + 1))
                    .collect()
            };
            let file = tempfile::NamedTempFile::new().expect("a file");
            let many = |facts: &NetFacts| {
                facts.addresses.iter().filter(|a| a.ip.to_string().starts_with("10.200.")).count()
            };
            for (verb, expected) in [("add", MANY), ("del", 0)] {
                std::fs::write(file.path(), batch(verb)).expect("written");
                run("ip", &["-n", &lb, "-batch", file.path().to_str().expect("a path")]);
                net.until(DEADLINE, "all of them", |facts| many(facts) == expected).await;
            }
        });
    });
}

/// Addresses whose notifications are more than a socket's receive buffer takes.
const MANY: usize = 3000;

#[test]
fn a_neighbour_that_does_not_answer_is_failed_stays_failed_and_comes_back() {
    lab(|lab| {
        let host = lab.name("host1");
        lab.inside("lb", async move {
            let net = Net::watch(&[NOBODY, "2001:db8:12::199"]);
            net.until(DEADLINE, "failure of both families", |facts| {
                facts.paths.values().all(|path| path.failed)
            })
            .await;
            // The kernel is asked again and again; being asked is not an answer.
            let mut facts = net.facts.clone();
            let flapped = timeout(
                Duration::from_secs(3),
                facts.wait_for(|facts| facts.paths.values().any(|path| !path.failed)),
            );
            assert!(flapped.await.is_err(), "failed neighbours must not flap");

            ip_in(&host, &format!("address add {NOBODY}/24 dev eth0"));
            net.until(DEADLINE, "the newcomer's MAC", |facts| mac(facts, NOBODY).as_deref() == Some(MAC1))
                .await;
            assert!(!net.facts.borrow().paths[&ip(NOBODY)].failed);
        });
    });
}

#[test]
fn an_administrators_permanent_entry_is_used_and_left_alone() {
    lab(|lab| {
        let lb = lab.name("lb");
        lab.inside("lb", async move {
            ip_in(&lb, &format!("neigh add {NOBODY} lladdr 02:00:00:00:99:99 nud permanent dev eth0"));
            let net = Net::watch(&[NOBODY, HOST1]);
            net.until(DEADLINE, "the permanent MAC", |facts| {
                mac(facts, NOBODY).as_deref() == Some("02:00:00:00:99:99") && mac(facts, HOST1).is_some()
            })
            .await;
            let shown = ip_in(&lb, &format!("neigh show {NOBODY}"));
            assert!(shown.contains("PERMANENT"), "{shown}");
        });
    });
}

#[test]
fn a_vlan_interface_names_its_tag_and_its_parent() {
    lab(|lab| {
        let lb = lab.name("lb");
        lab.inside("lb", async move {
            let net = Net::watch(&["10.13.0.9"]);
            net.until(DEADLINE, "complete facts", |facts| facts.complete).await;
            let add =
                ["-n", &lb, "link", "add", "link", "eth0", "name", "eth0.104", "type", "vlan", "id", "104"];
            let added = Command::new("ip").args(add).output().expect("ip");
            if String::from_utf8_lossy(&added.stderr).contains("Unknown device type") {
                skipped("this kernel has no VLAN interfaces (8021q)");
                return;
            }
            ip_in(&lb, "link add link eth0 name eth0.200 type vlan proto 802.1ad id 200");
            ip_in(&lb, "address add 10.13.0.5/24 dev eth0.104");
            ip_in(&lb, "link set eth0.104 up");
            let facts = net
                .until(SOON, "a path by the VLAN interface", |facts| {
                    let vlan = facts.links.values().find(|link| link.name == "eth0.104");
                    vlan.is_some_and(|vlan| facts.paths[&ip("10.13.0.9")].ifindex == Some(vlan.index))
                })
                .await;
            let parent = link(&facts, "eth0").index;
            for (name, tag) in [
                ("eth0.104", VlanTag { id: 104, tpid: 0x8100 }),
                ("eth0.200", VlanTag { id: 200, tpid: 0x88a8 }),
            ] {
                let vlan = link(&facts, name);
                assert_eq!(
                    (vlan.kind.as_deref(), vlan.parent, vlan.vlan),
                    (Some("vlan"), Some(parent), Some(tag)),
                    "{name}"
                );
            }
        });
    });
}

#[test]
fn a_free_vip_is_claimed_announced_and_removed_and_an_existing_one_is_told_apart() {
    lab(|lab| {
        let (lb, host) = (lab.name("lb"), lab.name("host1"));
        lab.inside("lb", async move {
            // The host knows somebody else at the VIP's address: only an announcement corrects that in time.
            ip_in(&host, &format!("neigh add {VIP4} lladdr 02:00:00:00:ee:ee nud stale dev eth0"));
            ip_in(&host, &format!("neigh add {VIP6} lladdr 02:00:00:00:ee:ee nud stale dev eth0"));
            let vips = [vip(&lb, VIP4), vip(&lb, VIP6)];
            for claim in addresses::add_all(&vips).await {
                assert_eq!(claim.expect("free"), Claim::Added);
            }
            let shown = ip_in(&lb, "address show dev eth0");
            assert!(shown.contains(&format!("inet {VIP4}/32")), "{shown}");
            assert!(shown.contains(&format!("inet6 {VIP6}/128 scope global deprecated")), "{shown}");
            for ip in [VIP4, VIP6] {
                wait_for(SOON, "the host to learn the MAC", || {
                    ip_in(&host, &format!("neigh show {ip} dev eth0")).contains("02:00:00:00:01:05")
                })
                .await;
            }
            for vip in vips {
                assert_eq!(addresses::add(vip).await.expect("ours"), Claim::Existed);
                addresses::remove(vip).await.expect("removed");
                addresses::remove(vip).await.expect("removing twice is removing once");
            }
            let shown = ip_in(&lb, "address show dev eth0");
            assert!(!shown.contains(VIP4) && !shown.contains(VIP6), "{shown}");

            // An administrator's own address is neither added nor, with its subnet, removed.
            let own = vip(&lb, "10.12.1.5");
            assert_eq!(addresses::add(own).await.expect("there"), Claim::Existed);
            addresses::remove(own).await.expect("not there as /32");
            assert!(ip_in(&lb, "address show dev eth0").contains("inet 10.12.1.5/24"));
        });
    });
}

#[test]
fn an_ipv4_address_in_use_is_not_claimed_and_its_owner_is_named() {
    lab(|lab| {
        let (lb, host) = (lab.name("lb"), lab.name("host1"));
        lab.inside("lb", async move {
            ip_in(&host, &format!("address add {VIP4}/32 dev lo"));
            let error = addresses::add(vip(&lb, VIP4)).await.expect_err("in use").to_string();
            assert_eq!(
                error,
                format!(
                    "{VIP4} is already used by {MAC1} on eth0; it was not claimed: free the address there, or configure another one"
                )
            );
            assert!(!ip_in(&lb, "address show dev eth0").contains(VIP4));

            // A real server that answers for the VIP is what arp_ignore cures.
            run("ip", &["netns", "exec", &host, "sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"]);
            assert_eq!(addresses::add(vip(&lb, VIP4)).await.expect("quiet now"), Claim::Added);
        });
    });
}

#[test]
fn of_two_machines_that_claim_an_address_at_the_same_time_at_most_one_gets_it() {
    lab(|lab| {
        let (lb, host) = (lab.name("lb"), lab.name("host1"));
        let claims = [("lb", lb), ("host1", host)].map(|(role, name)| {
            let wanted = vip(&name, VIP4);
            lab.start_inside(
                role,
                async move { addresses::add(wanted).await.map_err(|error| error.to_string()) },
            )
        });
        let claims = claims.map(|claim| claim.join().expect("no panic"));
        let refusals: Vec<_> = claims.iter().filter_map(|claim| claim.as_ref().err()).collect();
        assert!(!refusals.is_empty(), "{claims:?}");
        assert!(
            refusals.iter().all(|text| text.contains("is already used by 02:00:00:00:01:")),
            "{refusals:?}"
        );
    });
}

#[test]
fn an_ipv6_address_in_use_is_found_by_duplicate_address_detection_and_its_owner_is_named() {
    lab(|lab| {
        let (lb, host) = (lab.name("lb"), lab.name("host1"));
        lab.inside("lb", async move {
            ip_in(&host, &format!("address add {VIP6}/64 dev eth0 nodad"));
            let error = addresses::add(vip(&lb, VIP6)).await.expect_err("in use").to_string();
            assert!(error.starts_with(&format!("{VIP6} is already used by {MAC1} on eth0; ")), "{error}");
            assert!(!ip_in(&lb, "address show dev eth0").contains(VIP6), "it is taken off again");

            // What a controller that was killed in the middle leaves behind does not stand in the way.
            ip_in(&lb, &format!("address add {VIP6}/128 dev eth0"));
            wait_for(DEADLINE, "dadfailed", || ip_in(&lb, "address show dev eth0").contains("dadfailed"))
                .await;
            ip_in(&host, &format!("address del {VIP6}/64 dev eth0"));
            assert_eq!(addresses::add(vip(&lb, VIP6)).await.expect("free now"), Claim::Added);
        });
    });
}

#[test]
fn nothing_is_claimed_on_a_dead_or_missing_interface() {
    lab(|lab| {
        let lb = lab.name("lb");
        lab.inside("lb", async move {
            let wanted = vip(&lb, VIP4);
            ip_in(&lb, "link set eth0 down");
            let error = addresses::add(wanted).await.expect_err("down").to_string();
            assert!(error.starts_with(&format!("{VIP4} was not claimed: eth0 is down")), "{error}");
            let nowhere = VipAddress { ifindex: 4095, ..wanted };
            let error = addresses::add(nowhere).await.expect_err("missing").to_string();
            assert!(error.contains("no interface with index 4095"), "{error}");
            addresses::remove(nowhere).await.expect("what is not there is removed");
        });
    });
}

#[test]
fn a_snapshot_waits_until_each_neighbour_is_known_or_failed() {
    lab(|lab| {
        lab.inside("lb", async {
            let watched = Watched::from([ip(HOST1), ip(HOST1_V6), ip(NOBODY)]);
            let facts = net_watch::snapshot(&watched, DEADLINE).await.expect("a snapshot");
            assert_eq!(mac(&facts, HOST1).as_deref(), Some(MAC1));
            assert_eq!(mac(&facts, HOST1_V6).as_deref(), Some(MAC1));
            assert!(facts.paths[&ip(NOBODY)].failed);
        });
    });
}

#[test]
fn the_doctor_gathers_the_truth_of_its_namespace() {
    lab(|lab| {
        let (lb, host) = (lab.name("lb"), lab.name("host1"));
        lab.inside("lb", async move {
            run("ip", &["netns", "exec", &lb, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=2"]);
            ip_in(&host, &format!("address add {VIP4}/32 dev lo"));
            let config = direct_routing(VIP4, &[("A", HOST1), ("B", NOBODY), ("C", "192.0.2.1")]);
            let facts = doctor::gather(&config).await;
            assert_eq!(facts.net_error, None);
            assert_eq!(facts.interfaces.len(), facts.net.links.len());
            let findings = doctor::examine(&facts, &config);
            for (check, severity, text) in [
                ("driver", Severity::Ok, "eth0: veth runs XDP natively".to_owned()),
                ("arp", Severity::Problem, "eth0 does not answer ARP for a VIP: arp_ignore=2".to_owned()),
                ("vip-address", Severity::Problem, format!("and {MAC1} answers for it")),
                ("real-server", Severity::Ok, format!("VIP1/A {HOST1} is at {MAC1} on eth0")),
                ("real-server", Severity::Warning, format!("VIP1/B {NOBODY} does not answer ARP on eth0")),
                ("real-server", Severity::Problem, format!("reached by gateway {HOST1}")),
            ] {
                assert!(
                    findings
                        .iter()
                        .any(|f| f.check == check && f.severity == severity && f.text.contains(&text)),
                    "{check} {severity:?} {text}\n{findings:#?}"
                );
            }
        });
    });
}

fn direct_routing(vip: &str, servers: &[(&str, &str)]) -> Config {
    let vip = Vip {
        scheduler: Scheduler::Maglev,
        check: Check { kind: CheckKind::Off, ..Check::default() },
        rips: servers.iter().map(|&(name, address)| Rip::new(name, ip(address))).collect(),
        ..Vip::new("VIP1", Mode::L4Dr, ip(vip), Ports::Ranges(vec![104..=104]))
    };
    Config { vips: vec![vip], ..Config::default() }
}

/// A running watch task.
struct Net {
    watched: watch::Sender<Watched>,
    facts: watch::Receiver<NetFacts>,
    _task: tokio::task::JoinHandle<()>,
}

impl Net {
    fn watch(addresses: &[&str]) -> Self {
        let (watched, watched_rx) = watch::channel(addresses.iter().map(|text| ip(text)).collect());
        let (facts_tx, facts) = watch::channel(NetFacts::default());
        let _task =
            tokio::spawn(async move { net_watch::run(watched_rx, facts_tx).await.expect("the watch task") });
        Self { watched, facts, _task }
    }

    async fn until(&self, deadline: Duration, what: &str, holds: impl Fn(&NetFacts) -> bool) -> NetFacts {
        let mut facts = self.facts.clone();
        let found = timeout(deadline, facts.wait_for(|facts| facts.complete && holds(facts))).await;
        match found {
            Ok(facts) => facts.expect("the watch task runs").clone(),
            Err(_) => panic!("not within {deadline:?}: {what}\n{:#?}", *self.facts.borrow()),
        }
    }
}

/// Namespaces `hub` with a bridge, and `lb`, `host1`, each with an `eth0` on it. Deleted when dropped.
struct Lab {
    id: String,
}

/// Runs a test in a lab, or skips it loudly without root.
fn lab(test: impl FnOnce(&Lab)) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("LB_REQUIRE_ROOT").is_none(),
            "LB_REQUIRE_ROOT is set, but this is not root"
        );
        skipped("network namespaces need root; run as root");
        return;
    }
    test(&Lab::new());
}

/// Says so past the test harness, which shows only what failing tests print.
fn skipped(why: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {why}").expect("stderr");
}

impl Lab {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("lbnet{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { id };
        let hub = lab.add_namespace("hub");
        ip_in(&hub, "link add br0 type bridge mcast_snooping 0");
        ip_in(&hub, "link set br0 up");
        for (role, mac, host) in [("lb", "02:00:00:00:01:05", 5), ("host1", MAC1, 110)] {
            let name = lab.add_namespace(role);
            ip_in(&hub, &format!("link add {role} type veth peer name eth0 address {mac} netns {name}"));
            ip_in(&hub, &format!("link set {role} master br0 up"));
            ip_in(&name, "link set lo up");
            ip_in(&name, "link set eth0 up");
            ip_in(&name, &format!("address add 10.12.1.{host}/24 dev eth0"));
            ip_in(&name, &format!("address add 2001:db8:12::{host}/64 dev eth0 nodad"));
        }
        ip_in(&lab.name("lb"), &format!("route add 192.0.2.0/24 via {HOST1}"));
        lab
    }

    fn add_namespace(&self, role: &str) -> String {
        let name = self.name(role);
        run("ip", &["netns", "add", &name]);
        name
    }

    fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.id)
    }

    /// Runs a future on a thread of its own inside a namespace.
    fn start_inside<T: Send + 'static>(
        &self,
        role: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name(role))).expect("namespace");
        std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(future)
        })
    }

    fn inside<T: Send + 'static>(&self, role: &str, future: impl Future<Output = T> + Send + 'static) -> T {
        self.start_inside(role, future).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for role in ["host1", "lb", "hub"] {
            let name = self.name(role);
            let deleted = Command::new("ip").args(["netns", "del", &name]).output();
            if !deleted.is_ok_and(|output| output.status.success()) {
                writeln!(std::io::stderr(), "namespace {name} could not be deleted").expect("stderr");
            }
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn mac(facts: &NetFacts, address: &str) -> Option<String> {
    facts.paths.get(&ip(address))?.mac.map(|mac| mac.to_string())
}

fn link(facts: &NetFacts, name: &str) -> lb_ctl::model::net::Link {
    facts.links.values().find(|link| link.name == name).unwrap_or_else(|| panic!("no {name}")).clone()
}

fn vip(namespace: &str, address: &str) -> VipAddress {
    let shown = ip_in(namespace, "-o link show dev eth0");
    let ifindex = shown.split(':').next().and_then(|index| index.parse().ok()).expect("an index");
    VipAddress { ifindex, ip: ip(address) }
}

/// `ip -n NAMESPACE ARGUMENTS`; its output.
fn ip_in(namespace: &str, arguments: &str) -> String {
    let mut all = vec!["-n", namespace];
    all.extend(arguments.split(' '));
    String::from_utf8(run("ip", &all).stdout).expect("text")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

async fn wait_for(deadline: Duration, what: &str, holds: impl Fn() -> bool) {
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let wait = async {
        while !holds() {
            polls.tick().await;
        }
    };
    timeout(deadline, wait).await.unwrap_or_else(|_| panic!("not within {deadline:?}: {what}"));
}
