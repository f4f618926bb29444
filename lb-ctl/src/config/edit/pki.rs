//! Edits of `[pki]`: certificates and authorities, with their files.
//!
//! A new one gets a file below `pki/` beside the configuration. One that is replaced keeps the file that it has, wherever
//! that is; one that is removed takes its file along, if the file is below `pki/` and nothing else names it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml_edit::{InlineTable, Value};

use super::{EditError, Plan, Spot, find, hint, parse, refused};
use crate::{
    config::{Code, Diagnostic, files},
    model::{
        check::Pki,
        tls::{PkiEdit, Secret},
    },
    tls::{pem, users::Users},
};

/// Directory of files that edits make, beside the configuration.
const DIRECTORY: &str = "pki";
/// Directory in it, of authorities.
const AUTHORITIES: &str = "ca";

/// What is to become of a file of certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FileChange {
    /// It gets this content.
    Write {
        /// The file.
        path: PathBuf,
        /// In PEM.
        text: Secret,
        /// False: a file that is there already is somebody else's.
        replace: bool,
    },
    /// It goes.
    Remove {
        /// The file.
        path: PathBuf,
    },
}

/// Takes back what was said of files that are not there yet.
pub(super) fn forget_warnings(warnings: &mut Vec<Diagnostic>, changes: &[FileChange]) {
    for change in changes {
        if let FileChange::Write { path, .. } = change {
            let named = format!("cannot use {}:", path.display());
            warnings
                .retain(|warning| warning.code != Code::Unreadable || !warning.message.starts_with(&named));
        }
    }
}

impl Plan<'_> {
    pub(super) fn pki(&mut self, edit: &PkiEdit) -> Result<(), EditError> {
        match edit {
            PkiEdit::CertAdd { name, pem, replace } => self.cert_add(name, pem, *replace),
            PkiEdit::CertDelete { name } => self.cert_delete(name),
            PkiEdit::AuthorityAdd { family, name, pem, replace } => {
                self.authority_add(family, name, pem, *replace)
            }
            PkiEdit::AuthorityDelete { family, name } => match name {
                Some(name) => self.member_delete(family, name),
                None => self.family_delete(family),
            },
        }
    }

    fn cert_add(&mut self, name: &str, text: &Secret, replace: bool) -> Result<(), EditError> {
        let identity = pem::identity(text.reveal().as_bytes());
        let identity = identity.map_err(|what| refused(format!("certificate `{name}` {what}")))?;
        let text = Secret::new(pem::write(&identity.chain) + &pem::write_key(&identity.key));
        if let Some(path) = self.known().certs.get(name).cloned() {
            if !replace {
                return Err(refused(format!(
                    "certificate `{name}` exists: add `--replace` to put this one in its place"
                )));
            }
            self.files.push(FileChange::Write { path, text, replace: true });
            return Ok(());
        }
        let file = Path::new(DIRECTORY).join(file_name(name)?);
        self.append(&["pki", "cert"], name, one_key("pem", &file))?;
        self.write(&file, text, replace);
        Ok(())
    }

    fn authority_add(
        &mut self,
        family: &str,
        name: &str,
        text: &str,
        replace: bool,
    ) -> Result<(), EditError> {
        let certificates = pem::certificates(text.as_bytes());
        let certificates = certificates.map_err(|what| refused(format!("authority `{name}` {what}")))?;
        let text = Secret::new(pem::write(&certificates));
        let members = self.known().families.get(family).cloned();
        if let Some(path) = members.as_ref().and_then(|members| members.get(name)) {
            if !replace {
                return Err(refused(format!(
                    "family `{family}` has an authority `{name}`: add `--replace` to put this one in its place"
                )));
            }
            self.files.push(FileChange::Write { path: path.clone(), text, replace: true });
            return Ok(());
        }
        file_name(family)?;
        let file = Path::new(DIRECTORY).join(AUTHORITIES).join(family).join(file_name(name)?);
        if members.is_some() {
            let spot = self.pki_spot("ca", family)?;
            self.put(spot.file, &spot.keys(), &["members", name], Value::from(shown(&file)))?;
        } else {
            let mut keys = InlineTable::new();
            keys.insert("members", one_key(name, &file).into());
            self.append(&["pki", "ca"], family, keys)?;
        }
        self.write(&file, text, replace);
        Ok(())
    }

    fn cert_delete(&mut self, name: &str) -> Result<(), EditError> {
        let known = self.known();
        let Some(path) = known.certs.get(name).cloned() else {
            let hint = hint(name, known.certs.keys().map(String::as_str), "see `lbctl tls cert list`");
            return Err(refused(format!("there is no certificate `{name}`: {hint}")));
        };
        let users = Users::of(&self.loaded.config);
        refuse_in_use(&format!("certificate `{name}`"), users.of_cert(name))?;
        let spot = self.pki_spot("cert", name)?;
        self.cut(spot.file, &spot.keys())?;
        self.drop_file(path);
        Ok(())
    }

    fn member_delete(&mut self, family: &str, name: &str) -> Result<(), EditError> {
        let members = self.family(family)?;
        let Some(path) = members.get(name).cloned() else {
            let hint = hint(name, members.keys().map(String::as_str), "see `lbctl tls ca list`");
            return Err(refused(format!("family `{family}` has no authority `{name}`: {hint}")));
        };
        if members.len() == 1 {
            return Err(refused(format!(
                "`{name}` is the last authority of family `{family}`: delete the family with `lbctl tls ca delete {family}`"
            )));
        }
        let spot = self.pki_spot("ca", family)?;
        let mut keys = spot.keys();
        keys.extend(["members", name]);
        self.cut(spot.file, &keys)?;
        self.drop_file(path);
        Ok(())
    }

    fn family_delete(&mut self, family: &str) -> Result<(), EditError> {
        let paths: Vec<PathBuf> = self.family(family)?.values().cloned().collect();
        let users = Users::of(&self.loaded.config);
        refuse_in_use(&format!("family `{family}`"), users.of_family(family))?;
        let spot = self.pki_spot("ca", family)?;
        self.cut(spot.file, &spot.keys())?;
        for path in paths {
            self.drop_file(path);
        }
        Ok(())
    }

    const fn known(&self) -> &Pki {
        &self.loaded.config.pki
    }

    fn family(&self, name: &str) -> Result<&BTreeMap<String, PathBuf>, EditError> {
        let families = &self.known().families;
        families.get(name).ok_or_else(|| {
            let hint = hint(name, families.keys().map(String::as_str), "see `lbctl tls ca list`");
            refused(format!("there is no family `{name}`: {hint}"))
        })
    }

    fn pki_spot(&self, kind: &str, name: &str) -> Result<Spot, EditError> {
        let path = ["pki", kind, name];
        for (file, text) in self.texts.files.iter().enumerate() {
            if find(parse(&text.text)?.as_item(), &path).is_some() {
                return Ok(Spot { file, path: path.map(str::to_owned).to_vec() });
            }
        }
        let path = path.join(".");
        Err(refused(format!(
            "`{path}` is not in the files any more: run `lbctl apply`, then repeat the command"
        )))
    }

    fn write(&mut self, file: &Path, text: Secret, replace: bool) {
        let path = files::directory(&self.loaded.texts).join(file);
        self.files.push(FileChange::Write { path, text, replace });
    }

    /// Removes a file that an edit made, unless something else names it.
    fn drop_file(&mut self, path: PathBuf) {
        let ours = files::directory(&self.loaded.texts).join(DIRECTORY);
        let known = self.known();
        let members = known.families.values().flat_map(|members| members.values());
        let named = known.certs.values().chain(members).filter(|named| **named == path).count();
        if path.starts_with(ours) && named == 1 {
            self.files.push(FileChange::Remove { path });
        } else {
            self.notes.push(format!("{} stays where it is: remove it by hand", path.display()));
        }
    }
}

fn refuse_in_use(what: &str, users: &[String]) -> Result<(), EditError> {
    if users.is_empty() {
        return Ok(());
    }
    Err(refused(format!("{what} is in use by {}: give them another first, or delete them", users.join(", "))))
}

/// A name as that of a file. What else is wrong with it the configuration's own rules find, before anything is written.
fn file_name(name: &str) -> Result<PathBuf, EditError> {
    if name.starts_with('.') || name.contains('/') {
        return Err(refused(format!(
            "`{name}` cannot be the name of a file: begin with a letter, and go on with letters, digits, `_`, `-` and `.`"
        )));
    }
    Ok(PathBuf::from(format!("{name}.pem")))
}

fn one_key(key: &str, file: &Path) -> InlineTable {
    InlineTable::from_iter([(key, Value::from(shown(file)))])
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
