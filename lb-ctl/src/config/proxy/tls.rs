//! `tls`, which ends at the VIP, and `backend_tls`, which leads to the servers.

use super::super::{
    check::{Scope, read_verify},
    diag::{Code, Report},
    file::{At, Entry, Table, Value},
    hosts::is_host,
    pki,
    read::{self, missing},
    service::Part,
};
use crate::model::{
    check::Verify,
    proxy::{BackendTls, Security, Termination},
};

const TLS_EXAMPLE: &str = "{ port = 443, cert = \"viewer\" }";
const BACKEND_EXAMPLE: &str = "{ verify = \"hospital\" }";
const SECURITIES: [(&str, Security); 3] =
    [("high", Security::High), ("compatible", Security::Compatible), ("fips", Security::Fips)];
/// Whether clients must have a certificate.
const CLIENT_CERT: [(&str, bool); 2] = [("required", true), ("optional", false)];

/// Reads `tls`. A profile may leave what must be said to the VIPs that use it.
pub(super) fn read_termination(
    entry: &Entry,
    scope: Scope<'_>,
    report: &mut Report<'_>,
) -> Option<Termination> {
    let table = read::table(entry, TLS_EXAMPLE, report)?;
    if scope.part == Part::Whole {
        for (key, example) in [("port", "443"), ("cert", "\"viewer\"")] {
            if !table.has(key) {
                missing(key, "`tls`", entry.key.span, example, report);
            }
        }
        if let (Some(required), None) = (table.get("client_cert"), table.get("client_ca")) {
            report.error(
                Code::MisplacedKey,
                required.key.span,
                "`client_cert` means nothing without `client_ca`: clients' certificates would be verified by nobody",
                "write the family of authorities, `client_ca = \"hospital\"`, or remove `client_cert`",
            );
        }
    }
    let port = table.get("port").and_then(|entry| read::port_of(entry, report));
    let certs = table.get("cert").map(|entry| {
        read::one_or_more(entry, "a certificate", "\"viewer\"", report, |name, span, report| {
            pki::cert_named(name, span, scope.sections, scope.pki, report)
        })
    });
    let client_ca = match table.get("client_ca") {
        Some(entry) => Some(pki::family(entry, scope.sections, scope.pki, report)?),
        None => None,
    };
    let required = table.get("client_cert").and_then(|entry| read::word(entry, &CLIENT_CERT, &[], report));
    let security = table.get("security").and_then(|entry| read::word(entry, &SECURITIES, &[], report));
    let cleartext = table.get("cleartext").and_then(|entry| read::boolean(entry, report));
    Some(Termination {
        port: port?,
        certs: certs?,
        client_required: required.unwrap_or(true),
        security: security.unwrap_or_default(),
        cleartext: cleartext.unwrap_or(client_ca.is_none()),
        client_ca,
    })
}

/// Where the port of TLS is said.
pub(super) fn port_place(table: &Table, tls: Option<&Termination>) -> Option<At<u16>> {
    let Value::Table(keys) = &table.get("tls")?.node.value else { return None };
    Some(At { value: tls?.port, span: keys.get("port")?.node.span })
}

/// Reads `backend_tls`.
pub(super) fn read_backend(entry: &Entry, scope: Scope<'_>, report: &mut Report<'_>) -> Option<BackendTls> {
    let table = read::table(entry, BACKEND_EXAMPLE, report)?;
    let verify = match table.get("verify") {
        Some(entry) => read_verify(entry, scope, report),
        None => {
            if scope.part == Part::Whole {
                report.error(
                    Code::MissingKey,
                    entry.key.span,
                    "`backend_tls` has no `verify`",
                    "add `verify = \"hospital\"`, a family of [pki], or \"system\", or \"off\" to trust any server",
                );
            }
            None
        }
    };
    let host = |key: &str, report: &mut Report<'_>| table.get(key).and_then(|entry| read_host(entry, report));
    let (name, sni) = (host("name", report), host("sni", report));
    if let (Some(entry), Some(Verify::Off)) = (table.get("name"), &verify) {
        report.error(
            Code::MisplacedKey,
            entry.key.span,
            "`name` means nothing with `verify = \"off\"`: no certificate is looked at",
            "write the family that vouches for the servers, `verify = \"hospital\"`, or remove `name`",
        );
    }
    let client_cert = match table.get("client_cert") {
        Some(entry) => Some(pki::client_cert(entry, scope.sections, scope.pki, report)?),
        None => None,
    };
    Some(BackendTls { verify: verify?, name, sni, client_cert })
}

fn read_host(entry: &Entry, report: &mut Report<'_>) -> Option<String> {
    let name = read::string(entry, "\"pacs.hospital.example\"", report)?;
    if !is_host(name) {
        let key = &entry.key.value;
        report.error(
            Code::BadName,
            entry.node.span,
            format!("`{key}` is \"{name}\", which is not the name of a machine"),
            "write the name in the server's certificate, such as \"pacs.hospital.example\"",
        );
        return None;
    }
    Some(name.to_owned())
}
