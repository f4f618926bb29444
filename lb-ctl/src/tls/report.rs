//! What is said of the certificates of a configuration and of what clients of a VIP meet. Reads files, so it blocks.

use std::{net::IpAddr, time::SystemTime};

use rustls::pki_types::CertificateDer;

use super::{
    facts::{covers, facts},
    file,
    judge::{self, Known, Roles},
    pem::{Identity, parse},
    users::Users,
};
use crate::model::{
    check::{CaFamily, ClientCert, Verify},
    config::{Config, Vip},
    proxy::{Proxy, SwitchOn, Termination},
    tls::{CertStatus, CertificateFacts, FamilyStatus, Finding, MemberStatus, PkiStatus},
};

/// Seconds since the epoch, as certificates count them.
#[must_use]
pub fn epoch_secs(now: SystemTime) -> i64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Everything in `[pki]`, without keys.
#[must_use]
pub fn pki(config: &Config, now: SystemTime) -> PkiStatus {
    let users = Users::of(config);
    let now = epoch_secs(now);
    let known = Known::with_system(authorities(config));
    let certs = config.pki.certs.iter().map(|(name, path)| {
        let read = file::identity(name, path).map(|identity| identity.chain);
        let chain = read.as_deref().unwrap_or_default();
        CertStatus {
            name: name.clone(),
            file: path.clone(),
            users: users.of_cert(name).to_vec(),
            chain: all_facts(chain),
            findings: judge::identity(chain, users.roles(name), &known, now),
            problem: read.err(),
        }
    });
    let families = config.pki.families.iter().map(|(name, files)| {
        let mut together = Vec::new();
        let members = files.iter().map(|(label, path)| {
            let read = file::authorities(name, path);
            together.extend(read.iter().flatten().cloned());
            MemberStatus {
                name: label.clone(),
                file: path.clone(),
                certificates: all_facts(read.as_deref().unwrap_or_default()),
                problem: read.err(),
            }
        });
        FamilyStatus {
            name: name.clone(),
            users: users.of_family(name).to_vec(),
            members: members.collect(),
            findings: judge::family(&together, now),
        }
    });
    PkiStatus { certs: certs.collect(), families: families.collect() }
}

/// What clients of a VIP meet, and its servers; `wanted` is the name or address that clients are configured with.
///
/// # Errors
///
/// When the VIP has nothing to do with TLS.
pub fn vip(
    config: &Config,
    vip: &Vip,
    wanted: Option<&str>,
    now: SystemTime,
) -> Result<Vec<Finding>, String> {
    let proxy = vip.proxy.as_deref().filter(|proxy| proxy.tls.is_some() || proxy.backend_tls.is_some());
    let Some(proxy) = proxy else {
        return Err(format!(
            "vip `{}` neither ends TLS nor speaks it to its servers: it has no `tls` and no `backend_tls`",
            vip.name
        ));
    };
    let scene = Scene { known: Known::with_system(authorities(config)), now: epoch_secs(now) };
    let mut findings = Vec::new();
    if let Some(tls) = &proxy.tls {
        findings.extend(scene.termination(tls, proxy, vip.ip, wanted));
    }
    if let Some(backend) = &proxy.backend_tls {
        if let Some(cert) = &backend.client_cert {
            let roles = Roles { server: false, client: true };
            findings
                .extend(named(&format!("to servers, certificate {}", cert.name), scene.cert(cert, roles).0));
        }
        findings.extend(match &backend.verify {
            Verify::Family(family) => {
                named(&format!("servers, family {}", family.name), scene.family(family))
            }
            Verify::Off => vec![Finding::advice(
                "servers: whoever answers at their addresses is believed (`backend_tls.verify` is \"off\")",
            )],
            Verify::System => Vec::new(),
        });
    }
    Ok(findings)
}

/// Certificates of every family of a configuration that can be read.
#[must_use]
pub fn authorities(config: &Config) -> Vec<CertificateDer<'static>> {
    let files =
        config.pki.families.iter().flat_map(|(name, members)| {
            members.values().filter_map(|path| file::authorities(name, path).ok())
        });
    files.flatten().collect()
}

struct Scene {
    known: Known,
    now: i64,
}

impl Scene {
    fn termination(
        &self,
        tls: &Termination,
        proxy: &Proxy,
        ip: IpAddr,
        wanted: Option<&str>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut shown = Vec::new();
        for cert in &tls.certs {
            let (said, own) = self.cert(cert, Roles { server: true, client: false });
            let what = format!("certificate {}", cert.name);
            findings.extend(named(&what, said));
            if let Some(own) = own {
                findings.extend(named(&what, vec![hosts(&own, ip)]));
                shown.push(own);
            }
        }
        let mut hosts: Vec<&str> = wanted.into_iter().collect();
        hosts.extend(proxy.switch.iter().flat_map(|rule| match &rule.on {
            SwitchOn::Host(hosts) | SwitchOn::Sni(hosts) => hosts.iter().map(String::as_str).collect(),
            SwitchOn::CalledAet(_) | SwitchOn::CallingAet(_) | SwitchOn::PathPrefix(_) => Vec::new(),
        }));
        for host in hosts {
            findings.push(if shown.iter().any(|own| covers(own, host)) {
                Finding::well(format!("clients that ask for {host} get a certificate for it"))
            } else {
                Finding::fault(format!(
                    "clients that ask for {host} refuse what they get: no certificate of the VIP is for that name"
                ))
            });
        }
        if let Some(family) = &tls.client_ca {
            findings.extend(named(&format!("clients, family {}", family.name), self.family(family)));
        }
        findings
    }

    /// What is to be said of a certificate, and what it says itself.
    fn cert(&self, cert: &ClientCert, roles: Roles) -> (Vec<Finding>, Option<CertificateFacts>) {
        match file::identity(&cert.name, &cert.pem) {
            Ok(Identity { chain, key: _ }) => {
                let own = chain.first().and_then(|own| parse(own)).map(|own| facts(&own));
                (judge::identity(&chain, roles, &self.known, self.now), own)
            }
            Err(why) => (vec![Finding::fault(why)], None),
        }
    }

    fn family(&self, family: &CaFamily) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut members = Vec::new();
        for path in &family.pems {
            match file::authorities(&family.name, path) {
                Ok(read) => members.extend(read),
                Err(why) => findings.push(Finding::fault(why)),
            }
        }
        findings.extend(judge::family(&members, self.now));
        findings
    }
}

fn hosts(own: &CertificateFacts, ip: IpAddr) -> Finding {
    if own.names.is_empty() {
        return Finding::advice(
            "it names no host (subject alternative name): clients that look for one refuse it; have it made anew",
        );
    }
    let names = own.names.join(", ");
    let address = if covers(own, &ip.to_string()) { "" } else { ", not for the VIP's address" };
    Finding::well(format!("it is for {names}{address}"))
}

fn named(what: &str, findings: Vec<Finding>) -> Vec<Finding> {
    let named = |finding: Finding| Finding { text: format!("{what}: {}", finding.text), ..finding };
    findings.into_iter().map(named).collect()
}

fn all_facts(certificates: &[CertificateDer<'_>]) -> Vec<CertificateFacts> {
    certificates.iter().filter_map(|certificate| parse(certificate)).map(|parsed| facts(&parsed)).collect()
}
