use clap::CommandFactory as _;

use super::*;
use crate::model::config::{Mode, Protocols, ReturnPath, Scheduler, Unattended};

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refusal(line: &str) -> String {
    match Cli::try_parse_from(line.split_whitespace()) {
        Ok(cli) => panic!("{line} was taken as {cli:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_description_of_the_arguments_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_parses() {
    let lines = [
        "lbctl status",
        "lbctl status --watch -o json",
        "lbctl status -w=500ms",
        "lbctl vip list -o wide",
        "lbctl vip show DICOM -o json",
        "lbctl vip add DICOM --mode l4-dr --ip 10.12.1.100 --ports 104,11112 --protocol tcp --scheduler wrr \
         --check dicom-echo --calling-aet LB --called-aet PACS --rip A=10.12.1.110 --rip B=10.12.1.111 --dry-run",
        "lbctl vip add V --mode l4-snat --ip 10.12.1.100 --ports all --protocol tcp+udp --source vip --source-ports \
         20000-29999 --return route --no-reset --rip A=[fd00::2]:8080",
        "lbctl vip add V --mode l4-nat --ip 10.12.1.100 --ports 80 --scheduler wlc --persist source-ip --persist-group \
         pacs --fallback 10.12.1.119:8080 --slow-start 30s --unattended refuse --rip A=10.12.1.110",
        "lbctl vip add V --mode l7-http --ip 10.12.1.100 --ports 80 --tls-port 443 --cert viewer,archive --client-ca \
         hospital --backend-verify system --https-redirect 308 --persist cookie --fallback page --rip A=10.12.1.110",
        "lbctl vip add V --mode l7-tcp --ip 10.12.1.100 --ports 2575 --source vip --rip A=10.12.1.110",
        "lbctl vip set V tls.port=8443 headers=[{set='A',value='b'}]",
        "lbctl vip set DICOM idle_timeout=12h check.called_aet=PACS -n",
        "lbctl vip delete DICOM",
        "lbctl rip list",
        "lbctl rip list DICOM -o name",
        "lbctl rip add DICOM DICOM3=fd00:12::112 --weight 0",
        "lbctl rip add DICOM DICOM3=10.12.1.112:11112",
        "lbctl rip add DICOM DICOM3=10.12.1.112 --max-connections 50 --min-connections 40",
        "lbctl rip set DICOM/DICOM1 weight=50",
        "lbctl rip delete DICOM/DICOM1 --dry-run",
        "lbctl rip drain DICOM/DICOM1 DICOM2",
        "lbctl rip drain DICOM1 --all-vips --keep-persistent --timeout 10m --then halt --wait",
        "lbctl rip drain DICOM/DICOM1 --migrate",
        "lbctl rip halt DICOM1 --keep-sessions",
        "lbctl rip online DICOM1 --all-vips",
        "lbctl server drain 10.12.1.110 fd00:12::110 --migrate --then halt",
        "lbctl server halt 10.12.1.110 --keep-sessions",
        "lbctl server online 10.12.1.110",
        "lbctl check list",
        "lbctl check list DICOM -o json",
        "lbctl check show DICOM/DICOM1 --history 50",
        "lbctl check run DICOM",
        "lbctl check run DICOM/DICOM1 --verbose",
        "lbctl check test https [fd00:12::1]:8443 --verify system --path /health --expect ok",
        "lbctl check force DICOM/DICOM1 up --for 10m",
        "lbctl check force DICOM/DICOM1 auto",
        "lbctl config check",
        "lbctl config check lbd.toml",
        "lbctl config diff",
        "lbctl config apply",
        "lbctl config show",
        "lbctl config show 12",
        "lbctl config history",
        "lbctl config history -o json",
        "lbctl config rollback",
        "lbctl config rollback 12 --force --dry-run",
        "lbctl apply",
        "lbctl flows list --vip DICOM --rip DICOM1 --client 10.12.7.4 --limit 5 -o json",
        "lbctl flows count --by client",
        "lbctl flows kill --vip DICOM --rip DICOM1 --client [fd00:12::7]:40000 --yes",
        "lbctl flows kill --rip DICOM/DICOM1 -y",
        "lbctl table list -o json",
        "lbctl table show DICOM --client 10.12.7.4 --rip DICOM1 --limit 5",
        "lbctl table clear DICOM --client fd00:12::7 --rip DICOM1",
        "lbctl tls cert list -o json",
        "lbctl tls cert show web",
        "lbctl tls cert add web cert.pem chain.pem key.pem --replace --dry-run",
        "lbctl tls cert add web web.pfx --password-file /run/secret",
        "lbctl tls cert delete web -n",
        "lbctl tls cert check web -o json",
        "lbctl tls ca list",
        "lbctl tls ca show clinic -o json",
        "lbctl tls ca add clinic root root.cer --replace",
        "lbctl tls ca delete clinic",
        "lbctl tls ca delete clinic root --dry-run",
        "lbctl tls check WEB --name pacs.example -o json",
        "lbctl explain 10.12.7.4:40000 DICOM:104",
        "lbctl explain [fd00:12::7] [fd00:12::100]:104 --udp -o json",
        "lbctl doctor --config lbd.toml",
        "lbctl completions zsh",
        "lbctl --socket /run/other.sock --answer-timeout 1s status",
        "lbctl status --socket /run/other.sock",
    ];
    for line in lines {
        parse(line);
    }
}

#[test]
fn unique_prefixes_are_verbs() {
    assert!(matches!(parse("lbctl v l").verb, Verb::Vip(VipVerb::List { .. })));
    assert!(matches!(parse("lbctl r dr A/B").verb, Verb::Rip(RipVerb::Drain { .. })));
    assert!(matches!(parse("lbctl con c").verb, Verb::Config(ConfigVerb::Check { .. })));
    assert!(matches!(parse("lbctl stat").verb, Verb::Status(_)));
    assert!(refusal("lbctl rip d A/B").contains("similar subcommands"), "delete and drain both begin so");
}

#[test]
fn values_offered_are_values_of_the_configuration() {
    fn known<T: serde::de::DeserializeOwned>(words: &[&str]) {
        for word in words {
            let value = serde_json::Value::from(*word);
            assert!(serde_json::from_value::<T>(value).is_ok(), "{word}");
        }
    }
    known::<Mode>(&MODES);
    known::<Protocols>(&PROTOCOLS);
    known::<ReturnPath>(&RETURN_PATHS);
    known::<Scheduler>(&SCHEDULERS);
    known::<Unattended>(&UNATTENDED);
}

#[test]
fn a_vip_is_taken_as_typed() {
    let cli = parse("lbctl vip add X --mode l4-dr --ip fd00::1 --ports 104,11112 --rip A=[fd00::2]:8080");
    let Verb::Vip(VipVerb::Add(vip)) = cli.verb else { panic!("not vip add") };
    assert_eq!(vip.ports, "104,11112");
    assert_eq!(vip.rips, [NamedAddress { name: "A".to_owned(), address: "[fd00::2]:8080".to_owned() }]);
    assert_eq!((vip.scheduler, vip.check), (None, None), "what was not typed is left to the configuration");
}

#[test]
fn an_assignment_is_split_at_its_first_equals_sign() {
    let cli = parse("lbctl vip set X check={type=\"connect\"}");
    let Verb::Vip(VipVerb::Set { assignments, .. }) = cli.verb else { panic!("not vip set") };
    let expected = Assignment { key: "check".to_owned(), value: "{type=\"connect\"}".to_owned() };
    assert_eq!(assignments, [expected]);
}

#[test]
fn what_is_typed_wrong_is_named_with_its_cure() {
    let cases = [
        ("lbctl rip add V A=10.0.0.1:0", "names port 0; write one from 1 to 65535, or leave `:0` out"),
        ("lbctl rip add V A=10.0.0.1:80800", "`10.0.0.1:80800` is not an IP address"),
        ("lbctl rip add V A=pacs1", "`pacs1` is not an IP address"),
        ("lbctl rip add V 10.0.0.1", "`10.0.0.1` is not NAME=ADDRESS"),
        ("lbctl rip add V A=10.0.0.1 --weight 257", "257 is not in 0..=256"),
        ("lbctl rip add V A=10.0.0.1 --max-connections 65536", "65536 is not in 0..=65535"),
        ("lbctl vip add V --mode l4-dr --ip 10.0.0.1 --ports 80 --check-path /", "--check <CHECK>"),
        ("lbctl vip add V --mode l7-http --ip 10.0.0.1 --ports 80 --tls-port 443", "--cert <NAME>"),
        ("lbctl vip add V --mode l7-http --ip 10.0.0.1 --ports 80 --client-ca f", "--tls-port <PORT>"),
        (
            "lbctl vip add V --mode l4-dr --ip 10.0.0.1 --ports 80 --check http --check-port 0",
            "0 is not in 1..=65535",
        ),
        ("lbctl rip set A weight=50", "write VIP/RIP, e.g. DICOM/A"),
        ("lbctl rip set V/A weight", "`weight` is not KEY=VALUE"),
        ("lbctl rip set V/A weight=", "`weight=` is not KEY=VALUE"),
        ("lbctl rip drain V/A --timeout 5", "write a time such as 90s, 10m or 2h"),
        ("lbctl rip drain V/A --timeout 60days", "it must be between 1s and 30days"),
        ("lbctl rip drain V/A --migrate --keep-persistent", "cannot be used with '--keep-persistent'"),
        ("lbctl rip drain V/A --then online", "possible values: halt"),
        ("lbctl check run A/B/C", "is neither VIP nor VIP/RIP"),
        ("lbctl check run /B", "is neither VIP nor VIP/RIP"),
        ("lbctl check test telnet 10.0.0.1:23", "[possible values: connect"),
        ("lbctl check force A up", "write VIP/RIP, e.g. DICOM/A"),
        ("lbctl check force V/A", "<VERDICT>"),
        ("lbctl server drain pacs1", "`pacs1` is not an IP address"),
        ("lbctl rip drain V/A/B", "`V/A/B` is not VIP/RIP"),
        ("lbctl rip drain /A", "`/A` is not VIP/RIP"),
        ("lbctl rip drain V/", "`V/` is not VIP/RIP"),
        ("lbctl rip drain", "required arguments were not provided"),
        ("lbctl vip set V", "required arguments were not provided"),
        ("lbctl vip add V --mode l4-dr --ip 10.0.0.1 --ports 0", "`0` is not a port from 1 to 65535"),
        (
            "lbctl vip add V --mode l4-dr --ip 10.0.0.1 --ports 104,,105",
            "`` is not a port from 1 to 65535; separate ports by commas",
        ),
        (
            "lbctl vip add V --mode l4-nat --ip 10.0.0.1 --ports 104-",
            "`104-` is not a port from 1 to 65535; separate ports by commas, e.g. 104,11112-11120, or write all",
        ),
        (
            "lbctl vip add V --mode dr --ip 10.0.0.1 --ports 104",
            "possible values: l4-dr, l4-nat, l4-snat, l7-http, l7-tcp",
        ),
        ("lbctl vip add V --mode l4-dr --ip 10.0.0.1/24 --ports 104", "write the address alone: 10.0.0.1"),
        (
            "lbctl vip add V --mode l4-dr --ip 10.0.0.300 --ports 104",
            "`10.0.0.300` is not an IP address, e.g. 10.12.1.110",
        ),
        ("lbctl vip add V --mode l4-dr --ip 10.0.0.1", "--ports <PORTS>"),
        ("lbctl status --answer-timeout 5", "write a time such as 500ms, 5s or 1m"),
        ("lbctl status --answer-timeout 0s", "it must be between 100ms and 1day"),
        ("lbctl flows kill", "<--vip <NAME>|--rip <[VIP/]RIP>|--client <ADDRESS[:PORT]>>"),
        ("lbctl flows kill --yes", "required arguments were not provided"),
        ("lbctl flows kill --client 10.0.0.1:0", "names port 0"),
        (
            "lbctl flows kill --client pacs1",
            "`pacs1` is neither ADDRESS nor ADDRESS:PORT, e.g. 10.12.7.4:40000",
        ),
        ("lbctl explain 10.0.0.1 DICOM", "`DICOM` is not VIP:PORT, e.g. DICOM:104"),
        ("lbctl explain 10.0.0.1 DICOM:0", "`DICOM:0` is not VIP:PORT"),
        ("lbctl explain fd00::1 fd00::100:104", "`fd00::100:104` is not VIP:PORT"),
        ("lbctl explain fd00::1 []:104", "`[]:104` is not VIP:PORT"),
        ("lbctl statsu", "a similar subcommand exists: 'status'"),
    ];
    for (line, cure) in cases {
        let said = refusal(line);
        assert!(said.contains(cure), "{line} said:\n{said}");
    }
}
