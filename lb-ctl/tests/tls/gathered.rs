//! What of the configured files reaches the proxy.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lb_ctl::{
    haproxy::certs::{Gathered, certificate_file, family_file, gather},
    model::{
        check::{CaFamily, ClientCert, Verify},
        config::{Mode, Ports, Vip},
        proxied::{DesiredProxy, Proxies},
        proxy::{BackendTls, Security, Termination},
    },
};
use tempfile::tempdir;

use crate::made::{Authority, openssl, write};

#[test]
fn a_chain_is_put_in_the_order_in_which_it_is_signed_and_the_key_follows() {
    let directory = tempdir().unwrap();
    let root = Authority::root("root");
    let upper = root.below("upper");
    let lower = upper.below("lower");
    let stranger = Authority::root("stranger");
    let made = lower.issue("pacs.example", &["pacs.example"]);
    // Key first, chain upside down, and something that has no place in it.
    let text = [made.key.as_str(), &stranger.pem(), &upper.pem(), &lower.pem(), &made.certificate].concat();
    let gathered = one(cert(write(directory.path(), "pacs.pem", text)));
    assert!(gathered.refused.is_empty(), "{:?}", gathered.refused);
    let expected = [made.certificate.as_str(), &lower.pem(), &upper.pem(), &stranger.pem(), &made.key];
    assert_eq!(held(&gathered), plain(&expected.concat()));
}

#[test]
fn keys_of_every_kind_are_known_for_the_certificates_own() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    let kinds: [(&str, &[&str]); 5] = [
        ("rsa:2048", &[]),
        // Longer than what lbd itself signs with.
        ("rsa:4160", &[]),
        ("ec", &["-pkeyopt", "ec_paramgen_curve:P-256"]),
        ("ec", &["-pkeyopt", "ec_paramgen_curve:P-521"]),
        ("ed25519", &[]),
    ];
    for (kind, options) in kinds {
        let mut arguments = vec!["req", "-x509", "-newkey", kind];
        arguments.extend(options);
        arguments.extend(["-nodes", "-subj", "/CN=pacs", "-keyout", "key.pem", "-out", "cert.pem"]);
        openssl(here, &arguments);
        let (certificate, key) = (read(here, "cert.pem"), read(here, "key.pem"));
        let gathered = one(cert(write(here, "pacs.pem", certificate.clone() + &key)));
        assert!(gathered.refused.is_empty(), "{kind} {options:?}: {:?}", gathered.refused);
        assert_eq!(held(&gathered), plain(&(certificate.clone() + &key)), "{kind} {options:?}");
        let other = Authority::root("other").issue("pacs", &[]);
        refuses(here, &(certificate + &other.key), "do not belong together");
        refuses(here, &(other.certificate + &key), "do not belong together");
    }
    // The older forms of keys: PKCS#1, and SEC1 behind its parameters.
    openssl(
        here,
        &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", "-keyout", "k", "-out", "c"],
    );
    openssl(here, &["rsa", "-in", "k", "-traditional", "-out", "old"]);
    assert!(one(cert(write(here, "pacs.pem", read(here, "c") + &read(here, "old")))).refused.is_empty());
    openssl(here, &["ecparam", "-name", "secp384r1", "-genkey", "-out", "k"]);
    openssl(here, &["req", "-x509", "-key", "k", "-subj", "/CN=a", "-out", "c"]);
    assert!(one(cert(write(here, "pacs.pem", read(here, "c") + &read(here, "k")))).refused.is_empty());
}

#[test]
fn what_cannot_serve_is_refused_with_its_cure() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    let root = Authority::root("root");
    let (made, other) = (root.issue("pacs", &[]), root.issue("pacs", &[]));
    refuses(here, "", "has no certificate in PEM");
    refuses(here, "\u{feff}not a certificate", "has no certificate in PEM");
    refuses(here, &made.certificate, "has no private key: append");
    refuses(here, &made.key, "has no certificate in PEM");
    refuses(here, &(made.certificate.clone() + &other.key), "do not belong together");
    refuses(here, &(made.together() + &other.key), "more than one private key");
    let cut = made.certificate.replacen("MII", "M*I", 1);
    refuses(here, &(cut + &made.key), "is broken as PEM");
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refuses(here, &(made.together() + junk), "certificate 2 in it is broken");
    write(here, "key.pem", &made.key);
    for arguments in [
        ["pkey", "-in", "key.pem", "-aes128", "-passout", "pass:x", "-out", "locked.pem"],
        ["ec", "-in", "key.pem", "-aes128", "-passout", "pass:x", "-out", "locked.pem"],
    ] {
        openssl(here, &arguments);
        refuses(here, &(made.certificate.clone() + &read(here, "locked.pem")), "under a passphrase");
    }
    let gone = one(cert(here.join("gone.pem")));
    assert!(gone.refused["pacs"].contains("put it there, or correct [pki.cert.shown]"), "{gone:?}");
    let not_a_file = one(cert(here.to_owned()));
    assert!(not_a_file.refused["pacs"].contains("is not a regular file"), "{not_a_file:?}");
    let long = one(cert(write(here, "long.pem", vec![b' '; (1 << 20) + 1])));
    assert!(long.refused["pacs"].contains("is longer than"), "{long:?}");
}

/// One file that HAProxy does not take, and it takes none of its configuration.
#[test]
fn what_is_too_weak_for_the_proxy_is_refused_and_nothing_else_is() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    let self_signed = |options: &[&str]| {
        let mut arguments =
            vec!["req", "-x509", "-nodes", "-subj", "/CN=pacs", "-keyout", "key.pem", "-out", "cert.pem"];
        arguments.extend(options);
        openssl(here, &arguments);
        read(here, "cert.pem") + &read(here, "key.pem")
    };
    let curve = |name| ["-newkey", "ec", "-pkeyopt", name];
    let mut cases = vec![
        (self_signed(&["-newkey", "rsa:1024"]), Some("(RSA 1024) is too short")),
        (self_signed(&curve("ec_paramgen_curve:secp192k1")), Some("with 192 bits) is too short")),
        (self_signed(&curve("ec_paramgen_curve:secp224r1")), None),
        (self_signed(&["-newkey", "rsa:2048", "-sha1"]), None),
    ];
    let signed = |authority_key: &str, digest: &str| {
        openssl(
            here,
            &[
                "req",
                "-x509",
                "-newkey",
                authority_key,
                "-nodes",
                "-subj",
                "/CN=ca",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
            ],
        );
        openssl(
            here,
            &[
                "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pacs", "-keyout", "key.pem", "-out",
                "csr.pem",
            ],
        );
        openssl(
            here,
            &[
                "x509", "-req", digest, "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-out",
                "cert.pem",
            ],
        );
        read(here, "cert.pem") + &read(here, "key.pem")
    };
    cases.push((signed("rsa:2048", "-sha256"), None));
    cases.push((signed("rsa:2048", "-sha1"), Some("signed with SHA-1")));
    cases.push((signed("rsa:2048", "-md5"), Some("signed with SHA-1 or MD5")));
    let with_chain = signed("rsa:1024", "-sha256") + &read(here, "ca.pem");
    cases.push((with_chain, Some("CN=ca, whose key (RSA 1024) is too short")));
    for (text, why) in cases {
        match why {
            Some(why) => refuses(here, &text, why),
            None => assert!(one(cert(write(here, "pacs.pem", &text))).refused.is_empty(), "{text}"),
        }
        assert_eq!(haproxy_takes(here, &text), why.is_none(), "{why:?}");
    }
}

/// Whether HAProxy takes a file of a certificate. It is asked for by all who run tests of layer 7.
fn haproxy_takes(here: &Path, text: &str) -> bool {
    write(here, "shown.pem", text);
    let config = "defaults\n mode tcp\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
                  listen a\n bind 127.0.0.1:1443 ssl crt shown.pem\n server s 127.0.0.1:80\n";
    write(here, "haproxy.cfg", config);
    let asked =
        std::process::Command::new("haproxy").args(["-c", "-f", "haproxy.cfg"]).current_dir(here).output();
    asked
        .unwrap_or_else(|error| panic!("haproxy, which is needed here (package haproxy): {error}"))
        .status
        .success()
}

#[test]
fn members_of_a_family_stand_together_once_each() {
    let directory = tempdir().unwrap();
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let a = write(directory.path(), "a.pem", one.pem() + &two.pem());
    // No newline at the end, and a member that was there before.
    let b = write(directory.path(), "b.pem", one.pem().trim_end());
    let gathered = gather(&Proxies { vips: vec![verifying("pacs", &[a, b])], ..Proxies::default() });
    assert!(gathered.refused.is_empty(), "{:?}", gathered.refused);
    let held = &gathered.files[&family_file("clinic")];
    assert_eq!(plain(std::str::from_utf8(held).unwrap()), plain(&(one.pem() + &two.pem())));
}

#[test]
fn a_bad_file_refuses_the_vips_that_need_it_and_no_others() {
    let directory = tempdir().unwrap();
    let root = Authority::root("root");
    let good = write(directory.path(), "good.pem", root.pem());
    let bad = write(directory.path(), "bad.pem", "nothing");
    let made = root.issue("pacs", &[]);
    let own = write(directory.path(), "own.pem", made.together());
    let mut both = verifying("both", std::slice::from_ref(&bad));
    let family = both.vip.proxy.as_mut().unwrap();
    family.tls.as_mut().unwrap().client_ca.as_mut().unwrap().name = "broken".to_owned();
    family.backend_tls = Some(BackendTls {
        verify: Verify::Family(CaFamily { name: "clinic".to_owned(), pems: vec![good.clone()] }),
        name: None,
        sni: None,
        client_cert: Some(ClientCert { name: "ours".to_owned(), pem: own }),
    });
    let vips = vec![both, verifying("well", &[good])];
    let gathered = gather(&Proxies { vips, ..Proxies::default() });
    assert_eq!(gathered.refused.keys().collect::<Vec<_>>(), ["both"]);
    assert!(gathered.refused["both"].contains("bad.pem has no certificate in PEM"), "{gathered:?}");
    let files: Vec<&PathBuf> = gathered.files.keys().collect();
    assert_eq!(files, [&family_file("clinic"), &certificate_file("ours")]);
}

fn refuses(directory: &Path, text: &str, why: &str) {
    let gathered = one(cert(write(directory, "pacs.pem", text)));
    assert!(gathered.files.is_empty(), "{why}: {:?}", gathered.files.keys());
    let told = &gathered.refused["pacs"];
    assert!(told.contains("pacs.pem ") && told.contains(why), "{why}: {told}");
    assert!(!told.contains('\n'), "{told}");
}

fn cert(pem: PathBuf) -> DesiredProxy {
    let mut desired = vip("pacs");
    let certs = vec![ClientCert { name: "shown".to_owned(), pem }];
    desired.vip.proxy.as_mut().unwrap().tls = Some(termination(certs, None));
    desired
}

fn verifying(name: &str, pems: &[PathBuf]) -> DesiredProxy {
    let mut desired = vip(name);
    let family = CaFamily { name: "clinic".to_owned(), pems: pems.to_vec() };
    desired.vip.proxy.as_mut().unwrap().tls = Some(termination(Vec::new(), Some(family)));
    desired
}

const fn termination(certs: Vec<ClientCert>, client_ca: Option<CaFamily>) -> Termination {
    let security = Security::High;
    Termination { port: 443, certs, client_ca, client_required: true, security, cleartext: false }
}

fn vip(name: &str) -> DesiredProxy {
    let vip = Vip::new(name, Mode::L7Tcp, "192.0.2.1".parse().unwrap(), Ports::All);
    DesiredProxy { vip, servers: BTreeMap::new() }
}

fn one(desired: DesiredProxy) -> Gathered {
    gather(&Proxies { vips: vec![desired], ..Proxies::default() })
}

fn held(gathered: &Gathered) -> String {
    plain(std::str::from_utf8(&gathered.files[&certificate_file("shown")]).unwrap())
}

/// PEM without what writers of it differ in: line ends, and what stands between blocks.
fn plain(pem: &str) -> String {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in pem.lines().map(str::trim_end) {
        let is_parameters = line.contains("EC PARAMETERS");
        inside = (inside || line.starts_with("-----BEGIN")) && !is_parameters;
        if inside {
            lines.push(line);
        }
        inside &= !line.starts_with("-----END");
    }
    lines.join("\n")
}

fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}
