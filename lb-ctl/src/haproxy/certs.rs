//! What the proxy's files of certificates hold, made from what the configuration names.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    model::{
        check::{CaFamily, ClientCert, Verify},
        proxied::Proxies,
        proxy::Proxy,
    },
    tls::{file, pem},
};

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gathered {
    /// By name below the proxy's directory: what the file is to hold. Some hold private keys.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// By VIP name: which of its files cannot be used, and the cure. Such a file is not among `files`.
    pub refused: BTreeMap<String, String>,
}

/// Where a certificate with its key stands below the proxy's directory.
#[must_use]
pub fn certificate_file(name: &str) -> PathBuf {
    Path::new("certs").join(format!("{name}.pem"))
}

/// Where the authorities of a family stand below the proxy's directory.
#[must_use]
pub fn family_file(name: &str) -> PathBuf {
    Path::new("ca").join(format!("{name}.pem"))
}

/// Reads every certificate and family that layer-7 VIPs name. Blocks.
///
/// A key is held against its certificate, and certificates are put in the order in which they sign each other, since a
/// client may insist on it (RFC 5246, 7.4.2).
#[must_use]
pub fn gather(proxies: &Proxies) -> Gathered {
    let mut read = BTreeMap::new();
    let mut refused = BTreeMap::new();
    for desired in &proxies.vips {
        let Some(proxy) = desired.vip.proxy.as_deref() else { continue };
        let certs =
            named_certs(proxy).into_iter().map(|cert| (certificate_file(&cert.name), Named::Cert(cert)));
        let families = named_families(proxy).into_iter().map(|ca| (family_file(&ca.name), Named::Family(ca)));
        let mut faults = Vec::new();
        for (path, named) in certs.chain(families) {
            if let Err(why) = read.entry(path).or_insert_with(|| named.read())
                && !faults.contains(why)
            {
                faults.push(why.clone());
            }
        }
        if !faults.is_empty() {
            refused.insert(desired.vip.name.clone(), faults.join("; "));
        }
    }
    let files = read.into_iter().filter_map(|(path, outcome)| Some((path, outcome.ok()?))).collect();
    Gathered { files, refused }
}

/// Certificates that a VIP shows to clients, and to servers.
#[must_use]
pub fn named_certs(proxy: &Proxy) -> Vec<&ClientCert> {
    let shown = proxy.tls.iter().flat_map(|tls| &tls.certs);
    shown.chain(proxy.backend_tls.iter().filter_map(|tls| tls.client_cert.as_ref())).collect()
}

/// Families that a VIP holds clients' certificates against, and servers'.
#[must_use]
pub fn named_families(proxy: &Proxy) -> Vec<&CaFamily> {
    let clients = proxy.tls.iter().filter_map(|tls| tls.client_ca.as_ref());
    let servers = proxy.backend_tls.iter().filter_map(|tls| match &tls.verify {
        Verify::Family(family) => Some(family),
        Verify::Off | Verify::System => None,
    });
    clients.chain(servers).collect()
}

enum Named<'a> {
    Cert(&'a ClientCert),
    Family(&'a CaFamily),
}

impl Named<'_> {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Cert(cert) => read_identity(cert),
            Self::Family(family) => read_family(family),
        }
    }
}

fn read_identity(cert: &ClientCert) -> Result<Vec<u8>, String> {
    let identity = file::identity(&cert.name, &cert.pem)?;
    Ok((pem::write(&identity.chain) + &pem::write_key(&identity.key)).into_bytes())
}

fn read_family(family: &CaFamily) -> Result<Vec<u8>, String> {
    let mut members = Vec::new();
    for path in &family.pems {
        for certificate in file::authorities(&family.name, path)? {
            if !members.contains(&certificate) {
                members.push(certificate);
            }
        }
    }
    if members.is_empty() {
        return Err(format!("[pki.ca.{}] has no members: name a PEM file in it", family.name));
    }
    Ok(pem::write(&members).into_bytes())
}
