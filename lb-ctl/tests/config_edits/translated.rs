//! Edits of NAT and SNAT services: ports, sources, and one word that changes the mode.

use lb_ctl::{
    config::{Loaded, Texts, load_texts, plan_edit},
    model::{
        command::{Edit, VipSpec},
        config::{ReturnPath, SourceAddresses},
    },
};

use crate::{assign, dicom_spec, lines_of, plan, refusal, rip_set, start, vip_add, vip_set};

/// A configuration of its own for NAT and SNAT.
const TRANSLATED: &str = r#"[vip.WEB] # viewers
mode = "l4-nat" # one word
ip = "10.0.0.100"
ports = [80, "8080-8089"] # all of them
servers = { W1 = "10.0.0.1:8000", W2 = { ip = "10.0.0.2", port = 8000 } } # both
"#;

fn translated() -> Loaded {
    load_texts(Texts::single("lbd.toml", TRANSLATED)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The line that an edit of [`TRANSLATED`] brings, and what it changes.
#[track_caller]
fn brings(edit: &Edit, line: &str, changes: &[&str]) {
    let edited = plan(&translated(), edit);
    let (_, _, new) = lines_of(&edited);
    assert_eq!(
        (new, edited.changes),
        (vec![line.to_owned()], changes.iter().map(|c| c.to_string()).collect())
    );
}

#[test]
fn one_word_moves_a_deployment_to_snat_and_the_diff_says_what_comes_with_it() {
    brings(
        &vip_set("WEB", "mode", "l4-snat"),
        "mode = \"l4-snat\" # one word",
        &[
            "vip WEB: mode l4-nat -> l4-snat",
            "vip WEB: source (not set) -> interface",
            "vip WEB: source_ports (not set) -> 10240-32767",
        ],
    );
    let edited = plan(&start(), &vip_set("HL7", "mode", "l4-nat"));
    let expected = [
        "vip HL7: mode l4-dr -> l4-nat",
        "vip HL7: return (not set) -> last-hop",
        "vip HL7: reset (not set) -> true",
        "vip HL7: check.dr_path true -> (not set)",
    ];
    assert_eq!(edited.changes, expected);
    let refused = plan_edit(&translated(), &vip_set("WEB", "mode", "l4-dr")).unwrap_err().to_string();
    assert!(refused.contains("config::dr-port"), "{refused}");
}

#[test]
fn ports_and_sources_are_typed_as_lists_with_commas() {
    let ports = |typed: &str, line: &str, shown: &str| {
        let change = format!("vip WEB: ports [80, \"8080-8089\"] -> {shown}");
        brings(&vip_set("WEB", "ports", typed), &format!("ports = {line} # all of them"), &[&change]);
    };
    ports("443", "[443]", "[443]");
    ports("104,11112-11120", "[104, \"11112-11120\"]", "[104, \"11112-11120\"]");
    ports("[104, 105]", "[104, 105]", "[104, 105]");
    let error = plan_edit(&translated(), &vip_set("WEB", "ports", "80-")).unwrap_err().to_string();
    assert!(error.contains("\"80-\" is not a range of ports"), "{error}");
    let snat = plan(&translated(), &vip_set("WEB", "mode", "l4-snat")).loaded;
    let source =
        |typed: &str| plan(&snat, &vip_set("WEB", "source", typed)).loaded.config.vips.remove(0).source;
    let pool = ["10.0.0.5", "10.0.0.6"].map(|ip| ip.parse().unwrap()).to_vec();
    assert_eq!(source("10.0.0.5,10.0.0.6").addresses, SourceAddresses::Pool(pool.clone()));
    assert_eq!(source("10.0.0.5").addresses, SourceAddresses::Pool(pool[..1].to_vec()));
    assert_eq!(source("vip").addresses, SourceAddresses::Vip);
    let ranged = plan(&snat, &vip_set("WEB", "source_ports", "20000-29999")).loaded.config;
    assert_eq!(ranged.vips[0].source.ports, 20000..=29999);
    let word = plan_edit(&snat, &vip_set("WEB", "source", "vipp")).unwrap_err().to_string();
    assert!(word.contains("did you mean \"vip\"?"), "{word}");
}

#[test]
fn every_port_is_typed_as_a_word() {
    let one = Edit::VipSet {
        vip: "HL7".into(),
        assignments: [assign("ports", "all"), assign("check.port", "2575")].concat(),
    };
    let edited = plan(&start(), &one);
    assert_eq!(edited.changes, ["vip HL7: ports [2575] -> all", "vip HL7: check.port (not set) -> 2575"]);
}

#[test]
fn a_server_keeps_its_port_through_edits_of_its_other_keys() {
    let of =
        |w1: &str| format!("servers = {{ W1 = {w1}, W2 = {{ ip = \"10.0.0.2\", port = 8000 }} }} # both");
    brings(
        &rip_set("WEB", "W1", "ip", "10.0.0.9"),
        &of("\"10.0.0.9:8000\""),
        &["vip WEB: W1 ip 10.0.0.1 -> 10.0.0.9"],
    );
    brings(
        &rip_set("WEB", "W1", "ip", "10.0.0.1:81"),
        &of("\"10.0.0.1:81\""),
        &["vip WEB: W1 port 8000 -> 81"],
    );
    brings(
        &rip_set("WEB", "W1", "port", "81"),
        &of("{ ip = \"10.0.0.1\", port = 81 }"),
        &["vip WEB: W1 port 8000 -> 81"],
    );
    brings(
        &rip_set("WEB", "W1", "weight", "7"),
        &of("{ ip = \"10.0.0.1\", port = 8000, weight = 7 }"),
        &["vip WEB: W1 weight 100 -> 7"],
    );
    brings(
        &rip_set("WEB", "W2", "ip", "10.0.0.9"),
        &of("\"10.0.0.1:8000\"").replace("10.0.0.2", "10.0.0.9"),
        &["vip WEB: W2 ip 10.0.0.2 -> 10.0.0.9"],
    );
    let error = plan_edit(&translated(), &rip_set("WEB", "W2", "ip", "10.0.0.9:81")).unwrap_err().to_string();
    assert!(error.contains("write `ip = \"10.0.0.9\", port = 81`"), "{error}");
}

#[test]
fn a_server_is_added_with_its_port() {
    let add = |port, weight| Edit::RipAdd {
        vip: "WEB".into(),
        rip: "W3".into(),
        ip: "10.0.0.3".parse().unwrap(),
        port,
        weight,
        max_connections: None,
        min_connections: None,
    };
    let line = |w3: &str| {
        let (head, _) = TRANSLATED.lines().last().unwrap().rsplit_once(" } # both").unwrap();
        format!("{head}, W3 = {w3} }} # both")
    };
    brings(&add(Some(8000), None), &line("\"10.0.0.3:8000\""), &["vip WEB: + W3 10.0.0.3:8000 w100"]);
    brings(
        &add(Some(8000), Some(9)),
        &line("{ ip = \"10.0.0.3\", port = 8000, weight = 9 }"),
        &["vip WEB: + W3 10.0.0.3:8000 w9"],
    );
    let edit = Edit::RipAdd {
        vip: "HL7".into(),
        rip: "H3".into(),
        ip: "10.0.0.23".parse().unwrap(),
        port: Some(1),
        weight: None,
        max_connections: None,
        min_connections: None,
    };
    assert!(refusal(&edit).contains("config::dr-port"));
}

#[test]
fn a_vip_is_added_with_everything_that_was_typed() {
    let spec = VipSpec {
        mode: "l4-snat".into(),
        ports: "80,443".into(),
        protocol: Some("tcp+udp".into()),
        source: Some("10.12.1.5,10.12.1.6".into()),
        source_ports: Some("20000-29999".into()),
        return_path: Some("route".into()),
        reset: Some(false),
        rips: vec![("A".into(), "10.12.1.110:8080".into())],
        ..dicom_spec()
    };
    let edited = plan(&start(), &vip_add(spec));
    assert_eq!(
        edited.rewrites[0].after,
        "[vip.NEW]\nmode = \"l4-snat\"\nip = \"10.12.1.100\"\nports = [80, 443]\nprotocol = \"tcp+udp\"\nsource = \
         [\"10.12.1.5\", \"10.12.1.6\"]\nsource_ports = \"20000-29999\"\nreturn = \"route\"\nreset = false\nservers = { A = \
         \"10.12.1.110:8080\" }\n"
    );
    let vip = edited.loaded.config.vips.last().unwrap();
    assert_eq!((vip.return_path, vip.reset, vip.rips[0].port), (ReturnPath::Route, false, Some(8080)));
    assert_eq!(edited.changes[1], "vip NEW: + A 10.12.1.110:8080 w100");
}
