//! Broken configurations: each is refused at the right line, under its stable code, with its cure.

use std::path::{Path, PathBuf};

use lb_ctl::{
    config::{Code, Diagnostic, Severity, load},
    model::config::Sources,
};

/// File, line, code, cure. Each file has this one fault.
#[rustfmt::skip]
const FAULTS: &[(&str, usize, Code, &str)] = &[
    ("aet-backslash", 7, Code::BadAeTitle, "use letters, digits and signs of ASCII, but no backslash"),
    ("aet-of-connect", 5, Code::MisplacedKey, "write `type = \"dicom-echo\"` beside it, or remove `called_aet`"),
    ("aet-too-long", 5, Code::BadAeTitle, "shorten it to 16 characters, as the archive has it"),
    ("all-ports-check", 1, Code::CheckPort, "write it, `check = { type = \"connect\", port = 104 }`, or `check = \"off\"`"),
    ("all-ports-in-list", 4, Code::BadPort, "write `ports = \"all\"` alone"),
    ("all-ports-overlap", 11, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("all-ports-rip-port", 6, Code::AllPorts, "remove the port, or write the ports that are meant: `ports = [80]`"),
    ("all-ports-server-port", 6, Code::AllPorts, "remove the port, or write the ports that are meant: `ports = [80]`"),
    ("bad-duration", 5, Code::BadDuration, "write a number and a unit (ms, s, m, h, d): `idle_timeout = \"1h\"`"),
    ("bad-ip", 3, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    ("check-timeout", 5, Code::CheckTimeout, "write a `timeout` of at most \"2s\", or an `interval` of at least \"5s\""),
    ("dr-rip-port", 5, Code::DrPort, "remove `rip_port` and let the servers listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("dr-server-port", 5, Code::DrPort, "write \"10.0.0.1\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("dr-server-port-key", 6, Code::DrPort, "remove `port` and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("duration-without-unit", 5, Code::BadDuration, "write the unit: `\"4000s\"` (seconds), `\"4000ms\"` (milliseconds) or `\"4000m\"` (minutes)"),
    ("fall-zero", 5, Code::OutOfRange, "write a number from 1 to 100"),
    ("fallback-all-ports", 5, Code::AllPorts, "write \"10.0.0.9\", or write the ports that are meant: `ports = [80]`"),
    ("fallback-dr-port", 5, Code::DrPort, "write \"10.0.0.9\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("fallback-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("fallback-host", 5, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    ("fallback-is-server", 5, Code::DuplicateAddress, "write the address of another machine: when the fallback is needed, no server works"),
    ("fallback-is-vip", 5, Code::ServerIsVip, "write the server's own address"),
    ("fallback-page", 5, Code::NotSupported, "write `fallback = \"reject\"` or `\"drop\"`"),
    ("fallback-port", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("fallback-type", 5, Code::WrongType, "write `fallback = \"reject\"`"),
    ("fallback-word", 5, Code::UnknownValue, "did you mean \"reject\"?"),
    ("family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("flows-range", 2, Code::OutOfRange, "write a number from 1024 to 67108864"),
    ("gateway-address-key", 2, Code::UnknownKey, "remove it; a gateway address takes: ip, interface"),
    ("gateway-address-missing", 2, Code::MissingKey, "add `ip = \"192.168.114.250\"`"),
    ("gateway-address-type", 2, Code::WrongType, "write `addresses = [\"192.168.114.250\"]`"),
    ("gateway-interface", 2, Code::BadName, "write a name of at most 15 characters as `ip link` shows it"),
    ("gateway-is-fallback", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-server", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-source", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-vip", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-key", 2, Code::UnknownKey, "did you mean `addresses`?"),
    ("gateway-twice", 2, Code::DuplicateAddress, "remove one of them"),
    ("gateway-type", 2, Code::WrongType, "write `addresses = [\"192.168.114.250\"]`"),
    ("group-name", 5, Code::BadName, "write `pacs_1`: names are letters, digits, `_`, `-` and `.`"),
    ("group-prefix", 11, Code::GroupMismatch, "write the same `prefix` for both, or another `group`"),
    ("group-timeout", 11, Code::GroupMismatch, "write the same `timeout` for both, or another `group`"),
    ("group-type", 5, Code::WrongType, "write `group = \"1\"`"),
    ("group-without-addresses", 6, Code::MisplacedKey, "remove `group`"),
    ("interface-name", 2, Code::BadName, "write a name of at most 15 characters as `ip link` shows it"),
    ("ip-with-prefix", 3, Code::BadAddress, "write the address alone, without the prefix length"),
    ("last-successful-scheduler", 5, Code::MisplacedKey, "write `scheduler = \"first\"`, or `persist = \"source-ip\"`"),
    ("last-successful-timeout", 6, Code::MisplacedKey, "remove `timeout`"),
    ("later-section", 3, Code::NotSupported, "remove `snmp`"),
    ("masquerade-twice", 2, Code::DuplicateName, "remove one of them"),
    ("masquerade-type", 2, Code::WrongType, "write `masquerade = [\"eth0\"]`"),
    ("max-connections", 7, Code::OutOfRange, "write a number from 0 to 65535"),
    ("min-above-max", 7, Code::BadLimits, "write `min_connections` from 0 to 40: once full, the server takes connections again when it has fewer"),
    ("min-without-max", 5, Code::BadLimits, "write the most connections that it takes: `max_connections = 100`"),
    ("missing-called-aet", 5, Code::MissingKey, "write `{ type = \"dicom-echo\", called_aet = \"ARCHIVE\" }` with the archive's AE title"),
    ("missing-ip", 2, Code::MissingKey, "add `ip = \"10.12.1.100\"`"),
    ("missing-mode", 2, Code::MissingKey, "add `mode = \"l4-dr\"`"),
    ("missing-ports", 1, Code::MissingKey, "add `ports = [104, 11112]`"),
    ("missing-servers", 1, Code::MissingKey, "add `servers = { NAME = \"10.12.1.110\" }`"),
    ("mode-l7", 2, Code::NotSupported, "write `mode = \"l4-dr\"` or `\"l4-nat\"` or `\"l4-snat\"`"),
    ("mode-misspelt", 2, Code::UnknownValue, "did you mean \"l4-dr\"?"),
    ("mode-nat-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("name-control", 5, Code::BadName, "write `A_`: names are letters, digits, `_`, `-` and `.`"),
    ("name-space", 1, Code::BadName, "write `Sectra_IDS7`: names are letters, digits, `_`, `-` and `.`"),
    ("name-too-long", 6, Code::BadName, "shorten it to 63 bytes"),
    ("persist-later", 5, Code::NotSupported, "write `type = \"source-ip\"` or `\"last-successful\"` or `\"none\"`"),
    ("pool-and-servers", 8, Code::PoolAndServers, "move the servers into the pool, or remove `pool`"),
    ("port-quoted", 4, Code::WrongType, "write numbers without quotes: `ports = [104, 11112]`"),
    ("port-range-backwards", 4, Code::BadPort, "write \"11112-11120\""),
    ("port-range-overlap", 4, Code::DuplicatePort, "remove one of them"),
    ("port-range-too-many", 1, Code::TooMany, "remove some, or write `ports = \"all\"`"),
    ("port-range-unreadable", 4, Code::BadPort, "write the first and the last port: \"11112-11120\""),
    ("port-range-vips", 10, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("port-too-large", 4, Code::BadPort, "write a port from 1 to 65535"),
    ("port-twice", 4, Code::DuplicatePort, "remove one of them"),
    ("port-zero", 6, Code::BadPort, "write a port from 1 to 65535"),
    ("ports-word", 4, Code::WrongType, "write `ports = [104, 11112]`"),
    ("prefix-range", 5, Code::OutOfRange, "write a number from 1 to 32"),
    ("profile-cycle", 4, Code::ProfileCycle, "remove one `profile` key of the ring"),
    ("profile-servers", 3, Code::MisplacedKey, "move them into a `[pool.NAME]` and write `pool = \"NAME\"` here"),
    ("protocol-word", 5, Code::UnknownValue, "write `protocol = \"tcp\"` or `\"udp\"` or `\"tcp+udp\"`"),
    ("reset-type", 5, Code::WrongType, "write `reset = true`"),
    ("return-word", 5, Code::UnknownValue, "write `return = \"last-hop\"` or `\"route\"`"),
    ("rip-port-range", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("rip-port-type", 5, Code::WrongType, "write `rip_port = 104`"),
    ("rise-zero", 5, Code::OutOfRange, "write a number from 1 to 100"),
    ("scheduler-word", 5, Code::UnknownValue, "write `scheduler = \"wlc\"` or `\"wrr\"` or `\"maglev\"` or `\"source-hash\"` or `\"first\"`"),
    ("server-address-port", 5, Code::BadAddress, "write `ip = \"10.0.0.1\", port = 8080`"),
    ("server-is-nat-vip", 5, Code::ServerIsVip, "write the server's own address"),
    ("server-is-vip", 5, Code::ServerIsVip, "write the server's own address; the VIP goes on its loopback interface"),
    ("server-port-large", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-port-twice", 5, Code::DuplicateAddress, "remove one of them, or raise the weight of the other"),
    ("server-port-word", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-port-zero", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-twice", 7, Code::DuplicateAddress, "remove one of them, or raise the weight of the other"),
    ("slow-start-range", 5, Code::OutOfRange, "write a time from \"0s\" to \"1h\""),
    ("slow-start-unit", 5, Code::BadDuration, "write the unit: `\"30s\"` (seconds), `\"30ms\"` (milliseconds) or `\"30m\"` (minutes)"),
    ("source-bare", 5, Code::WrongType, "write `source = [\"10.0.0.5\"]`"),
    ("source-empty", 5, Code::BadAddress, "write `source = \"interface\"`, or at least one address"),
    ("source-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("source-host", 5, Code::BadAddress, "write a unicast address of your network"),
    ("source-is-server", 5, Code::TwoRoles, "write an address that no server has"),
    ("source-item", 5, Code::WrongType, "write `source = [\"10.12.1.5\"]`"),
    ("source-ports", 5, Code::BadPort, "write \"10240-32767\""),
    ("source-ports-low", 5, Code::BadPort, "write the first and the last port: \"11112-11120\""),
    ("source-ports-type", 5, Code::WrongType, "write `source_ports = \"10240-32767\"`"),
    ("source-too-many", 5, Code::TooMany, "keep 16 of them: each has room for all of `source_ports`"),
    ("source-twice", 5, Code::DuplicateAddress, "remove one of them"),
    ("source-type", 5, Code::WrongType, "write `source = \"interface\"`"),
    ("source-word", 5, Code::UnknownValue, "did you mean \"interface\"?"),
    ("syntax-duplicate-key", 5, Code::Syntax, "keep `ports` once in its section, and write keys with letters, digits, `_` and `-`"),
    ("syntax-unquoted", 3, Code::Syntax, "write text in quotes: `ip = \"10.0.0.100\"`"),
    ("udp-check", 1, Code::CheckUdp, "write the TCP port to ask, `check = { type = \"connect\", port = 104 }`, or `check = \"off\"`"),
    ("unattended-word", 5, Code::UnknownValue, "write `unattended = \"serve\"` or `\"refuse\"`"),
    ("unknown-check-key", 5, Code::UnknownKey, "did you mean `called_aet`?"),
    ("unknown-node-key", 2, Code::UnknownKey, "did you mean `name`?"),
    ("unknown-persist-key", 5, Code::UnknownKey, "did you mean `group`?"),
    ("unknown-pool", 7, Code::UnknownName, "did you mean \"archive\"?"),
    ("unknown-pool-key", 3, Code::UnknownKey, "did you mean `servers`?"),
    ("unknown-profile", 2, Code::UnknownName, "define `[profile.dicom]`, or remove the reference"),
    ("unknown-profile-key", 3, Code::UnknownKey, "did you mean `idle_timeout`?"),
    ("unknown-section", 1, Code::UnknownKey, "did you mean `vip`?"),
    ("unknown-server-key", 6, Code::UnknownKey, "did you mean `weight`?"),
    ("unknown-vip-key", 5, Code::UnknownKey, "did you mean `scheduler`?"),
    ("vip-loopback", 3, Code::BadAddress, "write a unicast address of your network"),
    ("vip-multicast", 3, Code::BadAddress, "write a unicast address of your network"),
    ("vip-overlap", 9, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("vip-unspecified", 3, Code::BadAddress, "write a unicast address of your network"),
    ("weight-range", 5, Code::OutOfRange, "write a number from 0 to 256"),
    ("weights-zero", 6, Code::AllWeightsZero, "give one server a weight from 1 to 256, or write `enabled = false` for the VIP"),
    ("wrong-type-enabled", 5, Code::WrongType, "write `enabled = true`"),
    ("wrong-type-ports", 4, Code::WrongType, "write `ports = [104, 11112]`"),
];

/// Line, code and cure of every fault of `several.toml`.
#[rustfmt::skip]
const SEVERAL: &[(usize, Code, &str)] = &[
    (2, Code::OutOfRange, "write a number from 1024 to 67108864"),
    (4, Code::ServerIsVip, "write the server's own address; the VIP goes on its loopback interface"),
    (4, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    (8, Code::BadDuration, "write the unit: `\"3600s\"` (seconds), `\"3600ms\"` (milliseconds) or `\"3600m\"` (minutes)"),
    (12, Code::DuplicatePort, "remove one of them"),
    (13, Code::UnknownKey, "remove it; vip `ONE` takes: profile, mode, ip, ports, protocol, interface, scheduler, persist, check, alert_to, idle_timeout, fallback, slow_start, unattended, source, source_ports, return, reset, rip_port, enabled, pool, servers"),
    (14, Code::MissingKey, "add `ip = \"10.12.1.100\"`"),
    (17, Code::BadAeTitle, "write the AE title that the archive is configured with"),
    (17, Code::OutOfRange, "write a number from 1 to 100"),
    (18, Code::MissingKey, "add `mode = \"l4-dr\"`"),
    (18, Code::MissingKey, "add `servers = { NAME = \"10.12.1.110\" }`"),
    (19, Code::UnknownName, "define `[profile.e]`, or remove the reference"),
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors")
}

fn errors_of(main: &str) -> Vec<Diagnostic> {
    match load(&Sources { main: fixtures().join(main) }) {
        Ok(loaded) => panic!("{main} loads: {:?}", loaded.config),
        Err(errors) => errors.errors,
    }
}

const fn facts(error: &Diagnostic) -> (usize, Code, &str) {
    (error.place.line, error.code, error.help.as_str())
}

#[test]
fn every_fault_has_its_line_its_code_and_its_cure() {
    assert!(FAULTS.len() >= 30, "{} faults", FAULTS.len());
    for (name, line, code, cure) in FAULTS {
        let errors = errors_of(&format!("{name}.toml"));
        let [error] = errors.as_slice() else { panic!("{name} has {} errors: {errors:#?}", errors.len()) };
        assert_eq!(facts(error), (*line, *code, *cure), "{name}");
        assert!(
            error.severity == Severity::Error && error.place.column > 0 && error.place.width > 0,
            "{name}"
        );
    }
}

#[test]
fn every_file_of_the_table_is_tested() {
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let elsewhere = ["several", "two-files", "broken-beside"].contains(&name.as_str());
        assert!(elsewhere || FAULTS.iter().any(|fault| fault.0 == name), "{name} is in no table");
    }
}

#[test]
fn all_faults_of_a_file_are_reported_at_once_in_the_order_of_its_lines() {
    let errors = errors_of("several.toml");
    assert_eq!(errors.iter().map(facts).collect::<Vec<_>>(), SEVERAL);
}

#[test]
fn a_vip_in_two_files_is_told_with_both_places() {
    let errors = errors_of("two-files/lbd.toml");
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.code, Code::DuplicateName);
    assert!(error.place.path.ends_with("two-files/conf.d/pacs.toml") && error.place.line == 2, "{error}");
    let (first, _) = error.also.as_ref().unwrap();
    assert!(first.path.ends_with("two-files/lbd.toml") && first.line == 1, "{error}");
}

#[test]
fn a_syntax_error_in_one_file_hides_no_fault_of_another_and_invents_none() {
    // The pool stands in the file that is broken: that it is unknown must not be said.
    let errors = errors_of("broken-beside/lbd.toml");
    let seen: Vec<_> =
        errors.iter().map(|e| (e.place.path.file_name().unwrap().to_str().unwrap(), e.code)).collect();
    assert_eq!(seen, [("lbd.toml", Code::UnknownKey), ("pools.toml", Code::Syntax)]);
    assert_eq!(errors[1].help, "write text in quotes: `A = \"10.0.0.1\"`");
}

#[test]
fn a_missing_file_is_told_with_its_cure() {
    let errors = errors_of("no-such-file.toml");
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(facts(error), (0, Code::Unreadable, "create it, or name another file with `--config`"));
}

#[test]
fn a_fault_is_rendered_with_its_line_and_a_caret() {
    let rendered = errors_of("dr-server-port.toml")[0].to_string();
    let lines: Vec<_> = rendered.lines().collect();
    assert_eq!(
        lines[0],
        "error[config::dr-port]: \"10.0.0.1:8080\" names port 8080: direct routing cannot translate ports"
    );
    assert!(lines[1].ends_with("tests/config_errors/dr-server-port.toml:5:17"), "{rendered}");
    assert_eq!(
        &lines[2..],
        [
            "  |",
            "5 | servers = { A = \"10.0.0.1:8080\" }",
            "  |                 ^^^^^^^^^^^^^^^",
            "   = help: write \"10.0.0.1\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\"",
        ]
    );
}
