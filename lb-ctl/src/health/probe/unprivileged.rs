//! How a site's own program is run: as a user with no rights, and within limits.
//!
//! By setpriv and prlimit of util-linux, which every machine has, one after the other in the same process. Both together
//! cost some three milliseconds a run.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use rustix::thread::CapabilitySet;
use tokio::process::Command;

/// What is run first, and runs the rest.
pub(super) const OUTER_PROGRAM: &str = "setpriv";
const INNER_PROGRAM: &str = "prlimit";

/// Users that a script runs as, the first that there is.
const USERS: [&str; 2] = ["lbd-check", "nobody"];
/// Where users are listed (passwd(5)).
const PASSWD: &str = "/etc/passwd";
/// Where programs are: the scripts' `PATH`, and ours for theirs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Limits of a script (getrlimit(2)). Generous: they are for scripts that have gone wild. `as` is addresses, of which
/// runtimes reserve far more than they use, `data` is memory.
const LIMITS: [&str; 5] =
    ["--core=0", "--nofile=64", "--fsize=16777216", "--as=17179869184", "--data=1073741824"];
/// Of all processes of that user together, so of all scripts that run at a time.
const PROCESSES: &str = "--nproc=1024";

/// A shell's and util-linux's exit codes for a program that cannot be run.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// Whom a script runs as, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Prepared {
    /// Name, for people.
    pub(super) user: String,
    /// Its number.
    pub(super) uid: u32,
    gid: u32,
    /// False when we have no rights ourselves, and the script runs as who we are.
    sheds_rights: bool,
    cpu_secs: u64,
}

/// Finds out whom scripts run as.
///
/// # Errors
///
/// What is missing, and what brings it.
pub(super) fn prepare(timeout: Duration) -> Result<Prepared, String> {
    // The deadline ends a script before; this is for what could not be killed.
    let cpu_secs = timeout.as_secs() + 2;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() {
        let user = format!("user {uid}");
        return Ok(Prepared { user, uid: uid.as_raw(), gid: gid.as_raw(), sheds_rights: false, cpu_secs });
    }
    let has = rustix::thread::capabilities(None)
        .map_err(|error| format!("cannot read this process's capabilities: {error}"))?
        .effective;
    if !has.contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL) {
        return Err(
            "scripts run as another user, and lbd may neither become that nor end its processes: add \
                    CAP_SETUID, CAP_SETGID and CAP_KILL to CapabilityBoundingSet of lbd's unit"
                .to_owned(),
        );
    }
    let passwd = fs::read_to_string(PASSWD).map_err(|error| format!("cannot read {PASSWD}: {error}"))?;
    let found = USERS.iter().find_map(|name| find_user(&passwd, name));
    let (user, uid, gid) =
        found.ok_or_else(|| format!("there is no user {} in {PASSWD}: add one", USERS.join(" or ")))?;
    Ok(Prepared { user, uid, gid, sheds_rights: true, cpu_secs })
}

/// Name, number and group of a user.
fn find_user(passwd: &str, name: &str) -> Option<(String, u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (user, _password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        (user == name).then(|| Some((user.to_owned(), uid.parse().ok()?, gid.parse().ok()?)))?
    })
}

impl Prepared {
    /// The command that runs a program so, in `/`, with an environment that holds `PATH` and `LANG` and nothing else.
    pub(super) fn command(&self, path: &Path) -> Command {
        let mut command = Command::new(OUTER_PROGRAM);
        command.env_clear().env("PATH", PATH).env("LANG", "C").current_dir("/");
        // It dies with us, should nobody be left to end it.
        command.args(["--no-new-privs", "--inh-caps=-all", "--pdeathsig=KILL"]);
        if self.sheds_rights {
            command.args([
                format!("--reuid={}", self.uid),
                format!("--regid={}", self.gid),
                "--clear-groups".to_owned(),
            ]);
        }
        // Last, and without any right: what the user may not run, it cannot run either.
        command.arg(INNER_PROGRAM).args(LIMITS).arg(format!("--cpu={}", self.cpu_secs));
        if self.sheds_rights {
            command.arg(PROCESSES);
        }
        command.arg(path);
        command
    }

    /// Why the program was never run, when it was not: then setpriv or prlimit ended in its place, and said so in its
    /// own name. A program that ends with the same code says something else.
    pub(super) fn why_not_run(&self, path: &Path, status: ExitStatus, said: &str) -> Option<String> {
        let word = said.split(':').next()?;
        let by_helper = [OUTER_PROGRAM, INNER_PROGRAM].contains(&word);
        (by_helper && CANNOT_RUN.contains(&status.code()?)).then(|| {
            self.obstacle(path).unwrap_or_else(|| said.lines().next().unwrap_or_default().to_owned())
        })
    }

    /// What keeps the user from running the program, as far as modes tell.
    fn obstacle(&self, path: &Path) -> Option<String> {
        let (user, shown) = (&self.user, path.display());
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Some(format!("{shown} is missing: put the script there, or change `script`"));
            }
            Err(error) => return Some(format!("cannot look at {shown}: {error}")),
        };
        if !found.is_file() {
            return Some(format!("{shown} is no file: change `script`"));
        }
        if !self.may(&found, 0o5) {
            return Some(format!("{shown} is not for {user} to read and run: chmod 755 {shown}"));
        }
        let closed = path
            .canonicalize()
            .ok()?
            .ancestors()
            .skip(1)
            .find(|directory| fs::metadata(directory).is_ok_and(|found| !self.may(&found, 0o1)))?
            .to_owned();
        let closed = closed.display();
        Some(format!("{user} cannot reach {shown} through {closed}: chmod o+x {closed}"))
    }

    /// Whether the mode gives the user these rights (path_resolution(7)).
    fn may(&self, found: &fs::Metadata, rights: u32) -> bool {
        let mode = found.permissions().mode();
        let granted = if found.uid() == self.uid {
            mode >> 6
        } else if found.gid() == self.gid {
            mode >> 3
        } else {
            mode
        };
        granted & rights == rights
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nnobody2:x:7:7::/:\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        assert_eq!(find_user(passwd, "nobody"), Some(("nobody".to_owned(), 65534, 65533)));
        assert_eq!(find_user(passwd, "lbd-check"), None);
        assert_eq!(find_user("nobody:x:many:0::/:\n", "nobody"), None);
    }

    #[test]
    fn what_keeps_a_script_from_running_is_named_with_its_cure() {
        let nobody = Prepared { user: "nobody".to_owned(), uid: 1, gid: 1, sheds_rights: true, cpu_secs: 3 };
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let script = dir.path().join("script");
        let shown = script.display();
        let status = ExitStatus::from_raw(127 << 8);
        let why = || nobody.why_not_run(&script, status, "prlimit: failed to execute\n");
        assert_eq!(why().unwrap(), format!("{shown} is missing: put the script there, or change `script`"));
        fs::write(&script, "#!/nowhere\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(why().unwrap(), format!("{shown} is not for nobody to read and run: chmod 755 {shown}"));
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(why().unwrap(), "prlimit: failed to execute");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let directory = dir.path().canonicalize().unwrap();
        assert_eq!(
            why().unwrap(),
            format!("nobody cannot reach {shown} through {0}: chmod o+x {0}", directory.display())
        );
        assert_eq!(nobody.why_not_run(&script, status, "sh: 1: frobnicate: not found\n"), None);
    }
}
