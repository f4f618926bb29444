//! `[pki]`: certificates and families of authorities, by name (R30, R31).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    diag::{Code, Report},
    file::{Entry, Span, Table},
    files::{self, Purpose},
    read::{self, missing},
    sections::{Sections, entries, find, owner},
};
use crate::{
    model::{
        check::{CaFamily, ClientCert, Pki},
        config::Config,
    },
    tls::users::Users,
};

/// Sections of certificates and of families, as errors name them.
pub(super) const CERT: &str = "pki.cert";
pub(super) const FAMILY: &str = "pki.ca";
/// Words of `verify` that no family can be called by.
pub(super) const VERIFY_OFF: &str = "off";
pub(super) const VERIFY_SYSTEM: &str = "system";

/// Reads the section. Names of files are relative to `directory`.
pub(super) fn read_pki(sections: &Sections, directory: &Path, report: &mut Report<'_>) -> Pki {
    let mut pki = Pki::default();
    for cert in &sections.certs {
        let (table, named) = (entries(cert), owner(CERT, cert));
        read::check_keys(table, &named, &["pem"], &[], report);
        let Some(pem) = table.get("pem") else {
            missing("pem", &named, cert.key.span, "\"pki/client-cert.pem\"", report);
            continue;
        };
        if let Some(path) = read_path(pem, directory, report) {
            pki.certs.insert(cert.key.value.clone(), path);
        }
    }
    for family in &sections.families {
        let (table, named) = (entries(family), owner(FAMILY, family));
        read::check_keys(table, &named, &["members"], &[], report);
        let name = &family.key.value;
        if [VERIFY_OFF, VERIFY_SYSTEM].contains(&name.as_str()) {
            report.error(
                Code::BadName,
                family.key.span,
                format!("{named} cannot be called so: `verify = \"{name}\"` means something else"),
                "give it another name",
            );
        }
        let Some(members) = table.get("members") else {
            missing("members", &named, family.key.span, MEMBERS_EXAMPLE, report);
            continue;
        };
        if let Some(members) = read::table(members, MEMBERS_EXAMPLE, report) {
            pki.families.insert(name.clone(), read_members(members, directory, report));
            if members.entries.is_empty() {
                report.error(
                    Code::MissingKey,
                    family.key.span,
                    format!("{named} has no members: no server could be verified by it"),
                    format!("write `members = {MEMBERS_EXAMPLE}`"),
                );
            }
        }
    }
    pki
}

const MEMBERS_EXAMPLE: &str = "{ ca = \"pki/ca.pem\" }";

fn read_members(members: &Table, directory: &Path, report: &mut Report<'_>) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for member in &members.entries {
        read::check_name(&member.key, "authority", report);
        if let Some(path) = read_path(member, directory, report) {
            files.insert(member.key.value.clone(), path);
        }
    }
    files
}

/// The PEM file that an entry names.
fn read_path(entry: &Entry, directory: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    let path = files::read_path(entry, directory, "\"pki/ca.pem\"", report)?;
    files::advise(&path, Purpose::Certificate, entry.node.span, report);
    Some(path)
}

/// The family that an entry names.
pub(super) fn family(
    entry: &Entry,
    sections: &Sections,
    pki: &Pki,
    report: &mut Report<'_>,
) -> Option<CaFamily> {
    let name = read::string(entry, "\"hospital\"", report)?;
    let Some(members) = pki.families.get(name) else {
        // One that is there but could not be read was reported.
        if find(&sections.families, name).is_none() {
            sections.unknown(entry, FAMILY, &sections.families, report);
        }
        return None;
    };
    Some(CaFamily { name: name.to_owned(), pems: members.values().cloned().collect() })
}

/// The certificate that an entry names.
pub(super) fn client_cert(
    entry: &Entry,
    sections: &Sections,
    pki: &Pki,
    report: &mut Report<'_>,
) -> Option<ClientCert> {
    let name = read::string(entry, "\"client-cert\"", report)?;
    cert_named(name, entry.node.span, sections, pki, report)
}

/// The certificate of that name.
pub(super) fn cert_named(
    name: &str,
    span: Span,
    sections: &Sections,
    pki: &Pki,
    report: &mut Report<'_>,
) -> Option<ClientCert> {
    let Some(pem) = pki.certs.get(name) else {
        // One that is there but could not be read was reported.
        if find(&sections.certs, name).is_none() {
            sections.unknown_name(name, span, CERT, &sections.certs, report);
        }
        return None;
    };
    Some(ClientCert { name: name.to_owned(), pem: pem.clone() })
}

/// Warns of certificates and families that nothing names.
pub(super) fn advise_unused(config: &Config, sections: &Sections, report: &mut Report<'_>) {
    let users = Users::of(config);
    let certs = sections.certs.iter().map(|entry| (CERT, entry, users.of_cert(&entry.key.value)));
    let families = sections.families.iter().map(|entry| (FAMILY, entry, users.of_family(&entry.key.value)));
    for (what, entry, users) in certs.chain(families) {
        if users.is_empty() {
            let message = format!("{} is not used", owner(what, entry));
            let help = "remove it, or name it in a VIP or a check";
            report.warning(Code::Unused, entry.key.span, message, help);
        }
    }
}
