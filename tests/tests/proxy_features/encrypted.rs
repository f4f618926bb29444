//! TLS: names that lead to pools, certificates on either side, and what is spoken.

use std::path::{Path, PathBuf};

use lb_tests::lab::{
    Host, Lab, Nginx,
    browser::Browser,
    mirror::Seen,
    pki::{self, Authority, Validity},
    require_root,
};

use crate::{BOTH, at, mirrors, start_green, url, vip};

/// Ports of an nginx: known by a name of the hospital, by another name, and by a stranger's word.
const GOOD: u16 = 8443;
const MISNAMED: u16 = 8444;
const STRANGE: u16 = 8445;
/// Port of one that wants a certificate of the client.
const MUTUAL: u16 = 8446;

/// Name that the servers' certificates have.
const ARCHIVE: &str = "archive.example";

/// Authorities, and the files that they signed.
struct Pki {
    hospital: Authority,
    stranger: Authority,
}

impl Pki {
    fn new() -> Self {
        Self { hospital: Authority::new("Hospital CA"), stranger: Authority::new("Strange CA") }
    }

    /// What the balancer has.
    fn equip(&self, lb: &Host) {
        let dir = lb.dir();
        for (name, pem) in [
            ("ca", self.hospital.pem()),
            (
                "viewer",
                self.hospital.issue("viewer.example", &["viewer.example", "10.10.0.100"], Validity::Now),
            ),
            ("archive", self.hospital.issue(ARCHIVE, &[ARCHIVE], Validity::Now)),
            ("balancer", self.hospital.issue("balancer", &[], Validity::Now)),
        ] {
            let _path = pki::write(&dir, &format!("{name}.pem"), &pem);
        }
    }

    /// The sections that name it.
    fn sections() -> String {
        "[pki.cert.viewer]\npem = \"viewer.pem\"\n[pki.cert.archive]\npem = \"archive.pem\"\n\
         [pki.cert.balancer]\npem = \"balancer.pem\"\n[pki.ca.hospital]\nmembers = { root = \"ca.pem\" }\n"
            .to_owned()
    }

    /// An nginx with TLS on all its ports, which tells its host, its port, the name that it was asked by, and whom the client
    /// says to be.
    fn serve(&self, host: &Host) -> Nginx {
        let dir = host.dir();
        let archive = self.hospital.issue(ARCHIVE, &[ARCHIVE], Validity::Now);
        let files = [
            (GOOD, archive.clone()),
            (MISNAMED, self.hospital.issue("other.example", &["other.example"], Validity::Now)),
            (STRANGE, self.stranger.issue(ARCHIVE, &[ARCHIVE], Validity::Now)),
            (MUTUAL, archive),
        ];
        let ca = pki::write(&dir, "trusted.pem", &self.hospital.pem());
        let server = |(port, pem): (u16, String)| {
            let path = pki::write(&dir, &format!("{port}.pem"), &pem).display().to_string();
            let verify = match port {
                MUTUAL => format!("ssl_verify_client on; ssl_client_certificate {};", ca.display()),
                _ => String::new(),
            };
            format!(
                "server {{
                     listen {port} ssl;
                     ssl_certificate {path};
                     ssl_certificate_key {path};
                     {verify}
                     return 200 '{} {port} sni=$ssl_server_name client=$ssl_client_s_dn';
                 }}",
                host.name
            )
        };
        let http = format!("access_log off;\n{}", files.map(server).concat());
        Nginx::start(&format!("nginx-{}", host.name), &host.netns, host.lab_dir(), &http, GOOD)
    }
}

#[test]
fn the_name_that_a_tls_client_asks_for_leads_to_a_pool() {
    if !require_root("the_name_that_a_tls_client_asks_for_leads_to_a_pool") {
        return;
    }
    let lab = Lab::new();
    let pki = Pki::new();
    let _nginx = ["pacs1", "pacs2"].map(|host| pki.serve(lab.host(host)));
    let _mirrors = mirrors(&lab);
    pki.equip(lab.host("lb"));
    let pools = "[pool.through]\nservers = { A = \"10.10.0.12:8443\" }\n\
                 [pool.ended]\nservers = { B = \"10.10.0.12:8080\" }\n";
    let toml = Pki::sections()
        + pools
        + &vip(
            "THROUGH",
            "l7-tcp",
            443,
            "{ OWN = \"10.10.0.11:8443\" }",
            r#"switch = [{ sni = "archive.example", pool = "through" }]"#,
        )
        + &vip(
            "ENDED",
            "l7-http",
            80,
            "{ OWN = \"10.10.0.11:8080\" }",
            r#"tls = { port = 444, cert = ["viewer", "archive"] }
               switch = [{ sni = ["archive.example"], pool = "ended" }]"#,
        );
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let ca = pki::write(lab.dir(), "ca.pem", &pki.hospital.pem());
    let browser = |name: &str, port: u16| {
        Browser::new(client).trusting(&ca).with(&["--resolve", &format!("{name}:{port}:10.10.0.100")])
    };

    // TLS passes through: the certificate is the server's own, which knows one name only.
    for (name, expected) in [(ARCHIVE, "pacs2 8443"), ("viewer.example", "pacs1 8443")] {
        let page = browser(name, 443).with(&["-k"]).page(&format!("https://{name}/"));
        assert!(page.body.starts_with(&format!("{expected} sni={name} ")), "{name}: {}", page.body);
    }
    let verified = browser(ARCHIVE, 443).page(&format!("https://{ARCHIVE}/"));
    assert!(verified.body.starts_with("pacs2"), "{}", verified.body);
    // TLS ends here: for each name its certificate.
    for (name, expected) in [(ARCHIVE, "pacs2"), ("viewer.example", "pacs1")] {
        let page = browser(name, 444).page(&format!("https://{name}:444/"));
        assert_eq!(Seen::in_page(&page).server, expected, "{name}");
    }
    // A client that names nobody gets the first.
    let unnamed = Browser::new(client).trusting(&ca).page("https://10.10.0.100:444/");
    assert_eq!(Seen::in_page(&unnamed).server, "pacs1");
}

#[test]
fn servers_are_believed_as_far_as_the_configuration_says() {
    if !require_root("servers_are_believed_as_far_as_the_configuration_says") {
        return;
    }
    let lab = Lab::new();
    let pki = Pki::new();
    let _nginx = pki.serve(lab.host("pacs1"));
    pki.equip(lab.host("lb"));
    let family = "verify = \"hospital\"";
    let named = "verify = \"hospital\", name = \"archive.example\"";
    let shown = "verify = \"hospital\", sni = \"archive.example\", client_cert = \"balancer\"";
    let cases = [
        (81, GOOD, named, Some("sni= client=")),
        (82, MISNAMED, named, None),
        (83, MISNAMED, family, Some("sni= client=")),
        (84, STRANGE, family, None),
        (85, STRANGE, "verify = \"off\"", Some("sni= client=")),
        (86, GOOD, "verify = \"system\"", None),
        (87, MUTUAL, shown, Some("sni=archive.example client=CN=balancer")),
    ];
    let toml = cases.map(|(port, server, tls, _)| {
        let servers = format!("{{ PACS1 = \"10.10.0.11:{server}\" }}");
        vip(
            &format!("V{port}"),
            "l7-http",
            port,
            &servers,
            &format!("backend_tls = {{ {tls} }}\nfallback = \"off\""),
        )
    });
    let _lbd = start_green(&lab, &(Pki::sections() + &toml.concat()));
    let browser = Browser::new(lab.host("client"));
    for (port, server, tls, expected) in cases {
        let page = browser.get(&url(port, "/")).expect("an answer");
        match expected {
            Some(said) => assert_eq!(page.body, format!("pacs1 {server} {said}"), "{tls}"),
            None => assert_eq!(page.status, 503, "{tls}: {page:?}"),
        }
    }
}

#[test]
fn clients_show_certificates_and_speak_what_is_allowed() {
    if !require_root("clients_show_certificates_and_speak_what_is_allowed") {
        return;
    }
    let lab = Lab::new();
    let pki = Pki::new();
    let _mirrors = mirrors(&lab);
    pki.equip(lab.host("lb"));
    let tls = |port: u16, more: &str| format!("tls = {{ port = {port}, cert = \"viewer\", {more} }}");
    let toml = Pki::sections()
        + &vip("REQUIRED", "l7-http", 81, BOTH, &tls(4431, "client_ca = \"hospital\""))
        + &vip(
            "OPTIONAL",
            "l7-http",
            82,
            BOTH,
            &tls(4432, "client_ca = \"hospital\", client_cert = \"optional\""),
        )
        + &vip("HIGH", "l7-http", 83, BOTH, &tls(4433, "security = \"high\""))
        + &vip("OLD", "l7-http", 84, BOTH, &tls(4434, "security = \"compatible\""))
        + &vip("FIPS", "l7-http", 85, BOTH, &tls(4435, "security = \"fips\""));
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let write = |name: &str, authority: &Authority, validity| -> PathBuf {
        pki::write(lab.dir(), name, &authority.issue("CT scanner 1", &[], validity))
    };
    let good = write("good.pem", &pki.hospital, Validity::Now);
    let expired = write("expired.pem", &pki.hospital, Validity::Expired);
    let strange = write("strange.pem", &pki.stranger, Validity::Now);
    let plain = Browser::new(client).with(&["-k"]);
    let served = |browser: &Browser, port: u16| {
        browser.get(&format!("https://{}/", at(port))).is_ok_and(|page| page.status == 200)
    };
    let shows = |pem: &Path, port| served(&plain.showing(pem), port);

    assert!(shows(&good, 4431) && shows(&good, 4432));
    assert!(!served(&plain, 4431), "a client without a certificate is let in");
    assert!(served(&plain, 4432), "a client needs no certificate where that is optional");
    for bad in [&expired, &strange] {
        assert!(!shows(bad, 4431) && !shows(bad, 4432), "{} is let in", bad.display());
    }
    for port in [81, 82] {
        assert!(plain.get(&url(port, "/")).is_err(), "port {port} is a side door");
    }

    // What an old modality speaks, by a client that may: TLS 1.0 and 1.1 are below today's default of OpenSSL.
    for (version, high, compatible) in
        [("1.0", false, true), ("1.1", false, true), ("1.2", true, true), ("1.3", true, true)]
    {
        let only = ["--tls-max", version, &format!("--tlsv{version}"), "--ciphers", "DEFAULT:@SECLEVEL=0"];
        let browser = plain.with(&only);
        let found = [4433, 4434, 4435].map(|port| served(&browser, port));
        assert_eq!(found, [high, compatible, high], "TLS {version}");
    }
    // Without forward secrecy, or without authenticated encryption: for the old only.
    for cipher in ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES256-SHA"] {
        let browser = plain.with(&["--tls-max", "1.2", "--ciphers", &format!("{cipher}:@SECLEVEL=0")]);
        assert!(!served(&browser, 4433) && !served(&browser, 4435), "{cipher} is spoken");
    }
}
