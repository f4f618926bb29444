//! Edits of commented files: the meaning changes as asked, every comment stays, and nothing invalid is planned.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

mod any_check;
mod any_proxy;
mod checks;
mod proxied;
mod shares;
mod shown;
mod translated;

use std::{net::IpAddr, path::Path};

use lb_ctl::{
    config::{EditError, Edited, Loaded, Text, Texts, load_texts, plan_edit},
    model::{
        check::DicomCheck,
        command::{Assignment, Edit, VipSpec},
        config::{CheckKind, Config, Gateway, Mode, Node, Ports, Rip, Vip},
        health::RipId,
    },
};
use proptest::prelude::*;

const MAIN: &str = r#"# Hospital of the Holy Test

[node] # this machine
name = "lb1" # as on the label

# shared by two
[pool.archive] # pool line
servers = { PACS1 = "10.0.0.1", PACS2 = "10.0.0.2" } # both

[profile.dicom] # profile line
mode = "l4-dr"
idle_timeout = "2h" # long
check = { type = "dicom-echo", called_aet = "ARCHIVE" } # profile check

# the modalities
[vip.DICOM] # vip line
profile = "dicom"
ip = "10.0.0.100" # the address
ports = [
  104, # classic
  11112, # registered
]
pool = "archive" # shared
# after DICOM

[vip.QUERY]
profile = "dicom"
ip = "10.0.0.101"
ports = [104]
pool = "archive"
# end of main
"#;

const APPS: &str = r#"# applications
[vip]
# one line
XDS = { mode = "l4-dr", ip = "10.0.0.102", ports = [17035], servers = { XDS1 = "10.0.0.11", XDS2 = "10.0.0.12" } } # xds line
# dotted
HL7.mode = "l4-dr"
HL7.ip = "10.0.0.103" # hl7 address
HL7.ports = [2575]
HL7.servers.H1 = "10.0.0.21" # first
HL7.servers.H2 = "10.0.0.22" # second

# several lines
[vip.WEB]
mode = "l4-dr"
ip = "10.0.0.104"
ports = [443]
servers = {
  # viewers
  V1 = "10.0.0.31", # new
  V2 = { ip = "10.0.0.32", weight = 50 }, # old
} # web line

[vip.LAB]
mode = "l4-dr"
ip = "10.0.0.105"
ports = [80]

[vip.LAB.servers] # lab servers
L1 = "10.0.0.41" # l1
# between
L2 = "10.0.0.42" # l2
# end of apps
"#;

/// The commented example, with every section and type of check.
const EVERYTHING: &str = include_str!("../../../config/lbd.toml");
/// The shipped examples of translation.
const SNAT: &str = include_str!("../../../config/deployments/snat.toml");
const NAT: &str = include_str!("../../../config/deployments/two-arm-nat.toml");

/// Comments that stand on or between lines of a server or VIP.
const OF_THINGS: [&str; 17] = [
    "first",
    "second",
    "new",
    "old",
    "l1",
    "l2",
    "vip line",
    "the address",
    "classic",
    "registered",
    "shared",
    "xds line",
    "hl7 address",
    "viewers",
    "web line",
    "lab servers",
    "between",
];

fn start() -> Loaded {
    let file = |path: &str, text: &str| Text { path: path.into(), text: text.into() };
    let files = vec![file("lbd.toml", MAIN), file("conf.d/apps.toml", APPS)];
    load_texts(Texts { files, additions: "conf.d/lbctl.toml".into() })
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn plan(loaded: &Loaded, edit: &Edit) -> Edited {
    plan_edit(loaded, edit).unwrap_or_else(|error| panic!("{edit:?}: {error}"))
}

fn refusal(edit: &Edit) -> String {
    match plan_edit(&start(), edit) {
        Ok(edited) => panic!("{edit:?} was planned: {:?}", edited.changes),
        Err(error) => error.to_string(),
    }
}

fn assign(key: &str, value: &str) -> Vec<Assignment> {
    vec![Assignment { key: key.into(), value: value.into() }]
}

fn vip_set(vip: &str, key: &str, value: &str) -> Edit {
    Edit::VipSet { vip: vip.into(), assignments: assign(key, value) }
}

fn id(vip: &str, rip: &str) -> RipId {
    RipId { vip: vip.into(), rip: rip.into() }
}

fn rip_set(vip: &str, rip: &str, key: &str, value: &str) -> Edit {
    Edit::RipSet { id: id(vip, rip), assignments: assign(key, value) }
}

fn rip_add(vip: &str, rip: &str, ip: &str, weight: Option<u16>) -> Edit {
    Edit::RipAdd {
        vip: vip.into(),
        rip: rip.into(),
        ip: ip.parse().unwrap(),
        port: None,
        weight,
        max_connections: None,
        min_connections: None,
    }
}

fn vip_add(spec: VipSpec) -> Edit {
    Edit::VipAdd(Box::new(spec))
}

fn dicom_spec() -> VipSpec {
    VipSpec {
        name: "NEW".into(),
        mode: "l4-dr".into(),
        ip: "10.12.1.100".into(),
        ports: "104,11112".into(),
        rips: vec![("DICOM1".into(), "10.12.1.110".into())],
        ..VipSpec::default()
    }
}

/// The only file that an edit rewrites: its name and the lines that went and came.
#[track_caller]
fn lines_of(edited: &Edited) -> (String, Vec<String>, Vec<String>) {
    let [rewrite] = edited.rewrites.as_slice() else { panic!("{:?}", edited.rewrites) };
    let before = rewrite.before.clone().unwrap_or_default();
    let missing = |text: &str, from: &str| {
        from.lines().filter(|line| !text.lines().any(|l| l == *line)).map(str::to_owned).collect()
    };
    let name = rewrite.path.display().to_string();
    (name, missing(&rewrite.after, &before), missing(&before, &rewrite.after))
}

#[track_caller]
fn edits_one_line(edit: &Edit, file: &str, old: &str, new: &str) {
    let edited = plan(&start(), edit);
    assert_eq!(lines_of(&edited), (file.to_owned(), vec![old.to_owned()], vec![new.to_owned()]));
}

#[test]
fn a_server_of_a_pool_is_edited_in_the_pool_and_who_shares_it_is_said() {
    let edited = plan(&start(), &rip_set("DICOM", "PACS2", "weight", "50"));
    let (file, old, new) = lines_of(&edited);
    assert_eq!((file.as_str(), old.len()), ("lbd.toml", 1));
    assert_eq!(
        new,
        ["servers = { PACS1 = \"10.0.0.1\", PACS2 = { ip = \"10.0.0.2\", weight = 50 } } # both"]
    );
    assert_eq!(edited.notes, ["pool `archive` is shared: vips DICOM, QUERY change alike"]);
    assert_eq!(edited.changes, ["vip DICOM: PACS2 weight 100 -> 50", "vip QUERY: PACS2 weight 100 -> 50"]);
}

#[test]
fn a_server_is_added_in_every_layout_without_touching_its_neighbours() {
    let one_line = "XDS = { mode = \"l4-dr\", ip = \"10.0.0.102\", ports = [17035], servers = { XDS1 = \"10.0.0.11\", XDS2 \
                    = \"10.0.0.12\" } } # xds line";
    let longer = one_line.replace("\"10.0.0.12\" }", "\"10.0.0.12\", NEW = \"10.0.0.99\" }");
    edits_one_line(&rip_add("XDS", "NEW", "10.0.0.99", None), "conf.d/apps.toml", one_line, &longer);
    for (vip, line) in [
        ("HL7", "HL7.servers.NEW = \"10.0.0.99\""),
        ("WEB", "  NEW = \"10.0.0.99\","),
        ("LAB", "NEW = \"10.0.0.99\""),
    ] {
        let edited = plan(&start(), &rip_add(vip, "NEW", "10.0.0.99", None));
        assert_eq!(lines_of(&edited), ("conf.d/apps.toml".into(), vec![], vec![line.into()]), "{vip}");
        assert_eq!(edited.changes, [format!("vip {vip}: + NEW 10.0.0.99 w100")]);
    }
}

#[test]
fn a_key_from_a_profile_is_written_into_the_vip() {
    let edited = plan(&start(), &vip_set("QUERY", "check.interval", "10s"));
    let (file, old, new) = lines_of(&edited);
    assert_eq!((file.as_str(), old.len()), ("lbd.toml", 0));
    assert_eq!(new, ["check = { interval = \"10s\" }"]);
    assert_eq!(edited.changes, ["vip QUERY: check.interval 4s -> 10s"]);
}

#[test]
fn values_are_toml_or_a_bare_word_and_keep_the_comment_on_their_line() {
    edits_one_line(
        &vip_set("HL7", "ip", "10.0.0.200"),
        "conf.d/apps.toml",
        "HL7.ip = \"10.0.0.103\" # hl7 address",
        "HL7.ip = \"10.0.0.200\" # hl7 address",
    );
    edits_one_line(
        &rip_set("LAB", "L1", "ip", "10.0.0.44"),
        "conf.d/apps.toml",
        "L1 = \"10.0.0.41\" # l1",
        "L1 = \"10.0.0.44\" # l1",
    );
    edits_one_line(
        &rip_set("WEB", "V2", "weight", "7"),
        "conf.d/apps.toml",
        "  V2 = { ip = \"10.0.0.32\", weight = 50 }, # old",
        "  V2 = { ip = \"10.0.0.32\", weight = 7 }, # old",
    );
}

#[test]
fn an_added_vip_goes_to_a_file_of_its_own_beside_the_others() {
    let edited = plan(&start(), &vip_add(dicom_spec()));
    let [rewrite] = edited.rewrites.as_slice() else { panic!("{:?}", edited.rewrites) };
    assert_eq!((rewrite.path.as_path(), &rewrite.before), (Path::new("conf.d/lbctl.toml"), &None));
    let expected = "[vip.NEW]\nmode = \"l4-dr\"\nip = \"10.12.1.100\"\nports = [104, 11112]\nservers = { DICOM1 = \
                    \"10.12.1.110\" }\n";
    assert_eq!(rewrite.after, expected);
    assert_eq!(
        edited.changes,
        ["+ vip NEW: l4-dr 10.12.1.100 tcp 104,11112", "vip NEW: + DICOM1 10.12.1.110 w100"]
    );
}

#[test]
fn an_added_vip_goes_to_the_end_of_the_only_file() {
    for text in [MAIN, MAIN.trim_end(), ""] {
        let loaded = load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"));
        let edited = plan(&loaded, &vip_add(dicom_spec()));
        let after = &edited.rewrites[0].after;
        assert!(after.starts_with(text) && after[text.len()..].contains("[vip.NEW]"), "{after}");
    }
    for text in ["vip = {}\n", "vip.A = { mode = 'l4-dr', ip = '10.0.0.9', ports = [1], servers = {} }\n"] {
        let loaded = load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"));
        let vips = plan(&loaded, &vip_add(dicom_spec())).loaded.config.vips;
        assert_eq!(vips.last().unwrap().name, "NEW");
    }
}

#[test]
fn a_dicom_check_comes_with_the_titles_given() {
    let spec = VipSpec { check: Some("dicom-echo".into()), called_aet: Some("PACS".into()), ..dicom_spec() };
    let edited = plan(&start(), &vip_add(spec));
    let kind = CheckKind::DicomEcho(DicomCheck::new("LOADBALANCER", "PACS"));
    assert_eq!(edited.loaded.config.vips.last().unwrap().check.kind, kind);
}

#[test]
fn what_an_edit_would_break_is_refused_with_the_cure() {
    let spec = VipSpec { rips: vec![("A".into(), "10.12.1.110:8080".into())], ..dicom_spec() };
    assert!(refusal(&vip_add(spec)).contains("config::dr-port"));
    let edit = vip_set("XDS", "ip", "10.0.0.103");
    // Another port: allowed. The same one: not.
    assert!(plan_edit(&start(), &edit).is_ok());
    let both = Edit::VipSet {
        vip: "XDS".into(),
        assignments: [assign("ip", "10.0.0.103"), assign("ports", "[2575]")].concat(),
    };
    assert!(refusal(&both).contains("vips `XDS` and `HL7` are both 10.0.0.103 port 2575"));
    assert!(refusal(&vip_set("XDS", "schedular", "wrr")).contains("did you mean `scheduler`?"));
    assert!(refusal(&vip_set("XDS", "mode.x", "1")).contains("`mode` has no keys of its own"));
    assert!(refusal(&vip_set("XDS", "", "1")).contains("is not a key"));
    assert_eq!(
        refusal(&vip_set("DICON", "enabled", "false")),
        "there is no vip `DICON`: did you mean `DICOM`?"
    );
    assert!(refusal(&rip_set("XDS", "XDS3", "weight", "1")).contains("did you mean `XDS1`?"));
    assert!(refusal(&rip_add("XDS", "XDS1", "10.0.0.77", None)).contains("lbctl rip set XDS/XDS1"));
    assert!(
        refusal(&vip_add(VipSpec { name: "DICOM".into(), ..dicom_spec() })).contains("vip `DICOM` exists")
    );
}

#[test]
fn the_last_server_is_deleted_only_from_a_vip_out_of_service() {
    let one = plan(&start(), &Edit::RipDelete(id("HL7", "H1"))).loaded;
    let last = Edit::RipDelete(id("HL7", "H2"));
    let error = plan_edit(&one, &last).unwrap_err();
    assert!(matches!(error, EditError::Refused(_)) && error.to_string().contains("enabled=false"), "{error}");
    let disabled = plan(&one, &vip_set("HL7", "enabled", "false")).loaded;
    let empty = plan(&disabled, &last).loaded;
    assert!(empty.config.vips.iter().any(|vip| vip.name == "HL7" && vip.rips.is_empty()));
    let again = plan(&empty, &rip_add("HL7", "H3", "10.0.0.23", Some(9))).loaded;
    let vip = again.config.vips.iter().find(|vip| vip.name == "HL7").unwrap();
    assert_eq!(vip.rips, [Rip { weight: 9, ..Rip::new("H3", "10.0.0.23".parse().unwrap()) }]);
}

/// What an edit means, told without TOML.
fn model(config: &mut Config, edit: &Edit) -> bool {
    let pool_vips = |vip: &str| -> Vec<String> {
        let shared = ["DICOM", "QUERY"];
        if shared.contains(&vip) { shared.map(str::to_owned).to_vec() } else { vec![vip.to_owned()] }
    };
    let find = |config: &Config, vip: &str| config.vips.iter().position(|v| v.name == vip);
    let users = |config: &Config, vip: &str| -> Vec<usize> {
        pool_vips(vip).iter().filter_map(|name| find(config, name)).collect()
    };
    match edit {
        Edit::RipAdd { vip, rip, ip, port, weight, max_connections, min_connections } => {
            let Some(at) = find(config, vip) else { return false };
            if config.vips[at].rips.iter().any(|r| r.name == *rip || r.ip == *ip) {
                return false;
            }
            for user in users(config, vip) {
                config.vips[user].rips.push(Rip {
                    port: *port,
                    weight: weight.unwrap_or(100),
                    max_connections: max_connections.unwrap_or(0),
                    min_connections: min_connections.unwrap_or(0),
                    ..Rip::new(rip.clone(), *ip)
                });
            }
        }
        Edit::RipDelete(RipId { vip, rip }) => {
            let Some(at) = find(config, vip) else { return false };
            if !config.vips[at].rips.iter().any(|r| r.name == *rip) {
                return false;
            }
            if users(config, vip)
                .iter()
                .any(|user| config.vips[*user].enabled && config.vips[*user].rips.len() == 1)
            {
                return false;
            }
            for user in users(config, vip) {
                config.vips[user].rips.retain(|r| r.name != *rip);
            }
        }
        Edit::RipSet { id: RipId { vip, rip }, assignments } => {
            let Some(at) = find(config, vip) else { return false };
            if !config.vips[at].rips.iter().any(|r| r.name == *rip) {
                return false;
            }
            for user in users(config, vip) {
                for r in config.vips[user].rips.iter_mut().filter(|r| r.name == *rip) {
                    r.weight = assignments[0].value.parse().unwrap();
                }
            }
        }
        Edit::VipAdd(spec) => {
            let ip: IpAddr = spec.ip.parse().unwrap();
            if find(config, &spec.name).is_some() || config.vips.iter().any(|vip| vip.ip == ip) {
                return false;
            }
            let rips = spec.rips.iter().map(|(name, ip)| Rip::new(name, ip.parse().unwrap())).collect();
            let ports = Ports::Ranges(vec![104..=104, 11112..=11112]);
            config.vips.push(Vip { rips, ..Vip::new(&spec.name, Mode::L4Dr, ip, ports) });
        }
        Edit::VipDelete { vip } => {
            let Some(at) = find(config, vip) else { return false };
            config.vips.remove(at);
        }
        Edit::Pki(_) => return false,
        Edit::VipSet { vip, assignments } => {
            let Some(at) = find(config, vip) else { return false };
            let Assignment { key, value } = &assignments[0];
            match key.as_str() {
                "idle_timeout" => config.vips[at].idle_timeout = humantime::parse_duration(value).unwrap(),
                "enabled" => config.vips[at].enabled = value == "true",
                "check.rise" => config.vips[at].check.rise = value.parse().unwrap(),
                other => panic!("{other}"),
            }
        }
    }
    true
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let vip = || prop::sample::select(vec!["DICOM", "QUERY", "XDS", "HL7", "WEB", "LAB", "N1", "N2"]);
    let rip = || {
        prop::sample::select(vec![
            "PACS1", "PACS2", "XDS1", "XDS2", "H1", "H2", "V1", "V2", "L1", "L2", "R1", "R2",
        ])
    };
    let set = prop_oneof![
        (1u32..100).prop_map(|secs| ("idle_timeout", format!("{secs}m"))),
        any::<bool>().prop_map(|on| ("enabled", on.to_string())),
        (1u32..9).prop_map(|rise| ("check.rise", rise.to_string())),
    ];
    prop_oneof![
        (vip(), rip(), 50u8..60, prop::option::of(1u16..=256)).prop_map(|(v, r, n, w)| rip_add(
            v,
            r,
            &format!("10.0.0.{n}"),
            w
        )),
        (vip(), rip()).prop_map(|(v, r)| Edit::RipDelete(id(v, r))),
        (vip(), rip(), 1u16..=256).prop_map(|(v, r, w)| rip_set(v, r, "weight", &w.to_string())),
        (1u8..3).prop_map(|n| vip_add(VipSpec {
            name: format!("N{n}"),
            ip: format!("10.12.1.{n}"),
            ..dicom_spec()
        })),
        vip().prop_map(|v| Edit::VipDelete { vip: v.into() }),
        (vip(), set.clone()).prop_map(|(v, (key, value))| vip_set(v, key, &value)),
        (vip(), set).prop_map(|(v, (key, value))| vip_set(v, key, &value)),
    ]
}

fn comments(texts: &Texts) -> Vec<String> {
    let lines = texts.files.iter().flat_map(|file| file.text.lines());
    lines.filter_map(|line| Some(line.split_once('#')?.1.to_owned())).collect()
}

/// VIPs by name: where an added one stands among them depends on the order of the files.
fn by_name(config: &Config) -> (Node, Gateway, Vec<Vip>) {
    let mut vips = config.vips.clone();
    vips.sort_by(|a, b| a.name.cmp(&b.name));
    (config.node.clone(), config.gateway.clone(), vips)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_edits_means_what_the_model_says_and_keeps_every_comment(
        edits in prop::collection::vec(any_edit(), 1..24)
    ) {
        let mut loaded = start();
        for edit in edits {
            let mut expected = loaded.config.clone();
            let accepted = model(&mut expected, &edit);
            match plan_edit(&loaded, &edit) {
                Ok(edited) => {
                    prop_assert!(accepted, "{edit:?} should be refused, but: {:?}", edited.changes);
                    prop_assert_eq!(by_name(&edited.loaded.config), by_name(&expected), "{:?}", edit);
                    prop_assert_eq!(edited.changes.is_empty(), expected == loaded.config);
                    let (before, after) = (comments(&loaded.texts), comments(&edited.loaded.texts));
                    // With a thing that is deleted go the comments on and between its own lines.
                    let deletes = matches!(edit, Edit::RipDelete(_) | Edit::VipDelete { .. });
                    let may_go = |comment: &str| deletes && OF_THINGS.contains(&comment.trim());
                    let lost: Vec<_> = before.iter().filter(|c| !after.contains(c) && !may_go(c)).collect();
                    prop_assert!(lost.is_empty(), "{:?} lost {:?}", edit, lost);
                    loaded = edited.loaded;
                }
                Err(error) => prop_assert!(!accepted, "{edit:?} was refused: {error}"),
            }
        }
    }

    #[test]
    fn no_text_panics_whatever_was_done_to_it(
        source in prop::sample::select(vec![MAIN, APPS, EVERYTHING, SNAT, NAT]),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}=\",.#a-z0-9\u{e9}\n ]{0,6}"), 0..6)
    ) {
        let mut text: Vec<char> = source.chars().collect();
        for (at, length, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        match load_texts(Texts::single("broken.toml", text)) {
            Err(errors) => prop_assert!(!errors.errors.is_empty() && !errors.to_string().is_empty()),
            Ok(loaded) => {
                let _ = plan_edit(&loaded, &rip_add("WEB", "NEW", "10.0.0.99", None));
                let _ = plan_edit(&loaded, &Edit::VipDelete { vip: "HL7".into() });
                let _ = plan_edit(&loaded, &Edit::RipDelete(id("WEB", "V1")));
                let _ = plan_edit(&loaded, &rip_set("AUDIT", "AUDIT1", "port", "515"));
                let _ = plan_edit(&loaded, &vip_set("VIEWER", "ports", "80,8080-8089"));
                let _ = plan_edit(&loaded, &vip_set("VIEWER", "check.body.regex", "a+"));
                let _ = plan_edit(&loaded, &rip_set("VIEWER", "VIEWER2", "check.path", "/x"));
            }
        }
    }
}
