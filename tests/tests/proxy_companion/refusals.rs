//! What HAProxy refuses.

use lb_tests::lab::require_root;

use crate::stand::{Session, Stand, VIP};

#[test]
fn a_vip_that_haproxy_refuses_goes_on_as_it_was_and_others_change() {
    if !require_root("proxy_companion: a broken raw line") {
        return;
    }
    let other = "[vip.W]\nmode = \"l7-tcp\"\n".to_owned()
        + &format!("ip = \"{VIP}\"\nports = [5000]\ncheck = {{ type = \"connect\" }}\n")
        + "servers = { A = \"10.10.0.11:4242\" }\n";
    let stand = Stand::with_toml(&(Stand::toml("") + &other));
    let mut session = stand.open();
    let before = stand.lbd.config();
    let broken = before
        .replace("[vip.V]\n", "[vip.V]\nhaproxy_extra = [\"such words\"]\n")
        .replace("ports = [5000]", "ports = [5001]");
    stand.lbd.write_config(&broken);
    let told = stand.lbd.ctl(&["config", "apply"]);
    let all = format!("{}{}", told.stdout, told.stderr);
    assert!(all.contains("VIP V: haproxy refuses it: unknown keyword 'such'"), "{all}");
    let status = stand.lbd.wait_status("the refusal is shown", |status| {
        status.vips.iter().any(|vip| vip.name == "V" && vip.problem.is_some())
    });
    let problem = status.vips.iter().find(|vip| vip.name == "V").and_then(|vip| vip.problem.clone());
    assert!(problem.as_ref().is_some_and(|text| text.contains("unknown keyword 'such'")), "{problem:?}");
    assert!(session.lives());
    assert!(stand.open().lives(), "V is served as it was");
    assert!(Session::try_open(stand.client(), 5001).is_ok(), "W is served as it is wanted");
    stand.lbd.write_config(&before);
    stand.ctl("config apply");
    stand.wait_served();
    assert!(session.lives());
}
