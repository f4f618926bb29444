//! Checks of a real nginx: what it answers, whose certificate it shows, whose it wants.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use lb_ctl::{
    health::run_once,
    model::{
        check::{BodyMatch, CaFamily, Check, CheckKind, ClientCert, HttpCheck, TlsClient, Verify},
        health::{CheckResult, FailureReason, RipId, Target},
    },
};
use lb_tests::lab::{
    Netns, Nginx,
    netns::{Lifetime, test_name},
    pki::{self, Authority, Validity},
    require_root,
};
use tempfile::TempDir;

/// Deadline of the checks; and how much later a busy machine may notice it.
const TIMEOUT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(5);

/// Ports of nginx: in the clear, and with the certificates that their names say.
const PLAIN: u16 = 8080;
const GOOD: u16 = 8443;
const EXPIRED: u16 = 8444;
const NOT_YET: u16 = 8445;
const STRANGER: u16 = 8446;
const SELF_SIGNED: u16 = 8447;
/// Wants a certificate of the client, over TLS 1.3 and over TLS 1.2 alone.
const MUTUAL: u16 = 8448;
const MUTUAL_OLD: u16 = 8449;

/// nginx in a namespace, with the files that checks of it need.
struct Site {
    _nginx: Nginx,
    netns: Netns,
    dir: TempDir,
}

impl Site {
    fn start(number: u32) -> Self {
        let netns = Netns::new(&test_name(number, "web"), Lifetime::WithProgram);
        let dir = TempDir::new().unwrap();
        let (hospital, stranger) = (Authority::new("Hospital CA"), Authority::new("Strange CA"));
        let archive = ["archive.test", "127.0.0.1"];
        let device = pki::self_signed("device", &archive, Validity::Now);
        for (name, pem) in [
            ("ca", hospital.pem()),
            ("device-ca", device.clone()),
            ("good", hospital.issue("archive", &archive, Validity::Now)),
            ("expired", hospital.issue("archive", &archive, Validity::Expired)),
            ("not-yet", hospital.issue("archive", &archive, Validity::NotYet)),
            ("stranger", stranger.issue("archive", &archive, Validity::Now)),
            ("device", device),
            ("client", hospital.issue("lb", &[], Validity::Now)),
            ("client-expired", hospital.issue("lb", &[], Validity::Expired)),
            ("client-stranger", stranger.issue("lb", &[], Validity::Now)),
        ] {
            let _path = pki::write(dir.path(), &format!("{name}.pem"), &pem);
        }
        let (www, at) = (dir.path().join("www"), dir.path().display());
        fs::create_dir(&www).unwrap();
        fs::write(www.join("ok"), "allServicesOperative\n").unwrap();
        fs::write(www.join("slow"), [b'.'; 4000]).unwrap();
        fs::File::create(www.join("huge")).unwrap().set_len(10_000_000).unwrap();
        let tls = |(port, name): (u16, &str)| {
            format!(
                "server {{
                     listen {port} ssl;
                     ssl_certificate {at}/{name}.pem;
                     ssl_certificate_key {at}/{name}.pem;
                     root {at}/www;
                 }}"
            )
        };
        let mutual = |(port, protocol): (u16, &str)| {
            format!(
                "server {{
                     listen {port} ssl;
                     ssl_certificate {at}/good.pem;
                     ssl_certificate_key {at}/good.pem;
                     ssl_client_certificate {at}/ca.pem;
                     ssl_verify_client on;
                     ssl_protocols {protocol};
                     root {at}/www;
                 }}"
            )
        };
        let secured = [
            (GOOD, "good"),
            (EXPIRED, "expired"),
            (NOT_YET, "not-yet"),
            (STRANGER, "stranger"),
            (SELF_SIGNED, "device"),
        ];
        let http = format!(
            "access_log off;
             server {{
                 listen {PLAIN};
                 root {at}/www;
                 location = /slow {{ limit_rate_after 1k; limit_rate 1; }}
                 location = /full {{ return 500 'disk full'; }}
                 location = /moved {{ return 302 https://elsewhere.test/login; }}
                 location = /silent {{ return 444; }}
                 location = /host {{ return 200 '$host $request_method $http_connection'; }}
             }}
             {} {}",
            secured.map(tls).concat(),
            [(MUTUAL, "TLSv1.3"), (MUTUAL_OLD, "TLSv1.2")].map(mutual).concat(),
        );
        let nginx = Nginx::start("nginx", &netns, dir.path(), &http, PLAIN);
        Self { _nginx: nginx, netns, dir }
    }

    fn pem(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    fn family(&self, member: &str) -> Verify {
        Verify::Family(CaFamily { name: "hospital".to_owned(), pems: vec![self.pem(member)] })
    }

    fn cert(&self, name: &str) -> Option<ClientCert> {
        Some(ClientCert { name: name.to_owned(), pem: self.pem(name) })
    }

    fn ask(&self, port: u16, http: HttpCheck) -> CheckResult {
        let check = Check { kind: CheckKind::Http(Box::new(http)), timeout: TIMEOUT, ..Check::default() };
        let id = RipId { vip: "WEB".to_owned(), rip: "A".to_owned() };
        let target = Target::new(id, (Ipv4Addr::LOCALHOST, port).into(), check);
        self.netns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_once(&target))
        })
    }
}

fn get(path: &str, body: Option<BodyMatch>) -> HttpCheck {
    HttpCheck {
        tls: None,
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: None,
        status: vec![200..=299],
        body,
        max_body_bytes: 65_536,
    }
}

fn secured(tls: TlsClient) -> HttpCheck {
    HttpCheck { tls: Some(tls), ..get("/ok", Some(BodyMatch::Equals("allServicesOperative".to_owned()))) }
}

const fn tls(verify: Verify) -> TlsClient {
    TlsClient { verify, client_cert: None, sni: None }
}

fn steps(result: &CheckResult) -> Vec<&str> {
    result.steps.iter().map(|step| step.name.as_str()).collect()
}

/// The check failed, so, in its last step, and within its deadline.
fn assert_failed(result: &CheckResult, reason: FailureReason, text: &str, steps_taken: &[&str]) {
    let failure = result.failure.as_ref().unwrap_or_else(|| panic!("it passed, in place of {text}"));
    assert_eq!((failure.reason, failure.text.as_str()), (reason, text));
    assert_eq!(steps(result), steps_taken, "{text}");
    assert!(result.took < TIMEOUT + SLACK, "took {:?}", result.took);
}

#[test]
fn an_answer_passes_or_fails_for_what_it_is() {
    if !require_root("an_answer_passes_or_fails_for_what_it_is") {
        return;
    }
    let site = Site::start(1);
    let equals = |text: &str| Some(BodyMatch::Equals(text.to_owned()));
    let result = site.ask(PLAIN, get("/ok", equals("allServicesOperative")));
    assert_eq!(result.failure, None);
    assert_eq!(steps(&result), ["connect", "request", "body"]);
    assert_eq!(result.output.as_deref(), Some("allServicesOperative\n"));
    assert!(result.took < TIMEOUT, "an answer that is whole is not waited on: took {:?}", result.took);
    let result = site.ask(PLAIN, get("/ok", None));
    assert_eq!((result.failure.as_ref(), steps(&result)), (None, vec!["connect", "request"]));

    let asked = ["connect", "request"];
    let result = site.ask(PLAIN, get("/full", None));
    let text = "request: answered 500 Internal Server Error, not 200-299";
    assert_failed(&result, FailureReason::HttpStatus, text, &asked);
    assert_eq!(result.output.as_deref(), Some("disk full"), "what the server said");
    let text = "request: answered 302 Found to \"https://elsewhere.test/login\": redirects are not followed: ask \
                there, or let the status pass";
    assert_failed(&site.ask(PLAIN, get("/moved", None)), FailureReason::HttpStatus, text, &asked);
    let lenient = HttpCheck { status: vec![200..=299, 302..=302], ..get("/moved", None) };
    assert_eq!(site.ask(PLAIN, lenient).failure, None);
    let text = "request: connection closed by the server before its answer ended";
    assert_failed(&site.ask(PLAIN, get("/silent", None)), FailureReason::ConnectionClosed, text, &asked);

    let read = ["connect", "request", "body"];
    let result = site.ask(PLAIN, get("/ok", equals("up")));
    let text = "body: it is \"allServicesOperative\": not \"up\"";
    assert_failed(&result, FailureReason::HttpBody, text, &read);
    let result = site.ask(PLAIN, get("/huge", equals("up")));
    let text = "body: 10000000 bytes, and no more than 65536 are read: raise max_body_bytes, or ask for less";
    assert_failed(&result, FailureReason::HttpBodyTooLong, text, &read);
    let result = site.ask(PLAIN, get("/slow", equals("up")));
    assert_failed(&result, FailureReason::AnswerTimeout, "body: no answer to its end within 2 s", &read);
    assert!(result.took >= TIMEOUT, "the whole time was given: {:?}", result.took);
}

#[test]
fn a_request_says_what_the_check_says() {
    if !require_root("a_request_says_what_the_check_says") {
        return;
    }
    let site = Site::start(2);
    let said = |check: HttpCheck| {
        let result = site.ask(PLAIN, check);
        assert_eq!(result.failure, None);
        result.output
    };
    let contains = Some(BodyMatch::Contains(String::new()));
    assert_eq!(said(get("/host", contains.clone())).as_deref(), Some("127.0.0.1 GET close"));
    let named = HttpCheck {
        host: Some("archive.test:99".to_owned()),
        method: "OPTIONS".to_owned(),
        ..get("/host", contains.clone())
    };
    assert_eq!(said(named).as_deref(), Some("archive.test OPTIONS close"));
    let head = HttpCheck { method: "HEAD".to_owned(), ..get("/huge", contains) };
    assert_eq!(said(head), None, "an answer to HEAD has no body, however long it says it is");
}

#[test]
fn a_certificate_counts_or_is_named_with_its_fault() {
    if !require_root("a_certificate_counts_or_is_named_with_its_fault") {
        return;
    }
    let site = Site::start(3);
    let named = |name: &str| TlsClient { sni: Some(name.to_owned()), ..tls(site.family("ca")) };
    for client in [tls(Verify::Off), tls(site.family("ca")), named("archive.test")] {
        let result = site.ask(GOOD, secured(client));
        assert_eq!(result.failure, None);
        assert_eq!(steps(&result), ["connect", "tls", "request", "body"]);
        assert_eq!(result.note, None);
    }
    let shaken = ["connect", "tls"];
    let fails =
        |port, client, reason, text| assert_failed(&site.ask(port, secured(client)), reason, text, &shaken);
    fails(
        EXPIRED,
        tls(site.family("ca")),
        FailureReason::TlsExpired,
        "tls: certificate expired on 2021-01-02 (CN=archive): renew it on the server",
    );
    fails(
        NOT_YET,
        tls(site.family("ca")),
        FailureReason::TlsExpired,
        "tls: certificate is not valid before 2090-01-02 (CN=archive): compare the clocks of server and load balancer",
    );
    fails(
        STRANGER,
        tls(site.family("ca")),
        FailureReason::TlsUnknownIssuer,
        "tls: certificate (CN=archive) is signed by CN=Strange CA, which leads to nobody in [pki.ca.hospital]: add that \
         authority there, or have the server send the whole chain",
    );
    fails(
        GOOD,
        named("pacs.test"),
        FailureReason::TlsWrongName,
        "tls: certificate (CN=archive) is for archive.test, 127.0.0.1, not for pacs.test: correct sni, or renew it",
    );
    fails(
        PLAIN,
        tls(Verify::Off),
        FailureReason::TlsHandshake,
        "tls: the server does not speak TLS on this port: correct port, or check without TLS",
    );
    let result = site.ask(EXPIRED, secured(tls(Verify::Off)));
    assert_eq!(result.failure, None);
    let note = "tls: certificate expired on 2021-01-02 (CN=archive); verify is off";
    assert_eq!(result.note.as_deref(), Some(note));
}

#[test]
fn a_device_that_signs_for_itself_counts_once_it_is_in_the_family() {
    if !require_root("a_device_that_signs_for_itself_counts_once_it_is_in_the_family") {
        return;
    }
    let site = Site::start(4);
    assert_eq!(site.ask(SELF_SIGNED, secured(tls(site.family("device-ca")))).failure, None);
    let elsewhere = TlsClient { sni: Some("pacs.test".to_owned()), ..tls(site.family("device-ca")) };
    let failure = site.ask(SELF_SIGNED, secured(elsewhere)).failure.unwrap();
    assert_eq!(failure.reason, FailureReason::TlsWrongName, "{}", failure.text);
    let result = site.ask(SELF_SIGNED, secured(tls(site.family("ca"))));
    let text = "tls: certificate (CN=device) is signed by itself, and not in [pki.ca.hospital]: add it there";
    assert_failed(&result, FailureReason::TlsUnknownIssuer, text, &["connect", "tls"]);
}

#[test]
fn a_server_that_wants_a_certificate_gets_the_right_one_or_is_not_blamed() {
    if !require_root("a_server_that_wants_a_certificate_gets_the_right_one_or_is_not_blamed") {
        return;
    }
    let site = Site::start(5);
    for port in [MUTUAL, MUTUAL_OLD] {
        let ask = |client_cert| site.ask(port, secured(TlsClient { client_cert, ..tls(site.family("ca")) }));
        assert_eq!(ask(site.cert("client")).failure, None, "{port}");
        let asked = ["connect", "tls", "request"];
        let refused = |result: CheckResult, text: &str| {
            assert_failed(&result, FailureReason::TlsClientCertificate, text, &asked);
        };
        let text = "request: answered 400 Bad Request, having asked for a client certificate and got none: set \
                    client_cert";
        refused(ask(None), text);
        for name in ["client-stranger", "client-expired"] {
            let text = format!("request: answered 400 Bad Request: it refuses client certificate {name}");
            refused(ask(site.cert(name)), &text);
        }
        let gone = ask(site.cert("nowhere"));
        let path = site.pem("nowhere");
        let text = format!(
            "tls: not tried, cannot read {}: No such file or directory (os error 2): put it there, or correct \
             [pki.cert.nowhere]",
            path.display()
        );
        assert_failed(&gone, FailureReason::Local, &text, &["connect"]);
    }
}
