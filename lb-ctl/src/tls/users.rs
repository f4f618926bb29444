//! What uses the certificates and families of a configuration. Pure.

use std::collections::BTreeMap;

use super::judge::Roles;
use crate::{
    haproxy::certs::{named_certs, named_families},
    model::{
        check::{CheckKind, TlsClient, Verify},
        config::{Config, Vip},
    },
};

/// By name: what uses it, in words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Users {
    certs: BTreeMap<String, Vec<String>>,
    roles: BTreeMap<String, Roles>,
    families: BTreeMap<String, Vec<String>>,
}

impl Users {
    /// Those of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut users = Self::default();
        for vip in &config.vips {
            users.add_proxy(vip);
            users.add_check(&format!("check of vip {}", vip.name), &vip.check.kind);
            for rip in &vip.rips {
                if let Some(check) = &rip.check {
                    users.add_check(&format!("check of {}/{}", vip.name, rip.name), &check.kind);
                }
            }
        }
        for family in config.alerts.authorities() {
            add(&mut users.families, &family.name, "alerts".to_owned());
        }
        users
    }

    /// Those of a certificate.
    #[must_use]
    pub fn of_cert(&self, name: &str) -> &[String] {
        self.certs.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// As what a certificate is shown.
    #[must_use]
    pub fn roles(&self, name: &str) -> Roles {
        self.roles.get(name).copied().unwrap_or_default()
    }

    /// Those of a family.
    #[must_use]
    pub fn of_family(&self, name: &str) -> &[String] {
        self.families.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn add_proxy(&mut self, vip: &Vip) {
        let Some(proxy) = vip.proxy.as_deref() else { return };
        let user = || format!("vip {}", vip.name);
        for cert in named_certs(proxy) {
            add(&mut self.certs, &cert.name, user());
            let roles = self.roles.entry(cert.name.clone()).or_default();
            roles.server |= proxy.tls.iter().any(|tls| tls.certs.contains(cert));
            roles.client |= proxy.backend_tls.iter().any(|tls| tls.client_cert.as_ref() == Some(cert));
        }
        for family in named_families(proxy) {
            add(&mut self.families, &family.name, user());
        }
    }

    fn add_check(&mut self, user: &str, kind: &CheckKind) {
        for tls in clients(kind) {
            if let Some(cert) = &tls.client_cert {
                add(&mut self.certs, &cert.name, user.to_owned());
                self.roles.entry(cert.name.clone()).or_default().client = true;
            }
            if let Verify::Family(family) = &tls.verify {
                add(&mut self.families, &family.name, user.to_owned());
            }
        }
    }
}

fn add(users: &mut BTreeMap<String, Vec<String>>, name: &str, user: String) {
    let users = users.entry(name.to_owned()).or_default();
    if !users.contains(&user) {
        users.push(user);
    }
}

/// How a check is a client of TLS, in all its parts.
fn clients(kind: &CheckKind) -> Vec<&TlsClient> {
    match kind {
        CheckKind::Http(http) => http.tls.iter().collect(),
        CheckKind::DicomEcho(dicom) => dicom.tls.iter().collect(),
        CheckKind::All(parts) | CheckKind::Any(parts) => {
            parts.iter().flat_map(|part| clients(&part.kind)).collect()
        }
        CheckKind::Off
        | CheckKind::Connect
        | CheckKind::Mllp(_)
        | CheckKind::Ping
        | CheckKind::Script(_)
        | CheckKind::Agent
        | CheckKind::Track { .. } => Vec::new(),
    }
}
