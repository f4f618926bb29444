//! Files of certificates and keys. Reading blocks.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use rustls::pki_types::CertificateDer;

use super::pem::{self, Identity};

/// Longest file that is read: a chain with its key takes a hundredth of it, all authorities of a system a third.
const MAX_BYTES: u64 = 1 << 20;

/// A certificate with its chain and key, by its name in `[pki.cert]`.
///
/// # Errors
///
/// Says why there is none, with the cure.
pub fn identity(name: &str, path: &Path) -> Result<Identity, String> {
    let text = read(path, &format!("[pki.cert.{name}]"))?;
    pem::identity(&text).map_err(|what| format!("{} {what}", path.display()))
}

/// Certificates of authorities, by their family's name in `[pki.ca]`.
///
/// # Errors
///
/// Says why there are none, with the cure.
pub fn authorities(family: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(path, &format!("[pki.ca.{family}]"))?;
    pem::certificates(&text).map_err(|what| format!("{} {what}", path.display()))
}

/// `named_in` is where the file's name stands.
fn read(path: &Path, named_in: &str) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |error: io::Error| {
        let cure = if error.kind() == io::ErrorKind::PermissionDenied {
            "let the user that lbd runs as read it".to_owned()
        } else {
            format!("put it there, or correct {named_in}")
        };
        format!("cannot read {shown}: {error}: {cure}")
    };
    // A FIFO would block whoever opens it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("{shown} is not a regular file: correct {named_in}"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!(
            "{shown} is longer than {MAX_BYTES} bytes, which no certificate is: correct {named_in}"
        ));
    }
    Ok(bytes)
}
