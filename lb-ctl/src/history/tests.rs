use std::time::Duration;

use super::*;

const SECS: Duration = Duration::from_secs(1_700_000_000);

/// A state directory and a configuration of a main file and `conf.d`.
struct Scene {
    directory: tempfile::TempDir,
    history: History,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc/conf.d")).unwrap();
        let sources = Sources { main: directory.path().join("etc/lbd.toml") };
        let history = History::new(&directory.path().join("state"), sources);
        Self { directory, history }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("etc").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Names and texts of what is on disk.
    fn files(&self) -> BTreeMap<String, String> {
        let listed = config::toml_files(&self.path("conf.d")).unwrap();
        let name = |path: &PathBuf| path.strip_prefix(self.path("")).unwrap().to_str().unwrap().to_owned();
        let there = listed.into_iter().chain([self.path("lbd.toml")]).filter(|path| path.exists());
        there.map(|path| (name(&path), fs::read_to_string(path).unwrap())).collect()
    }

    fn keep(&self, cause: Cause) {
        let loaded = config::load(&self.history.sources).unwrap();
        self.history.keep(&loaded.texts, &loaded.config, cause, SystemTime::UNIX_EPOCH + SECS).unwrap();
    }

    /// Weight of the server, as the only difference.
    fn put_weight(&self, weight: u16) {
        self.write("lbd.toml", &vip(weight));
    }

    fn roll_back(&self, to: Option<u64>, force: bool) -> Result<u64, String> {
        let rollback = self.history.plan_rollback(to, force).map_err(|error| error.to_string())?;
        self.history.roll_back(&rollback).map_err(|error| error.to_string())?;
        let cause = Cause::Rollback { to: rollback.to };
        let Loaded { texts, config, .. } = &rollback.loaded;
        self.history.keep(texts, config, cause, SystemTime::UNIX_EPOCH + SECS).unwrap();
        Ok(rollback.to)
    }
}

fn vip(weight: u16) -> String {
    format!(
        "# A\n[vip.PACS]\nmode = \"l4-dr\"\nip = \"10.0.0.1\"\nports = [104]\nservers.R1 = {{ ip = \"10.0.0.2\", weight = {weight} }}\n"
    )
}

fn numbers(history: &History) -> Vec<u64> {
    history.list().unwrap().into_iter().map(|head| head.number).collect()
}

#[test]
fn what_comes_into_force_is_kept_once_with_what_it_changed() {
    let scene = Scene::new();
    scene.put_weight(10);
    scene.keep(Cause::Start);
    scene.keep(Cause::Apply);
    scene.put_weight(20);
    scene.keep(Cause::Edit);
    scene.write("lbd.toml", &vip(20).replace("# A", "# B"));
    scene.keep(Cause::Apply);
    let heads = scene.history.list().unwrap();
    let told: Vec<_> = heads.iter().map(|h| (h.number, h.cause, h.changes.len())).collect();
    assert_eq!(told, [(1, Cause::Start, 1), (2, Cause::Edit, 1), (3, Cause::Apply, 0)]);
    assert_eq!(heads[1].changes, ["vip PACS: R1 weight 10 -> 20"]);
    assert_eq!(heads[1].at_epoch_secs, SECS.as_secs());
    let mode = fs::metadata(&scene.history.directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "what is kept may be nobody else's to read");
    assert_eq!(scene.history.version(1).unwrap().files[0].text, vip(10));
    let error = scene.history.version(4).unwrap_err().to_string();
    assert_eq!(error, "no version 4 is kept: there are 1 to 3; see `lbctl config history`");
}

#[test]
fn the_last_hundred_are_kept_and_no_number_comes_again() {
    let scene = Scene::new();
    for weight in 1..=103 {
        scene.put_weight(weight);
        scene.keep(Cause::Apply);
    }
    assert_eq!(numbers(&scene.history), (4..=103).collect::<Vec<_>>());
}

#[test]
fn a_rollback_restores_every_file_and_removes_those_that_came_since() {
    let scene = Scene::new();
    scene.put_weight(10);
    scene.write("conf.d/going.toml", "# here\n");
    scene.keep(Cause::Start);
    let before = scene.files();
    scene.put_weight(20);
    fs::remove_file(scene.path("conf.d/going.toml")).unwrap();
    scene.write("conf.d/come.toml", "# new\n");
    scene.keep(Cause::Apply);
    let after = scene.files();
    assert_eq!(scene.roll_back(None, false), Ok(1));
    assert_eq!(scene.files(), before);
    let last = scene.history.list().unwrap().pop().unwrap();
    assert_eq!((last.number, last.cause), (3, Cause::Rollback { to: 1 }));
    assert_eq!(last.changes, ["vip PACS: R1 weight 20 -> 10"]);
    // The one before the present is what was rolled back from.
    assert_eq!(scene.roll_back(None, false), Ok(2));
    assert_eq!(scene.files(), after);
}

#[test]
fn edits_that_are_not_in_force_are_lost_only_by_force() {
    let scene = Scene::new();
    for weight in [10, 20] {
        scene.put_weight(weight);
        scene.keep(Cause::Apply);
    }
    scene.write("conf.d/new.toml", "# by hand\n");
    let error = scene.roll_back(Some(1), false).unwrap_err();
    let file = scene.path("conf.d/new.toml");
    let begins = format!("{} was edited since version 2 came into force", file.display());
    assert!(error.starts_with(&begins) && error.ends_with("with --force"), "{error}");
    assert!(file.exists());
    fs::remove_file(scene.path("lbd.toml")).unwrap();
    assert!(scene.roll_back(Some(1), false).is_err());
    assert_eq!(scene.roll_back(Some(1), true), Ok(1));
    assert_eq!(scene.files(), BTreeMap::from([("lbd.toml".to_owned(), vip(10))]));
}

#[test]
fn what_is_not_valid_or_of_another_place_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    assert!(matches!(scene.history.plan_rollback(None, false), Err(HistoryError::NothingBefore)));
    let put = |number, path: PathBuf, text: &str| {
        let head = VersionHead { number, at_epoch_secs: 0, cause: Cause::Start, changes: Vec::new() };
        let version = Version { head, files: vec![KeptFile { path, text: text.to_owned() }] };
        state_file::store_blocking(&scene.history.path(number), VERSION, &version).unwrap();
    };
    scene.put_weight(10);
    scene.keep(Cause::Start);
    assert!(matches!(scene.history.plan_rollback(None, false), Err(HistoryError::NothingBefore)));
    put(2, scene.path("lbd.toml"), "[vip.X]\nmode = \"l9\"\n");
    put(3, PathBuf::from("/elsewhere/lbd.toml"), "");
    put(4, scene.path("lbd.toml"), &vip(10));
    let error = scene.roll_back(Some(2), false).unwrap_err();
    assert!(error.starts_with("version 2 is no valid configuration") && error.contains("l9"), "{error}");
    let error = scene.roll_back(Some(3), false).unwrap_err();
    assert!(error.starts_with("version 3 has /elsewhere/lbd.toml, which is no part of "), "{error}");
    assert_eq!(scene.files(), BTreeMap::from([("lbd.toml".to_owned(), vip(10))]));
}

#[test]
fn a_version_that_cannot_be_read_is_named_and_does_not_stop_the_next_from_being_kept() {
    let scene = Scene::new();
    scene.put_weight(10);
    scene.keep(Cause::Start);
    fs::write(scene.history.path(1), "{").unwrap();
    let error = scene.history.list().unwrap_err().to_string();
    assert!(error.contains("00000001.json") && error.ends_with(CURE), "{error}");
    scene.keep(Cause::Start);
    let kept = scene.history.version(2).unwrap();
    assert_eq!(kept.head.changes, ["version 1 cannot be read: what changed since is not known"]);
}
