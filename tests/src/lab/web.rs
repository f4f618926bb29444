//! nginx, with one large file or as a test wants it, and curl.

use std::{
    fs,
    io::{BufWriter, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
};

use super::{
    netns::Netns,
    proc::{Finished, Proc},
    topology::Host,
};

/// An nginx.
#[derive(Debug)]
pub struct Nginx {
    _proc: Proc,
}

/// A web server with a file to download.
#[derive(Debug)]
pub struct Web {
    access_log: PathBuf,
    _nginx: Nginx,
}

/// A file of known content.
#[derive(Clone, Debug)]
pub struct Payload {
    path: PathBuf,
}

/// A line of the access log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// Client's address.
    pub peer: IpAddr,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
}

impl Payload {
    /// Writes a file of `megabytes` times a million bytes in which no two blocks of eight bytes are alike.
    ///
    /// # Panics
    ///
    /// When there is no room.
    #[must_use]
    pub fn write(host: &Host, megabytes: u64) -> Self {
        let path = host.lab_dir().join("payload");
        let write = || {
            let mut file = BufWriter::new(fs::File::create(&path)?);
            for block in 0..megabytes * 1_000_000 / 8 {
                file.write_all(&block.to_be_bytes())?;
            }
            file.flush()
        };
        write().unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        Self { path }
    }

    /// Downloads it and compares every byte; the run fails when one differs.
    ///
    /// # Panics
    ///
    /// When what was downloaded cannot be removed.
    #[must_use]
    pub fn download(&self, client: &Host, from: SocketAddr) -> Finished {
        let copy = client.dir().join("download");
        let (url, path) = (format!("http://{from}/payload"), copy.display().to_string());
        let run = client.run("curl", &["-sSf", "--max-time", "15", "-o", &path, &url]);
        if !run.success() {
            return run;
        }
        let compared = client.run("cmp", &[&path, &self.path.display().to_string()]);
        fs::remove_file(&copy).unwrap_or_else(|error| panic!("cannot remove {path}: {error}"));
        compared
    }
}

impl Nginx {
    /// Starts one with these directives in its block `http`, keeping its files in `dir`, and waits until it listens on `port`
    /// of loopback.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(name: &str, netns: &Netns, dir: &Path, http: &str, port: u16) -> Self {
        let config = dir.join(format!("{name}.conf"));
        let text = format!(
            "daemon off;
             master_process off;
             pid {dir}/{name}.pid;
             error_log stderr;
             worker_rlimit_nofile 4096;
             events {{ worker_connections 2048; }}
             http {{
                 {http}
             }}",
            dir = dir.display(),
        );
        fs::write(&config, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", config.display()));
        let mut command = netns.command("nginx");
        command.args(["-e", "stderr", "-c"]).arg(&config);
        let mut proc = Proc::spawn(name, netns, dir, &mut command);
        proc.wait_ready(|_| netns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()));
        Self { _proc: proc }
    }
}

impl Web {
    /// Serves the payload on every address of the host, of both families, with an empty access log.
    ///
    /// # Panics
    ///
    /// When nginx does not start.
    #[must_use]
    pub fn start(host: &Host, port: u16, payload: &Payload) -> Self {
        let dir = host.dir();
        let access_log = dir.join("access.log");
        let http = format!(
            "log_format peers '$remote_addr $status $body_bytes_sent';
             access_log {access_log} peers;
             sendfile on;
             server {{
                 listen 0.0.0.0:{port};
                 listen [::]:{port};
                 root {root};
             }}",
            access_log = access_log.display(),
            root = payload.path.parent().unwrap_or(&dir).display(),
        );
        fs::write(&access_log, "")
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", access_log.display()));
        let name = format!("nginx-{}", host.name);
        Self { access_log, _nginx: Nginx::start(&name, &host.netns, host.lab_dir(), &http, port) }
    }

    /// All requests so far.
    ///
    /// # Panics
    ///
    /// When the log is not as configured.
    #[must_use]
    pub fn requests(&self) -> Vec<Access> {
        let log = fs::read_to_string(&self.access_log).unwrap_or_default();
        let request = |line: &str| {
            let mut words = line.split(' ');
            Some(Access {
                peer: words.next()?.parse().ok()?,
                status: words.next()?.parse().ok()?,
                bytes: words.next()?.parse().ok()?,
            })
        };
        log.lines()
            .map(|line| request(line).unwrap_or_else(|| panic!("{line:?} is no line of the access log")))
            .collect()
    }
}
