//! Network namespaces that go away by themselves.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Once},
    thread,
};

use rustix::{
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::proc::{Finished, finish};

/// Where `ip netns` keeps the handles of namespaces.
const RUN_NETNS: &str = "/run/netns";
/// How the names of namespaces made by tests begin; the process id follows.
const TEST_PREFIX: &str = "lbt-";

/// A network namespace. Clones are handles to the same one; it is deleted with the last of them.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    lifetime: Lifetime,
}

/// What becomes of the processes started in a namespace when this program dies without a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifetime {
    /// The kernel kills them: nothing a test starts may outlive it.
    WithProgram,
    /// They live on: a demonstration left running to look at.
    OutlivesProgram,
}

impl Netns {
    /// Makes the namespace `name` with loopback up, duplicate address detection and router solicitation off and no
    /// reverse path filter.
    ///
    /// # Panics
    ///
    /// When the kernel or `ip` refuses.
    #[must_use]
    pub fn new(name: &str, lifetime: Lifetime) -> Self {
        sweep_once();
        finish(Command::new("ip").args(["netns", "add", name])).expect_success();
        let netns = Self(Arc::new(Inner { name: name.to_owned(), lifetime }));
        netns.sysctls(&[
            // An address is usable at once, not after a second of asking who else has it.
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/accept_ra", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ]);
        netns.ip("link set lo up");
        netns
    }

    /// Its name, as `ip netns exec` wants it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its handle in the file system.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(RUN_NETNS).join(self.name())
    }

    /// Whether processes in it may outlive this program.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        self.0.lifetime
    }

    /// A command that will run inside. Unlike under `ip netns exec`, it keeps this program's mounts: the BPF file
    /// system above all.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--");
        if self.0.lifetime == Lifetime::WithProgram {
            command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command inside to its end, at most 20 seconds.
    #[must_use]
    pub fn run(&self, program: &str, args: &[&str]) -> Finished {
        finish(self.command("timeout").args(["-k", "1", "20", program]).args(args))
    }

    /// Runs lines of `ip` commands inside: `addr add 10.0.0.1/24 dev eth0`.
    ///
    /// # Panics
    ///
    /// When a line is refused.
    pub fn ip(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            finish(Command::new("ip").args(["-n", self.name()]).args(line.split_whitespace()))
                .expect_success();
        }
    }

    /// Runs `work` on a thread that lives inside: its sockets belong to the namespace wherever they are used later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let handle = fs::File::open(self.path())
                    .unwrap_or_else(|error| panic!("cannot open namespace {}: {error}", self.name()));
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap_or_else(|error| panic!("cannot enter namespace {}: {error}", self.name()));
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes kernel parameters below `/proc/sys`.
    ///
    /// # Panics
    ///
    /// When one does not exist or refuses the value.
    pub fn sysctls(&self, settings: &[(&str, &str)]) {
        self.enter(|| {
            for (key, value) in settings {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .unwrap_or_else(|error| panic!("cannot set {key} to {value}: {error}"));
            }
        });
    }

    /// A counter of `/proc/net/snmp`, such as `Tcp` `RetransSegs`.
    ///
    /// # Panics
    ///
    /// When the kernel has no such counter.
    #[must_use]
    pub fn snmp(&self, protocol: &str, counter: &str) -> u64 {
        // /proc/net is the main thread's; this thread is the one inside.
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap_or_default());
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        names
            .split(' ')
            .zip(values.split(' '))
            .find_map(|(name, value)| (name == counter).then(|| value.parse().ok())?)
            .unwrap_or_else(|| panic!("no counter {protocol}{counter} in /proc/net/snmp"))
    }

    /// ICMP messages that reached it and may say that a packet was too big, for the family of `ip`.
    ///
    /// # Panics
    ///
    /// When the kernel has no such counter.
    #[must_use]
    pub fn told_too_big(&self, ip: IpAddr) -> u64 {
        if ip.is_ipv4() {
            return self.snmp("Icmp", "InDestUnreachs");
        }
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default());
        text.lines()
            .find_map(|line| line.strip_prefix("Icmp6InPktTooBigs")?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no counter Icmp6InPktTooBigs in /proc/net/snmp6"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// Processes in a namespace, by its name: none when there is no such namespace.
#[must_use]
pub fn inhabitants(name: &str) -> Vec<u32> {
    let Some(netns) = identity(&Path::new(RUN_NETNS).join(name)) else {
        return Vec::new();
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| identity(&ns_of(*pid)) == Some(netns))
        .collect()
}

/// Kills what still runs in a namespace. A program that a daemon started is no child of ours, and has a life of its own.
fn kill_inhabitants(name: &str) {
    let netns = identity(&Path::new(RUN_NETNS).join(name));
    for pid in inhabitants(name) {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        // Its id may name another process by now: the descriptor cannot, once the namespace was found to be ours.
        if let Ok(process) = pidfd_open(id, PidfdFlags::empty())
            && identity(&ns_of(pid)) == netns
        {
            // The only failure left is that it ended just now.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// Where the network namespace of a process is to be found.
fn ns_of(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("ns/net")
}

/// What tells a namespace from all others.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Deletes a namespace by name, with all that still runs in it; true when there was one.
pub fn delete(name: &str) -> bool {
    kill_inhabitants(name);
    Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Deletes every namespace whose name begins so.
pub fn delete_all(prefix: &str) {
    for entry in fs::read_dir(RUN_NETNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            delete(&name);
        }
    }
}

/// The name of a test's namespace.
#[must_use]
pub fn test_name(lab: u32, role: &str) -> String {
    format!("{TEST_PREFIX}{}-{lab}-{role}", std::process::id())
}

/// Deletes what test programs that no longer live left behind, once per program.
fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        for entry in fs::read_dir(RUN_NETNS).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(TEST_PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                delete(&name);
            }
        }
    });
}
