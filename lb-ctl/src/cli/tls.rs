//! Verbs about certificates.

use std::{
    fs::File,
    io::{Read as _, Write},
    path::Path,
};

use super::{
    Done, RunError, Terminal,
    args::{CaVerb, CertAddArgs, CertVerb, Form, TlsCheckArgs, TlsVerb},
    certificates::{cert_into, certs_into, families_into, family_into, findings_into},
    edit,
    lists::json_into,
    password,
};
use crate::{
    api::client::Client,
    model::{
        command::Edit,
        tls::{CertStatus, Finding, Level, PkiEdit, PkiStatus, Secret, TlsCheckQuery},
    },
    tls::{
        pfx::{self, PfxError},
        upload::{Upload, recognise},
    },
};

/// Longest file that is sent, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 19;
/// Times that a password is asked for.
const TRIES: usize = 3;

/// `lbctl tls`.
pub(super) async fn tls(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &TlsVerb,
) -> Result<Done, RunError> {
    match verb {
        TlsVerb::Cert(verb) => cert(client, terminal, verb).await,
        TlsVerb::Ca(verb) => ca(client, terminal, verb).await,
        TlsVerb::Check(TlsCheckArgs { vip, name, output }) => {
            let query = TlsCheckQuery { vip: vip.clone(), name: name.clone() };
            judged(terminal, &client.tls_check(&query).await?, *output)
        }
    }
}

async fn cert(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &CertVerb,
) -> Result<Done, RunError> {
    match verb {
        CertVerb::List { output } => {
            let PkiStatus { certs, .. } = client.tls().await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &certs)?,
                Form::Table => certs_into(&mut terminal.out, &certs, terminal.colour)?,
            }
            Ok(Done::Well)
        }
        CertVerb::Show { name, output } => {
            let shown = find_cert(client, name).await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &shown)?,
                Form::Table => cert_into(&mut terminal.out, &shown)?,
            }
            Ok(Done::Well)
        }
        CertVerb::Add(CertAddArgs { name, files, password_file, replace, dry_run }) => {
            let pem = pem_of(files, password_file.as_deref())?;
            let change = PkiEdit::CertAdd { name: name.clone(), pem, replace: *replace };
            edit(client, terminal, Edit::Pki(change), *dry_run).await
        }
        CertVerb::Delete { name, dry_run } => {
            let change = PkiEdit::CertDelete { name: name.clone() };
            edit(client, terminal, Edit::Pki(change), *dry_run).await
        }
        CertVerb::Check { name, output } => {
            let CertStatus { problem, mut findings, .. } = find_cert(client, name).await?;
            findings.extend(problem.map(Finding::fault));
            judged(terminal, &findings, *output)
        }
    }
}

async fn ca(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    verb: &CaVerb,
) -> Result<Done, RunError> {
    match verb {
        CaVerb::List { output } => {
            let PkiStatus { families, .. } = client.tls().await?;
            match output {
                Form::Json => json_into(&mut terminal.out, &families)?,
                Form::Table => families_into(&mut terminal.out, &families, terminal.colour)?,
            }
            Ok(Done::Well)
        }
        CaVerb::Show { family, output } => {
            let families = client.tls().await?.families;
            let shown = families.iter().find(|other| other.name == *family).ok_or_else(|| {
                RunError::Unknown(format!("there is no family `{family}`: see `lbctl tls ca list`"))
            })?;
            match output {
                Form::Json => json_into(&mut terminal.out, shown)?,
                Form::Table => family_into(&mut terminal.out, shown)?,
            }
            Ok(Done::Well)
        }
        CaVerb::Add { family, name, file, replace, dry_run } => {
            let pem = match recognised(file)? {
                (Upload::Pem(text), _) => text,
                (Upload::Pfx, _) => {
                    return Err(RunError::Local(format!(
                        "{} is a PFX file, and an authority is wanted without its key: export its certificate alone, as PEM or DER",
                        file.display()
                    )));
                }
            };
            let change =
                PkiEdit::AuthorityAdd { family: family.clone(), name: name.clone(), pem, replace: *replace };
            edit(client, terminal, Edit::Pki(change), *dry_run).await
        }
        CaVerb::Delete { family, name, dry_run } => {
            let change = PkiEdit::AuthorityDelete { family: family.clone(), name: name.clone() };
            edit(client, terminal, Edit::Pki(change), *dry_run).await
        }
    }
}

async fn find_cert(client: &Client, name: &str) -> Result<CertStatus, RunError> {
    let found = client.tls().await?.certs.into_iter().find(|cert| cert.name == name);
    found.ok_or_else(|| {
        RunError::Unknown(format!("there is no certificate `{name}`: see `lbctl tls cert list`"))
    })
}

fn judged(
    terminal: &mut Terminal<impl Write, impl Write>,
    findings: &[Finding],
    form: Form,
) -> Result<Done, RunError> {
    match form {
        Form::Json => json_into(&mut terminal.out, &findings)?,
        Form::Table => findings_into(&mut terminal.out, findings, terminal.colour)?,
    }
    let is_faulty = findings.iter().any(|finding| finding.level == Level::Fault);
    Ok(if is_faulty { Done::Degraded } else { Done::Well })
}

/// Files together, in PEM.
fn pem_of(files: &[impl AsRef<Path>], password_file: Option<&Path>) -> Result<Secret, RunError> {
    let mut whole = String::new();
    for file in files {
        let file = file.as_ref();
        match recognised(file)? {
            (Upload::Pem(text), _) => {
                whole.push_str(&text);
                whole.push('\n');
            }
            (Upload::Pfx, _) if files.len() > 1 => {
                return Err(RunError::Local(format!(
                    "{} is a PFX file, which holds all that is needed: name no other file beside it",
                    file.display()
                )));
            }
            (Upload::Pfx, bytes) => return open_pfx(file, &bytes, password_file),
        }
    }
    if password_file.is_some() {
        return Err(RunError::Local("there is no PFX file to open: leave --password-file out".to_owned()));
    }
    Ok(Secret::new(whole))
}

fn recognised(path: &Path) -> Result<(Upload, Vec<u8>), RunError> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|error| RunError::Local(format!("cannot read {shown}: {error}")))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let text = format!("{shown} is longer than {MAX_FILE_BYTES} bytes, which no certificate is");
        return Err(RunError::Local(text));
    }
    let upload = recognise(&bytes).map_err(|what| RunError::Local(format!("{shown} {what}")))?;
    Ok((upload, bytes))
}

/// Opens a PFX file: with the password of a file, with none if it has none, or with the one that is typed.
fn open_pfx(path: &Path, bytes: &[u8], password_file: Option<&Path>) -> Result<Secret, RunError> {
    let shown = path.display();
    let failed = |error: &PfxError| RunError::Local(format!("cannot open {shown}: {error}"));
    if let Some(file) = password_file {
        let password = password::from_file(file).map_err(RunError::Local)?;
        return pfx::to_pem(bytes, &password).map_err(|error| failed(&error));
    }
    let mut last = match pfx::to_pem(bytes, "") {
        Ok(pem) => return Ok(pem),
        Err(error) => error,
    };
    for _ in 0..TRIES {
        if last != PfxError::Password {
            break;
        }
        let password = password::ask(&format!("Password of {shown}")).map_err(RunError::Local)?;
        match pfx::to_pem(bytes, &password) {
            Ok(pem) => return Ok(pem),
            Err(error) => last = error,
        }
    }
    Err(failed(&last))
}
