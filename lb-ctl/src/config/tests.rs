//! Merging, defaults and warnings: what valid texts mean.

use std::time::Duration;

use super::{Code, Loaded, Texts, load_texts};
use crate::model::{
    check::DicomCheck,
    config::{
        CheckKind, Fallback, Mode, Persist, Ports, Protocols, ReturnPath, Scheduler, Source, SourceAddresses,
        Unattended, Vip,
    },
};

fn load(text: &str) -> Loaded {
    load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The VIP `V` of a text that has these lines before and in its section.
fn vip(before: &str, keys: &str) -> Vip {
    let text = format!("{before}\n[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\n{keys}\n");
    load(&text).config.vips.remove(0)
}

fn warnings(keys: &str) -> Vec<Code> {
    let text = format!("[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\n{keys}\n");
    load(&text).warnings.iter().map(|warning| warning.code).collect()
}

const SERVERS: &str = "servers = { A = '10.0.0.1' }";
const ECHO: &str = "[profile.p]\ncheck = { type = 'dicom-echo', called_aet = 'PACS', interval = '2s' }\n";

fn echo(called_aet: &str) -> CheckKind {
    CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", called_aet))
}

#[test]
fn a_vip_lays_its_keys_upon_those_of_its_profile() {
    let check = vip(ECHO, &format!("profile = 'p'\ncheck.called_aet = 'MINE'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.interval), (echo("MINE"), Duration::from_secs(2)));
}

#[test]
fn the_nearest_profile_wins() {
    let base = format!("{ECHO}[profile.q]\nprofile = 'p'\ncheck.called_aet = 'Q'\nidle_timeout = '2h'\n");
    let vip = vip(&base, &format!("profile = 'q'\n{SERVERS}"));
    assert_eq!((vip.check.kind, vip.idle_timeout), (echo("Q"), Duration::from_secs(7200)));
}

#[test]
fn another_type_of_check_keeps_what_has_meaning_for_it() {
    let check = vip(ECHO, &format!("profile = 'p'\ncheck = 'connect'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.interval), (CheckKind::Connect, Duration::from_secs(2)));
    assert_eq!(vip(ECHO, &format!("profile = 'p'\ncheck = 'off'\n{SERVERS}")).check.kind, CheckKind::Off);
}

#[test]
fn servers_of_its_own_replace_the_pool_of_the_profile() {
    let base = "[pool.x]\nservers = { X = '10.0.0.9' }\n[profile.p]\npool = 'x'\n";
    let names = |vip: Vip| vip.rips.into_iter().map(|rip| rip.name).collect::<Vec<_>>();
    assert_eq!(names(vip(base, "profile = 'p'")), ["X"]);
    assert_eq!(names(vip(base, &format!("profile = 'p'\n{SERVERS}"))), ["A"]);
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let check = vip("", &format!("check.interval = '1s'\n{SERVERS}")).check;
    assert_eq!((check.kind, check.timeout), (CheckKind::Connect, Duration::from_secs(1)));
}

#[test]
fn persistence_by_source_address_lasts_five_minutes_by_default() {
    let expected =
        Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: Duration::from_secs(300), group: None };
    assert_eq!(vip("", &format!("persist = 'source-ip'\n{SERVERS}")).persist, expected);
}

#[test]
fn connections_go_where_there_are_fewest_unless_said_otherwise() {
    let plain = vip("", SERVERS);
    assert_eq!((plain.scheduler, plain.fallback), (Scheduler::Wlc, Fallback::Reject));
    assert_eq!((plain.slow_start, plain.unattended), (Duration::ZERO, Unattended::Serve));
    assert_eq!((plain.rips[0].max_connections, plain.rips[0].min_connections), (0, 0));
}

#[test]
fn a_fallback_is_a_word_or_a_server() {
    let fallback = |keys: &str| of_mode("l4-nat", keys).config.vips.remove(0).fallback;
    let server = |ip: &str, port| Fallback::Server { ip: ip.parse().unwrap(), port };
    assert_eq!(fallback("fallback = 'drop'"), Fallback::Drop);
    assert_eq!(fallback("fallback = '10.0.0.9'"), server("10.0.0.9", None));
    assert_eq!(fallback("fallback = '10.0.0.9:81'"), server("10.0.0.9", Some(81)));
    // The port of servers that have none is not that of a machine that does something else.
    assert_eq!(fallback("fallback = '10.0.0.9'\nrip_port = 8080"), server("10.0.0.9", None));
    // Another port of a server's machine is another server.
    assert_eq!(fallback("fallback = '10.0.0.1:8081'"), server("10.0.0.1", Some(8081)));
}

#[test]
fn a_vip_may_stay_on_the_server_in_use_over_a_profile_that_persists() {
    let base = "[profile.p]\npersist = { type = 'source-ip', timeout = '1h', group = 'g' }\n";
    let keys = format!("profile = 'p'\nscheduler = 'first'\npersist = 'last-successful'\n{SERVERS}");
    assert_eq!(vip(base, &keys).persist, Persist::LastSuccessful { timeout: None });
}

/// Two VIPs with these `persist`, the second by IPv6 if `v6`.
fn two(one: &str, other: &str, v6: bool) -> String {
    let (ip, server) = if v6 { ("2001:db8::100", "2001:db8::1") } else { ("10.0.0.101", "10.0.0.1") };
    format!(
        "[vip]\nA = {{ mode = 'l4-dr', ip = '10.0.0.100', ports = [1], persist = {one}, {SERVERS} }}\nB = {{ mode = 'l4-dr', \
         ip = '{ip}', ports = [1], persist = {other}, servers = {{ A = '{server}' }} }}\n"
    )
}

#[test]
fn vips_of_a_group_remember_clients_alike_within_each_family() {
    let of = |keys: &str| format!("{{ type = 'source-ip', {keys} }}");
    let said = |text: &str| load(text).warnings.into_iter().map(|w| w.help).collect::<Vec<_>>();
    let none: [&str; 0] = [];
    assert_eq!(said(&two(&of("group = 'g', prefix = 24"), &of("group = 'g', prefix = 24"), false)), none);
    assert_eq!(said(&two(&of("group = 'g', prefix = 24"), &of("group = 'g', prefix = 64"), true)), none);
    assert_eq!(
        said(&two(&of("group = 'archive'"), &of("group = 'archvie', timeout = '1h'"), false)),
        ["did you mean \"archvie\"?", "did you mean \"archive\"?"]
    );
    assert_eq!(
        said(&two(&of("group = 'g'"), "'none'", false)),
        ["name it in another VIP too, or remove `group`"]
    );
}

#[test]
fn more_servers_than_a_table_lists_are_refused() {
    let text = |count: u32| {
        let servers = (0..count).map(|n| format!("S{n} = '10.1.{}.{}', ", n / 250, n % 250 + 1));
        let servers: String = servers.collect();
        format!("[vip.V]\nmode = 'l4-dr'\nip = '10.0.0.100'\nports = [104]\nservers = {{ {servers} }}\n")
    };
    assert_eq!(load(&text(512)).config.vips[0].rips.len(), 512);
    let errors = load_texts(Texts::single("lbd.toml", text(513))).unwrap_err().errors;
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.message, "vip `V` has 513 servers, the limit is 512");
}

#[test]
fn an_empty_file_is_a_configuration() {
    let loaded = load("");
    assert!(loaded.config.vips.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn a_vip_out_of_service_may_stand_by_with_the_ports_of_another() {
    let text = "[vip]\nA = { mode = 'l4-dr', ip = '10.0.0.100', ports = [1], servers = { S = '10.0.0.1' } }\nB = { mode = \
                'l4-dr', ip = '10.0.0.100', ports = [1], servers = { S = { ip = '10.0.0.2', weight = 0 } }, enabled = \
                false }\n";
    assert_eq!(load(text).config.vips.len(), 2);
}

#[test]
fn what_is_worth_knowing_is_warned_of() {
    assert_eq!(warnings(SERVERS), []);
    assert_eq!(warnings(&format!("check = 'off'\n{SERVERS}")), [Code::CheckOff]);
    assert_eq!(warnings("servers = {}"), [Code::NoServers]);
    for redundant in [
        "scheduler = 'source-hash'\npersist = 'source-ip'",
        "scheduler = 'first'\nslow_start = '30s'",
        "persist = { type = 'source-ip', group = 'g' }",
    ] {
        assert_eq!(warnings(&format!("{redundant}\n{SERVERS}")), [Code::Redundant], "{redundant}");
    }
    let unused = format!("{SERVERS}\n[pool.x]\nservers = {{ X = '10.0.0.9' }}\n[profile.y]\nmode = 'l4-dr'");
    assert_eq!(warnings(&unused), [Code::Unused, Code::Unused]);
}

#[test]
fn more_vips_than_the_tables_hold_are_refused_once() {
    let vip = |n: u32| {
        format!(
            "V{n} = {{ mode = 'l4-dr', ip = '10.1.{}.{}', ports = [1], servers = {{}} }}\n",
            n / 250,
            n % 250 + 1
        )
    };
    let text = |count| (0..count).map(vip).fold("[vip]\n".to_owned(), |text, line| text + &line);
    assert_eq!(load(&text(2048)).config.vips.len(), 2048);
    let errors = load_texts(Texts::single("lbd.toml", text(2060))).unwrap_err().errors;
    let seen: Vec<_> = errors.iter().map(|error| (error.code, error.place.line)).collect();
    assert_eq!(seen, [(Code::TooMany, 2050)]);
}

/// A VIP of this mode with these keys; its servers are `A` and `B`.
fn of_mode(mode: &str, keys: &str) -> Loaded {
    load(&format!(
        "[vip.V]\nmode = '{mode}'\nip = '10.0.0.100'\nports = [80]\nservers = {{ A = '10.0.0.1', B = '10.0.0.2' }}\n{keys}\n"
    ))
}

const TRANSLATION: &str =
    "source = ['10.0.0.5']\nsource_ports = '20000-29999'\nreturn = 'route'\nreset = false";

#[test]
fn one_word_moves_a_deployment_and_what_has_no_meaning_there_is_warned_of() {
    let meaning = |mode: &str| {
        let Loaded { config, warnings, .. } = of_mode(mode, TRANSLATION);
        let lines: Vec<_> = warnings.iter().map(|warning| (warning.code, warning.place.line)).collect();
        let vip = &config.vips[0];
        (lines, vip.mode, vip.source == Source::default(), vip.return_path, vip.reset)
    };
    let warned = |lines: &[usize]| lines.iter().map(|line| (Code::Redundant, *line)).collect::<Vec<_>>();
    assert_eq!(meaning("l4-dr"), (warned(&[6, 7, 8, 9]), Mode::L4Dr, true, ReturnPath::LastHop, true));
    assert_eq!(meaning("l4-nat"), (warned(&[6, 7]), Mode::L4Nat, true, ReturnPath::Route, false));
    assert_eq!(meaning("l4-snat"), (warned(&[]), Mode::L4Snat, false, ReturnPath::Route, false));
    for mode in ["l4-dr", "l4-nat", "l4-snat"] {
        assert!(of_mode(mode, "").warnings.is_empty(), "{mode}");
    }
}

#[test]
fn a_warning_of_a_key_without_meaning_names_it_the_mode_and_why() {
    let warnings = of_mode("l4-nat", "source = 'vip'").warnings;
    let said: Vec<_> =
        warnings.iter().map(|warning| (warning.message.as_str(), warning.help.as_str())).collect();
    let expected = (
        "`source` means nothing in mode \"l4-nat\" of vip `V`: NAT keeps the client's address",
        "remove `source`, or leave it for a mode that has it",
    );
    assert_eq!(said, [expected]);
}

#[test]
fn sources_are_this_machine_the_vip_or_a_list() {
    let source = |keys: &str| of_mode("l4-snat", keys).config.vips.remove(0).source;
    assert_eq!(source(""), Source { addresses: SourceAddresses::Interface, ports: 10_240..=32_767 });
    assert_eq!(source("source = 'vip'").addresses, SourceAddresses::Vip);
    let pool = ["10.0.0.6", "10.0.0.5"].map(|ip| ip.parse().unwrap());
    let expected = Source { addresses: SourceAddresses::Pool(pool.to_vec()), ports: 20_000..=20_000 };
    assert_eq!(source("source = ['10.0.0.6', '10.0.0.5']\nsource_ports = '20000-20000'"), expected);
}

#[test]
fn servers_have_a_port_of_their_own_or_the_vip_s_for_all_or_the_one_asked_for() {
    let ports = |keys: &str| {
        let text = format!("[vip.V]\nmode = 'l4-nat'\nip = '2001:db8::100'\nports = [80]\n{keys}\n");
        load(&text).config.vips.remove(0).rips.iter().map(|rip| rip.port).collect::<Vec<_>>()
    };
    let servers =
        "servers = { A = '2001:db8::1', B = '[2001:db8::2]:81', C = { ip = '2001:db8::2', port = 82 } }";
    assert_eq!(ports(servers), [None, Some(81), Some(82)]);
    assert_eq!(ports(&format!("rip_port = 8080\n{servers}")), [Some(8080), Some(81), Some(82)]);
}

#[test]
fn a_pool_with_ports_serves_nat_and_refuses_direct_routing_alone() {
    let text = "[pool.p]\nservers = { A = '10.0.0.1:8080' }\n[vip]\nN = { mode = 'l4-nat', ip = '10.0.0.100', ports = [80], \
                pool = 'p' }\n";
    assert_eq!(load(text).config.vips[0].rips[0].port, Some(8080));
    let both = format!("{text}D = {{ mode = 'l4-dr', ip = '10.0.0.101', ports = [80], pool = 'p' }}\n");
    let errors = load_texts(Texts::single("lbd.toml", both)).unwrap_err().errors;
    let seen: Vec<_> = errors.iter().map(|error| (error.code, error.place.line)).collect();
    assert_eq!(seen, [(Code::DrPort, 2)]);
}

#[test]
fn a_port_that_is_named_wins_over_every_port_and_protocols_stand_apart() {
    let vip = |name: &str, keys: &str| {
        format!(
            "{name} = {{ mode = 'l4-nat', ip = '10.0.0.100', check = 'off', {keys}, servers = {{ S = '10.0.0.1' }} }}\n"
        )
    };
    let text = [
        "[vip]\n".to_owned(),
        vip("ALL", "ports = 'all', protocol = 'tcp+udp'"),
        vip("WEB", "ports = [80, '8080-8089'], protocol = 'tcp'"),
        vip("SYSLOG", "ports = [80, 514], protocol = 'udp'"),
    ]
    .concat();
    let vips = load(&text).config.vips;
    assert_eq!((&vips[0].ports, vips[0].protocols), (&Ports::All, Protocols::TcpUdp));
    assert_eq!(vips[1].ports, Ports::Ranges(vec![80..=80, 8080..=8089]));
}

#[test]
fn keys_are_counted_over_ranges_and_protocols() {
    let text = |high: u16| {
        format!(
            "[vip.V]\nmode = 'l4-nat'\nip = '10.0.0.100'\nprotocol = 'tcp+udp'\nports = ['1-{high}']\nservers = {{}}\n"
        )
    };
    assert_eq!(load(&text(8192)).config.vips[0].ports.first(), Some(1));
    let errors = load_texts(Texts::single("lbd.toml", text(8193))).unwrap_err().errors;
    assert_eq!(errors.iter().map(|error| error.code).collect::<Vec<_>>(), [Code::TooMany]);
}

#[test]
fn gateway_addresses_float_by_subnet_or_by_the_interface_named() {
    let gateway = load(
        "[gateway]\naddresses = ['192.168.114.250', { ip = '2001:db8::250', interface = 'eth0' }]\nmasquerade = ['eth1']\n",
    )
    .config
    .gateway;
    let said: Vec<_> = gateway
        .addresses
        .iter()
        .map(|address| (address.ip.to_string(), address.interface.as_deref()))
        .collect();
    assert_eq!(said, [("192.168.114.250".to_owned(), None), ("2001:db8::250".to_owned(), Some("eth0"))]);
    assert_eq!(gateway.masquerade, ["eth1"]);
    assert_eq!(load("").config.gateway, crate::model::config::Gateway::default());
}

#[test]
fn a_service_of_both_protocols_is_checked_by_tcp() {
    let check = of_mode("l4-snat", "protocol = 'tcp+udp'").config.vips.remove(0).check;
    assert_eq!((check.kind, check.port), (CheckKind::Connect, None));
}
