//! Files as people have them, made into PEM.

use rustls::pki_types::CertificateDer;

use super::{
    pem::{self, parse},
    pfx::is_pfx,
};

/// What a file turned out to be.
#[derive(Debug)]
pub enum Upload {
    /// PEM, or a certificate that was made PEM.
    Pem(String),
    /// A PFX file, which only its password opens.
    Pfx,
}

/// Recognises a file by its content.
///
/// # Errors
///
/// When it is nothing that is known, in words that follow the file's name.
pub fn recognise(bytes: &[u8]) -> Result<Upload, String> {
    // What stands between blocks of PEM may be in any encoding.
    let text = String::from_utf8_lossy(bytes);
    if text.contains("-----BEGIN ") {
        if text.contains("-----BEGIN PKCS7-----") {
            return Err("is PKCS #7: turn it into PEM with `openssl pkcs7 -print_certs -in FILE`".to_owned());
        }
        return Ok(Upload::Pem(text.into_owned()));
    }
    if is_pfx(bytes) {
        return Ok(Upload::Pfx);
    }
    let certificate = CertificateDer::from(bytes);
    if parse(&certificate).is_some() {
        return Ok(Upload::Pem(pem::write(&[certificate])));
    }
    Err("is neither PEM nor PFX nor a certificate in DER: export it anew as one of these".to_owned())
}
