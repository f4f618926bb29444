//! Edits of checks and of who is told, and what the diff says of them.

use lb_ctl::{
    config::{Edited, Loaded, Texts, diff, load_texts, plan_edit},
    model::{
        check::{BodyMatch, CheckKind, HttpCheck},
        command::{Edit, VipSpec},
    },
};

use crate::{dicom_spec, id, lines_of, plan, refusal, rip_set, start, vip_add, vip_set};

fn loaded(text: &str) -> Loaded {
    load_texts(Texts::single("lbd.toml", text)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A VIP with a check of several keys, and a server with one of its own.
const CHECKED: &str = r#"[vip.WEB]
mode = "l4-nat"
ip = "10.0.0.100"
ports = [80]
check = { type = "http", path = "/old", port = 8080 } # asked
servers = { W1 = "10.0.0.1:80", W2 = { ip = "10.0.0.2", check = "connect" } } # both
"#;

fn http(edited: &Edited) -> HttpCheck {
    let CheckKind::Http(http) = &edited.loaded.config.vips[0].check.kind else { panic!("no http") };
    (**http).clone()
}

#[test]
fn every_key_of_a_check_is_set_by_a_word_and_told_by_a_line() {
    for (key, typed, line) in [
        ("check.path", "/x", "check.path /old -> /x"),
        ("check.host", "pacs.example", "check.host (not set) -> pacs.example"),
        ("check.method", "HEAD", "check.method GET -> HEAD"),
        ("check.status", "200", "check.status [\"200-299\"] -> [200]"),
        ("check.status", "200-399", "check.status [\"200-299\"] -> [\"200-399\"]"),
        ("check.status", "200,300-399", "check.status [\"200-299\"] -> [200, \"300-399\"]"),
        ("check.body.contains", "ok \"so\"", "check.body (not set) -> { contains = \"ok \\\"so\\\"\" }"),
        ("check.max_body_bytes", "100", "check.max_body_bytes 65536 -> 100"),
        ("check.source", "10.0.0.5", "check.source (not set) -> 10.0.0.5"),
        ("check.port", "81", "check.port 8080 -> 81"),
        ("check.interval", "10s", "check.interval 4s -> 10s"),
        ("check.syn_repeats", "count", "check.syn_repeats show -> count"),
    ] {
        let edited = plan(&loaded(CHECKED), &vip_set("WEB", key, typed));
        // The server that is asked otherwise has what holds for the whole check from the VIP.
        let own = |change: &&String| !change.starts_with("vip WEB: W2 ");
        let changes: Vec<_> = edited.changes.iter().filter(own).collect();
        assert_eq!(changes, [&format!("vip WEB: {line}")], "{key}={typed}");
        assert!(edited.rewrites[0].after.contains(" # asked\n"), "{}", edited.rewrites[0].after);
    }
    let set = refusal(&vip_set("HL7", "check.path", "/x"));
    assert!(set.contains("`path` means nothing with type \"connect\""), "{set}");
    assert!(refusal(&vip_set("HL7", "check.pth", "/x")).contains("did you mean `path`?"));
    let regex = plan_edit(&loaded(CHECKED), &vip_set("WEB", "check.body.regex", "a(b")).unwrap_err();
    assert!(regex.to_string().contains("config::bad-regex"), "{regex}");
}

#[test]
fn a_check_is_set_as_a_whole_or_key_by_key_from_a_word() {
    let by_word = plan(&start(), &vip_set("HL7", "check", "http"));
    assert_eq!(lines_of(&by_word).2, ["HL7.check = \"http\""]);
    let longer = plan(&by_word.loaded, &vip_set("HL7", "check.path", "/health"));
    assert_eq!(lines_of(&longer).2, ["HL7.check = { type = \"http\", path = \"/health\" }"]);
    let both = r#"{ any = ["ping", { type = "http", body = { equals = "ok" } }] }"#;
    let several = plan(&longer.loaded, &vip_set("HL7", "check", both));
    let vips = &several.loaded.config.vips;
    let CheckKind::Any(parts) = &vips.iter().find(|vip| vip.name == "HL7").unwrap().check.kind else {
        panic!("not several: {vips:?}")
    };
    let CheckKind::Http(http) = &parts[1].kind else { panic!("{parts:?}") };
    assert_eq!((parts.len(), &http.body), (2, &Some(BodyMatch::Equals("ok".to_owned()))));
    let words = plan(&several.loaded, &vip_set("HL7", "check.any", "ping,connect"));
    assert_eq!(lines_of(&words).2, ["HL7.check = { any = [\"ping\", \"connect\"] }"]);
}

#[test]
fn a_server_is_checked_otherwise_by_a_word_or_a_key() {
    let plain = plan(&loaded(CHECKED), &rip_set("WEB", "W1", "check.port", "9000"));
    assert_eq!(
        lines_of(&plain).2,
        [
            "servers = { W1 = { ip = \"10.0.0.1\", port = 80, check = { port = 9000 } }, W2 = { ip = \"10.0.0.2\", check = \
          \"connect\" } } # both"
        ]
    );
    assert_eq!(plain.changes, ["vip WEB: W1 check.port 8080 -> 9000"]);
    let longer = plan(&loaded(CHECKED), &rip_set("WEB", "W2", "check.port", "9000"));
    assert_eq!(longer.changes, ["vip WEB: W2 check.port 8080 -> 9000"]);
    let word = plan(&loaded(CHECKED), &rip_set("WEB", "W2", "check", "ping"));
    let expected = ["vip WEB: W2 check.type connect -> ping", "vip WEB: W2 check.port 8080 -> (not set)"];
    assert_eq!(word.changes, expected);
    let back = plan(&loaded(CHECKED), &rip_set("WEB", "W2", "check", "http"));
    assert!(back.loaded.config.vips[0].rips[1].check.is_none(), "it says nothing else than the VIP's");
    assert_eq!(http(&back).path, "/old");
    let added = diff(&loaded("").config, &loaded(CHECKED).config);
    assert_eq!(added.last().map(String::as_str), Some("vip WEB: + W2 10.0.0.2 w100 check connect"));
}

#[test]
fn a_server_may_be_called_check() {
    let text = CHECKED.replace("W1 = \"10.0.0.1:80\"", "check = \"10.0.0.1:80\"");
    let edited = plan(&loaded(&text), &rip_set("WEB", "check", "weight", "7"));
    assert_eq!(edited.changes, ["vip WEB: check weight 100 -> 7"]);
}

#[test]
fn a_vip_that_is_tracked_stays() {
    let text = format!(
        "{CHECKED}[vip.NEXT]\nmode = \"l4-nat\"\nip = \"10.0.0.101\"\nports = [80]\ncheck = {{ type = \"track\", vip = \"WEB\" \
         }}\nservers = {{ N = \"10.0.0.3\" }}\n"
    );
    let delete = plan_edit(&loaded(&text), &Edit::VipDelete { vip: "WEB".into() }).unwrap_err().to_string();
    assert!(delete.contains("there is no vip `WEB`"), "{delete}");
    let ring = r#"{ type = "track", vip = "NEXT" }"#;
    let ring = plan_edit(&loaded(&text), &vip_set("WEB", "check", ring)).unwrap_err().to_string();
    assert!(ring.contains("vip `WEB` tracks itself: WEB -> NEXT -> WEB"), "{ring}");
    assert!(plan_edit(&loaded(&text), &Edit::RipDelete(id("WEB", "W2"))).is_ok());
}

#[test]
fn recipients_of_a_vip_are_typed_with_commas() {
    let text = format!("[alerts] # told\nfrom = \"lb@example.org\" # us\n{CHECKED}");
    let edited = plan(&loaded(&text), &vip_set("WEB", "alert_to", "a@example.org,b@example.org"));
    assert_eq!(edited.changes, ["vip WEB: alert_to [] -> [\"a@example.org\", \"b@example.org\"]"]);
    let one = plan(&edited.loaded, &vip_set("WEB", "alert_to", "a@example.org"));
    assert_eq!(lines_of(&one).2, ["alert_to = [\"a@example.org\"]"]);
    assert!(refusal(&vip_set("HL7", "alert_to", "a@example.org")).contains("does not say from whom it is"));
}

#[test]
fn what_became_of_alerts_and_certificates_is_told_key_by_key() {
    let before =
        "[alerts]\nfrom = \"lb@example.org\"\nto = [\"a@example.org\"]\n[pki.cert.lb]\npem = \"/p/lb.pem\"\n";
    let after = "[alerts]\nfrom = \"lb@example.org\"\nrelay = \"mail.example\"\nuser = \"lb\"\npassword_file = \
                 \"/p/mail\"\nrepeat = \"off\"\nsyslog = true\nca = \"own\"\n[pki.ca.own]\nmembers = { root = \"/p/root.pem\" \
                 }\n";
    let expected = [
        "pki: ca.own.members.root (not set) -> /p/root.pem",
        "pki: cert.lb.pem /p/lb.pem -> (not set)",
        "alerts: to [\"a@example.org\"] -> []",
        "alerts: relay (not set) -> mail.example:25",
        "alerts: tls (not set) -> starttls",
        "alerts: user (not set) -> lb",
        "alerts: password_file (not set) -> /p/mail",
        "alerts: ca (not set) -> own",
        "alerts: syslog false -> true",
        "alerts: repeat 1day -> off",
    ];
    assert_eq!(diff(&loaded(before).config, &loaded(after).config), expected);
}

#[test]
fn a_vip_is_added_with_the_check_that_was_typed() {
    let text = |text: &str| Some(text.to_owned());
    for (check, port, path, script, line) in [
        ("https", None, None, None, "check = \"https\""),
        ("https", Some(8443), text("/x"), None, "check = { type = \"https\", path = \"/x\", port = 8443 }"),
        ("script", None, None, text("a.sh"), "check = { type = \"script\", script = \"a.sh\" }"),
        ("ping", None, None, None, "check = \"ping\""),
    ] {
        let spec = VipSpec {
            check: text(check),
            check_port: port,
            check_path: path,
            check_script: script,
            ..dicom_spec()
        };
        let edited = plan(&start(), &vip_add(spec));
        assert!(edited.rewrites[0].after.contains(&format!("{line}\n")), "{}", edited.rewrites[0].after);
        assert_eq!(edited.loaded.config.vips.last().unwrap().check.kind.name(), check);
    }
    let wrong = VipSpec { check: text("ping"), check_path: text("/x"), ..dicom_spec() };
    assert!(refusal(&vip_add(wrong)).contains("`path` means nothing with type \"ping\""));
}
