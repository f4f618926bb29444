//! Files that a configuration names: keys, authorities, passwords, scripts. They are read when they are needed, not here;
//! what is missing now is worth a word, and the check or message that needs it says so again.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Texts,
    diag::{Code, Report},
    file::{Entry, Span},
    read,
};

/// What a file is for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Purpose {
    Certificate,
    Page,
    Password,
    Script,
}

/// The directory of the main file, which names of files are relative to. Absolute, so that a path means the same
/// wherever the configuration is shown; symbolic links stay, since a script may go by the name it is called by.
pub(super) fn directory(texts: &Texts) -> PathBuf {
    let main = texts.files.first().map(|file| file.path.as_path()).unwrap_or(Path::new("."));
    // Without a working directory a relative name leads nowhere, and stays what it is.
    let main = std::path::absolute(main).unwrap_or_else(|_no_directory| main.to_owned());
    main.parent().map(Path::to_owned).unwrap_or_default()
}

/// The path of a file, relative to `directory`.
pub(super) fn read_path(
    entry: &Entry,
    directory: &Path,
    example: &str,
    report: &mut Report<'_>,
) -> Option<PathBuf> {
    let text = read::string(entry, example, report)?;
    if text.is_empty() || text.ends_with('/') || text.contains('\0') {
        let key = &entry.key.value;
        report.error(
            Code::BadName,
            entry.node.span,
            format!("`{key}` is \"{text}\", which is not the name of a file"),
            format!("write `{key} = {example}`"),
        );
        return None;
    }
    Some(directory.join(text))
}

/// Warns when the file cannot be read, or a script not be run.
pub(super) fn advise(path: &Path, purpose: Purpose, span: Span, report: &mut Report<'_>) {
    let Err(error) = examine(path, purpose) else { return };
    let until = match purpose {
        Purpose::Certificate => "until lbd can read it, whatever needs it fails",
        Purpose::Page => "until lbd can read it, a plain page is served",
        Purpose::Password => "until lbd can read it, no mail is sent",
        Purpose::Script => "until it can be run, the check fails",
    };
    let cure = if error.kind() == io::ErrorKind::NotFound {
        "put the file there, or correct the name".to_owned()
    } else if error.kind() == io::ErrorKind::PermissionDenied && purpose == Purpose::Script {
        format!("run `chmod 755 {}`", path.display())
    } else {
        "correct the file's type or permissions".to_owned()
    };
    report.warning(
        Code::Unreadable,
        span,
        format!("cannot use {}: {error}", path.display()),
        format!("{cure}; {until}"),
    );
}

fn examine(path: &Path, purpose: Purpose) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    // A FIFO would block whoever opens it.
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if purpose == Purpose::Script && metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "not executable"));
    }
    File::open(path).map(drop)
}
