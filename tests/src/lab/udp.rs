//! A UDP service that echoes every datagram and says which host it runs on.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::topology::Host;

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Time for an answer: longer than a neighbour takes that has to be asked for its MAC twice (RFC 4861, 10: after a second).
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest datagram there is.
const LONGEST: usize = 65_535;

/// An echo server bound to one address, on a thread of its own.
#[derive(Debug)]
pub struct UdpEcho {
    peers: Arc<Mutex<BTreeSet<IpAddr>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Listens on `ip` (with direct routing the VIP on the host's loopback) and answers with the host's name and what it got.
    ///
    /// # Panics
    ///
    /// When the host does not have the address.
    #[must_use]
    pub fn start(host: &Host, ip: IpAddr, port: u16) -> Self {
        let socket = bind(host, SocketAddr::new(ip, port), LOOK);
        let ended = Arc::new(AtomicBool::new(false));
        let peers = Arc::new(Mutex::new(BTreeSet::new()));
        let (name, flag, book) = (host.name.clone(), Arc::clone(&ended), Arc::clone(&peers));
        let thread = thread::spawn(move || {
            let mut buffer = [0; LONGEST];
            while !flag.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                book.lock().unwrap_or_else(PoisonError::into_inner).insert(from.ip());
                let answer = [name.as_bytes(), b" ", buffer.get(..length).unwrap_or_default()].concat();
                // A client that is gone does not end the service.
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { peers, ended, thread: Some(thread) }
    }

    /// Addresses that asked.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows as missing answers.
            let _ = thread.join();
        }
    }
}

/// Sends a datagram from a new port of `client` and gives the name of the host that answered.
///
/// # Errors
///
/// When no answer came in time, or it came from another address than the one asked.
pub fn ask(client: &Host, to: SocketAddr, text: &str) -> io::Result<String> {
    ask_in_turn(client, to, &[text])
}

/// Sends datagrams from one new port of `client`, each when the one before was answered, and gives the name of the
/// host that answered them all.
///
/// # Errors
///
/// When no answer came in time, or it came from another address than the one asked, or from another host.
pub fn ask_in_turn(client: &Host, to: SocketAddr, texts: &[&str]) -> io::Result<String> {
    let any = SocketAddr::new(client.address_like(to.ip()), 0);
    let socket = bind(client, any, PATIENCE);
    socket.connect(to)?;
    let (mut buffer, mut answerer) = ([0; LONGEST], None);
    for text in texts {
        socket.send(text.as_bytes())?;
        let length = socket.recv(&mut buffer)?;
        let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        match answer.split_once(' ') {
            Some((host, echoed)) if echoed == *text && answerer.as_deref().is_none_or(|one| one == host) => {
                answerer = Some(host.to_owned());
            }
            _ => return Err(unexpected(text, &answer, answerer.as_deref())),
        }
    }
    answerer.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn unexpected(text: &str, answer: &str, answerer: Option<&str>) -> io::Error {
    let before = answerer.map(|host| format!(", and {host} answered before")).unwrap_or_default();
    io::Error::new(io::ErrorKind::InvalidData, format!("asked {text:?}, got {answer:?}{before}"))
}

fn bind(host: &Host, address: SocketAddr, read_timeout: Duration) -> UdpSocket {
    let socket = host
        .netns
        .enter(|| UdpSocket::bind(address))
        .unwrap_or_else(|error| panic!("{} cannot bind UDP {address}: {error}", host.name));
    socket
        .set_read_timeout(Some(read_timeout))
        .unwrap_or_else(|error| panic!("cannot set a timeout on a socket: {error}"));
    socket
}
