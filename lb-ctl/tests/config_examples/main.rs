//! The shipped configurations load without a warning and mean what the guides say.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

mod deployments;

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use lb_ctl::{
    config::{Code, Loaded, Texts, load, load_texts, show},
    model::{
        alerts::{MailRoute, RelayTls},
        check::{DicomCheck, SynRepeats},
        config::{
            Check, CheckKind, Fallback, Gateway, GatewayAddress, Mode, Persist, Ports, Protocols, ReturnPath,
            Rip, Scheduler, Source, SourceAddresses, Sources, Unattended, Vip,
        },
    },
};

/// A configuration of `config/` that needs no files beside it.
fn load_example(name: &str) -> Loaded {
    load_with(name, &[])
}

/// The same with these files beside it; no matter what is in them.
fn load_with(name: &str, files: &[&str]) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let main = directory.path().join("lbd.toml");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name), &main).unwrap();
    for file in files {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "made up\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let loaded = load(&Sources { main: main.clone() }).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, [], "{name} warns");
    // Scripts go by the directory of the file that names them.
    let shown = Texts::single(main, show(&loaded.config));
    let again = load_texts(shown).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config, "{name}: what is shown does not mean the same");
    loaded
}

fn rip(name: &str, ip: &str) -> Rip {
    Rip {
        name: name.into(),
        ip: ip.parse().unwrap(),
        port: None,
        weight: 100,
        max_connections: 0,
        min_connections: 0,
        check: None,
        pool: None,
    }
}

fn numbered(ports: &[u16]) -> Ports {
    Ports::Ranges(ports.iter().map(|port| *port..=*port).collect())
}

/// A layer-4 service of the guide: persistence 3600 s, everything else by default (R10 to R13).
fn guide_p(name: &str, ip: &str, ports: &[u16], check_port: Option<u16>, server: Rip) -> Vip {
    Vip {
        name: name.into(),
        mode: Mode::L4Dr,
        ip: ip.parse().unwrap(),
        ports: numbered(ports),
        protocols: Protocols::Tcp,
        interface: None,
        scheduler: Scheduler::Wlc,
        persist: Persist::SourceIp {
            prefix_v4: 32,
            prefix_v6: 128,
            timeout: Duration::from_secs(3600),
            group: None,
        },
        check: Check {
            kind: CheckKind::Connect,
            port: check_port,
            interval: Duration::from_secs(4),
            timeout: Duration::from_secs(3),
            rise: 2,
            fall: 2,
            source: None,
            dr_path: true,
            syn_repeats: SynRepeats::Show,
        },
        alert_to: Vec::new(),
        idle_timeout: Duration::from_secs(3600),
        fallback: Fallback::Reject,
        slow_start: Duration::ZERO,
        unattended: Unattended::default(),
        source: Source::default(),
        return_path: ReturnPath::default(),
        reset: true,
        enabled: true,
        proxy: None,
        rips: vec![server],
    }
}

#[test]
fn the_medical_imaging_guide_is_configured_value_by_value() {
    let vips = load_example("deployments/medical-imaging.toml").config.vips;
    let dicom_server = rip("DICOM1", "10.12.1.110");
    let dicom = guide_p("DICOM-Modalities", "10.12.1.100", &[104, 11112], Some(104), dicom_server);
    let xds = guide_p("XDS-Registry", "10.12.1.140", &[17035], None, rip("XDS1", "10.12.1.150"));
    // Those of layer 7 stand with the other guides' deployments.
    let layer_4: Vec<_> = vips.into_iter().filter(|vip| !vip.mode.is_layer7()).collect();
    assert_eq!(layer_4, [dicom, xds]);
}

#[test]
fn the_demo_is_what_the_lab_builds() {
    let vips = load_example("demo.toml").config.vips;
    let [vip] = vips.as_slice() else { panic!("{vips:?}") };
    assert_eq!((vip.name.as_str(), vip.mode, vip.scheduler), ("DICOM", Mode::L4Dr, Scheduler::Wrr));
    assert_eq!((vip.ip, &vip.ports), ("10.10.0.100".parse().unwrap(), &numbered(&[104, 11112])));
    assert_eq!(vip.rips, [rip("PACS1", "10.10.0.11"), rip("PACS2", "10.10.0.12")]);
    let check = Check {
        kind: CheckKind::DicomEcho(DicomCheck::new("LBD", "ORTHANC")),
        port: None,
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(400),
        rise: 2,
        fall: 2,
        source: None,
        dr_path: true,
        syn_repeats: SynRepeats::Show,
    };
    assert_eq!(vip.check, check);
}

/// What the two examples say of a service beyond its mode.
fn shape(vip: &Vip) -> (&str, String, Protocols, Vec<String>) {
    let server = |rip: &Rip| match rip.port {
        Some(port) => SocketAddr::new(rip.ip, port).to_string(),
        None => rip.ip.to_string(),
    };
    let at = format!("{} {}", vip.ip, vip.ports);
    (&vip.name, at, vip.protocols, vip.rips.iter().map(server).collect())
}

#[test]
fn servers_of_the_two_arm_example_have_a_floating_gateway() {
    let config = load_example("deployments/two-arm-nat.toml").config;
    let gateway =
        GatewayAddress { ip: "192.168.114.250".parse().unwrap(), interface: Some("eth0".to_owned()) };
    assert_eq!(config.gateway, Gateway { addresses: vec![gateway], masquerade: vec!["eth1".to_owned()] });
    let servers = |port: &str| ["10", "11"].map(|host| format!("192.168.114.{host}{port}")).to_vec();
    let expected = [
        ("DICOM", "192.168.113.100 104,11112-11115".to_owned(), Protocols::Tcp, servers("")),
        ("VIEWER", "192.168.113.101 443".to_owned(), Protocols::Tcp, servers(":8443")),
    ];
    assert_eq!(config.vips.iter().map(shape).collect::<Vec<_>>(), expected);
    assert!(config.vips.iter().all(|vip| vip.mode == Mode::L4Nat));
}

#[test]
fn the_snat_example_takes_tcp_and_udp_at_one_address() {
    let config = load_example("deployments/snat.toml").config;
    let servers = |servers: [&str; 2]| servers.map(str::to_owned).to_vec();
    let audit = servers(["10.20.4.10:5514", "10.20.7.10:5514"]);
    let hl7 = servers(["10.20.5.10", "10.20.5.11"]);
    let expected = [
        ("AUDIT", "10.12.1.170 514".to_owned(), Protocols::TcpUdp, audit),
        ("HL7", "10.12.1.120 2575-2579".to_owned(), Protocols::Tcp, hl7),
    ];
    assert_eq!(config.vips.iter().map(shape).collect::<Vec<_>>(), expected);
    assert!(config.vips.iter().all(|vip| vip.mode == Mode::L4Snat));
    let pool = ["10.12.1.5", "10.12.1.6"].map(|ip| ip.parse().unwrap()).to_vec();
    let pool = Source { addresses: SourceAddresses::Pool(pool), ports: Source::PORTS };
    assert_eq!([&config.vips[0].source, &config.vips[1].source], [&Source::default(), &pool]);
    assert_eq!(Source::PORTS.count(), 22_528, "the number that the example names");
}

#[test]
fn one_word_moves_an_example_from_nat_to_snat_and_to_direct_routing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/deployments/snat.toml");
    let text = fs::read_to_string(path).unwrap();
    let moved =
        |mode: &str, text: &str| load_texts(Texts::single("moved.toml", text.replace("l4-snat", mode)));
    let nat = moved("l4-nat", &text).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(nat.config.vips.iter().all(|vip| vip.mode == Mode::L4Nat && vip.source == Source::default()));
    // Direct routing refuses what it cannot do (R01), and nothing else.
    let errors = moved("l4-dr", &text).unwrap_err().errors;
    assert_eq!(errors.iter().map(|error| error.code).collect::<Vec<_>>(), [Code::DrPort]);
    let direct = moved("l4-dr", &text.replace("rip_port", "# rip_port"));
    assert!(direct.unwrap_or_else(|errors| panic!("{errors}")).config.vips.iter().all(|vip| vip.reset));
}

#[test]
fn the_commented_example_states_true_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/lbd.toml");
    let text = fs::read_to_string(path).unwrap();
    // With each commented default made live the meaning must be the same, but for what has no default.
    let live: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
    for key in [
        "scheduler",
        "idle_timeout",
        "fallback",
        "slow_start",
        "unattended",
        "enabled",
        "protocol",
        "flows_v4",
        "half_open",
        "addresses",
        "masquerade",
        "source",
        "source_ports",
        "return",
        "reset",
        "accept_reject",
        "dr_path",
        "syn_repeats",
        "method",
        "max_body_bytes",
        "syslog",
        "group",
        "repeat",
        "webhooks",
        "connect_timeout",
        "client_timeout",
        "server_timeout",
        "max_connections",
        "fallback_listen",
        "table_sync",
        "transparent",
        "accept_proxy",
        "send_proxy",
        "haproxy_extra",
        "security",
        "cleartext",
        "connect",
        "client",
        "server",
        "keep_alive",
        "accept_invalid",
        "request_timeout",
        "forwarded_for",
        "unintelligible",
    ] {
        assert!(live.contains(&format!("\n{key} ")), "{key} is not among the defaults:\n{live}");
    }
    let before = load_with("lbd.toml", &["pki/portal.pem", "pki/root.pem", "pki/issuing.pem"]);
    let texts = Texts::single(before.texts.files[0].path.clone(), live);
    let loaded = load_texts(texts).unwrap_or_else(|errors| panic!("{errors}"));
    let mut after = loaded.config;
    assert_eq!(after.node.name.take().as_deref(), Some("lb1"));
    assert_eq!(after.vips[0].interface.take().as_deref(), Some("eth0"));
    assert_eq!(after.vips[0].check.port.take(), Some(104));
    assert_eq!(after.vips[0].check.source.take(), Some([10, 12, 1, 5].into()));
    let mail = after.alerts.mail.take().unwrap();
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("lb@hospital.example", &["pacs@hospital.example".to_owned()][..])
    );
    let MailRoute::Relay { tls, login: None, .. } = mail.route else { panic!("{mail:?}") };
    assert_eq!(tls, RelayTls::default());
    let viewer = after.vips.iter_mut().find(|vip| vip.name == "VIEWER").unwrap();
    let own = viewer.rips.iter_mut().filter_map(|rip| rip.check.as_mut());
    for check in std::iter::once(&mut viewer.check).chain(own) {
        let CheckKind::Http(http) = &mut check.kind else { panic!("{check:?}") };
        assert_eq!(http.host.take().as_deref(), Some("viewer.hospital.example"));
    }
    assert_eq!(after, before.config);
}

/// `# key = value` without its first `# `; anything else as it is.
fn uncomment(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("# ") else {
        return line;
    };
    let Some((key, _)) = rest.split_once('=') else {
        return line;
    };
    let key = key.trim();
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b"_46".contains(&b));
    if is_key { rest } else { line }
}
