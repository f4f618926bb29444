//! Layer-7 VIPs, each with something that the others have not.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use lb_ctl::model::{
    check::{CaFamily, ClientCert, Verify},
    config::{Fallback, Mode, Persist, Ports, Rip, Scheduler, SourceAddresses, Vip},
    proxied::{DesiredProxy, Proxies, Service, Takes},
    proxy::{
        BackendTls, HeaderAction, HeaderOf, HeaderRule, KeepAlive, Proxy, ProxyHeader, ProxySettings,
        Security, SwitchOn, SwitchRule, Termination, Unintelligible,
    },
};

/// A VIP with two servers, `a` and `b`, that take everything.
pub(crate) fn vip(name: &str, mode: Mode, ip: &str, ports: &[u16]) -> Vip {
    let ports = Ports::Ranges(ports.iter().map(|port| *port..=*port).collect());
    let mut vip = Vip::new(name, mode, address(ip), ports);
    for (name, host) in [("a", "192.0.2.11"), ("b", "192.0.2.12")] {
        vip.rips.push(Rip { port: Some(8080), ..Rip::new(name, address(host)) });
    }
    vip
}

/// What the VIP is to do.
pub(crate) fn proxy(vip: &mut Vip) -> &mut Proxy {
    vip.proxy.as_mut().expect("a layer-7 VIP")
}

/// VIPs all of whose servers take everything.
pub(crate) fn serving(vips: Vec<Vip>) -> Proxies {
    let desired = |vip: Vip| {
        let whole = |rip: &Rip| {
            let service = Service { takes: Takes::Everything, weight: rip.weight, ends_sessions: false };
            (rip.name.clone(), service)
        };
        DesiredProxy { servers: vip.rips.iter().map(whole).collect::<BTreeMap<_, _>>(), vip }
    };
    Proxies { settings: ProxySettings::default(), vips: vips.into_iter().map(desired).collect() }
}

pub(crate) fn address(ip: &str) -> IpAddr {
    ip.parse().expect("an address")
}

fn cert(name: &str) -> ClientCert {
    ClientCert { name: name.to_owned(), pem: PathBuf::from(format!("/etc/lbd/pki/{name}.pem")) }
}

fn family(name: &str) -> CaFamily {
    CaFamily { name: name.to_owned(), pems: vec![PathBuf::from(format!("/etc/lbd/pki/{name}.pem"))] }
}

fn termination(port: u16) -> Termination {
    Termination {
        port,
        certs: vec![cert("web")],
        client_ca: None,
        client_required: true,
        security: Security::default(),
        cleartext: true,
    }
}

/// States and weights, ports, limits, sources, fallback, raw lines.
pub(crate) fn plain() -> Proxies {
    let mut hl7 = vip("HL7", Mode::L7Tcp, "198.51.100.20", &[2575]);
    hl7.persist = Persist::LastSuccessful { timeout: Some(Duration::from_secs(12 * 3600)) };
    hl7.scheduler = Scheduler::First;
    proxy(&mut hl7).timeouts.client = Duration::from_secs(12 * 3600);
    proxy(&mut hl7).timeouts.server = Duration::from_secs(12 * 3600);
    proxy(&mut hl7).extra = vec!["option tcp-smart-connect".to_owned()];

    let mut many = vip("Many-ports", Mode::L7Tcp, "198.51.100.21", &[8070]);
    many.ports = Ports::Ranges(vec![8070..=8070, 49200..=49201]);
    for rip in &mut many.rips {
        rip.port = None;
    }
    many.persist = source_ip(24, 64);
    many.source.addresses = SourceAddresses::Vip;
    many.fallback = Fallback::Server { ip: address("192.0.2.99"), port: None };

    let mut v6 = vip("Six", Mode::L7Tcp, "2001:db8::20", &[104]);
    v6.rips = vec![Rip::new("archive", address("2001:db8:1::11"))];
    v6.persist = source_ip(32, 56);
    v6.source.addresses = SourceAddresses::Pool(vec![address("2001:db8::5")]);
    v6.fallback = Fallback::Page;
    proxy(&mut v6).max_connections = Some(500);
    proxy(&mut v6).timeouts.connect = Duration::from_millis(1500);

    let mut states = vip("States", Mode::L7Tcp, "198.51.100.22", &[104]);
    states.scheduler = Scheduler::Wrr;
    for (name, host) in [("c", "192.0.2.13"), ("d", "192.0.2.14")] {
        states.rips.push(Rip { max_connections: 8, ..Rip::new(name, address(host)) });
    }
    let mut proxies = serving(vec![hl7, many, v6, states]);
    let servers = &mut proxies.vips[3].servers;
    servers.insert("b".to_owned(), Service { takes: Takes::Persistent, weight: 100, ends_sessions: false });
    servers.insert("c".to_owned(), Service { takes: Takes::Nothing, weight: 37, ends_sessions: true });
    proxies
}

/// Every kind of TLS, in and out.
pub(crate) fn tls() -> Proxies {
    let mut mutual = vip("Mutual", Mode::L7Tcp, "198.51.100.30", &[444]);
    proxy(&mut mutual).tls =
        Some(Termination { client_ca: Some(family("devices")), cleartext: false, ..termination(443) });
    proxy(&mut mutual).backend_tls = Some(BackendTls {
        verify: Verify::Family(family("devices")),
        name: Some("archive.example".to_owned()),
        sni: Some("archive.example".to_owned()),
        client_cert: Some(cert("client")),
    });
    let mut old = vip("Old-modalities", Mode::L7Tcp, "198.51.100.31", &[104]);
    proxy(&mut old).tls = Some(Termination {
        certs: vec![cert("web"), cert("other")],
        client_ca: Some(family("devices")),
        client_required: false,
        security: Security::Compatible,
        ..termination(2762)
    });
    proxy(&mut old).backend_tls =
        Some(BackendTls { verify: Verify::Off, name: None, sni: None, client_cert: None });
    let mut fips = vip("Fips", Mode::L7Http, "198.51.100.32", &[80]);
    proxy(&mut fips).tls = Some(Termination { security: Security::Fips, ..termination(8443) });
    proxy(&mut fips).https_redirect = Some(308);
    proxy(&mut fips).backend_tls =
        Some(BackendTls { verify: Verify::System, name: None, sni: None, client_cert: None });
    proxy(&mut fips).send_proxy = Some(ProxyHeader::V2SslCn);
    fips.persist = cookie();
    serving(vec![mutual, old, fips])
}

/// What only HTTP has.
pub(crate) fn http() -> Proxies {
    let mut viewer = vip("Viewer", Mode::L7Http, "198.51.100.40", &[80]);
    viewer.fallback = Fallback::Page;
    viewer.persist = cookie();
    let p = proxy(&mut viewer);
    p.tls = Some(termination(443));
    p.https_redirect = Some(301);
    p.http.accept_invalid = true;
    p.http.request_timeout = None;
    p.http.keep_alive = KeepAlive::Pretend;
    p.headers = vec![
        header(HeaderOf::Request, "X-Forwarded-Proto", HeaderAction::Set("https".to_owned())),
        header(HeaderOf::Request, "Host", HeaderAction::Set("%fi:443".to_owned())),
        header(HeaderOf::Request, "X-Note", HeaderAction::Add("it's \"here\" # now".to_owned())),
        header(HeaderOf::Response, "Server", HeaderAction::Delete),
        header(
            HeaderOf::Response,
            "Location",
            HeaderAction::Replace { pattern: "^http:".to_owned(), with: "https:".to_owned() },
        ),
        header(
            HeaderOf::Response,
            "Location",
            HeaderAction::Replace { pattern: "/(x)/(y)".to_owned(), with: r"/\2/\1\\ was \0".to_owned() },
        ),
    ];
    p.switch = vec![
        rule(SwitchOn::Host(vec!["WADO.example".to_owned()]), "wado"),
        rule(SwitchOn::PathPrefix(vec!["/wado".to_owned(), "/dicom-web/".to_owned()]), "wado"),
    ];
    pooled(&mut viewer, "wado", &["192.0.2.21", "192.0.2.22"]);

    let mut shards = vip("Shards", Mode::L7Http, "2001:db8::40", &[80]);
    shards.persist = Persist::UrlParam {
        name: "shardKey".to_owned(),
        timeout: Duration::from_secs(1800),
        entries: 10240,
        key_len: 128,
    };
    shards.scheduler = Scheduler::SourceHash;
    proxy(&mut shards).http.keep_alive = KeepAlive::Client;
    proxy(&mut shards).http.forwarded_for = false;
    proxy(&mut shards).headers =
        vec![header(HeaderOf::Request, "Host", HeaderAction::Set("%fi:443".to_owned()))];

    let mut closing = vip("Closing", Mode::L7Http, "198.51.100.41", &[80]);
    closing.persist = source_ip(32, 128);
    proxy(&mut closing).http.keep_alive = KeepAlive::Off;
    proxy(&mut closing).accept_proxy = true;
    proxy(&mut closing).send_proxy = Some(ProxyHeader::V1);
    serving(vec![viewer, shards, closing])
}

/// Switching of DICOM and of TLS that passes through.
pub(crate) fn switch() -> Proxies {
    let mut archive = vip("Archive", Mode::L7Tcp, "198.51.100.50", &[104, 11112]);
    archive.persist = source_ip(32, 128);
    let p = proxy(&mut archive);
    p.switch = vec![
        rule(SwitchOn::CalledAet(vec!["US_ARCHIVE".to_owned()]), "us"),
        rule(SwitchOn::CallingAet(vec!["MR1".to_owned(), "MR 2".to_owned(), "-f".to_owned()]), "mr"),
    ];
    p.unintelligible = Unintelligible::Refuse;
    pooled(&mut archive, "us", &["192.0.2.31"]);
    pooled(&mut archive, "mr", &["192.0.2.32", "192.0.2.33"]);

    let mut lenient = vip("Lenient", Mode::L7Tcp, "198.51.100.51", &[104]);
    proxy(&mut lenient).tls = Some(termination(2762));
    proxy(&mut lenient).switch = vec![
        rule(SwitchOn::CalledAet(vec!["US_ARCHIVE".to_owned()]), "us"),
        rule(SwitchOn::Sni(vec!["us.example".to_owned()]), "us"),
    ];
    pooled(&mut lenient, "us", &["192.0.2.31"]);

    let mut through = vip("Through", Mode::L7Tcp, "198.51.100.52", &[443]);
    proxy(&mut through).switch = vec![rule(SwitchOn::Sni(vec!["us.example".to_owned()]), "us")];
    pooled(&mut through, "us", &["192.0.2.31"]);
    serving(vec![archive, lenient, through])
}

/// Servers see the client's address.
pub(crate) fn transparent() -> Proxies {
    let mut v4 = vip("Seen", Mode::L7Tcp, "198.51.100.60", &[104]);
    proxy(&mut v4).transparent = true;
    let mut v6 = vip("Seen-6", Mode::L7Tcp, "2001:db8::60", &[104]);
    v6.rips = vec![Rip::new("a", address("2001:db8:1::11"))];
    v6.fallback = Fallback::Page;
    proxy(&mut v6).transparent = true;
    serving(vec![v4, v6])
}

const fn source_ip(prefix_v4: u8, prefix_v6: u8) -> Persist {
    Persist::SourceIp { prefix_v4, prefix_v6, timeout: Duration::from_secs(3600), group: None }
}

fn cookie() -> Persist {
    Persist::Cookie {
        name: "SERVERID".to_owned(),
        max_idle: Duration::from_secs(1800),
        max_life: Duration::from_secs(12 * 3600),
    }
}

fn header(of: HeaderOf, name: &str, action: HeaderAction) -> HeaderRule {
    HeaderRule { of, action, name: name.to_owned() }
}

fn rule(on: SwitchOn, pool: &str) -> SwitchRule {
    SwitchRule { on, pool: pool.to_owned() }
}

fn pooled(vip: &mut Vip, pool: &str, hosts: &[&str]) {
    for (i, host) in hosts.iter().enumerate() {
        let rip = Rip::new(format!("{pool}{}", i + 1), address(host));
        vip.rips.push(Rip { port: Some(11112), pool: Some(pool.to_owned()), ..rip });
    }
}
