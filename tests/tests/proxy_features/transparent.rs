//! Servers that see the client's own address, though the balancer makes the connection (R83).

use lb_tests::lab::{
    Arms, Host, Mirror, Routed, Way,
    browser::Browser,
    mirror::{Header, Seen},
    require_root,
    topology::{VIP4, VIP6},
};

use crate::{WEB, start_green};

#[test]
fn servers_see_the_client_itself_where_that_is_asked() {
    if !require_root("servers_see_the_client_itself_where_that_is_asked") {
        return;
    }
    let routed = Routed::new(Arms::Two);
    let _mirrors = routed.servers().map(|server| Mirror::start(server, WEB, Header::None));
    routed.answer_by(Way::Machine);
    lb_tests::lab::routed::forward(routed.lb());
    let before = machine(routed.lb());
    let vip = |name: &str, ip, more: &str| {
        let servers = routed.servers().map(|server| std::net::SocketAddr::new(server.address_like(ip), WEB));
        format!(
            "[vip.{name}]\nmode = \"l7-http\"\nip = \"{ip}\"\nports = [80]\nscheduler = \"wrr\"\ncheck = \"connect\"\n\
             servers = {{ PACS1 = \"{}\", PACS2 = \"{}\" }}\n{more}\n",
            servers[0], servers[1]
        )
    };
    let opaque = vip("OPAQUE", VIP4, "").replace("[80]", "[81]");
    let toml = vip("V4", VIP4, "transparent = true") + &vip("V6", VIP6, "transparent = true") + &opaque;
    let mut lbd = start_green(routed.lab(), &toml);
    let client = routed.client();
    let seen = |to: std::net::IpAddr, port| {
        let url = format!("http://{}/", std::net::SocketAddr::new(to, port));
        Seen::in_page(&Browser::new(client).page(&url))
    };

    for (to, port) in [(VIP4, 80), (VIP6, 80)] {
        for _ in 0..4 {
            let seen = seen(to, port);
            assert_eq!(seen.peer.ip(), client.address_like(to), "{to} port {port}: {seen:?}");
        }
    }
    assert_eq!(seen(VIP4, 81).peer.ip(), routed.machine(VIP4), "without it servers see the balancer");
    // The servers' own traffic by the balancer is not caught up in it.
    let outward = routed.servers()[0].run("ping", &["-c", "1", "-W", "5", &client.v4.to_string()]);
    outward.expect_success();

    lbd.stop();
    assert_eq!(seen(VIP4, 80).peer.ip(), client.address_like(VIP4), "the proxy goes on without the daemon");
    lbd.start_again();
    lbd.wait_status("all is green", crate::green);
    assert_eq!(seen(VIP4, 80).peer.ip(), client.address_like(VIP4));

    // Without a transparent VIP the machine routes as before.
    lbd.write_config(&opaque);
    lbd.ctl(&["config", "apply"]).expect_success();
    assert_eq!(seen(VIP4, 81).peer.ip(), routed.machine(VIP4));
    assert_eq!(machine(routed.lb()), before, "what was made for it stays behind");
    lbd.write_config(&toml);
    lbd.ctl(&["config", "apply"]).expect_success();
    assert_eq!(seen(VIP4, 80).peer.ip(), client.address_like(VIP4));
    lbd.stop();
    lbd.detach().expect_success();
    assert_eq!(machine(routed.lb()), before, "lbd --detach leaves something behind");
}

/// Policy routing and the filter tables of a machine.
fn machine(host: &Host) -> [String; 5] {
    let ip = |args: &[&str]| host.run("ip", args).expect_success().stdout;
    [
        ip(&["-4", "rule"]),
        ip(&["-6", "rule"]),
        ip(&["-4", "route", "show", "table", "all", "type", "local", "default"]),
        ip(&["-6", "route", "show", "table", "all", "type", "local", "default"]),
        host.run("nft", &["list", "tables"]).expect_success().stdout,
    ]
}
