//! What a crash leaves: a program that replaces files is killed at random moments, hundreds of times. Runs without the
//! test harness, since it runs itself as the program to be killed.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test that is a program of its own")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use lb_ctl::{
    control::ConfigStore as _,
    edges::Files,
    model::{config::Sources, history::Cause},
    state_file,
};

/// Kills of the program that replaces one file, and of the one that puts back several.
const KILLS: [u64; 2] = [200, 100];
/// Rounds in which the kill comes.
const ROUNDS: u32 = 3;
/// Time that a program may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["replace", directory] => replace_for_ever(Path::new(directory)),
        ["roll-back", directory] => roll_back_for_ever(Path::new(directory)),
        _ => {
            a_replaced_file_is_the_old_one_or_the_new();
            a_rollback_ends_with_all_files_of_one_version();
        }
    }
}

fn a_replaced_file_is_the_old_one_or_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for kill in 0..KILLS[0] {
        kill_at_random("replace", directory.path(), kill);
        let state: Option<String> = state_file::load(&state(directory.path()), 1, "").unwrap();
        let state = state.unwrap();
        assert!(contents().contains(&state), "kill {kill}: {} bytes of neither", state.len());
        seen.insert(state);
        let names = names(directory.path());
        assert!(names.len() <= 2, "kill {kill}: temporary files gather: {names:?}");
    }
    assert_eq!(seen.len(), 2, "some kills came before and some after a replacement");
    println!("{} kills: a replaced file is the old one or the new ... ok", KILLS[0]);
}

fn a_rollback_ends_with_all_files_of_one_version() {
    let directory = tempfile::tempdir().unwrap();
    let store = files(directory.path());
    let versions = [version("a", 10), version("b", 20)];
    for version in &versions {
        put(directory.path(), version);
        store.keep(&store.load().unwrap(), Cause::Apply).unwrap();
    }
    let (mut broken_off, mut seen) = (0, BTreeSet::new());
    for kill in 0..KILLS[1] {
        kill_at_random("roll-back", directory.path(), kill);
        broken_off += u64::from(store.recover().unwrap().is_some());
        let there = texts(directory.path());
        assert!(versions.contains(&there), "kill {kill}: {there:#?}");
        let numbers: Vec<u64> = store.history().unwrap().iter().map(|head| head.number).collect();
        // One more than are kept, when the kill came before the oldest was removed.
        assert!(numbers.is_sorted() && numbers.len() <= 101, "kill {kill}: {numbers:?}");
        seen.insert(there);
    }
    assert_eq!(seen.len(), 2, "rollbacks went both ways");
    assert!(broken_off > 0, "no kill came in the middle of a rollback");
    println!(
        "{} kills: a rollback ends with all files of one version, {broken_off} of them finished later ... ok",
        KILLS[1]
    );
}

/// Runs this program as `what` in a directory, and kills it some time after it said how long a round of its work takes.
#[expect(clippy::disallowed_methods, reason = "no condition is waited for: any moment will do")]
fn kill_at_random(what: &str, directory: &Path, kill: u64) {
    let mut program = Command::new(env::current_exe().unwrap())
        .arg(what)
        .arg(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let began = Instant::now();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Ok(round_micros) = line.trim_end().parse() else { panic!("{what} did not begin: {line:?}") };
    assert!(began.elapsed() < PATIENCE, "{what} took too long to begin");
    // Moments that are spread over the whole time without a pattern: multiples of the golden ratio.
    let part = kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    sleep(Duration::from_micros(round_micros) * ROUNDS * u32::try_from(part >> 16).unwrap() / (1 << 16));
    program.kill().unwrap();
    assert!(!program.wait().unwrap().success(), "{what} ended of itself");
}

fn replace_for_ever(directory: &Path) {
    let contents = contents();
    work_for_ever(|| {
        for content in &contents {
            state_file::store_blocking(&state(directory), 1, content).unwrap();
        }
    });
}

/// As a daemon does: finishes what was broken off, keeps what it starts with, and rolls back when it is told to.
fn roll_back_for_ever(directory: &Path) {
    let store = files(directory);
    store.recover().unwrap();
    store.keep(&store.load().unwrap(), Cause::Start).unwrap();
    work_for_ever(|| {
        let (to, loaded) = store.roll_back(None, false, false).unwrap();
        store.keep(&loaded, Cause::Rollback { to }).unwrap();
    });
}

fn work_for_ever(round: impl Fn()) {
    let began = Instant::now();
    round();
    println!("{}", began.elapsed().as_micros());
    loop {
        round();
    }
}

/// Two that differ in every block.
fn contents() -> [String; 2] {
    ["a", "b"].map(|letter| letter.repeat(50_000))
}

fn state(directory: &Path) -> PathBuf {
    directory.join("state.json")
}

fn files(directory: &Path) -> Files {
    Files::new(Sources { main: directory.join("etc/lbd.toml") }, &directory.join("state"))
}

/// Files of a configuration: one that is in both, one that is in this alone.
fn version(name: &str, weight: u16) -> BTreeMap<String, String> {
    let main = format!(
        "[vip.PACS]\nmode = \"l4-dr\"\nip = \"10.0.0.1\"\nports = [104]\nservers = {{ R1 = {{ ip = \"10.0.0.2\", weight = {weight} }} }}\n"
    );
    let alone = format!("# {name}\n{}", "# Filled up.\n".repeat(500));
    BTreeMap::from([("lbd.toml".to_owned(), main), (format!("conf.d/{name}.toml"), alone)])
}

fn put(directory: &Path, version: &BTreeMap<String, String>) {
    let etc = directory.join("etc");
    let _none_yet = fs::remove_dir_all(&etc);
    fs::create_dir_all(etc.join("conf.d")).unwrap();
    for (name, text) in version {
        fs::write(etc.join(name), text).unwrap();
    }
}

/// Names and texts of the configuration's files.
fn texts(directory: &Path) -> BTreeMap<String, String> {
    let etc = directory.join("etc");
    let conf_d = names(&etc.join("conf.d")).into_iter().map(|name| format!("conf.d/{name}"));
    let toml = conf_d.chain(["lbd.toml".to_owned()]).filter(|name| name.ends_with(".toml"));
    toml.map(|name| (name.clone(), fs::read_to_string(etc.join(&name)).unwrap())).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
