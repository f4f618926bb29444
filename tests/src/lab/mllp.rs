//! HL7 version 2 over MLLP: a server that acknowledges every message, and a client on one long connection, as an
//! interface engine keeps it for days.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{proc::wait_for, topology::Host};

/// A message begins with this (MLLP release 1, block format).
const START: u8 = 0x0b;
/// A message ends with these two.
const END: [u8; 2] = [0x1c, 0x0d];
/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// No answer for this long is a failure.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A server that acknowledges messages and keeps book of its connections.
#[derive(Debug)]
pub struct MllpServer {
    host: Host,
    address: SocketAddr,
    book: Book,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A connection as its server saw it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Address that it came from.
    pub peer: SocketAddr,
    /// Messages received whole.
    pub messages: u64,
    /// How it ended, if it has.
    pub end: Option<End>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The other side closed it.
    Closed,
    /// Reading failed.
    Broken(ErrorKind),
}

/// All connections of a server, in the order of their coming.
#[derive(Clone, Debug, Default)]
struct Book(Arc<Mutex<Vec<Connection>>>);

impl Book {
    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MllpServer {
    /// Listens on every address of the host, of both families.
    ///
    /// # Panics
    ///
    /// When the host cannot listen there.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let any = SocketAddr::from(([0_u16; 8], port));
        let listener = host
            .netns
            .enter(|| TcpListener::bind(any))
            .unwrap_or_else(|error| panic!("{} cannot listen on {any}: {error}", host.name));
        let (book, ended) = (Book::default(), Arc::new(AtomicBool::new(false)));
        let (pages, flag, name) = (book.clone(), Arc::clone(&ended), host.name.clone());
        let thread = thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let page = {
                    let mut pages = pages.open();
                    pages.push(Connection { peer: plain(peer), messages: 0, end: None });
                    pages.len() - 1
                };
                let (pages, flag, name) = (pages.clone(), Arc::clone(&flag), name.clone());
                thread::spawn(move || serve(stream, &name, &flag, |note| note(&mut pages.open()[page])));
            }
        });
        Self { host: host.clone(), address: any, book, ended, thread: Some(thread) }
    }

    /// All connections so far, in the order of their coming.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.book.open().clone()
    }

    /// Messages received whole on all connections.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.connections().iter().map(|connection| connection.messages).sum()
    }
}

impl Drop for MllpServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread up, so that it sees the flag; refused when it has ended already.
        let woken = self.host.netns.enter(|| TcpStream::connect(self.address)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic of the server shows as missing acknowledgements.
            let _ = thread.join();
        }
    }
}

/// Acknowledges messages as the host called `name`, for as long as this program runs.
///
/// # Errors
///
/// When it cannot listen on every address, or no longer can.
pub fn receive_for_ever(name: &str, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0_u16; 8], port)))?;
    loop {
        let (stream, _) = listener.accept()?;
        let name = name.to_owned();
        thread::spawn(move || serve(stream, &name, &AtomicBool::new(false), |_| ()));
    }
}

/// Acknowledges the messages of one connection; `note` changes its page in the book.
fn serve(mut stream: TcpStream, name: &str, ended: &AtomicBool, note: impl Fn(&dyn Fn(&mut Connection))) {
    let mut received = Vec::new();
    let end = loop {
        match read_some(&mut stream, &mut received, LOOK) {
            Ok(0) => break End::Closed,
            Ok(_) => {}
            Err(error) if timed_out(&error) => {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
            Err(error) => break End::Broken(error.kind()),
        }
        while let Some(message) = take_message(&mut received) {
            note(&|connection| connection.messages += 1);
            // When this fails, the client misses an answer, and the next read says why.
            let _ = stream.write_all(&acknowledgement(&message, name));
        }
    };
    note(&|connection| connection.end = Some(end));
}

/// A client's end of a connection.
#[derive(Debug)]
pub struct MllpLink {
    stream: TcpStream,
    received: Vec<u8>,
    sent: u64,
}

impl MllpLink {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody answers, or refuses.
    pub fn open(client: &Host, to: SocketAddr) -> io::Result<Self> {
        let stream = client.netns.enter(|| TcpStream::connect_timeout(&to, ANSWER_DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new(), sent: 0 })
    }

    /// This end's own address.
    ///
    /// # Panics
    ///
    /// When the kernel does not tell.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap_or_else(|error| panic!("no address of a socket: {error}"))
    }

    /// Sends a message, awaits its acknowledgement, and gives the name of the host that acknowledged it.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or nothing comes within ten seconds, or something else does.
    pub fn exchange(&mut self) -> io::Result<String> {
        self.sent += 1;
        let id = format!("M{}", self.sent);
        self.stream.write_all(&message(&id))?;
        let answer = loop {
            if let Some(answer) = take_message(&mut self.received) {
                break answer;
            }
            if read_some(&mut self.stream, &mut self.received, ANSWER_DEADLINE)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        match field(&answer, "MSA", 2) == Some(&id) {
            true => Ok(field(&answer, "MSA", 3).unwrap_or_default().to_owned()),
            false => {
                Err(io::Error::new(ErrorKind::InvalidData, format!("{answer:?} does not acknowledge {id}")))
            }
        }
    }

    /// Exchanges `count` messages and gives the name of the one host that acknowledged them all.
    ///
    /// # Errors
    ///
    /// When one is not acknowledged, or not by the same host.
    pub fn exchange_many(&mut self, count: u64) -> io::Result<String> {
        let first = self.exchange()?;
        for _ in 1..count {
            let next = self.exchange()?;
            if next != first {
                return Err(io::Error::new(ErrorKind::InvalidData, format!("{first} became {next}")));
            }
        }
        Ok(first)
    }

    /// Waits for the connection to end while nothing is sent on it; `None` when it does not within `deadline`.
    pub fn end_within(&mut self, deadline: Duration) -> Option<End> {
        match read_some(&mut self.stream, &mut self.received, deadline) {
            Ok(0) => Some(End::Closed),
            Ok(_) => None,
            Err(error) if timed_out(&error) => None,
            Err(error) => Some(End::Broken(error.kind())),
        }
    }
}

/// Waits until the server has seen the connection from `peer` end, and tells how.
///
/// # Panics
///
/// When it does not within `deadline`.
#[track_caller]
pub fn wait_end(server: &MllpServer, peer: SocketAddr, deadline: Duration) -> End {
    let what = || format!("the connection from {peer} ends at its server: {:?}", server.connections());
    wait_for(deadline, what, || {
        server.connections().iter().find(|connection| connection.peer == peer).and_then(|found| found.end)
    })
}

/// An address as its own family has it: a socket for both families tells IPv4 as mapped.
const fn plain(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) => IpAddr::V4(*v4.ip()),
        SocketAddr::V6(v6) => v6.ip().to_canonical(),
    };
    SocketAddr::new(ip, address.port())
}

/// A result of an examination, long enough to be more than a header.
fn message(id: &str) -> Vec<u8> {
    framed(&format!(
        "MSH|^~\\&|MODALITY|WARD|ARCHIVE|HOSPITAL|20260101120000||ORU^R01|{id}|P|2.5\r\
         PID|1||4711^^^HOSPITAL||DOE^JANE\r\
         OBX|1|TX|||{}\r",
        "result ".repeat(60)
    ))
}

/// The answer to a message: accepted, by the host called `name`.
fn acknowledgement(message: &str, name: &str) -> Vec<u8> {
    let id = field(message, "MSH", 9).unwrap_or_default();
    framed(&format!(
        "MSH|^~\\&|ARCHIVE|HOSPITAL|MODALITY|WARD|20260101120000||ACK|A{id}|P|2.5\rMSA|AA|{id}|{name}\r"
    ))
}

fn framed(text: &str) -> Vec<u8> {
    [&[START], text.as_bytes(), &END].concat()
}

/// Field `index` of the first segment called `name`, counted as in the text (`MSH|` is 0).
fn field<'a>(message: &'a str, name: &str, index: usize) -> Option<&'a str> {
    message.split('\r').find(|segment| segment.starts_with(name))?.split('|').nth(index)
}

/// Takes the first whole message out of what was received.
fn take_message(received: &mut Vec<u8>) -> Option<String> {
    let end = received.windows(2).position(|pair| pair == END)?;
    let message: Vec<u8> = received.drain(..end + 2).collect();
    let body = message.strip_prefix(&[START])?.get(..end - 1)?;
    Some(String::from_utf8_lossy(body).into_owned())
}

/// Reads once, for `timeout` at most.
fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>, timeout: Duration) -> io::Result<usize> {
    stream.set_read_timeout(Some(timeout))?;
    let mut buffer = [0; 4096];
    // A read that has a time limit is not begun again by the kernel after a signal (signal(7)).
    let length = loop {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => break done?,
        }
    };
    into.extend(buffer.get(..length).unwrap_or_default());
    Ok(length)
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_and_only_whole() {
        let mut received = [message("M1"), message("M2")].concat();
        let last = received.pop();
        let first = take_message(&mut received).expect("whole");
        assert_eq!(field(&first, "MSH", 9), Some("M1"));
        assert_eq!(take_message(&mut received), None);
        received.extend(last);
        assert!(take_message(&mut received).is_some() && received.is_empty());
    }

    #[test]
    fn an_acknowledgement_names_message_and_host() {
        let mut received = acknowledgement("MSH|^~\\&|A|B|C|D|1||ORU^R01|M7|P|2.5\r", "pacs1");
        let answer = take_message(&mut received).expect("whole");
        assert_eq!((field(&answer, "MSA", 2), field(&answer, "MSA", 3)), (Some("M7"), Some("pacs1")));
    }
}
