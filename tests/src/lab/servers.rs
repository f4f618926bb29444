//! Real DICOM servers: the Orthanc archive and dcmtk's storescp.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    proc::Proc,
    topology::{Host, Lab},
};

/// Port of Orthanc's REST interface.
const HTTP_PORT: u16 = 8042;

/// An Orthanc archive. It can be killed and started again, and keeps what it stored.
#[derive(Debug)]
pub struct Orthanc<'lab> {
    host: &'lab Host,
    config: PathBuf,
    port: u16,
    proc: Option<Proc>,
}

impl<'lab> Orthanc<'lab> {
    /// Starts an archive called `ORTHANC` on every address of the host, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(lab: &'lab Lab, host: &str, port: u16) -> Self {
        let host = lab.host(host);
        let dir = host.dir();
        let config = dir.join("orthanc.json");
        let text = serde_json::json!({
            "Name": host.name,
            "StorageDirectory": dir.join("storage"),
            "IndexDirectory": dir.join("index"),
            "HttpPort": HTTP_PORT,
            "RemoteAccessAllowed": true,
            "AuthenticationEnabled": false,
            "DicomAet": "ORTHANC",
            "DicomPort": port,
            "DicomCheckCalledAet": false,
            "DicomAlwaysAllowEcho": true,
            "DicomAlwaysAllowStore": true,
            "Plugins": [],
        });
        fs::write(&config, text.to_string())
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", config.display()));
        let mut orthanc = Self { host, config, port, proc: None };
        orthanc.start_again();
        orthanc
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.proc.as_ref().map(Proc::pid)
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.proc = None;
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_again(&mut self) {
        let name = format!("orthanc-{}", self.host.name);
        let mut command = self.host.netns.command("Orthanc");
        command.arg(&self.config);
        let mut proc = Proc::spawn(&name, &self.host.netns, self.host.lab_dir(), &mut command);
        proc.wait_ready(|_| listens(self.host, self.port) && listens(self.host, HTTP_PORT));
        self.proc = Some(proc);
    }

    /// SOP Instance UIDs of all that it has stored, each as often as it is there.
    ///
    /// # Panics
    ///
    /// When its REST interface does not answer.
    #[must_use]
    pub fn instances(&self) -> Vec<String> {
        let uid = |instance: &Value| {
            instance["MainDicomTags"]["SOPInstanceUID"]
                .as_str()
                .unwrap_or_else(|| panic!("an instance of {} has no SOP Instance UID", self.host.name))
                .to_owned()
        };
        self.expanded().iter().map(uid).collect()
    }

    /// The address that an instance was stored from, as the archive saw it.
    ///
    /// # Panics
    ///
    /// When its REST interface does not answer, or it has no such instance.
    #[must_use]
    pub fn remote_address(&self, uid: &str) -> IpAddr {
        let all = self.expanded();
        let instance = all.iter().find(|instance| instance["MainDicomTags"]["SOPInstanceUID"] == uid);
        let id = instance
            .and_then(|instance| instance["ID"].as_str())
            .unwrap_or_else(|| panic!("{} has no instance {uid}", self.host.name));
        let answer = self.ask(&format!("instances/{id}/metadata/RemoteIP"));
        answer.trim().parse().unwrap_or_else(|error| panic!("{uid} came from {answer:?}: {error}"))
    }

    fn expanded(&self) -> Vec<Value> {
        let answer = self.ask("instances?expand");
        serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{} answered no list of instances: {error}", self.host.name))
    }

    /// What its REST interface answers.
    fn ask(&self, what: &str) -> String {
        let url = format!("http://{}:{HTTP_PORT}/{what}", self.host.v4);
        self.host.run("curl", &["-sSf", &url]).expect_success().stdout
    }
}

/// A storescp: it writes what it receives to a directory, one file per instance, and answers C-ECHO.
#[derive(Debug)]
pub struct StoreScp {
    dir: PathBuf,
    proc: Option<Proc>,
}

impl StoreScp {
    /// Starts it on every address of the host, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(lab: &Lab, host: &str, port: u16) -> Self {
        let host = lab.host(host);
        let dir = host.dir().join(format!("storescp-{port}"));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        let mut command = host.netns.command("storescp");
        // --fork: a process per association, so that associations do not wait for each other.
        command.arg("--fork").arg("-od").arg(&dir).arg(port.to_string());
        let name = format!("storescp-{}-{port}", host.name);
        let mut proc = Proc::spawn(&name, &host.netns, host.lab_dir(), &mut command);
        proc.wait_ready(|_| listens(host, port));
        Self { dir, proc: Some(proc) }
    }

    /// Kills it as a power cut would; associations in flight live on in processes of their own until they end.
    pub fn kill(&mut self) {
        self.proc = None;
    }

    /// SOP Instance UIDs of all that it has stored.
    ///
    /// # Panics
    ///
    /// When its directory cannot be read.
    #[must_use]
    pub fn instances(&self) -> Vec<String> {
        stored_files(&self.dir)
    }
}

/// storescp names a file by modality and SOP Instance UID: `SC.2.25.1`.
fn stored_files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", dir.display()))
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.split_once('.')?.1.to_owned()))
        .collect()
}

/// How `expected` instances are spread over archives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spread {
    /// Instances in each archive.
    pub counts: Vec<usize>,
    /// Expected, but in no archive.
    pub missing: Vec<String>,
    /// In more than one archive, or twice in one.
    pub doubled: Vec<String>,
    /// In an archive, but not expected.
    pub strange: Vec<String>,
}

impl Spread {
    /// Compares what archives hold with what was stored.
    pub fn of<'a>(archives: &[Vec<String>], expected: impl IntoIterator<Item = &'a String>) -> Self {
        let expected: BTreeSet<_> = expected.into_iter().collect();
        let (mut seen, mut doubled) = (BTreeSet::new(), Vec::new());
        for uid in archives.iter().flatten() {
            if !seen.insert(uid) {
                doubled.push(uid.clone());
            }
        }
        Self {
            counts: archives.iter().map(Vec::len).collect(),
            missing: expected.difference(&seen).copied().cloned().collect(),
            doubled,
            strange: seen.difference(&expected).copied().cloned().collect(),
        }
    }

    /// Every instance is in exactly one archive, and nothing else is.
    #[must_use]
    pub const fn exact(&self) -> bool {
        self.missing.is_empty() && self.doubled.is_empty() && self.strange.is_empty()
    }
}

/// True when something on the host listens on a TCP port.
#[must_use]
pub fn listens(host: &Host, port: u16) -> bool {
    let address = SocketAddr::new(IpAddr::V4(host.v4), port);
    host.netns.enter(|| TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok())
}
