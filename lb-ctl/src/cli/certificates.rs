//! Certificates on paper.

use std::io::{self, Write};

use comfy_table::Color;

use super::text::{Columns, Look, NONE, cell, painted, plain};
use crate::{
    model::tls::{CertStatus, CertificateFacts, FamilyStatus, Finding, Level, MemberStatus},
    tls::judge::date,
};

/// `lbctl tls cert list`.
pub fn certs_into(out: &mut impl Write, certs: &[CertStatus], colour: bool) -> io::Result<()> {
    if certs.is_empty() {
        return writeln!(out, "No certificates: add one with `lbctl tls cert add NAME FILE`.");
    }
    let mut columns = Columns::new(&["", "CERTIFICATE", "FOR", "EXPIRES", "USED BY", "REMARK"], &[], colour);
    for cert in certs {
        let look = look(worst(cert.problem.as_ref(), &cert.findings));
        let own = cert.chain.first();
        columns.push(vec![
            painted(look.symbol, look),
            painted(&cert.name, look),
            cell(own.map_or_else(|| NONE.to_owned(), is_for)),
            cell(own.map_or_else(|| NONE.to_owned(), |own| date(own.not_after_epoch_secs))),
            cell(listed(&cert.users)),
            cell(remark(cert.problem.as_ref(), &cert.findings)),
        ]);
    }
    columns.write_into(out)
}

/// `lbctl tls cert show`.
pub fn cert_into(out: &mut impl Write, cert: &CertStatus) -> io::Result<()> {
    writeln!(out, "certificate {}", plain(&cert.name))?;
    line(out, "file", &cert.file.display().to_string())?;
    line(out, "used by", &listed(&cert.users))?;
    if let Some(problem) = &cert.problem {
        line(out, "problem", problem)?;
    }
    for certificate in &cert.chain {
        writeln!(out)?;
        facts_into(out, certificate)?;
    }
    Ok(())
}

/// `lbctl tls ca list`.
pub fn families_into(out: &mut impl Write, families: &[FamilyStatus], colour: bool) -> io::Result<()> {
    if families.is_empty() {
        return writeln!(out, "No authorities: add one with `lbctl tls ca add FAMILY NAME FILE`.");
    }
    let mut columns = Columns::new(&["", "FAMILY", "AUTHORITY", "EXPIRES", "USED BY", "REMARK"], &[], colour);
    for family in families {
        for MemberStatus { name, problem, certificates, .. } in &family.members {
            let look = look(worst(problem.as_ref(), &family.findings));
            let first = certificates.iter().map(|certificate| certificate.not_after_epoch_secs).min();
            columns.push(vec![
                painted(look.symbol, look),
                painted(&family.name, look),
                cell(name),
                cell(first.map_or_else(|| NONE.to_owned(), date)),
                cell(listed(&family.users)),
                cell(remark(problem.as_ref(), &family.findings)),
            ]);
        }
    }
    columns.write_into(out)
}

/// `lbctl tls ca show`.
pub fn family_into(out: &mut impl Write, family: &FamilyStatus) -> io::Result<()> {
    writeln!(out, "family {}", plain(&family.name))?;
    line(out, "used by", &listed(&family.users))?;
    for member in &family.members {
        writeln!(out, "\nauthority {}", plain(&member.name))?;
        line(out, "file", &member.file.display().to_string())?;
        if let Some(problem) = &member.problem {
            line(out, "problem", problem)?;
        }
        for certificate in &member.certificates {
            writeln!(out)?;
            facts_into(out, certificate)?;
        }
    }
    Ok(())
}

/// `lbctl tls check`, `lbctl tls cert check`.
pub fn findings_into(out: &mut impl Write, findings: &[Finding], colour: bool) -> io::Result<()> {
    let mut columns = Columns::bare(&[], colour);
    for finding in findings {
        let word = match finding.level {
            Level::Well => "ok",
            Level::Advice => "note",
            Level::Fault => "FAULT",
        };
        columns.push(vec![painted(word, look(finding.level)), cell(&finding.text)]);
    }
    columns.write_into(out)
}

fn facts_into(out: &mut impl Write, certificate: &CertificateFacts) -> io::Result<()> {
    let CertificateFacts { subject, issuer, serial, names, key, authority, usages, sha256, .. } = certificate;
    line(out, "subject", subject)?;
    line(out, "issuer", issuer)?;
    line(out, "from", &date(certificate.not_before_epoch_secs))?;
    line(out, "until", &date(certificate.not_after_epoch_secs))?;
    if !names.is_empty() {
        line(out, "names", &names.join(", "))?;
    }
    line(out, "usage", &usages.as_ref().map_or_else(|| "any".to_owned(), |usages| usages.join(", ")))?;
    if *authority {
        line(out, "signs", "other certificates")?;
    }
    line(out, "key", key)?;
    line(out, "serial", serial)?;
    line(out, "sha256", sha256)
}

fn line(out: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "  {name:<8} {}", plain(value))
}

/// Names of a certificate, or whose it is if it has none.
fn is_for(own: &CertificateFacts) -> String {
    if own.names.is_empty() { own.subject.clone() } else { own.names.join(", ") }
}

fn listed(users: &[String]) -> String {
    if users.is_empty() { "nothing".to_owned() } else { users.join(", ") }
}

fn worst(problem: Option<&String>, findings: &[Finding]) -> Level {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Well);
    if problem.is_some() { Level::Fault } else { worst }
}

fn remark(problem: Option<&String>, findings: &[Finding]) -> String {
    let telling = findings.iter().filter(|finding| finding.level > Level::Well);
    let worst = telling.max_by_key(|finding| finding.level).map(|finding| finding.text.clone());
    problem.cloned().or(worst).unwrap_or_default()
}

const fn look(level: Level) -> Look {
    match level {
        Level::Well => Look { symbol: "^", colour: Color::DarkGreen },
        Level::Advice => Look { symbol: "!", colour: Color::DarkYellow },
        Level::Fault => Look { symbol: "v", colour: Color::DarkRed },
    }
}
