//! How a check is a client of TLS.

use super::{
    super::{
        diag::{Code, Report},
        file::{Entry, Table},
        hosts::is_host,
        pki::{self, VERIFY_OFF, VERIFY_SYSTEM},
        read,
    },
    Scope,
};
use crate::model::check::{TlsClient, Verify};

/// Reads `verify`, `client_cert` and `sni`. Certificates are not verified unless that is asked for: archives mostly have
/// one of their own making, and an expired one serves clients no worse than before.
pub(super) fn read_tls(table: &Table, scope: Scope<'_>, report: &mut Report<'_>) -> Option<TlsClient> {
    let verify = match table.get("verify") {
        Some(entry) => read_verify(entry, scope, report),
        None => Some(Verify::Off),
    };
    let client_cert = match table.get("client_cert") {
        Some(entry) => pki::client_cert(entry, scope.sections, scope.pki, report).map(Some),
        None => Some(None),
    };
    let sni = match table.get("sni") {
        Some(entry) => read_name(entry, report).map(Some),
        None => Some(None),
    };
    Some(TlsClient { verify: verify?, client_cert: client_cert?, sni: sni? })
}

/// `verify`: a word, or the name of a family.
pub(in crate::config) fn read_verify(
    entry: &Entry,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Verify> {
    match read::string(entry, "\"system\"", report)? {
        VERIFY_OFF => Some(Verify::Off),
        VERIFY_SYSTEM => Some(Verify::System),
        _ => pki::family(entry, scope.sections, scope.pki, report).map(Verify::Family),
    }
}

fn read_name(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let name = read::string(entry, "\"pacs.hospital.example\"", report)?;
    if !is_host(name) {
        report.error(
            Code::BadCheck,
            entry.node.span,
            format!("`sni` is \"{name}\", which is not the name of a machine"),
            "write the name in the server's certificate, such as \"pacs.hospital.example\"",
        );
        return None;
    }
    Some(name.to_owned())
}
