//! Requests that go to a pool by their host or path.

use lb_tests::lab::{
    Lab, Mirror,
    mirror::{Header, Seen},
    require_root,
};

use crate::{get, mirrors, start_green, url, vip};

#[test]
fn hosts_and_paths_lead_to_their_pools() {
    if !require_root("hosts_and_paths_lead_to_their_pools") {
        return;
    }
    let lab = Lab::new();
    let _own = mirrors(&lab);
    let _pools = [("pacs1", 9001), ("pacs2", 9002), ("pacs1", 9003)]
        .map(|(host, port)| Mirror::start(lab.host(host), port, Header::None));
    let toml = "[pool.viewer]\nservers = { VIEWER1 = \"10.10.0.11:9001\", VIEWER2 = \"10.10.0.12:9002\" }\n\
                [pool.wado]\nservers = { WADO1 = \"10.10.0.11:9003\" }\n"
        .to_owned()
        + &vip(
            "WEB",
            "l7-http",
            80,
            r#"{ PACS1 = "10.10.0.11:8080", PACS2 = "10.10.0.12:8080" }"#,
            r#"persist = "cookie"
               switch = [
                   { path_prefix = ["/wado", "/dicom-web"], pool = "wado" },
                   { host = ["viewer.example", "viewer"], pool = "viewer" },
               ]"#,
        );
    let lbd = start_green(&lab, &toml);
    let client = lab.host("client");
    let port = |host: &str, path: &str| {
        Seen::in_page(&get(client, &["-H", &format!("Host: {host}")], &url(80, path))).port
    };

    assert_eq!(port("pacs", "/"), 8080, "no rule matches");
    assert_eq!(port("pacs", "/wado/instances"), 9003);
    assert_eq!(port("pacs", "/dicom-web"), 9003);
    assert_eq!(port("pacs", "/archive/wado"), 8080, "not at its beginning");
    assert_eq!(port("viewer.example", "/wado"), 9003, "the first rule that matches");
    for host in ["viewer", "Viewer.Example", "viewer.example:80"] {
        let ports: Vec<_> = (0..4).map(|_| port(host, "/")).collect();
        assert!(ports.contains(&9001) && ports.contains(&9002), "{host}: {ports:?}");
    }
    assert_eq!(port("viewer.example.org", "/"), 8080, "another host");

    // A pool without a server does not fall back on another's.
    lbd.ctl(&["rip", "halt", "WEB/WADO1"]).expect_success();
    let none_left = get(client, &[], &url(80, "/wado"));
    assert_eq!(none_left.status, 503, "{none_left:?}");
    assert_eq!(port("pacs", "/"), 8080);
    assert_eq!(get(client, &["-H", "Host: viewer"], &url(80, "/")).status, 200);
}
