//! Header rules, the client's address in a header, and redirects to `https`.

use lb_tests::lab::{
    Lab,
    http::values,
    mirror::{MOVED, SOFTWARE, Seen},
    pki::{self, Authority, Validity},
    require_root,
};

use crate::{BOTH, get, mirrors, seen, start_green, url, vip};

#[test]
fn headers_are_changed_as_the_rules_say() {
    if !require_root("headers_are_changed_as_the_rules_say") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let rules = r#"headers = [
        { set = "X-Forwarded-Proto", value = "https" },
        { set = "Host", value = "%fi:443" },
        { add = "X-Ward", value = "of the balancer" },
        { delete = "X-Secret" },
        { replace = "X-Path", pattern = "^/old/(.*)$", with = "/new/\\1" },
        { set = "X-Words", value = "two words, 100 %% and a \"quote\"" },
        { replace = "Location", pattern = "^http:", with = "https:", of = "response" },
        { delete = "Server", of = "response" },
        { add = "X-Frame-Options", value = "DENY", of = "response" },
    ]"#;
    let toml = vip("RULES", "l7-http", 80, BOTH, rules)
        + &vip("PLAIN", "l7-http", 81, BOTH, "")
        + &vip("SILENT", "l7-http", 82, BOTH, "http = { forwarded_for = false }");
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");

    let sent =
        ["-H", "X-Ward: of the client", "-H", "X-Secret: s", "-H", "X-Path: /old/a", "-H", "Host: pacs"];
    let answer = get(client, &sent, &url(80, "/"));
    let at_server = Seen::in_page(&answer);
    assert_eq!(at_server.header("x-forwarded-proto"), ["https"]);
    assert_eq!(at_server.header("host"), ["10.10.0.100:443"]);
    assert_eq!(at_server.header("x-ward"), ["of the client", "of the balancer"]);
    assert!(at_server.header("x-secret").is_empty(), "{at_server:?}");
    assert_eq!(at_server.header("x-path"), ["/new/a"]);
    assert_eq!(at_server.header("x-words"), ["two words, 100 % and a \"quote\""]);
    assert_eq!(answer.header("server"), None);
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    let moved = get(client, &[], &url(80, MOVED));
    assert_eq!(moved.status, 302, "{moved:?}");
    let server = moved.header("x-server").expect("a mirror's answer");
    assert_eq!(moved.header("location"), Some(format!("https://{server}/elsewhere").as_str()));

    // Without rules everything stays as it is.
    let answer = get(client, &sent, &url(81, "/"));
    let at_server = Seen::in_page(&answer);
    assert_eq!(at_server.header("host"), ["pacs"]);
    assert_eq!(at_server.header("x-ward"), ["of the client"]);
    assert_eq!((at_server.header("x-secret"), at_server.header("x-path")), (vec!["s"], vec!["/old/a"]));
    assert_eq!(values(&answer.headers, "server"), [SOFTWARE]);

    // The server hears of the client by a header, behind whatever the client says of itself.
    let own = client.v4.to_string();
    assert_eq!(at_server.header("x-forwarded-for"), [own.as_str()]);
    assert_eq!(at_server.peer.ip().to_string(), "10.10.0.2", "the connection is the balancer's own");
    let claimed = seen(client, 81, &["-H", "X-Forwarded-For: 192.0.2.1"]);
    assert_eq!(claimed.header("x-forwarded-for"), ["192.0.2.1", own.as_str()]);
    assert!(seen(client, 82, &[]).header("x-forwarded-for").is_empty());
}

#[test]
fn clients_without_tls_are_sent_to_where_tls_is() {
    if !require_root("clients_without_tls_are_sent_to_where_tls_is") {
        return;
    }
    let lab = Lab::new();
    let _mirrors = mirrors(&lab);
    let authority = Authority::new("Hospital CA");
    let host = "ids7.hospital.example";
    let _cert = pki::write(&lab.host("lb").dir(), "web.pem", &authority.issue(host, &[host], Validity::Now));
    let ca = pki::write(lab.dir(), "ca.pem", &authority.pem()).display().to_string();
    let codes = [301, 302, 303, 307, 308];
    let redirecting = |(number, code): (u16, u16)| {
        let more = format!(
            "tls = {{ port = {}, cert = \"web\" }}\nhttps_redirect = {code}\n\
             headers = [{{ set = \"Host\", value = \"%fi:443\" }}]",
            4430 + number
        );
        vip(&format!("TO{code}"), "l7-http", 8000 + number, BOTH, &more)
    };
    let toml = "[pki.cert.web]\npem = \"web.pem\"\n".to_owned()
        + &(0..).zip(codes).map(redirecting).collect::<String>()
        + &vip("USUAL", "l7-http", 80, BOTH, "tls = { port = 443, cert = \"web\" }\nhttps_redirect = 308")
        + &vip("BOTH", "l7-http", 81, BOTH, "tls = { port = 444, cert = \"web\" }");
    let _lbd = start_green(&lab, &toml);
    let client = lab.host("client");

    // The client named a host, and is sent to the same one, whatever a rule makes of it for the servers.
    let resolved = ["--cacert", &ca, "--resolve", &format!("{host}:443:10.10.0.100")];
    let moved =
        get(client, &["--resolve", &format!("{host}:80:10.10.0.100")], &format!("http://{host}/a/b?c=d"));
    assert_eq!(
        (moved.status, moved.header("location")),
        (308, Some("https://ids7.hospital.example/a/b?c=d"))
    );
    let followed = get(client, &resolved, &format!("https://{host}/a/b?c=d"));
    assert_eq!(Seen::in_page(&followed).line, "GET /a/b?c=d HTTP/1.1");

    for (number, code) in (0..).zip(codes) {
        let moved = get(client, &[], &url(8000 + number, "/study?id=7"));
        let to = format!("https://10.10.0.100:{}/study?id=7", 4430 + number);
        assert_eq!((moved.status, moved.header("location")), (code, Some(to.as_str())));
        let reached = Seen::in_page(&get(client, &["-k"], &to));
        assert_eq!(reached.header("host"), ["10.10.0.100:443"]);
    }
    // Without a redirect both doors are open.
    for open in [url(81, "/"), "https://10.10.0.100:444/".to_owned()] {
        assert_eq!(get(client, &["-k"], &open).status, 200, "{open}");
    }
}
