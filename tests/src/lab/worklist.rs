//! A modality worklist: dcmtk's wlmscpfs with one entry, and findscu, which asks for it as a scanner does.

use std::{fs, net::SocketAddr, path::Path};

use super::{
    proc::{Proc, finish},
    servers::listens,
    topology::{Host, Lab},
};

/// Called AE title of a worklist, and the directory that it is kept in.
const TITLE: &str = "WORKLIST";
/// How the patient of the one entry is called, before the name of the host.
const PATIENT: &str = "Patient^of ";

/// A worklist whose one patient has the name of its host. It can be killed and started again.
#[derive(Debug)]
pub struct Worklist {
    host: Host,
    port: u16,
    proc: Option<Proc>,
}

impl Worklist {
    /// Starts it on every address of the host, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(lab: &Lab, host: &str, port: u16) -> Self {
        let host = lab.host(host).clone();
        write_entry(&host);
        let mut worklist = Self { host, port, proc: None };
        worklist.start_again();
        worklist
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
        let Self { host, port, .. } = self;
        let mut command = host.netns.command("wlmscpfs");
        command.arg("-dfp").arg(host.dir()).arg(port.to_string());
        let name = format!("worklist-{}", host.name);
        let mut proc = Proc::spawn(&name, &host.netns, host.lab_dir(), &mut command);
        proc.wait_ready(|_| listens(host, *port));
        self.proc = Some(proc);
    }
}

/// Asks for the patients of a scanner, and gives the name of the host whose worklist answered.
///
/// # Panics
///
/// When none does: findscu ends with success even when it was refused, so its words count.
#[must_use]
#[track_caller]
pub fn find(client: &Host, at: SocketAddr) -> String {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let keys = ["-k", "PatientName", "-k", "(0040,0100)[0].Modality=CT"];
    let who = ["-v", "-W", "-to", "5", "-ta", "5", "-td", "5", "-aet", "CT1", "-aec", TITLE];
    let run = client.run("findscu", &[&who[..], &keys, &[&ip, &port]].concat());
    let said = format!("{}{}", run.stdout, run.stderr);
    let named = said.split_once(&format!("[{PATIENT}")).and_then(|(_, rest)| rest.split(']').next());
    named.unwrap_or_else(|| panic!("`{}` found no patient: {said}", run.command)).trim().to_owned()
}

/// Writes the worklist of a host, complete enough for wlmscpfs to believe in it (PS3.4, table K.6-1).
fn write_entry(host: &Host) {
    let (dir, text) = (host.dir().join(TITLE), host.dir().join("entry.txt"));
    let entry = format!(
        "(0010,0010) PN [{PATIENT}{}]
(0010,0020) LO [LAB-1]
(0010,0030) DA [19700101]
(0010,0040) CS [O]
(0020,000d) UI [2.25.1]
(0032,1060) LO [CHEST]
(0040,0100) SQ
(fffe,e000) na
(0008,0060) CS [CT]
(0040,0001) AE [CT1]
(0040,0002) DA [20260101]
(0040,0003) TM [120000]
(0040,0006) PN [Doe^Jane]
(0040,0007) LO [CHEST]
(0040,0009) SH [STEP1]
(fffe,e00d) na
(fffe,e0dd) na
(0040,1001) SH [PROCEDURE1]
",
        host.name
    );
    let write = |path: &Path, content: &str| {
        fs::write(path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    };
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
    // wlmscpfs locks this file while it reads.
    write(&dir.join("lockfile"), "");
    write(&text, &entry);
    finish(host.netns.command("dump2dcm").arg(&text).arg(dir.join("entry.wl"))).expect_success();
}
