//! What is said of certificates.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use lb_ctl::{
    model::{
        check::{CaFamily, ClientCert, Pki, Verify},
        config::{Config, Mode, Ports, Vip},
        proxy::{BackendTls, Security, SwitchOn, SwitchRule, Termination},
        tls::{EXPIRY_STEPS_DAYS, Finding, Lasts, Level},
    },
    tls::{judge::step_days, lasting::validities, report},
};
use rcgen::{
    ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth},
    date_time_ymd,
};
use tempfile::{TempDir, tempdir};

use crate::made::{Authority, Made, write};

/// When these tests play: 2030-01-02.
const NOW_SECS: u64 = 1_893_542_400;
const DAY_SECS: u64 = 24 * 3600;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECS)
}

/// A VIP that shows a certificate to clients and to servers, and both are held against a family.
struct World {
    directory: TempDir,
    config: Config,
}

impl World {
    fn new(shown: &str, family: &str) -> Self {
        let directory = tempdir().unwrap();
        let pem = write(directory.path(), "shown.pem", shown);
        let ca = write(directory.path(), "ca.pem", family);
        let cert = ClientCert { name: "shown".to_owned(), pem: pem.clone() };
        let clinic = CaFamily { name: "clinic".to_owned(), pems: vec![ca.clone()] };
        let mut vip = Vip::new("WEB", Mode::L7Tcp, "192.0.2.1".parse().unwrap(), Ports::All);
        let proxy = vip.proxy.as_mut().unwrap();
        proxy.tls = Some(Termination {
            port: 443,
            certs: vec![cert.clone()],
            client_ca: Some(clinic.clone()),
            client_required: true,
            security: Security::High,
            cleartext: false,
        });
        proxy.backend_tls = Some(BackendTls {
            verify: Verify::Family(clinic),
            name: None,
            sni: None,
            client_cert: Some(cert),
        });
        let pki = Pki {
            certs: [("shown".to_owned(), pem)].into(),
            families: [("clinic".to_owned(), [("ca".to_owned(), ca)].into())].into(),
        };
        Self { directory, config: Config { vips: vec![vip], pki, ..Config::default() } }
    }

    fn check(&self, wanted: Option<&str>) -> Vec<Finding> {
        report::vip(&self.config, &self.config.vips[0], wanted, now()).unwrap()
    }

    fn faults(&self) -> Vec<String> {
        at(Level::Fault, self.check(None))
    }
}

fn at(level: Level, findings: Vec<Finding>) -> Vec<String> {
    findings.into_iter().filter(|finding| finding.level == level).map(|finding| finding.text).collect()
}

#[track_caller]
fn says(lines: &[String], expected: &[&str]) {
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, part) in lines.iter().zip(expected) {
        assert!(line.contains(part), "{line:?} lacks {part:?}");
    }
}

fn for_both(root: &Authority) -> Made {
    root.issue_with("pacs", &["pacs.example", "192.0.2.1"], |params| {
        params.extended_key_usages = vec![ServerAuth, ClientAuth];
    })
}

#[test]
fn a_certificate_for_both_sides_with_its_root_in_the_family_is_well() {
    let root = Authority::root("root");
    let world = World::new(&for_both(&root).together(), &root.pem());
    let findings = world.check(Some("PACS.example"));
    assert!(findings.iter().all(|finding| finding.level == Level::Well), "{findings:#?}");
    let lines: Vec<String> = findings.into_iter().map(|finding| finding.text).collect();
    says(
        &lines,
        &[
            "certificate shown: it lasts until 2090-01-02",
            "certificate shown: it may prove a server",
            "certificate shown: its chain is whole, up to CN=root, an authority that is known here",
            "certificate shown: it is for pacs.example, 192.0.2.1",
            "clients that ask for PACS.example get a certificate for it",
            "clients, family clinic: CN=root lasts until",
            "to servers, certificate shown: it lasts until",
            "to servers, certificate shown: it may prove a client",
            "to servers, certificate shown: its chain is whole",
            "servers, family clinic: CN=root lasts until",
        ],
    );
}

#[test]
fn a_certificate_is_refused_where_its_usage_does_not_allow_it() {
    let root = Authority::root("root");
    let server = World::new(&root.issue("pacs", &["pacs.example"]).together(), &root.pem());
    says(
        &server.faults(),
        &[
            "to servers, certificate shown: it may not prove a client (its extended key usage is serverAuth): servers refuse it",
        ],
    );
    let client = root.issue_with("pacs", &[], |params| params.extended_key_usages = vec![ClientAuth]);
    let client = World::new(&client.together(), &root.pem());
    says(
        &client.faults(),
        &["certificate shown: it may not prove a server (its extended key usage is clientAuth)"],
    );
    // Nothing said is anything allowed.
    let silent = root.issue_with("pacs", &["a.example"], |params| params.extended_key_usages.clear());
    assert!(World::new(&silent.together(), &root.pem()).faults().is_empty());
}

#[test]
fn dates_count_for_the_certificate_its_chain_and_authorities() {
    let root = Authority::root("root");
    let ends = |secs: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(secs);
    let until = |secs| {
        let made = root.issue_with("pacs", &["a.example"], |params| {
            params.extended_key_usages.clear();
            params.not_after = ends(secs);
        });
        World::new(&made.together(), &root.pem())
    };
    says(&until(NOW_SECS - 1).faults(), &["it has expired, on 2030-01-01", "it has expired"]);
    says(&at(Level::Advice, until(NOW_SECS + DAY_SECS).check(None)), &["within 1 day:", "within 1 day:"]);
    says(&at(Level::Advice, until(NOW_SECS + 30 * DAY_SECS).check(None)), &["within 30 days:", "30"]);
    assert!(at(Level::Advice, until(NOW_SECS + 30 * DAY_SECS + 1).check(None)).is_empty());
    let early = root.issue_with("pacs", &["a.example"], |params| {
        params.extended_key_usages.clear();
        params.not_before = ends(NOW_SECS + 60);
    });
    says(&World::new(&early.together(), &root.pem()).faults(), &["not yet: check this machine's clock"; 2]);
    let old = Authority::made("old", None, |params| params.not_after = ends(NOW_SECS - 60));
    let old = World::new(&for_both(&root).together(), &(root.pem() + &old.pem()));
    says(
        &old.faults(),
        &["clients, family clinic: CN=old has expired", "servers, family clinic: CN=old has"],
    );
    let gone = Authority::made("gone", Some(&root), |params| params.not_after = ends(NOW_SECS - 60));
    let below = World::new(&(for_both(&gone).together() + &gone.pem()), &root.pem());
    says(&below.faults(), &["CN=gone, of its chain, has expired", "CN=gone, of its chain, has expired"]);
}

#[test]
fn a_chain_that_breaks_off_is_told() {
    let root = Authority::root("root");
    let middle = root.below("middle");
    let made = for_both(&middle);
    // The one that is missing is known here, and clients do not have it.
    let known = World::new(&made.together(), &(root.pem() + &middle.pem()));
    says(
        &known.faults(),
        &[
            "its chain ends with CN=pacs: append CN=middle",
            "to servers, certificate shown: its chain ends with CN=pacs",
        ],
    );
    let unknown = World::new(&made.together(), &root.pem());
    says(&at(Level::Advice, unknown.check(None)), &["signed by CN=middle, which is not known here"; 2]);
    let whole = World::new(&(made.together() + &middle.pem()), &root.pem());
    assert!(at(Level::Advice, whole.check(None)).is_empty(), "{:?}", whole.check(None));
    // One of the same name with another key has not signed it.
    let namesake = World::new(&(made.together() + &root.below("middle").pem()), &root.pem());
    let advice = at(Level::Advice, namesake.check(None));
    says(
        &advice[..2],
        &["which is not known here", "CN=middle stands in its file and is no part of its chain"],
    );
}

#[test]
fn names_are_those_that_clients_and_rules_ask_for() {
    let root = Authority::root("root");
    let made = root.issue_with("pacs", &["*.example", "a.b.example"], |params| {
        params.extended_key_usages = vec![ServerAuth, ClientAuth];
    });
    let mut world = World::new(&made.together(), &root.pem());
    for (wanted, is_covered) in [
        ("x.example", true),
        ("A.B.example", true),
        ("example", false),
        (".example", false),
        ("c.b.example", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(at(Level::Fault, world.check(Some(wanted))).is_empty(), is_covered, "{wanted}");
    }
    let proxy = world.config.vips[0].proxy.as_mut().unwrap();
    let hosts = vec!["x.example".to_owned(), "elsewhere.test".to_owned()];
    proxy.switch.push(SwitchRule { on: SwitchOn::Host(hosts), pool: "p".to_owned() });
    says(&world.faults(), &["clients that ask for elsewhere.test refuse what they get"]);
    let nameless = root.issue_with("pacs", &[], |params| params.extended_key_usages.clear());
    let nameless = World::new(&nameless.together(), &root.pem());
    says(&at(Level::Advice, nameless.check(None)), &["it names no host"]);
}

#[test]
fn a_family_without_the_root_of_a_member_believes_nobody_for_it() {
    let root = Authority::root("root");
    let middle = root.below("middle");
    let world = World::new(&(for_both(&root).together()), &middle.pem());
    let faults = world.faults();
    says(&faults, &["CN=middle counts for nothing while CN=root, which signed it, is not in the family"; 2]);
    assert!(World::new(&for_both(&root).together(), &(middle.pem() + &root.pem())).faults().is_empty());
    let own = Authority::root("scanner");
    let pinned = rcgen_self_signed("scanner");
    let world = World::new(&for_both(&own).together(), &(own.pem() + &pinned));
    assert!(world.faults().is_empty());
    says(
        &at(Level::Advice, world.check(None)),
        &["CN=scanner is no authority: it vouches for itself alone"; 2],
    );
}

/// What a device signs for itself.
fn rcgen_self_signed(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    crate::made::params(name, &[]).self_signed(&key).unwrap().pem()
}

#[test]
fn files_that_cannot_be_read_are_faults_beside_the_rest() {
    let root = Authority::root("root");
    let world = World::new("nothing", &root.pem());
    std::fs::remove_file(world.directory.path().join("ca.pem")).unwrap();
    says(
        &world.faults(),
        &[
            "shown.pem has no certificate in PEM",
            "ca.pem: No such file",
            "shown.pem has no",
            "ca.pem: No such",
        ],
    );
    let status = report::pki(&world.config, now());
    assert!(status.certs[0].problem.as_deref().unwrap().contains("has no certificate in PEM"));
    assert!(status.families[0].members[0].problem.as_deref().unwrap().contains("No such file"));
    assert!(status.certs[0].chain.is_empty() && status.certs[0].findings.is_empty());
}

#[test]
fn a_vip_without_tls_has_nothing_to_be_looked_at() {
    let vip = Vip::new("HL7", Mode::L7Tcp, "192.0.2.1".parse().unwrap(), Ports::All);
    let refused = report::vip(&Config::default(), &vip, None, now()).unwrap_err();
    assert!(refused.contains("`HL7` neither ends TLS nor speaks it"), "{refused}");
}

#[test]
fn what_is_shown_has_facts_and_users_and_never_the_key() {
    let root = Authority::root("root");
    let made = for_both(&root);
    let world = World::new(&made.together(), &root.pem());
    let status = report::pki(&world.config, now());
    let [cert] = status.certs.as_slice() else { panic!("{status:?}") };
    assert_eq!((cert.name.as_str(), cert.users.as_slice()), ("shown", ["vip WEB".to_owned()].as_slice()));
    let own = &cert.chain[0];
    assert_eq!(own.names, ["pacs.example", "192.0.2.1"]);
    assert_eq!(
        (own.subject.as_str(), own.issuer.as_str(), own.key.as_str()),
        ("CN=pacs", "CN=root", "EC P-256")
    );
    assert_eq!(own.usages.as_deref().unwrap(), ["serverAuth", "clientAuth"]);
    assert_eq!(status.families[0].users, ["vip WEB"]);
    assert!(status.families[0].members[0].certificates[0].authority);
    let file: &Path = &world.directory.path().join("shown.pem");
    let printed = crate::made::openssl(
        world.directory.path(),
        &["x509", "-in", file.to_str().unwrap(), "-noout", "-fingerprint", "-sha256"],
    );
    let printed = String::from_utf8(printed).unwrap();
    let theirs = printed.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase();
    assert_eq!(own.sha256, theirs);
    // Neither in the answer nor in what is written to a log.
    let told = serde_json::to_string(&status).unwrap() + &format!("{status:?}");
    for line in made.key.lines().filter(|line| !line.is_empty()) {
        assert!(!told.contains(line), "{line}");
    }
}

#[test]
fn certificates_in_use_are_watched_by_the_one_that_ends_first() {
    let root = Authority::root("root");
    let soon = |days: u64| {
        let end = date_time_ymd(1970, 1, 1) + Duration::from_secs(NOW_SECS + days * DAY_SECS);
        Authority::made("soon", Some(&root), |params| params.not_after = end)
    };
    let upper = soon(6);
    let mut world = World::new(&(for_both(&upper).together() + &upper.pem()), &root.pem());
    let found = validities(&world.config, now());
    let names: Vec<&str> = found.iter().map(|validity| validity.name.as_str()).collect();
    assert_eq!(names, ["certificate shown", "authority ca of family clinic"]);
    let Lasts::Within { days: 7, text } = &found[0].lasts else { panic!("{found:?}") };
    assert_eq!(
        text,
        "certificate shown (CN=soon) expires within 7 days, on 2030-01-08 00:00:00 UTC: vip WEB need it; put another in its \
         place with `lbctl tls cert add shown FILE --replace`"
    );
    assert_eq!(found[1].lasts, Lasts::Long);
    std::fs::write(world.directory.path().join("ca.pem"), "").unwrap();
    assert_eq!(validities(&world.config, now())[1].lasts, Lasts::Unknown);
    world.config.vips.clear();
    assert!(validities(&world.config, now()).is_empty());
}

#[test]
fn steps_are_met_at_their_days_and_the_end_at_its_second() {
    let day = 24 * 3600;
    let cases = [(30 * day + 1, None), (30 * day, Some(30)), (7 * day + 1, Some(30)), (7 * day, Some(7))];
    for (left, step) in
        cases.into_iter().chain([(day + 1, Some(7)), (day, Some(1)), (1, Some(1)), (0, Some(0))])
    {
        assert_eq!(step_days(1000 + left, 1000), step, "{left}");
    }
    assert_eq!(step_days(i64::MIN, i64::MAX), Some(0));
    assert_eq!(EXPIRY_STEPS_DAYS, [1, 7, 30]);
}
