//! The product itself: `lbd` on the balancer's host, and `lbctl` beside it.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use aya::maps::{Array, ArrayOfMaps, Map, MapData, MapError};
use lb_common::{limits::map, service::Table};
use lb_ctl::model::status::{RipStatus, Status, VipStatus};
use rustix::process::Signal;

use super::{
    bpffs,
    netns::Netns,
    proc::{Finished, Proc, finish, wait_for},
    topology::{Host, Lab},
};

/// Time for anything the daemon does by itself: resolve, check, claim.
pub(super) const SETTLE: Duration = Duration::from_secs(15);

/// The two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon.
    pub lbd: PathBuf,
    /// The command line.
    pub lbctl: PathBuf,
}

impl Programs {
    /// Those named by `LBD_BIN` and `LBCTL_BIN`, else those beside this test's own directory.
    ///
    /// # Panics
    ///
    /// When one is not there.
    #[must_use]
    pub fn find() -> Self {
        Self { lbd: find("LBD_BIN", "lbd", "lb-ctl"), lbctl: find("LBCTL_BIN", "lbctl", "lb-ctl") }
    }
}

/// A daemon with a configuration, whether it runs at the moment or not. Dropped, it takes away everything it made.
#[derive(Debug)]
pub struct Lbd {
    programs: Programs,
    netns: Netns,
    log_dir: PathBuf,
    name: String,
    paths: Paths,
    proc: Option<Proc>,
}

/// What runs on an interface, by the kernel's ids.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// Link that holds the program there.
    pub link: u64,
    /// Program.
    pub program: u64,
    /// Pinned maps that the program uses: flow tables and services.
    pub tables: [u64; 3],
}

/// Where a daemon keeps its things.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Configuration.
    pub config: PathBuf,
    /// API.
    pub socket: PathBuf,
    /// Operator state.
    pub state_dir: PathBuf,
    /// The companion proxy's files.
    pub runtime_dir: PathBuf,
    /// Links and maps.
    pub pin_dir: PathBuf,
}

impl Lbd {
    /// Starts the daemon on `host` with the configuration `toml`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(lab: &Lab, host: &str, toml: &str) -> Self {
        let mut lbd = Self::prepare(lab, lab.host(host), toml, Programs::find());
        lbd.start_again();
        lbd
    }

    /// Writes the configuration, starts nothing.
    ///
    /// # Panics
    ///
    /// When the configuration cannot be written or the BPF file system cannot be mounted.
    #[must_use]
    pub fn prepare(lab: &Lab, host: &Host, toml: &str, programs: Programs) -> Self {
        bpffs::mount();
        let dir = host.dir();
        let paths = Paths {
            config: dir.join("lbd.toml"),
            socket: dir.join("lbd.sock"),
            state_dir: dir.join("state"),
            runtime_dir: dir.join("run"),
            pin_dir: bpffs::path(host.netns.name()),
        };
        let lbd = Self {
            programs,
            netns: host.netns.clone(),
            log_dir: lab.dir().to_owned(),
            name: format!("lbd-{}", host.name),
            paths,
            proc: None,
        };
        lbd.write_config(toml);
        lbd
    }

    /// Where it keeps its things.
    #[must_use]
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The configuration as it stands in the file.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    pub fn config(&self) -> String {
        fs::read_to_string(&self.paths.config)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", self.paths.config.display()))
    }

    /// Replaces the configuration file; the daemon is not told.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn write_config(&self, toml: &str) {
        fs::write(&self.paths.config, toml)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", self.paths.config.display()));
    }

    /// Starts the daemon, the first time or again, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it ends or does not answer.
    #[track_caller]
    pub fn start_again(&mut self) {
        let mut command = self.command();
        let mut proc = Proc::spawn(&self.name, &self.netns, &self.log_dir, &mut command);
        proc.wait_ready(|_| self.try_status().is_some());
        self.proc = Some(proc);
    }

    /// Starts the daemon and lets it end by itself: for what it must refuse.
    #[must_use]
    pub fn run_to_end(&self, args: &[&str]) -> Finished {
        self.run_elsewhere(&self.paths, args)
    }

    /// [`Self::run_to_end`] with its things at other places.
    #[must_use]
    pub fn run_elsewhere(&self, paths: &Paths, args: &[&str]) -> Finished {
        let mut command = self.netns.command("timeout");
        command.args(["-k", "1", "20"]).arg(&self.programs.lbd).args(paths.args()).args(args);
        finish(&mut command)
    }

    /// Ends the daemon as systemd does.
    ///
    /// # Panics
    ///
    /// When it does not end, or with an exit code other than 0.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(mut proc) = self.proc.take() {
            let status = proc.stop(Signal::TERM);
            assert!(status.success(), "lbd ended with {status} after SIGTERM:\n{}", proc.log_text());
        }
    }

    /// Kills the daemon without a word.
    pub fn kill(&mut self) {
        self.proc = None;
    }

    /// Tells it to read the configuration again.
    pub fn reload(&mut self) {
        if let Some(proc) = &mut self.proc {
            proc.signal(Signal::HUP);
        }
    }

    /// What runs on the interface of its host.
    ///
    /// # Panics
    ///
    /// When nothing that lbd pinned does.
    #[must_use]
    #[track_caller]
    pub fn attachment(&self) -> Attachment {
        let pins = fs::read_dir(&self.paths.pin_dir).into_iter().flatten().flatten();
        let mut links = pins.map(|pin| pin.path()).filter(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link-"))
        });
        let link = links.next().unwrap_or_else(|| panic!("no link under {}", self.paths.pin_dir.display()));
        let link = bpftool(&["link", "show", "pinned", &link.display().to_string()]);
        let program = number(&link, "prog_id");
        let used = bpftool(&["prog", "show", "id", &program.to_string()]);
        let used: Vec<_> = used["map_ids"].as_array().into_iter().flatten().collect();
        let tables = [map::FLOWS_V4, map::HALF_OPEN_V4, map::SERVICES].map(|name| {
            let pin = self.paths.pin_dir.join(name).display().to_string();
            let id = number(&bpftool(&["map", "show", "pinned", &pin]), "id");
            assert!(
                used.iter().any(|map| map.as_u64() == Some(id)),
                "the program does not use {pin}: {used:?}"
            );
            id
        });
        Attachment { link: number(&link, "id"), program, tables }
    }

    /// How many servers the first service's look-up table leads to, as the kernel has it.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn servers_in_table(&self) -> u32 {
        let read = || -> Result<u32, MapError> {
            let data = MapData::from_pin(self.paths.pin_dir.join(map::TABLES))?;
            let tables: ArrayOfMaps<MapData, Array<MapData, Table>> = Map::from_map_data(data)?.try_into()?;
            Ok(tables.get(&0, 0)?.get(&0, 0)?.servers)
        };
        read().unwrap_or_else(|error| panic!("the look-up table cannot be read: {error}"))
    }

    /// What it has logged, over all its lives.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log_dir.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    /// Takes away everything that a daemon made: `lbd --detach`. The daemon must not run.
    #[must_use]
    pub fn detach(&self) -> Finished {
        self.run_to_end(&["--detach"])
    }

    /// Runs `lbctl` to its end.
    #[must_use]
    pub fn ctl(&self, args: &[&str]) -> Finished {
        let mut command = self.netns.command("timeout");
        command.args(["-k", "1", "20"]).arg(&self.programs.lbctl).arg("--socket").arg(&self.paths.socket);
        finish(command.args(args))
    }

    /// The overview.
    ///
    /// # Panics
    ///
    /// When the daemon does not answer.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Status {
        let answer = self.ctl(&["status", "-o", "json"]);
        serde_json::from_str(&answer.stdout).unwrap_or_else(|error| {
            panic!("no overview from lbctl: {error}: {}{}", answer.stdout, answer.stderr)
        })
    }

    /// Waits until the overview is as wanted, and gives it.
    ///
    /// # Panics
    ///
    /// When it is not in time: with the last overview.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        wait_for(
            SETTLE,
            || format!("{what}; instead:\n{}", self.ctl(&["status"]).stdout),
            || self.try_status().filter(|status| wanted(status)),
        )
    }

    /// The command that starts it, for people.
    #[must_use]
    pub fn ctl_line(&self) -> String {
        format!("{} --socket {} status", self.programs.lbctl.display(), self.paths.socket.display())
    }

    fn try_status(&self) -> Option<Status> {
        // The exit code says whether all is green; the answer is whole either way.
        serde_json::from_str(&self.ctl(&["status", "-o", "json"]).stdout).ok()
    }

    fn command(&self) -> Command {
        let mut command = self.netns.command(&self.programs.lbd);
        command.args(self.paths.args());
        command
    }
}

impl Paths {
    fn args(&self) -> Vec<PathBuf> {
        let Self { config, socket, state_dir, runtime_dir, pin_dir } = self.clone();
        let named = [
            ("--config", config),
            ("--socket", socket),
            ("--pin-dir", pin_dir),
            ("--state-dir", state_dir),
            ("--runtime-dir", runtime_dir),
        ];
        named.into_iter().flat_map(|(name, path)| [PathBuf::from(name), path]).collect()
    }
}

impl Drop for Lbd {
    #[expect(clippy::print_stderr, reason = "what could not be taken away has to be seen")]
    fn drop(&mut self) {
        self.kill();
        if self.paths.pin_dir.exists() {
            let run = self.detach();
            if !run.success() {
                eprintln!("`{}` failed: {}{}", run.command, run.stdout, run.stderr);
                // Pins hold the tables in the kernel: never leave them behind.
                let _ = fs::remove_dir_all(&self.paths.pin_dir);
            }
        }
    }
}

/// What bpftool says in JSON.
#[track_caller]
fn bpftool(args: &[&str]) -> serde_json::Value {
    let mut command = Command::new("timeout");
    let run = finish(command.args(["-k", "1", "20", "bpftool", "-j"]).args(args)).expect_success();
    serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("`{}` gave no JSON: {error}: {}", run.command, run.stdout))
}

/// A number of what bpftool said.
#[track_caller]
fn number(value: &serde_json::Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The VIP called `name`.
///
/// # Panics
///
/// When the overview has none.
#[must_use]
#[track_caller]
pub fn vip<'a>(status: &'a Status, name: &str) -> &'a VipStatus {
    status
        .vips
        .iter()
        .find(|vip| vip.name == name)
        .unwrap_or_else(|| panic!("no VIP {name} in the overview: {:?}", status.vips))
}

/// The real server called `rip` of the VIP called `name`.
///
/// # Panics
///
/// When the overview has none.
#[must_use]
#[track_caller]
pub fn rip<'a>(status: &'a Status, name: &str, rip: &str) -> &'a RipStatus {
    let vip = vip(status, name);
    vip.rips
        .iter()
        .find(|candidate| candidate.name == rip)
        .unwrap_or_else(|| panic!("no real server {rip} in {vip:?}"))
}

/// A program of ours, built beforehand.
///
/// # Panics
///
/// When it is not there.
pub(super) fn find(variable: &str, name: &str, package: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    let own = env::current_exe().unwrap_or_default();
    // target/debug/deps/test or target/debug/demo: the program is in target/debug.
    own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).unwrap_or_else(
        || panic!("no {name} near {}: run `cargo build -p {package}`, or set {variable}", own.display()),
    )
}
