//! Certificates that change while HAProxy runs.

use lb_tests::lab::{
    pki::{Authority, Validity},
    require_root, wait_until,
};

use crate::stand::{DEADLINE, Stand, VIP};

const TLS_PORT: u16 = 4443;

#[test]
fn a_new_certificate_is_shown_without_a_reload_and_a_broken_one_is_told_and_not_used() {
    if !require_root("proxy_companion: certificates") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let pem = dir.path().join("web.pem");
    let authority = Authority::new("Hospital");
    let put = |text: &str| std::fs::write(&pem, text).expect("a certificate's file");
    put(&authority.issue("first.example", &["first.example"], Validity::Now));
    let toml = Stand::toml(&format!("tls = {{ port = {TLS_PORT}, cert = \"web\" }}"));
    let stand = Stand::with_toml(&format!("{toml}\n[pki.cert.web]\npem = \"{}\"\n", pem.display()));
    let shown = || {
        let at = format!("{VIP}:{TLS_PORT}");
        let words = ["3", "openssl", "s_client", "-connect", &at];
        stand.client().run("timeout", &words).stdout
    };
    assert!(shown().contains("CN = first.example"), "{}", shown());
    let before = stand.processes();
    put(&authority.issue("second.example", &["second.example"], Validity::Now));
    wait_until(DEADLINE, "the new certificate is shown", || shown().contains("CN = second.example"));
    assert_eq!(stand.processes(), before, "no process has begun for it");
    put("no certificate");
    let status = stand.lbd.wait_status("the broken one is told", |status| status.vips[0].problem.is_some());
    let problem = status.vips[0].problem.clone().unwrap_or_default();
    assert!(problem.contains("web.pem"), "{problem}");
    assert!(shown().contains("CN = second.example"), "what was is kept");
    assert!(stand.open().lives());
}
