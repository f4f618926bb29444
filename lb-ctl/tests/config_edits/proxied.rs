//! Edits of layer-7 services: TLS, keys with tables and lists, servers of pools that rules lead to.

use lb_ctl::{
    config::{Edited, Loaded, Texts, load_texts, plan_edit},
    model::{
        command::{Edit, ProxySpec, VipSpec},
        config::Mode,
        health::RipId,
    },
};

use crate::{dicom_spec, lines_of, plan, rip_set, vip_add, vip_set};

/// A configuration of its own for layer 7.
const PROXIED: &str = r#"[pki.cert.viewer]
pem = "pki/viewer.pem"
[pki.ca.hospital.members]
root = "pki/root.pem"

[pool.us] # across the sea
servers = { U1 = "10.0.1.1", U2 = "10.0.1.2" }

[vip.WEB]
mode = "l7-http"
ip = "10.0.0.100"
ports = [80]
tls = { port = 443, cert = "viewer" } # ends here
servers = { W1 = "10.0.0.1:8000" }

[vip.DICOM]
mode = "l7-tcp"
ip = "10.0.0.101"
ports = [104]
switch = [{ called_aet = "US", pool = "us" }]
servers = { D1 = "10.0.0.1", D2 = "10.0.0.2" }
"#;

fn proxied() -> Loaded {
    load_texts(Texts::single("lbd.toml", PROXIED)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// What an edit of [`PROXIED`] changes, in the text and by its meaning.
#[track_caller]
fn brings(edit: &Edit, lines: &[&str], changes: &[&str]) -> Edited {
    let edited = plan(&proxied(), edit);
    let (_, _, new) = lines_of(&edited);
    assert_eq!(new, lines);
    assert_eq!(edited.changes, changes);
    edited
}

#[track_caller]
fn refused(edit: &Edit) -> String {
    plan_edit(&proxied(), edit).unwrap_err().to_string()
}

#[test]
fn keys_of_tables_and_lists_are_set_where_they_stand() {
    brings(
        &vip_set("WEB", "tls.client_ca", "hospital"),
        &["tls = { port = 443, cert = \"viewer\", client_ca = \"hospital\" } # ends here"],
        &[
            "vip WEB: tls.client_ca (not set) -> hospital",
            "vip WEB: tls.client_cert (not set) -> required",
            "vip WEB: tls.cleartext true -> false",
        ],
    );
    brings(
        &vip_set("WEB", "https_redirect", "308"),
        &["https_redirect = 308"],
        &["vip WEB: https_redirect off -> 308"],
    );
    brings(
        &vip_set("WEB", "timeouts.client", "12h"),
        &["timeouts = { client = \"12h\" }"],
        &["vip WEB: timeouts.client 1h -> 12h"],
    );
    brings(
        &vip_set("WEB", "haproxy_extra", "http-request deny if { src 10.0.0.1, 10.0.0.2 }"),
        &["haproxy_extra = [\"http-request deny if { src 10.0.0.1, 10.0.0.2 }\"]"],
        &["vip WEB: haproxy_extra [] -> [\"http-request deny if { src 10.0.0.1, 10.0.0.2 }\"]"],
    );
    brings(
        &vip_set("WEB", "headers", "[{ delete = 'Server', of = 'response' }]"),
        &["headers = [{ delete = 'Server', of = 'response' }]"],
        &["vip WEB: headers [] -> [{ delete = \"Server\", of = \"response\" }]"],
    );
    let refusal = refused(&vip_set("WEB", "tls.port", "80"));
    assert!(refusal.contains("config::duplicate-port"), "{refusal}");
}

#[test]
fn one_word_moves_a_service_to_layer_7_and_what_comes_with_it_is_said() {
    let text =
        "[vip.V]\nmode = \"l4-nat\"\nip = \"10.0.0.100\"\nports = [80]\nservers = { A = \"10.0.0.1\" }\n";
    let loaded = load_texts(Texts::single("lbd.toml", text)).unwrap();
    let edited = plan(&loaded, &vip_set("V", "mode", "l7-tcp"));
    assert_eq!(
        edited.changes,
        [
            "vip V: mode l4-nat -> l7-tcp",
            "vip V: persist.type none -> source-ip",
            "vip V: persist.timeout (not set) -> 1h",
            "vip V: persist.prefix (not set) -> 32",
            "vip V: fallback reject -> off",
            "vip V: source (not set) -> interface",
            "vip V: timeouts.connect (not set) -> 4s",
            "vip V: timeouts.client (not set) -> 1h",
            "vip V: timeouts.server (not set) -> 1h",
            "vip V: switch (not set) -> []",
            "vip V: accept_proxy (not set) -> false",
            "vip V: send_proxy (not set) -> off",
            "vip V: transparent (not set) -> false",
            "vip V: haproxy_extra (not set) -> []",
            "vip V: idle_timeout 1h -> (not set)",
            "vip V: unattended serve -> (not set)",
            "vip V: return last-hop -> (not set)",
        ]
    );
}

#[test]
fn a_server_that_a_rule_leads_to_is_edited_in_its_pool() {
    let edited = brings(
        &rip_set("DICOM", "U1", "weight", "50"),
        &["servers = { U1 = { ip = \"10.0.1.1\", weight = 50 }, U2 = \"10.0.1.2\" }"],
        &["vip DICOM: U1 weight 100 -> 50"],
    );
    assert!(edited.notes.is_empty(), "{:?}", edited.notes);
    let id = |rip: &str| Edit::RipDelete(RipId { vip: "DICOM".into(), rip: rip.into() });
    let edited =
        brings(&id("U1"), &["servers = { U2 = \"10.0.1.2\" }"], &["vip DICOM: - U1 10.0.1.1 w100 pool us"]);
    let last = plan_edit(&edited.loaded, &id("U2")).unwrap_err().to_string();
    assert!(
        last.contains("`U2` is the last real server of pool `us`, which a rule of vip `DICOM` leads to"),
        "{last}"
    );
    brings(&id("D1"), &["servers = { D2 = \"10.0.0.2\" }"], &["vip DICOM: - D1 10.0.0.1 w100"]);
}

#[test]
fn a_server_may_say_itself_of_which_pool_it_is() {
    let edited = plan(&proxied(), &rip_set("DICOM", "D2", "pool", "us"));
    // The VIP's own pool takes the place of the other of that name.
    assert_eq!(
        edited.changes,
        [
            "vip DICOM: - U1 10.0.1.1 w100 pool us",
            "vip DICOM: - U2 10.0.1.2 w100 pool us",
            "vip DICOM: D2 pool (not set) -> us"
        ]
    );
    let back = plan(&edited.loaded, &rip_set("DICOM", "D2", "weight", "7"));
    assert_eq!(back.changes, ["vip DICOM: D2 weight 100 -> 7"]);
    let refusal = refused(&rip_set("WEB", "W1", "pool", "us"));
    assert!(refusal.contains("which no rule of vip `WEB` leads to"), "{refusal}");
}

#[test]
fn a_vip_is_added_with_tls_as_short_as_it_can_be_said() {
    let text = |text: &str| Some(text.to_owned());
    let spec = VipSpec {
        mode: "l7-http".into(),
        ports: "80".into(),
        fallback: text("off"),
        persist: text("cookie"),
        proxy: ProxySpec {
            tls_port: Some(443),
            cert: text("viewer"),
            client_ca: text("hospital"),
            backend_verify: text("system"),
            https_redirect: None,
        },
        rips: vec![("A".into(), "10.12.1.110:80".into())],
        ..dicom_spec()
    };
    let edited = plan(&proxied(), &vip_add(spec));
    let added = edited.rewrites[0].after.strip_prefix(PROXIED).unwrap();
    assert_eq!(
        added,
        "\n[vip.NEW]\nmode = \"l7-http\"\nip = \"10.12.1.100\"\nports = [80]\nfallback = \"off\"\npersist = \"cookie\"\n\
         tls = { port = 443, cert = \"viewer\", client_ca = \"hospital\" }\nbackend_tls = { verify = \"system\" }\n\
         servers = { A = \"10.12.1.110:80\" }\n"
    );
    let vip = edited.loaded.config.vips.last().unwrap();
    assert_eq!(vip.mode, Mode::L7Http);
    assert!(vip.proxy.as_ref().unwrap().tls.as_ref().unwrap().client_required);
}
