//! Where a VIP is served, and the TLS that ends there.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use super::{
    Context,
    text::{Text, quoted, with_port},
};
use crate::model::{
    config::{Ports, Vip},
    proxy::{Proxy, Security, Termination},
};

/// Ciphers of TLS 1.2 with forward secrecy and authenticated encryption.
const HIGH_CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";
/// Those of them that FIPS 140 approves.
const FIPS_CIPHERS: &str = "ECDHE+AESGCM";
/// Ciphers of TLS 1.3 that FIPS 140 approves.
const FIPS_CIPHERSUITES: &str = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
/// Curves that FIPS 140 approves.
const FIPS_CURVES: &str = "P-256:P-384:P-521";
/// What OpenSSL knows, without its lower bound for strength: TLS 1.0 and 1.1 are signed with SHA-1.
const COMPATIBLE_CIPHERS: &str = "DEFAULT:@SECLEVEL=0";

/// One line per range of ports. Every one is `transparent`: it does not matter when the address comes.
pub(super) fn write(text: &mut Text, context: &Context<'_>, vip: &Vip, proxy: &Proxy) {
    let accept_proxy = if proxy.accept_proxy { " accept-proxy" } else { "" };
    if proxy.tls.as_ref().is_none_or(|tls| tls.cleartext) {
        for range in ranges(&vip.ports) {
            text.line(format_args!("bind {} transparent{accept_proxy}", with_port(vip.ip, ports(range))));
        }
    }
    if let Some(tls) = &proxy.tls {
        let place = with_port(vip.ip, tls.port);
        text.line(format_args!("bind {place} transparent{accept_proxy}{}", termination(tls, context)));
    }
}

fn ranges(ports: &Ports) -> &[RangeInclusive<u16>] {
    match ports {
        Ports::All => &[],
        Ports::Ranges(ranges) => ranges,
    }
}

fn ports(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

fn termination(tls: &Termination, context: &Context<'_>) -> String {
    let mut words = String::from(" ssl");
    for cert in &tls.certs {
        words.push_str(" crt ");
        words.push_str(&quoted(&context.places.cert(&cert.name).to_string_lossy()));
    }
    if let Some(family) = &tls.client_ca {
        words.push_str(" ca-file ");
        words.push_str(&quoted(&context.places.family(&family.name).to_string_lossy()));
        words.push_str(if tls.client_required { " verify required" } else { " verify optional" });
    }
    words.push_str(&security(tls.security));
    words
}

fn security(security: Security) -> String {
    match security {
        Security::High => format!(" ssl-min-ver TLSv1.2 no-tls-tickets ciphers {HIGH_CIPHERS}"),
        Security::Compatible => format!(" ssl-min-ver TLSv1.0 ciphers {COMPATIBLE_CIPHERS}"),
        Security::Fips => format!(
            " ssl-min-ver TLSv1.2 no-tls-tickets ciphers {FIPS_CIPHERS} ciphersuites {FIPS_CIPHERSUITES} curves {FIPS_CURVES}"
        ),
    }
}
