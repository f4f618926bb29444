//! DICOM servers on loopback, without a namespace: for what needs no root, and no network either.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{interval, timeout},
};

/// The longest that any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server program on loopback, killed when dropped.
#[derive(Debug)]
pub struct Archive {
    addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

/// Whom an Orthanc answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Callers {
    /// Those that it knows, and it knows none.
    Known,
    /// Everybody.
    Any,
}

impl Archive {
    /// Starts a program that listens on `addr`, in a directory of its own, and waits until it does.
    ///
    /// # Panics
    ///
    /// When it cannot be started, ends, or never listens.
    pub async fn start(program: &str, args: &[&str], addr: SocketAddr, dir: TempDir) -> Self {
        let log = File::create(dir.path().join("log")).unwrap_or_else(|error| panic!("no log: {error}"));
        let again = log.try_clone().unwrap_or_else(|error| panic!("no second log: {error}"));
        let child = Command::new(program)
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(again)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}: `cargo xtask setup` installs it"));
        let mut archive = Self { addr, child, dir };
        let listening = timeout(PATIENCE, async {
            let mut tick = interval(Duration::from_millis(20));
            while TcpStream::connect(addr).await.is_err() {
                let ended = archive.child.try_wait();
                assert!(matches!(ended, Ok(None)), "{program} ended ({ended:?}):\n{}", archive.log());
                tick.tick().await;
            }
        });
        assert!(listening.await.is_ok(), "{program} never listened:\n{}", archive.log());
        archive
    }

    /// Starts dcmtk's storescp.
    pub async fn storescp(args: &[&str], addr: SocketAddr, dir: TempDir) -> Self {
        let port = addr.port().to_string();
        Self::start("storescp", &[args, &["-v", "-dhl", &port]].concat(), addr, dir).await
    }

    /// Starts an Orthanc that answers to `ARCHIVE` alone.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn orthanc(addr: SocketAddr, callers: Callers) -> Self {
        let dir = directory();
        let any_caller = callers == Callers::Any;
        let config = serde_json::json!({
            "Name": "archive",
            "StorageDirectory": "storage",
            "IndexDirectory": "storage",
            "HttpServerEnabled": false,
            "RemoteAccessAllowed": true,
            "AuthenticationEnabled": false,
            "DicomAet": "ARCHIVE",
            "DicomPort": addr.port(),
            "DicomCheckCalledAet": true,
            "DicomAlwaysAllowEcho": any_caller,
            "DicomAlwaysAllowStore": any_caller,
            "DicomAlwaysAllowFind": any_caller,
            "DicomAlwaysAllowFindWorklist": any_caller,
            "DicomAlwaysAllowGet": false,
            "DicomAlwaysAllowMove": false,
            "Plugins": [],
        });
        write(dir.path(), "orthanc.json", &config.to_string());
        Self::start("Orthanc", &["orthanc.json"], addr, dir).await
    }

    /// Starts dcmtk's dcmqrscp, called `ARCHIVE`, which takes so many associations at a time and has a process for each.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn dcmqrscp(addr: SocketAddr, max_associations: u16) -> Self {
        let dir = directory();
        let shown = dir.path().display().to_string();
        let config = format!(
            "NetworkTCPPort = {}\nMaxPDUSize = 16384\nMaxAssociations = {max_associations}\n\
             HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n\
             AETable BEGIN\nARCHIVE {shown} RW (9, 1mb) ANY\nAETable END\n",
            addr.port()
        );
        write(dir.path(), "dcmqrscp.cfg", &config);
        Self::start("dcmqrscp", &["-v", "-dhl", "-c", "dcmqrscp.cfg"], addr, dir).await
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the program's log says something.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn says(&self, what: &str) {
        self.says_times(what, 1).await;
    }

    /// Waits until the program's log has said something so often.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub async fn says_times(&self, what: &str, count: usize) {
        let said = timeout(PATIENCE, async {
            let mut tick = interval(Duration::from_millis(20));
            while self.log().matches(what).count() < count {
                tick.tick().await;
            }
        });
        assert!(said.await.is_ok(), "{what:?} never came {count} times:\n{}", self.log());
    }

    /// Kills it, and waits for its end.
    ///
    /// # Panics
    ///
    /// When it was gone already.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap_or_else(|error| panic!("cannot kill it: {error}"));
    }
}

/// An address on loopback that was free a moment ago.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free port: {error}"))
}

fn directory() -> TempDir {
    TempDir::new().unwrap_or_else(|error| panic!("no directory for a server: {error}"))
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
