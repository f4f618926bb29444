//! Which pool a connection or request goes to.
#![forbid(unsafe_code)]

use super::{
    section_name,
    text::{Text, all_quoted},
};
use crate::model::{
    config::{Mode, Vip},
    proxy::{Proxy, SwitchOn, SwitchRule, Unintelligible},
};

/// How long a client has to say where it wants to go, before it is led to the VIP's own servers or refused.
const PATIENCE: &str = "5s";
/// An A-ASSOCIATE-RQ begins with this byte (PS3.8, 9.3.2).
const ASSOCIATE_RQ: &str = "req.payload(0,1) -m bin -- 01";
/// Its bytes up to the end of the calling AE title.
const TITLED: &str = "req.len ge 42";

/// Waits for what rules look at, in the section that takes connections. False when they look at nothing.
pub(super) fn write_wait(text: &mut Text, vip: &Vip, proxy: &Proxy) -> bool {
    if vip.mode == Mode::L7Http || !(proxy.reads_ae_titles() || reads_hello(vip, proxy)) {
        return false;
    }
    text.line(format_args!("tcp-request inspect-delay {PATIENCE}"));
    if reads_hello(vip, proxy) {
        text.line("tcp-request content accept if { req.ssl_hello_type 1 }");
    }
    if proxy.reads_ae_titles() {
        text.line(
            "# A-ASSOCIATE-RQ (DICOM PS3.8, 9.3.2): PDU type, called AE title at 10, calling AE title at 26",
        );
        text.line(format_args!("acl associate {ASSOCIATE_RQ}"));
        text.line(format_args!("acl titled {TITLED}"));
        text.line("tcp-request content accept if associate titled");
        if proxy.unintelligible == Unintelligible::Refuse {
            text.line("tcp-request content reject");
        }
    }
    true
}

/// The rules in their order; the first that holds decides.
pub(super) fn write(text: &mut Text, vip: &Vip, proxy: &Proxy) {
    for rule in &proxy.switch {
        let pool = section_name(&vip.name, Some(&rule.pool));
        text.line(format_args!("use_backend {pool} if {}", condition(rule, vip, proxy)));
    }
}

/// TLS passes through, and the host that its client names is looked for in its first message.
fn reads_hello(vip: &Vip, proxy: &Proxy) -> bool {
    vip.mode == Mode::L7Tcp
        && proxy.tls.is_none()
        && proxy.switch.iter().any(|rule| matches!(rule.on, SwitchOn::Sni(_)))
}

fn condition(rule: &SwitchRule, vip: &Vip, proxy: &Proxy) -> String {
    match &rule.on {
        SwitchOn::CalledAet(titles) => title(10, titles),
        SwitchOn::CallingAet(titles) => title(26, titles),
        SwitchOn::Host(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(|host| host.to_lowercase()).collect();
            format!("{{ var(txn.host) -m str -- {} }}", all_quoted(&hosts))
        }
        SwitchOn::PathPrefix(prefixes) => format!("{{ path -m beg -- {} }}", all_quoted(prefixes)),
        SwitchOn::Sni(hosts) => {
            let named = if reads_hello(vip, proxy) { "req.ssl_sni" } else { "ssl_fc_sni" };
            format!("{{ {named} -m str -i -- {} }}", all_quoted(hosts))
        }
    }
}

/// An AE title has 16 bytes; spaces at either end mean nothing (PS3.8, 9.3.2; PS3.5, 6.2).
fn title(offset: u8, titles: &[String]) -> String {
    let trimmed: Vec<String> = titles.iter().map(|title| title.trim_matches(' ').to_owned()).collect();
    let trimmed = all_quoted(&trimmed);
    format!("associate titled {{ req.payload({offset},16),ltrim(' '),rtrim(' ') -m str -- {trimmed} }}")
}
