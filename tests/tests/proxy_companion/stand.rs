//! What the tests stand on: two servers that say who they are, a client, and lbd with HAProxy between them.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use lb_tests::lab::{Host, Lab, Lbd, wait_until};

/// Where servers listen, and the VIP.
pub(crate) const PORT: u16 = 4242;
/// The VIP.
pub(crate) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 0, 100));
/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(5);

/// The lab, its servers and the daemon.
pub(crate) struct Stand {
    pub(crate) lbd: Lbd,
    pub(crate) servers: Vec<Server>,
    pub(crate) lab: Lab,
}

/// A server that says its name to everybody, and then what it is told.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    at: SocketAddr,
    host: Host,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(host: &Host, name: &'static str) -> Self {
        let at = SocketAddr::from((host.v4, PORT));
        let listener = host.netns.enter(|| TcpListener::bind(at)).expect("a port for the server");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(stream, name));
                }
            }
        });
        Self { stop, at, host: host.clone(), thread: Some(thread) }
    }

    /// Listens no more; connections go on.
    pub(crate) fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stop.store(true, Ordering::Release);
        // Wakes it up. It may be gone already.
        let _ = self.host.netns.enter(|| TcpStream::connect_timeout(&self.at, ANSWER));
        let _ = thread.join();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Until the client closes. A client that breaks off is no fault of the server's.
fn serve(mut stream: TcpStream, name: &str) {
    let mut buffer = [0; 64];
    let _ = writeln!(stream, "{name}");
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// A connection of the client.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    pub(crate) server: String,
}

impl Session {
    /// Connects and reads who serves it.
    pub(crate) fn try_open(client: &Host, port: u16) -> std::io::Result<Self> {
        let at = SocketAddr::from((VIP, port));
        let stream = client.netns.enter(|| TcpStream::connect_timeout(&at, ANSWER))?;
        Self::greeted(stream)
    }

    /// Reads who serves a connection.
    pub(crate) fn greeted(mut stream: TcpStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        let mut name = String::new();
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(Self { stream, server: name });
            }
            name.push(char::from(byte[0]));
        }
    }

    /// True when the server still answers on it.
    pub(crate) fn lives(&mut self) -> bool {
        let mut byte = [0];
        self.stream.write_all(b"x").is_ok() && self.stream.read_exact(&mut byte).is_ok() && byte == *b"x"
    }

    /// Waits until the other end closes it.
    #[track_caller]
    pub(crate) fn must_end(&mut self) {
        let mut rest = [0; 16];
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
        let read = self.stream.read(&mut rest);
        let reset = matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(reset || matches!(read, Ok(0)), "the connection goes on: {read:?}");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Stand {
    /// Servers A and B behind a VIP of mode `l7-tcp` with these further keys.
    pub(crate) fn new(vip: &str) -> Self {
        Self::with_toml(&Self::toml(vip))
    }

    /// The configuration of [`Self::new`].
    pub(crate) fn toml(vip: &str) -> String {
        format!(
            "[proxy]\nmax_connections = 2000\n\n\
             [vip.V]\nmode = \"l7-tcp\"\nip = \"{VIP}\"\nports = [{PORT}]\n\
             check = {{ type = \"connect\", interval = \"500ms\", timeout = \"400ms\" }}\n\
             servers = {{ A = \"10.10.0.11\", B = \"10.10.0.12\" }}\n{vip}\n"
        )
    }

    pub(crate) fn with_toml(toml: &str) -> Self {
        let lab = Lab::new();
        let servers = vec![Server::start(lab.host("pacs1"), "A"), Server::start(lab.host("pacs2"), "B")];
        let lbd = Lbd::start(&lab, "lb", toml);
        let stand = Self { lbd, servers, lab };
        stand.wait_served();
        stand
    }

    /// Waits until both servers take connections.
    pub(crate) fn wait_served(&self) {
        self.lbd.wait_status("both servers take connections", |status| {
            status.vips.iter().any(|vip| {
                vip.name == "V"
                    && vip.problem.is_none()
                    && vip.rips.iter().all(|rip| rip.state == lb_ctl::model::status::RipState::Active)
            })
        });
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.host("client")
    }

    #[track_caller]
    pub(crate) fn open(&self) -> Session {
        Session::try_open(self.client(), PORT).unwrap_or_else(|error| {
            panic!("no connection: {error}\n{}\n{}", self.lbd.ctl(&["status"]).stdout, self.said())
        })
    }

    /// Waits until a connection gets through.
    #[track_caller]
    pub(crate) fn open_in_time(&self) -> Session {
        let mut session = None;
        wait_until(DEADLINE, "a connection gets through", || {
            session = Session::try_open(self.client(), PORT).ok();
            session.is_some()
        });
        session.expect("a connection")
    }

    /// `lbctl` with these words, which must succeed; what it printed.
    #[track_caller]
    pub(crate) fn ctl(&self, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.lbd.ctl(&words).expect_success().stdout
    }

    /// The master's process id, by its file.
    #[track_caller]
    pub(crate) fn master(&self) -> u32 {
        self.try_master().expect("a pid file of haproxy")
    }

    pub(crate) fn try_master(&self) -> Option<u32> {
        let path = self.lbd.paths().runtime_dir.join("haproxy/haproxy.pid");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Processes by the master's list: kind and number, those that finish their connections as `old`.
    #[track_caller]
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let socket = self.lbd.paths().runtime_dir.join("haproxy/master.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the master's socket");
        stream.write_all(b"show proc\n").expect("a question");
        stream.shutdown(Shutdown::Write).expect("the end of the question");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let mut old = false;
        let mut found = Vec::new();
        for line in answer.lines() {
            old |= line.starts_with("# old");
            let mut words = line.split_whitespace();
            if let (Some(Ok(pid)), Some(kind)) = (words.next().map(str::parse), words.next()) {
                found.push((if old { "old".to_owned() } else { kind.to_owned() }, pid));
            }
        }
        found
    }

    /// What HAProxy said on its standard error.
    pub(crate) fn said(&self) -> String {
        let path = self.lbd.paths().runtime_dir.join("haproxy/start.log");
        std::fs::read_to_string(path).unwrap_or_default()
    }
}

/// True while a process is there and not dead.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
