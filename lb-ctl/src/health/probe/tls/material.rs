//! What files say: authorities to verify by, a certificate to show; read once, and again when a file has changed.
#![forbid(unsafe_code)]

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::{sync::OnceCell, task::spawn_blocking, time::Instant};

use super::verifier::{Pinned, Unverified};
use crate::model::check::{CaFamily, ClientCert, Verify};

/// Files are looked at again when they were not for so long; a check in between goes by what is known.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// The system's authorities are a directory full of files; they are read again after this time, whatever they say.
const SYSTEM_FRESH_FOR: Duration = Duration::from_secs(600);
/// What no check has asked for in this time is forgotten, when something new is asked for.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// What a check needs of the file system.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Wanted {
    pub(super) verify: Verify,
    pub(super) client_cert: Option<ClientCert>,
}

/// What files were read as.
#[derive(Clone, Debug)]
pub(super) struct Material {
    pub(super) verifier: Arc<dyn ServerCertVerifier>,
    pub(super) client: Option<Arc<CertifiedKey>>,
}

/// A line for people, where there is no material.
type Outcome = Result<Material, String>;

/// All material in use.
#[derive(Debug, Default)]
pub(super) struct Shelf(Mutex<HashMap<Wanted, Arc<Place>>>);

/// One piece of it. The cell holds the first ones to come back until one of them has read the files.
#[derive(Debug)]
struct Place {
    asked_at: Mutex<Instant>,
    seen: OnceCell<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    /// `None` for what could not be read: it is tried again, since what stood in its way may have left no mark on it.
    stamps: Option<Stamps>,
    outcome: Outcome,
}

/// What tells a file from an earlier one of the same name: inode, size, time of the last change to either (a change of
/// permissions counts); `None` = there is no such file.
type Stamps = Vec<Option<[i64; 4]>>;

impl Shelf {
    /// The material, or why there is none.
    pub(super) async fn take(&self, wanted: &Wanted, provider: &Arc<CryptoProvider>) -> Outcome {
        let place = self.place(wanted);
        let seen = place
            .seen
            .get_or_try_init(|| async { Seen::now(wanted, provider).await.map(Mutex::new) })
            .await?;
        let Some(known) = stale(seen, fresh_for(&wanted.verify)) else {
            return locked(seen).outcome.clone();
        };
        let wanted_files = wanted.clone();
        let is_same = wanted.verify != Verify::System
            && known.is_some()
            && off_this_thread(move || Some(stamps(&wanted_files))).await? == known;
        if !is_same {
            let anew = Seen::now(wanted, provider).await?;
            *locked(seen) = anew;
        }
        locked(seen).outcome.clone()
    }

    fn place(&self, wanted: &Wanted) -> Arc<Place> {
        let now = Instant::now();
        let mut places = locked(&self.0);
        if let Some(place) = places.get(wanted) {
            *locked(&place.asked_at) = now;
            return Arc::clone(place);
        }
        places.retain(|_, place| now.duration_since(*locked(&place.asked_at)) < KEPT_FOR);
        let place = Arc::new(Place { asked_at: Mutex::new(now), seen: OnceCell::new() });
        places.insert(wanted.clone(), Arc::clone(&place));
        place
    }
}

impl Seen {
    async fn now(wanted: &Wanted, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let (wanted, provider) = (wanted.clone(), Arc::clone(provider));
        // The stamps first: what changes between is seen the next time.
        let (stamps, outcome) = off_this_thread(move || (stamps(&wanted), read(&wanted, &provider))).await?;
        Ok(Self { at: Instant::now(), stamps: outcome.is_ok().then_some(stamps), outcome })
    }
}

/// The stamps to compare with, for the one who is to look again; `None` for all others.
fn stale(seen: &Mutex<Seen>, fresh_for: Duration) -> Option<Option<Stamps>> {
    let mut seen = locked(seen);
    let now = Instant::now();
    if now.duration_since(seen.at) < fresh_for {
        return None;
    }
    seen.at = now;
    Some(seen.stamps.clone())
}

const fn fresh_for(verify: &Verify) -> Duration {
    match verify {
        Verify::System => SYSTEM_FRESH_FOR,
        Verify::Off | Verify::Family(_) => FRESH_FOR,
    }
}

/// Nothing panics while it holds one of these locks, and what they guard is replaced whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn off_this_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    spawn_blocking(work).await.map_err(|error| format!("a defect in lbd: {error}; please report this"))
}

fn files(wanted: &Wanted) -> impl Iterator<Item = &PathBuf> {
    let family = match &wanted.verify {
        Verify::Family(family) => family.pems.as_slice(),
        Verify::Off | Verify::System => &[],
    };
    family.iter().chain(wanted.client_cert.iter().map(|cert| &cert.pem))
}

fn stamps(wanted: &Wanted) -> Stamps {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some([file.ino().cast_signed(), file.size().cast_signed(), file.ctime(), file.ctime_nsec()])
    };
    files(wanted).map(stamp).collect()
}

fn read(wanted: &Wanted, provider: &Arc<CryptoProvider>) -> Outcome {
    let verifier: Arc<dyn ServerCertVerifier> = match &wanted.verify {
        Verify::Off => Arc::new(Unverified::new(provider)),
        Verify::System => web_pki(system_roots()?, provider)?,
        Verify::Family(family) => {
            let members = members(family)?;
            let roots = family_roots(&members)?;
            let certificates = members.into_iter().map(|(_, certificate)| certificate).collect();
            Arc::new(Pinned::new(certificates, web_pki(roots, provider)?))
        }
    };
    let client = match &wanted.client_cert {
        None => None,
        Some(cert) => Some(Arc::new(key_and_chain(cert, provider)?)),
    };
    Ok(Material { verifier, client })
}

fn web_pki(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| format!("the authorities cannot be used: {error}"))
}

/// The system's authorities. Some of them may be beyond what is understood; that is no reason to do without the rest.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    Err(format!(
        "this system has no certificate authorities{why}: install package ca-certificates, or set verify to a \
         family of [pki.ca]"
    ))
}

/// Every certificate of a family, with the file that it stands in.
fn members(family: &CaFamily) -> Result<Vec<(&Path, CertificateDer<'static>)>, String> {
    let mut members = Vec::new();
    for path in &family.pems {
        let found = certificates(path, &read_file(path, &format!("[pki.ca.{}]", family.name))?)?;
        members.extend(found.into_iter().map(|certificate| (path.as_path(), certificate)));
    }
    if members.is_empty() {
        return Err(format!("[pki.ca.{}] has no members: name a PEM file in it", family.name));
    }
    Ok(members)
}

fn family_roots(members: &[(&Path, CertificateDer<'static>)]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (path, certificate) in members {
        roots
            .add(certificate.clone())
            .map_err(|error| format!("a certificate in {} cannot be used: {error}", path.display()))?;
    }
    Ok(roots)
}

fn key_and_chain(cert: &ClientCert, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
    let path = &cert.pem;
    let text = read_file(path, &format!("[pki.cert.{}]", cert.name))?;
    let chain = certificates(path, &text)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            let path = path.display();
            format!("{path} has no private key that can be read: append the key, without a passphrase")
        } else {
            format!("the private key in {} is broken: {error}", path.display())
        }
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        format!("certificate and key in {} cannot be used together: {error}", path.display())
    })
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{} has no certificate in PEM", path.display())),
        Err(error) => Err(format!("a certificate in {} is broken: {error}", path.display())),
    }
}

fn read_file(path: &Path, named_in: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| {
        let cure = if error.kind() == io::ErrorKind::PermissionDenied {
            "let the user that lbd runs as read it".to_owned()
        } else {
            format!("put it there, or correct {named_in}")
        };
        format!("cannot read {}: {error}: {cure}", path.display())
    })
}
