//! Very many TCP connections at once: clients that open and hold them, servers that accept and hold them. Each carries
//! a byte there and back when asked, so that an established connection is one that works.
//!
//! A process may have only so many files open, and not even root may always raise that. So a crowd can be spread over
//! processes ([`Member`], `bin/crowd`); all here works on the namespace of whoever calls.

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};

use super::{lbd, netns::Netns, proc::wait_until, topology::Host};

/// Whoever does not answer within this is stuck.
const STUCK: Duration = Duration::from_secs(10);
/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// First of the ports that connections are opened from; the kernel's own range need not suffice.
const FIRST_PORT: u16 = 10_000;

/// Lets this process have as many files open as it may without asking.
///
/// # Panics
///
/// When that is less than `count`.
pub fn allow_open_files(count: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(
        maximum.is_none_or(|maximum| maximum >= count),
        "{count} open files are needed, {maximum:?} allowed: raise the hard limit (ulimit -Hn)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .unwrap_or_else(|error| panic!("cannot have {count} files open: {error}"));
}

/// A server that accepts every connection and keeps it. Several may share an address.
#[derive(Debug)]
pub struct Keeper {
    held: Held,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Connections in the order of their coming, with where they come from.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<Vec<(TcpStream, SocketAddr)>>>);

impl Held {
    fn open(&self) -> MutexGuard<'_, Vec<(TcpStream, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    /// Listens on `address`.
    ///
    /// # Errors
    ///
    /// When that is not possible.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = listen(address)?;
        let (held, ended) = (Held::default(), Arc::new(AtomicBool::new(false)));
        let (book, flag) = (held.clone(), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                // Nobody came, or who came is gone again.
                let Ok(connection) = listener.accept() else {
                    continue;
                };
                book.open().push(connection);
            }
        });
        Ok(Self { held, ended, thread: Some(thread) })
    }

    /// Connections held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.open().len()
    }

    /// Where they come from.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.held.open().iter().map(|(_, peer)| *peer).collect()
    }

    /// Answers a byte on every connection.
    ///
    /// # Errors
    ///
    /// When there is none to answer, or a connection has broken.
    pub fn answer_each(&self) -> io::Result<()> {
        for (stream, _) in self.held.open().iter_mut() {
            let byte = read_byte(stream)?;
            stream.write_all(&[byte])?;
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows as missing connections.
            let _ = thread.join();
        }
    }
}

/// A listener that shares its address, and looks up now and then when nobody comes.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket.into())
}

/// Opens up to `count` connections from one address, each when it is asked for, and tells what came of it. The first
/// one that is neither taken nor refused is the last: whoever does not answer one does not answer thousands.
pub fn open_each(from: IpAddr, count: u16, to: SocketAddr) -> impl Iterator<Item = io::Result<TcpStream>> {
    let mut answered = true;
    (FIRST_PORT..).take(usize::from(count)).map_while(move |port| {
        let outcome = answered.then(|| open(SocketAddr::new(from, port), to))?;
        answered = outcome.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::ConnectionRefused);
        Some(outcome)
    })
}

/// Opens a connection from one address and port to another.
///
/// # Errors
///
/// When it is refused, or nobody answers.
pub fn open(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), STUCK)?;
    Ok(socket.into())
}

/// Closes a connection with a RST: nothing of it stays anywhere.
///
/// # Panics
///
/// When the kernel refuses.
pub fn abort(connection: TcpStream) {
    SockRef::from(&connection)
        .set_linger(Some(Duration::ZERO))
        .unwrap_or_else(|error| panic!("cannot set SO_LINGER on a socket: {error}"));
    drop(connection);
}

/// Sends a byte on every connection.
///
/// # Errors
///
/// When one has broken.
pub fn send_each(connections: &mut [TcpStream]) -> io::Result<()> {
    connections.iter_mut().enumerate().try_for_each(|(at, connection)| connection.write_all(&[byte_of(at)]))
}

/// Reads the answers to [`send_each`].
///
/// # Errors
///
/// When a connection has broken, or has the answer of another.
pub fn receive_each(connections: &mut [TcpStream]) -> io::Result<()> {
    connections.iter_mut().enumerate().try_for_each(|(at, connection)| match read_byte(connection)? {
        answer if answer == byte_of(at) => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "connections were mixed up")),
    })
}

/// A byte by which neighbours are told apart.
const fn byte_of(at: usize) -> u8 {
    (at % 251) as u8
}

fn read_byte(stream: &mut TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    stream.set_read_timeout(Some(STUCK))?;
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A process with a part of a crowd. Dropped, it is killed.
#[derive(Debug)]
pub struct Member {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Keeps the namespace until this process is gone.
    _netns: Netns,
}

impl Member {
    /// Starts `bin/crowd` (or what `CROWD_BIN` names) on a host: `server ADDRESS:PORT`, or `client ADDRESS COUNT
    /// SPARE ADDRESS:PORT`.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(host: &Host, args: &[&str]) -> Self {
        let program = lbd::find("CROWD_BIN", "crowd", "lb-tests");
        let mut command = host.netns.command(&program);
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("a process with pipes has none");
        };
        Self { child, orders, answers: BufReader::new(answers), _netns: host.netns.clone() }
    }

    /// Gives an order; [`Self::answer`] yields what became of it.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[track_caller]
    pub fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}")
            .unwrap_or_else(|error| panic!("a crowd's process has ended: {error}"));
    }

    /// The next line that it says.
    ///
    /// # Panics
    ///
    /// When the process has ended.
    #[must_use]
    #[track_caller]
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(1..) => line.trim_end().to_owned(),
            outcome => panic!("a crowd's process has ended: {outcome:?}"),
        }
    }
}

/// What a client's process says when it has what it was asked for, and how many were refused before it had.
fn refused(said: &str, count: u16) -> Option<u64> {
    match said.strip_prefix(&format!("{count} open "))? {
        "{}" => Some(0),
        lost => {
            lost.strip_prefix("{\"Connection refused (os error 111)\": ")?.strip_suffix('}')?.parse().ok()
        }
    }
}

/// Opens `count` connections to `to` from each address of a client, a process for each; as many processes share the
/// address of the server. When one is refused, the next port is tried, `spare` times, as clients do. When all are open
/// at once, every one carries a byte there and back. Gives where they come from in the eyes of the server, and how
/// many were refused.
///
/// # Panics
///
/// When one connection is neither established nor refused, or more are refused than may be, or one does not carry its
/// byte.
#[must_use]
#[track_caller]
pub fn gather(
    (client, addresses): (&Host, &[IpAddr]),
    (count, spare): (u16, u16),
    to: SocketAddr,
    (server, address): (&Host, SocketAddr),
) -> (Vec<SocketAddr>, u64) {
    let each = |members: &mut [Member], order: &str| -> Vec<String> {
        members.iter_mut().for_each(|member| member.order(order));
        members.iter_mut().map(Member::answer).collect()
    };
    let mut servers: Vec<_> =
        addresses.iter().map(|_| Member::start(server, &["server", &address.to_string()])).collect();
    for server in &mut servers {
        assert_eq!(server.answer(), "ready");
    }
    let [number, spare, destination] = [count.to_string(), spare.to_string(), to.to_string()];
    let mut clients: Vec<_> = addresses
        .iter()
        .map(|from| Member::start(client, &["client", &from.to_string(), &number, &spare, &destination]))
        .collect();
    let refused = clients
        .iter_mut()
        .map(|client| {
            let said = client.answer();
            refused(&said, count).unwrap_or_else(|| panic!("of {count} connections to {to}: {said}"))
        })
        .sum();
    let total = addresses.len() * usize::from(count);
    wait_until(STUCK, "the servers have accepted all connections", || {
        let held = each(&mut servers, "count");
        held.iter().filter_map(|count| count.parse::<usize>().ok()).sum::<usize>() == total
    });
    for (members, order) in [(&mut clients, "send"), (&mut servers, "answer")] {
        let answers = each(members, order);
        assert!(answers.iter().all(|answer| answer == "done"), "{order}: {answers:?}");
    }
    let answers = each(&mut clients, "receive");
    assert!(answers.iter().all(|answer| answer == "done"), "receive: {answers:?}");
    let peers = each(&mut servers, "peers");
    (peers.iter().flat_map(|line| line.split(' ')).filter_map(|peer| peer.parse().ok()).collect(), refused)
}

impl Drop for Member {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
