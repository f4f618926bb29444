//! Certificates are put in place: files and configuration together, or neither.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use lb_ctl::{
    control::{ConfigStore as _, LoadedConfig, Refused},
    edges::Files,
    model::{
        command::{Command, Edit},
        config::Sources,
        tls::{PkiEdit, Secret},
    },
};
use tempfile::{TempDir, tempdir};

use crate::made::{Authority, Made};

const BASE: &str = "# site A\n[vip.WEB]\nmode = \"l4-dr\"\nip = \"192.0.2.1\"\nports = [443]\n\
                    servers = { S1 = \"192.0.2.11\" }\n";

/// A configuration in a directory of its own.
struct Place(TempDir);

impl Place {
    fn new(text: &str) -> Self {
        let directory = tempdir().unwrap();
        fs::create_dir(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/lbd.toml"), text).unwrap();
        Self(directory)
    }

    fn etc(&self) -> PathBuf {
        self.0.path().join("etc")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.etc().join("lbd.toml")).unwrap()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.etc().join(file)).unwrap()
    }

    fn edit(&self, edit: PkiEdit) -> Result<LoadedConfig, Refused> {
        self.edit_or_look(edit, false)
    }

    fn edit_or_look(&self, edit: PkiEdit, dry_run: bool) -> Result<LoadedConfig, Refused> {
        let files = Files::new(Sources { main: self.etc().join("lbd.toml") }, &self.0.path().join("state"));
        files.edit(&Edit::Pki(edit), dry_run)
    }

    #[track_caller]
    fn refuses(&self, edit: PkiEdit, why: &str) {
        let before = (self.text(), self.listing());
        let refused = self.edit(edit).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused:?} lacks {why:?}");
        assert_eq!((self.text(), self.listing()), before, "{why}");
    }

    /// Every file with its content and mode.
    fn listing(&self) -> Vec<(PathBuf, String, u32)> {
        let mut found = Vec::new();
        let mut directories = vec![self.etc()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
                    found.push((path.clone(), fs::read_to_string(&path).unwrap(), mode));
                }
            }
        }
        found.sort();
        found
    }
}

fn add(name: &str, pem: &str, replace: bool) -> PkiEdit {
    PkiEdit::CertAdd { name: name.to_owned(), pem: Secret::new(pem.to_owned()), replace }
}

fn add_authority(family: &str, name: &str, pem: &str, replace: bool) -> PkiEdit {
    PkiEdit::AuthorityAdd { family: family.to_owned(), name: name.to_owned(), pem: pem.to_owned(), replace }
}

fn delete(name: &str) -> PkiEdit {
    PkiEdit::CertDelete { name: name.to_owned() }
}

fn delete_authority(family: &str, name: Option<&str>) -> PkiEdit {
    PkiEdit::AuthorityDelete { family: family.to_owned(), name: name.map(str::to_owned) }
}

fn certificate(name: &str) -> Made {
    Authority::root("root").issue(name, &["web.example"])
}

#[test]
fn a_certificate_gets_a_file_for_its_owner_alone_and_a_section() {
    let place = Place::new(BASE);
    let made = certificate("web");
    let looked = place.edit_or_look(add("web", &made.together(), false), true).unwrap();
    assert_eq!((place.text().as_str(), place.listing().len()), (BASE, 1), "a dry run writes nothing");
    let loaded = place.edit(add("web", &made.together(), false)).unwrap();
    assert_eq!(looked.files, loaded.files);
    let file = place.etc().join("pki/web.pem");
    let shown = format!("+ file {}: CN=web, until 2090-01-02 00:00:00 UTC", file.display());
    assert_eq!(loaded.files, [shown]);
    assert_eq!(place.text(), format!("{BASE}\n[pki.cert.web]\npem = \"pki/web.pem\"\n"));
    assert_eq!(loaded.config.pki.certs["web"], file);
    assert!(place.read("pki/web.pem").contains(made.key.lines().nth(1).unwrap()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(&place.etc().join("pki"))), (0o600, 0o700));
    // Nobody is told that a file is missing which is being put there, and people hear what it will not do.
    assert!(!loaded.warnings.iter().any(|line| line.contains("cannot use")), "{:?}", loaded.warnings);
    let limits = "certificate web: it may prove a server alone: shown to servers";
    assert!(loaded.warnings.iter().any(|line| line.starts_with(limits)), "{:?}", loaded.warnings);
}

#[test]
fn another_takes_its_place_only_when_that_is_said() {
    let place = Place::new(BASE);
    let (one, two) = (certificate("one"), certificate("two"));
    place.edit(add("web", &one.together(), false)).unwrap();
    place.refuses(add("web", &two.together(), false), "certificate `web` exists: add `--replace`");
    let text = place.text();
    let loaded = place.edit(add("web", &two.together(), true)).unwrap();
    assert_eq!(place.text(), text);
    assert!(loaded.files[0].contains("CN=two"), "{:?}", loaded.files);
    assert!(place.read("pki/web.pem").contains(two.key.lines().nth(1).unwrap()));
    // Where the file stands elsewhere, it is replaced there, and its mode stays.
    let elsewhere = place.0.path().join("elsewhere.pem");
    fs::write(&elsewhere, one.together()).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o640)).unwrap();
    let other = Place::new(&format!("{BASE}[pki.cert.web]\npem = \"{}\"\n", elsewhere.display()));
    other.edit(add("web", &two.together(), true)).unwrap();
    assert!(fs::read_to_string(&elsewhere).unwrap().contains(two.key.lines().nth(1).unwrap()));
    assert_eq!(fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(other.listing().len(), 1);
}

#[test]
fn what_cannot_serve_changes_nothing() {
    let place = Place::new(BASE);
    let (made, other) = (certificate("web"), certificate("other"));
    place.refuses(add("web", &made.certificate, false), "certificate `web` has no private key");
    place.refuses(add("web", &(made.certificate.clone() + &other.key), false), "do not belong together");
    place.refuses(add("web", "", false), "has no certificate in PEM");
    place.refuses(add("we b", &made.together(), false), "contains a space");
    place.refuses(add("a/b", &made.together(), false), "cannot be the name of a file");
    place.refuses(add("..", &made.together(), false), "cannot be the name of a file");
    place.refuses(add_authority("..", "web", &Authority::root("r").pem(), false), "cannot be the name");
    place.refuses(add_authority("off", "ca", &Authority::root("r").pem(), false), "means something else");
    place.refuses(add_authority("clinic", "ca", &made.key, false), "has no certificate in PEM");
    // A file that nothing names is somebody's.
    fs::create_dir(place.etc().join("pki")).unwrap();
    fs::write(place.etc().join("pki/web.pem"), "precious").unwrap();
    place.refuses(add("web", &made.together(), false), "is there already, and nothing names it");
    place.edit(add("web", &made.together(), true)).unwrap();
    // A file in the way of the directory.
    let place = Place::new(BASE);
    fs::write(place.etc().join("pki"), "in the way").unwrap();
    place.refuses(add("web", &made.together(), false), "cannot ");
}

#[test]
fn what_was_put_in_place_goes_back_when_the_configuration_cannot_be_written() {
    let place = Place::new(BASE);
    let made = certificate("web");
    // A directory stands where the new text would be written before it takes the old one's place.
    let in_the_way = place.etc().join(format!(".lbd.toml.{}.tmp", std::process::id()));
    fs::create_dir(&in_the_way).unwrap();
    place.refuses(add("web", &made.together(), false), "cannot write");
    fs::remove_dir(&in_the_way).unwrap();
    place.edit(add("web", &made.together(), false)).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    place.refuses(delete("web"), "cannot write");
}

#[test]
fn families_begin_with_their_first_authority_and_end_with_the_last() {
    let place = Place::new(BASE);
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    place.edit(add_authority("clinic", "a", &one.pem(), false)).unwrap();
    let loaded = place.edit(add_authority("clinic", "b", &two.pem(), false)).unwrap();
    let members: Vec<&String> = loaded.config.pki.families["clinic"].keys().collect();
    assert_eq!(members, ["a", "b"]);
    assert!(place.text().ends_with(
        "[pki.ca.clinic]\nmembers = { a = \"pki/ca/clinic/a.pem\", b = \"pki/ca/clinic/b.pem\" }\n"
    ));
    place.refuses(add_authority("clinic", "b", &one.pem(), false), "has an authority `b`: add `--replace`");
    place.edit(add_authority("clinic", "b", &one.pem(), true)).unwrap();
    assert_eq!(place.read("pki/ca/clinic/b.pem"), place.read("pki/ca/clinic/a.pem"));
    place.refuses(delete_authority("clinic", Some("c")), "has no authority `c`");
    let loaded = place.edit(delete_authority("clinic", Some("a"))).unwrap();
    assert_eq!(loaded.files, [format!("- file {}", place.etc().join("pki/ca/clinic/a.pem").display())]);
    assert!(!place.etc().join("pki/ca/clinic/a.pem").exists());
    place.refuses(delete_authority("clinic", Some("b")), "is the last authority of family `clinic`");
    place.refuses(delete_authority("clinics", None), "did you mean `clinic`?");
    place.edit(delete_authority("clinic", None)).unwrap();
    assert_eq!(place.text(), BASE.to_owned() + "\n");
    assert!(!place.etc().join("pki/ca/clinic/b.pem").exists());
}

#[test]
fn sections_in_every_layout_are_added_to_and_taken_from() {
    let made = certificate("web");
    let root = Authority::root("root");
    for text in [
        "pki.cert.old.pem = \"/dev/null\"\n",
        "[pki]\ncert = { old = { pem = \"/dev/null\" } }\nca = { clinic = { members = { z = \"/dev/null\" } } }\n",
        "pki = { cert = { old = { pem = \"/dev/null\" } } }\n",
        "[pki.cert]\nold.pem = \"/dev/null\" # kept\n[pki.ca.clinic.members]\nz = \"/dev/null\"\n",
        "[pki.ca]\nclinic.members.z = \"/dev/null\"\n",
    ] {
        let place = Place::new(&format!("{text}{BASE}"));
        let before = place.text();
        place.edit(add("web", &made.together(), false)).unwrap_or_else(|why| panic!("{text}: {why}"));
        let loaded = place.edit(add_authority("clinic", "b", &root.pem(), false));
        let loaded = loaded.unwrap_or_else(|why| panic!("{text}: {why}"));
        assert!(loaded.config.pki.certs["web"].ends_with("pki/web.pem"), "{text}");
        assert!(loaded.config.pki.families["clinic"]["b"].ends_with("pki/ca/clinic/b.pem"), "{text}");
        if before.contains("clinic") {
            place.edit(delete_authority("clinic", Some("b"))).unwrap_or_else(|why| panic!("{text}: {why}"));
        } else {
            place.edit(delete_authority("clinic", None)).unwrap_or_else(|why| panic!("{text}: {why}"));
        }
        let loaded = place.edit(delete("web")).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(
            loaded.config.pki,
            lb_ctl::config::load_texts(lb_ctl::config::Texts::single(
                place.etc().join("lbd.toml").to_str().unwrap(),
                &before
            ))
            .unwrap()
            .config
            .pki,
            "{text}"
        );
    }
}

#[test]
fn what_is_in_use_is_not_deleted_and_its_users_are_named() {
    let made = certificate("web");
    let root = Authority::root("root");
    let checked = BASE.replace(
        "servers =",
        "check = { type = \"https\", verify = \"clinic\", client_cert = \"web\" }\nservers =",
    );
    let place = Place::new(BASE);
    place.edit(add("web", &made.together(), false)).unwrap();
    place.edit(add_authority("clinic", "root", &root.pem(), false)).unwrap();
    let sections = place.text().replace(BASE, "");
    fs::write(place.etc().join("lbd.toml"), checked + &sections).unwrap();
    place.refuses(delete("web"), "certificate `web` is in use by check of vip WEB");
    place.refuses(delete_authority("clinic", None), "family `clinic` is in use by check of vip WEB");
    place.refuses(delete("wep"), "there is no certificate `wep`: did you mean `web`?");
    fs::write(place.etc().join("lbd.toml"), BASE.to_owned() + &sections).unwrap();
    place.edit(delete("web")).unwrap();
    assert!(!place.etc().join("pki/web.pem").exists());
}

#[test]
fn a_file_that_others_name_or_that_is_elsewhere_stays() {
    let made = certificate("web");
    let place = Place::new(BASE);
    place.edit(add("web", &made.together(), false)).unwrap();
    let twice = place.text() + "[pki.cert.again]\npem = \"pki/web.pem\"\n";
    fs::write(place.etc().join("lbd.toml"), twice).unwrap();
    let loaded = place.edit(delete("web")).unwrap();
    assert!(loaded.files.is_empty() && place.etc().join("pki/web.pem").exists());
    assert!(loaded.warnings.iter().any(|line| line.contains("stays where it is")), "{:?}", loaded.warnings);
    let elsewhere = place.0.path().join("own.pem");
    fs::write(&elsewhere, made.together()).unwrap();
    let other = Place::new(&format!("{BASE}[pki.cert.web]\npem = \"{}\"\n", elsewhere.display()));
    other.edit(delete("web")).unwrap();
    assert!(elsewhere.exists());
}

#[test]
fn an_edit_travels_whole_and_no_log_has_its_key() {
    let made = certificate("web");
    let edit = Box::new(Edit::Pki(add("web", &made.together(), false)));
    let command = Command::Edit { edit, dry_run: true };
    let told = format!("{command:?}");
    assert!(told.contains("Secret(..)") && !told.contains("PRIVATE KEY"), "{told}");
    let sent = serde_json::to_string(&command).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&sent).unwrap(), command);
    let delete = Command::Edit { edit: Box::new(Edit::Pki(delete_authority("a", None))), dry_run: false };
    let sent = serde_json::to_string(&delete).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&sent).unwrap(), delete);
}
