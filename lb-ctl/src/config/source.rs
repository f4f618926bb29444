//! Files: reading all texts of a configuration, and replacing one that an edit changed.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::diag::{Code, ConfigErrors, Diagnostic, Place, Severity};
use crate::{model::config::Sources, replace_file::replace_file};

/// Largest file that is read; a configuration of 2048 VIPs takes less than a quarter.
const MAX_BYTES: u64 = 4 << 20;

/// One file's text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// The texts of a configuration, read but not understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Texts {
    /// The main file first, then `conf.d` by name.
    pub files: Vec<Text>,
    /// Where an added VIP goes: the main file, or `conf.d/lbctl.toml` when there is a `conf.d`.
    pub additions: PathBuf,
}

impl Texts {
    /// A configuration that is this text alone.
    #[must_use]
    pub fn single(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        let path = path.into();
        Self { additions: path.clone(), files: vec![Text { path, text: text.into() }] }
    }

    /// Reads the main file and the `*.toml` files of `conf.d` beside it, in the order of their names. Hidden files
    /// are left alone.
    ///
    /// # Errors
    ///
    /// Every file that cannot be read, is too large, or is not UTF-8.
    pub fn read(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut paths = vec![sources.main.clone()];
        let conf_d = sources.conf_d();
        let mut additions = sources.main.clone();
        match toml_files(&conf_d) {
            Ok(files) => {
                paths.extend(files);
                additions = conf_d.join("lbctl.toml");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => errors.push(unreadable(&conf_d, &error.to_string(), "make the directory readable")),
        }
        let mut files = Vec::new();
        for path in paths {
            match read_text(&path) {
                Ok(text) => files.push(Text { path, text }),
                Err(error) => errors.push(*error),
            }
        }
        if errors.is_empty() { Ok(Self { files, additions }) } else { Err(ConfigErrors { errors }) }
    }
}

/// The files of a `conf.d` that are read, in the order of their names.
pub(crate) fn toml_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> Result<String, Box<Diagnostic>> {
    let read = || -> io::Result<(u64, Vec<u8>)> {
        let file = File::open(path)?;
        // A FIFO or a device would block or never end.
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let mut bytes = Vec::new();
        let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok((length as u64, bytes))
    };
    let (length, bytes) = read().map_err(|error| {
        let cure = if error.kind() == io::ErrorKind::NotFound {
            "create it, or name another file with `--config`"
        } else {
            "correct the file's type or permissions"
        };
        Box::new(unreadable(path, &error.to_string(), cure))
    })?;
    if length > MAX_BYTES {
        let fault = format!("larger than {MAX_BYTES} bytes");
        return Err(Box::new(unreadable(
            path,
            &fault,
            "split it into files under conf.d, or check that it is the right file",
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Box::new(Diagnostic {
            severity: Severity::Error,
            code: Code::Syntax,
            message: format!("byte {at} is not UTF-8"),
            place: Place::of(&Text { path: path.to_owned(), text }, at, at + 1),
            also: None,
            help: "save the file as UTF-8".to_owned(),
        })
    })
}

fn unreadable(path: &Path, fault: &str, cure: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: Code::Unreadable,
        message: format!("cannot read {}: {fault}", path.display()),
        place: Place::file(path.to_owned()),
        also: None,
        help: cure.to_owned(),
    }
}

/// A file that is to be replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rewrite {
    /// The file.
    pub path: PathBuf,
    /// Its text when the edit was planned; `None` = there was no such file.
    pub before: Option<String>,
    /// Its text from now on.
    pub after: String,
}

impl Rewrite {
    /// Replaces the file, if it is still as it was when the edit was planned. On disk when this returns.
    ///
    /// # Errors
    ///
    /// When the file has changed meanwhile, or cannot be written; the old file is then still whole.
    pub fn write(&self) -> Result<(), WriteError> {
        let now = match fs::read(&self.path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(WriteError::Io { path: self.path.clone(), source });
            }
        };
        if now.as_deref() != self.before.as_ref().map(String::as_bytes) {
            return Err(WriteError::Changed { path: self.path.clone() });
        }
        replace_file(&self.path, self.after.as_bytes())
            .map_err(|source| WriteError::Io { path: self.path.clone(), source })
    }
}

/// Why a file was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Somebody else wrote it.
    #[error("{} was changed by someone else meanwhile: look at it, then repeat the command", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot write {}: {source}; check the permissions of the directory and the room on the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(directory: &Path) -> Sources {
        Sources { main: directory.join("lbd.toml") }
    }

    #[test]
    fn conf_d_is_read_in_the_order_of_names_without_hidden_or_other_files() {
        let directory = tempfile::tempdir().unwrap();
        let conf_d = directory.path().join("conf.d");
        fs::create_dir(&conf_d).unwrap();
        fs::write(directory.path().join("lbd.toml"), "# main").unwrap();
        for name in ["b.toml", "a.toml", ".hidden.toml", "c.toml.bak"] {
            fs::write(conf_d.join(name), format!("# {name}")).unwrap();
        }
        let texts = Texts::read(&sources(directory.path())).unwrap();
        let read: Vec<_> = texts.files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(read, ["# main", "# a.toml", "# b.toml"]);
        assert_eq!(texts.additions, conf_d.join("lbctl.toml"));
    }

    #[test]
    fn every_unreadable_file_is_named_with_a_cure() {
        let directory = tempfile::tempdir().unwrap();
        let conf_d = directory.path().join("conf.d");
        fs::create_dir_all(conf_d.join("a.toml")).unwrap();
        fs::write(conf_d.join("b.toml"), b"# one\nx = \"\xff\"").unwrap();
        let errors = Texts::read(&sources(directory.path())).unwrap_err().errors;
        let seen: Vec<_> = errors.iter().map(|e| (e.code, e.place.line, e.help.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Code::Unreadable, 0, "create it, or name another file with `--config`"),
                (Code::Unreadable, 0, "correct the file's type or permissions"),
                (Code::Syntax, 2, "save the file as UTF-8"),
            ]
        );
    }

    #[test]
    fn a_file_changed_meanwhile_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lbd.toml");
        fs::write(&path, "theirs").unwrap();
        let rewrite = Rewrite { path: path.clone(), before: Some("ours".into()), after: "new".into() };
        assert!(matches!(rewrite.write(), Err(WriteError::Changed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
        Rewrite { before: Some("theirs".into()), ..rewrite }.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
