//! Files as people have them: PFX from Windows and from openssl, DER, and what is neither.

use std::{fs, path::Path};

use lb_ctl::tls::{
    pem,
    pfx::{PfxError, is_pfx, to_pem},
    upload::{Upload, recognise},
};
use tempfile::tempdir;

use crate::made::{Authority, openssl, write};

/// Makes a PFX file of a certificate below an authority below a root.
fn pfx(here: &Path, options: &[&str]) -> (Vec<u8>, [String; 4]) {
    let root = Authority::root("root");
    let middle = root.below("middle");
    let made = middle.issue("pacs", &["pacs.example"]);
    write(here, "cert.pem", &made.certificate);
    write(here, "key.pem", &made.key);
    write(here, "chain.pem", root.pem() + &middle.pem());
    let mut arguments =
        vec!["pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-certfile", "chain.pem"];
    arguments.extend(["-out", "made.pfx"]);
    arguments.extend(options);
    openssl(here, &arguments);
    (fs::read(here.join("made.pfx")).unwrap(), [made.certificate, middle.pem(), root.pem(), made.key])
}

#[test]
fn a_pfx_file_gives_certificate_chain_and_key() {
    let directory = tempdir().unwrap();
    let ways: [&[&str]; 4] = [
        &["-passout", "pass:geheim"],
        // As Windows Server before 2019 exports them.
        &["-passout", "pass:geheim", "-legacy"],
        &[
            "-passout",
            "pass:geheim",
            "-keypbe",
            "AES-256-CBC",
            "-certpbe",
            "AES-256-CBC",
            "-macalg",
            "sha256",
        ],
        &[
            "-passout",
            "pass:geheim",
            "-keypbe",
            "PBE-SHA1-3DES",
            "-certpbe",
            "PBE-SHA1-3DES",
            "-macalg",
            "sha1",
        ],
    ];
    for options in ways {
        let (bytes, [certificate, middle, root, key]) = pfx(directory.path(), options);
        assert!(is_pfx(&bytes), "{options:?}");
        assert!(matches!(recognise(&bytes), Ok(Upload::Pfx)), "{options:?}");
        let opened = to_pem(&bytes, "geheim").unwrap_or_else(|why| panic!("{options:?}: {why}"));
        let identity = pem::identity(opened.reveal().as_bytes()).unwrap();
        let blocks = |text: &str| text.replace("\r\n", "\n");
        assert_eq!(pem::write(&identity.chain), blocks(&(certificate + &middle + &root)), "{options:?}");
        assert_eq!(pem::write_key(&identity.key), blocks(&key), "{options:?}");
        assert_eq!(to_pem(&bytes, "falsch"), Err(PfxError::Password), "{options:?}");
        assert_eq!(to_pem(&bytes, ""), Err(PfxError::Password), "{options:?}");
    }
}

#[test]
fn an_empty_password_and_one_beyond_ascii_open_what_they_closed() {
    let directory = tempdir().unwrap();
    for password in ["", "Schlüssel ÄÖ"] {
        let option = format!("pass:{password}");
        let (bytes, _) = pfx(directory.path(), &["-passout", &option]);
        to_pem(&bytes, password).unwrap_or_else(|why| panic!("{password:?}: {why}"));
    }
}

#[test]
fn a_pfx_file_without_a_key_or_with_damage_is_refused_in_words() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    let (bytes, _) = pfx(here, &["-passout", "pass:x"]);
    openssl(
        here,
        &["pkcs12", "-export", "-nokeys", "-in", "chain.pem", "-out", "ca.pfx", "-passout", "pass:x"],
    );
    let keyless = to_pem(&fs::read(here.join("ca.pfx")).unwrap(), "x").unwrap_err();
    assert!(keyless.to_string().contains("it has no private key"), "{keyless}");
    for length in (0..bytes.len()).step_by(7) {
        assert!(to_pem(&bytes[..length], "x").is_err(), "{length}");
    }
    for at in (0..bytes.len()).step_by(11) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        // Whatever it is taken for, nothing panics, and what opens is whole.
        if let Ok(opened) = to_pem(&damaged, "x") {
            let _ = pem::identity(opened.reveal().as_bytes());
        }
    }
}

#[test]
fn files_are_known_by_what_is_in_them() {
    let directory = tempdir().unwrap();
    let here = directory.path();
    let root = Authority::root("root");
    write(here, "ca.pem", root.pem());
    openssl(here, &["x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.cer"]);
    let Upload::Pem(text) = recognise(&fs::read(here.join("ca.cer")).unwrap()).unwrap() else { panic!() };
    assert_eq!(text, root.pem().replace("\r\n", "\n"));
    // Whatever stands around the blocks, in whichever encoding.
    let mut around = b"\xef\xbb\xbfBag Attributes: M\xfcnchen\r\n".to_vec();
    around.extend(root.pem().replace('\n', "\r\n").bytes());
    let Upload::Pem(text) = recognise(&around).unwrap() else { panic!() };
    assert_eq!(pem::write(&pem::certificates(text.as_bytes()).unwrap()), root.pem().replace("\r\n", "\n"));
    openssl(here, &["crl2pkcs7", "-nocrl", "-certfile", "ca.pem", "-out", "ca.p7b"]);
    let p7b = recognise(&fs::read(here.join("ca.p7b")).unwrap()).unwrap_err();
    assert!(p7b.contains("openssl pkcs7 -print_certs"), "{p7b}");
    let wide: Vec<u8> = root.pem().encode_utf16().flat_map(u16::to_le_bytes).collect();
    for other in [b"".as_slice(), b"hello", b"\x30\x03\x02\x01\x03", b"\x30\x80", &wide] {
        assert!(
            matches!(&recognise(other), Err(why) if why.contains("neither PEM nor PFX")) || is_pfx(other),
            "{other:?}"
        );
    }
}
