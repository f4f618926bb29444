//! Real mail servers and webhooks hear of servers that fail and come back: whole, once, and also after they were away.

#![forbid(unsafe_code)]

mod bell;
mod daemon;

use std::{fs, net::SocketAddr, time::Duration};

use lb_ctl::model::{
    alerts::{Login, Mail, RelayTls},
    config::Config,
};
use lb_tests::lab::{
    Lab,
    mail::{HookServer, Identity, MailLogin, MailServer, MailTls},
    require_root,
    topology::Host,
    wait_until,
};

use self::bell::{Bell, SETTLE, by_mail, by_webhooks, config, relay, state_dir};

const USER: MailLogin<'_> = MailLogin { user: "lb", password: "open sesame" };

/// The host with the mail server, and the balancer's.
fn hosts(lab: &Lab) -> (&Host, &Host) {
    (lab.host("client"), lab.host("lb"))
}

fn at(host: &Host, port: u16) -> SocketAddr {
    SocketAddr::new(host.v4.into(), port)
}

fn login(host: &Host, password: &str) -> Login {
    let password_file = host.dir().join(password.replace(' ', "-"));
    fs::write(&password_file, format!("{password}\n")).expect("a password file");
    Login { user: USER.user.into(), password_file }
}

fn waiting(host: &Host) -> usize {
    fs::read_dir(state_dir(host).join("spool")).map_or(0, |files| files.flatten().count())
}

#[test]
fn a_burst_of_fifty_servers_is_one_mail_that_tells_all_of_it_and_one_when_they_are_back() {
    if !require_root("a_burst_of_fifty_servers_is_one_mail_that_tells_all_of_it_and_one_when_they_are_back") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let identity = Identity::make(server, "right", &server.v4.to_string());
    let mail_server = MailServer::start(server, at(server, 587), MailTls::Starttls, &identity, USER);
    let mail = relay(server, 587, RelayTls::Starttls, Some(login(lb, USER.password)), Some(&identity));
    let bell = Bell::start(lb, config(51, by_mail(mail)));
    bell.say(0..51, None);
    for n in 0..50 {
        bell.say(n..n + 1, Some("A-ASSOCIATE-RJ: called AE title not recognised"));
    }
    let [down] = mail_server.wait_for(1).try_into().expect("one mail");
    assert_eq!(down.header("Subject"), "[lb1] 50 servers down");
    assert_eq!(
        (down.from.as_str(), down.to.as_slice()),
        ("lb@hospital.example", &["pacs@hospital.example".into()][..])
    );
    assert!(down.tls && down.login, "{down:?}");
    assert_eq!(down.hello, "lb1");
    assert_eq!(down.header("From"), "lb@hospital.example");
    assert_eq!(down.header("To"), "pacs@hospital.example");
    assert_eq!(down.header("Auto-Submitted"), "auto-generated");
    assert!(down.header("Message-ID").ends_with(".lb1@hospital.example>"), "{down:?}");
    assert!(!down.header("Date").is_empty());
    assert!(down.text.contains("DICOM (10.10.0.100, ports 104): 1 of 51 real servers left"), "{}", down.text);
    for n in 0..50 {
        assert!(
            down.text.contains(&format!("DOWN: PACS{n:02} since ")),
            "PACS{n:02} is not in {}",
            down.text
        );
    }
    assert!(down.text.contains("lbctl check show DICOM/PACS07"), "{}", down.text);

    bell.say(0..51, None);
    let [_, back] = mail_server.wait_for(2).try_into().expect("two mails");
    assert_eq!(back.header("Subject"), "[lb1] 50 servers back");
    assert_ne!(back.header("Message-ID"), down.header("Message-ID"));
    wait_until(SETTLE, "nothing waits any more", || waiting(lb) == 0);
    bell.wait_problems(&[]);
}

#[test]
fn what_a_relay_does_not_take_is_named_with_the_cure_and_sent_once_that_is_done() {
    if !require_root("what_a_relay_does_not_take_is_named_with_the_cure_and_sent_once_that_is_done") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let name = server.v4.to_string();
    let right = Identity::make(server, "right", &name);
    let wrong_name = Identity::make(server, "name", "other.example");
    let stranger = Identity::make(server, "stranger", &name);
    let _named = MailServer::start(server, at(server, 588), MailTls::Starttls, &wrong_name, USER);
    let _open = MailServer::start(server, at(server, 25), MailTls::Off, &right, MailLogin::NONE);
    let mail_server = MailServer::start(server, at(server, 587), MailTls::Starttls, &right, USER);
    let known = |password: &str| Some(login(lb, password));
    let with = |mail: Mail| config(1, by_mail(mail));
    let nobody =
        Mail { to: vec!["nobody@hospital.example".into()], ..relay(server, 25, RelayTls::Off, None, None) };
    let table: [(Config, &str); 9] = [
        (
            with(relay(server, 587, RelayTls::Starttls, known("wrong"), Some(&right))),
            "refused the login of lb (535 ",
        ),
        (
            with(relay(server, 587, RelayTls::Starttls, known(USER.password), Some(&stranger))),
            "tls: no authority that counts has signed its certificate: name the one that has with `alerts.ca`",
        ),
        (
            with(relay(server, 588, RelayTls::Starttls, known(USER.password), Some(&wrong_name))),
            "tls: its certificate is for another name",
        ),
        (with(relay(server, 25, RelayTls::Starttls, None, Some(&right))), "offers no STARTTLS"),
        (
            with(relay(server, 25, RelayTls::Tls, None, Some(&right))),
            "tls: it does not speak TLS on this port: check the port and `alerts.tls`",
        ),
        (with(relay(server, 26, RelayTls::Off, None, None)), "Connection refused"),
        (with(nobody), "refused the mail (550 5.1.1 no such user)"),
        (
            with(relay(server, 587, RelayTls::Off, None, None)),
            "refused the mail (530 Must issue a STARTTLS command first)",
        ),
        (
            with(Mail {
                ca: Some(lb_ctl::model::check::CaFamily {
                    name: "gone".into(),
                    pems: vec!["/nowhere.pem".into()],
                }),
                ..relay(server, 587, RelayTls::Starttls, known(USER.password), None)
            }),
            "cannot read /nowhere.pem: No such file or directory (os error 2): check `pki.ca.gone`",
        ),
    ];
    let bell = Bell::start(lb, table[0].0.clone());
    for (n, (config, why)) in table.into_iter().enumerate() {
        if n == 0 {
            bell.say(0..1, Some("connect refused"));
        } else {
            // Each has its own message: one to somebody who is no longer told would be dropped.
            let is_down = n % 2 == 0;
            bell.configure(config);
            bell.say(0..1, is_down.then_some("connect refused"));
        }
        let problems = bell.wait_problems(&[why]);
        assert!(problems[0].starts_with("alerts cannot be sent to "), "{problems:?}");
    }
    assert_eq!(mail_server.received().len(), 0);
    bell.configure(with(relay(server, 587, RelayTls::Starttls, known(USER.password), Some(&right))));
    bell.wait_problems(&[]);
    let received = mail_server.received();
    assert!(!received.is_empty());
    assert!(received.iter().all(|mail| mail.to == ["pacs@hospital.example"]), "{received:?}");
    wait_until(SETTLE, "nothing waits any more", || waiting(lb) == 0);
}

#[test]
fn what_was_not_sent_outlives_a_restart_and_nothing_is_told_twice() {
    if !require_root("what_was_not_sent_outlives_a_restart_and_nothing_is_told_twice") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let identity = Identity::make(server, "right", &server.v4.to_string());
    let config = || config(3, by_mail(relay(server, 465, RelayTls::Tls, None, Some(&identity))));
    let bell = Bell::start(lb, config());
    bell.say(0..3, Some("connect refused"));
    bell.wait_problems(&["cannot reach relay"]);
    assert_eq!(waiting(lb), 1);
    drop(bell);

    // Away with the mail server as with the daemon: PACS01 comes back meanwhile.
    let mail_server = MailServer::start(server, at(server, 465), MailTls::Tls, &identity, MailLogin::NONE);
    let bell = Bell::start(lb, config());
    let [first] = mail_server.wait_for(1).try_into().expect("one mail");
    assert!(first.header("Subject").contains("DICOM has no server left, 3 servers down"), "{first:?}");
    assert!(first.tls, "{first:?}");
    bell.say(0..1, Some("connect refused"));
    bell.say(2..3, Some("connect refused"));
    bell.say(1..2, None);
    let [_, second] = mail_server.wait_for(2).try_into().expect("two mails");
    assert_eq!(second.header("Subject"), "[lb1] DICOM/PACS01 back, DICOM well again");
    drop(bell);

    let bell = Bell::start(lb, config());
    bell.say(0..1, None);
    bell.say(1..2, None);
    bell.say(2..3, Some("still refused"));
    let [_, _, third] = mail_server.wait_for(3).try_into().expect("three mails");
    assert!(third.header("Subject").starts_with("[lb1] UP: DICOM/PACS00 ("), "{third:?}");
    wait_until(SETTLE, "nothing waits any more", || waiting(lb) == 0);
}

#[test]
fn a_server_that_was_away_for_a_while_gets_all_that_waited_in_order() {
    if !require_root("a_server_that_was_away_for_a_while_gets_all_that_waited_in_order") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let identity = Identity::make(server, "right", &server.v4.to_string());
    let bell = Bell::start(lb, config(2, by_mail(relay(server, 25, RelayTls::Off, None, None))));
    bell.say(0..2, None);
    bell.say(0..1, Some("connect refused"));
    bell.wait_problems(&["Connection refused"]);
    bell.say(0..1, None);
    wait_until(SETTLE, "two mails wait", || waiting(lb) == 2);
    let mail_server = MailServer::start(server, at(server, 25), MailTls::Off, &identity, MailLogin::NONE);
    let [down, up] = mail_server.wait_for(2).try_into().expect("two mails");
    assert_eq!(down.header("Subject"), "[lb1] DOWN: DICOM/PACS00 (connect refused)");
    assert_eq!(up.header("Subject"), "[lb1] UP: DICOM/PACS00 (connect refused)");
    bell.wait_problems(&[]);
}

#[test]
fn webhooks_get_json_over_http_and_https_and_what_they_refuse_is_sent_again() {
    if !require_root("webhooks_get_json_over_http_and_https_and_what_they_refuse_is_sent_again") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let identity = Identity::make(server, "right", &server.v4.to_string());
    let open = HookServer::start(server, at(server, 8080), None, 204);
    let secure = HookServer::start(server, at(server, 8443), Some(&identity), 200);
    let broken = HookServer::start(server, at(server, 8081), None, 503);
    let url = |scheme: &str, port: u16| format!("{scheme}://{}:{port}/hook/secret?a=b", server.v4);
    let urls = [url("http", 8080), url("https", 8443), url("http", 8081), url("https", 8080)];
    let bell = Bell::start(lb, config(1, by_webhooks(&urls, Some(&identity))));
    bell.say(0..1, Some("connect refused"));
    for hook in [&open, &secure] {
        let [posted] = hook.wait_for(1).try_into().expect("one post");
        assert_eq!(posted.path, "/hook/secret?a=b");
        assert_eq!(posted.headers["content-type"], "application/json");
        assert_eq!(posted.body["node"], "lb1");
        assert_eq!(posted.body["text"], "[lb1] DICOM has no server left, DICOM/PACS00 down");
        assert_eq!(posted.body["events"][1]["rip"], "PACS00");
        assert_eq!(posted.body["events"][1]["reason"], "connect-refused");
        assert_eq!(posted.body["vips"]["DICOM"]["of"], 1);
    }
    let problems =
        bell.wait_problems(&["answered 503 Service Unavailable: said by the hook", "does not speak TLS"]);
    assert!(problems.iter().all(|problem| !problem.contains("secret")), "{problems:?}");
    // The second try is ten seconds after the first.
    let [first, second] = broken.wait_for(2).try_into().expect("two posts");
    assert_eq!(first.body, second.body);
    assert_eq!((open.posted().len(), secure.posted().len()), (1, 1), "who took it is not told again");
}

#[test]
fn a_test_goes_by_every_way_and_says_of_each_how_it_went() {
    if !require_root("a_test_goes_by_every_way_and_says_of_each_how_it_went") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let identity = Identity::make(server, "right", &server.v4.to_string());
    let mail_server = MailServer::start(server, at(server, 25), MailTls::Off, &identity, MailLogin::NONE);
    let hook = HookServer::start(server, at(server, 8080), None, 200);
    let urls = [format!("http://{}:8080/hook", server.v4), format!("http://{}:8081/hook", server.v4)];
    let to = ["pacs@hospital.example", "nobody@hospital.example"].map(str::to_owned).to_vec();
    let mail = Mail { to, ..relay(server, 25, RelayTls::Off, None, None) };
    let mut config = config(1, by_webhooks(&urls, None));
    config.alerts.mail = Some(mail);
    config.vips[0].alert_to = vec!["own@hospital.example".into()];
    let bell = Bell::start(lb, config.clone());
    let tested = bell.test();
    let went = |way: &str| tested.get(way).unwrap_or_else(|| panic!("no {way} in {tested:?}"));
    assert_eq!(tested.len(), 5, "{tested:?}");
    assert!(
        went("pacs@hospital.example").as_ref().is_ok_and(|how| how.starts_with("taken by relay ")),
        "{tested:?}"
    );
    assert!(went("own@hospital.example").is_ok(), "{tested:?}");
    assert!(went("nobody@hospital.example").as_ref().is_err_and(|why| why.contains("550")), "{tested:?}");
    let [first, second] = mail_server.wait_for(2).try_into().expect("two mails");
    for mail in [first, second] {
        assert_eq!(mail.header("Subject"), "[lb1] test of alerts: nothing is wrong");
    }
    assert_eq!(hook.posted()[0].body["test"], true);
    // Tests are not kept, and say nothing of what is so.
    assert_eq!(waiting(lb), 0);
    bell.wait_problems(&[]);

    config.alerts = by_webhooks(&[], None);
    bell.configure(config);
    let tested = bell.test();
    assert!(tested["alerts"].as_ref().is_err_and(|why| why.contains("set `alerts.from`")), "{tested:?}");
}

#[test]
fn a_server_that_never_answers_keeps_nobody_waiting_but_itself() {
    if !require_root("a_server_that_never_answers_keeps_nobody_waiting_but_itself") {
        return;
    }
    let lab = Lab::new();
    let (server, lb) = hosts(&lab);
    let silent = server.netns.enter(|| std::net::TcpListener::bind(at(server, 8081)).expect("a listener"));
    let hook = HookServer::start(server, at(server, 8080), None, 200);
    let url = |port: u16| format!("http://{}:{port}/hook", server.v4);
    let bell = Bell::start(lb, config(2, by_webhooks(&[url(8081), url(8080)], None)));
    bell.say(0..2, None);
    bell.say(0..1, Some("connect refused"));
    assert_eq!(hook.wait_for(1).len(), 1);
    bell.say(1..2, Some("connect refused"));
    assert_eq!(hook.wait_for(2).len(), 2);
    bell.wait_problems(&["did not answer within 10 s"]);
    drop(silent);
    assert!(Duration::from_secs(10) < SETTLE);
}
