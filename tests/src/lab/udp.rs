//! A UDP service that echoes every datagram and says which host it runs on.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::topology::Host;

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// An echo server bound to one address, on a thread of its own.
#[derive(Debug)]
pub struct UdpEcho {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Listens on `ip` (the VIP on the host's loopback) and answers with the host's name and what it got.
    ///
    /// # Panics
    ///
    /// When the host does not have the address.
    #[must_use]
    pub fn start(host: &Host, ip: IpAddr, port: u16) -> Self {
        let socket = bind(host, SocketAddr::new(ip, port), LOOK);
        let ended = Arc::new(AtomicBool::new(false));
        let (name, flag) = (host.name.clone(), Arc::clone(&ended));
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !flag.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let answer = [name.as_bytes(), b" ", buffer.get(..length).unwrap_or_default()].concat();
                // A client that is gone does not end the service.
                let _ = socket.send_to(&answer, from);
            }
        });
        Self { ended, thread: Some(thread) }
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
/// When no answer came within a second, or it came from another address than the one asked.
pub fn ask(client: &Host, to: SocketAddr, text: &str) -> io::Result<String> {
    let any = SocketAddr::new(client.address_like(to.ip()), 0);
    let socket = bind(client, any, Duration::from_secs(1));
    socket.connect(to)?;
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    let answer = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    match answer.split_once(' ') {
        Some((host, echoed)) if echoed == text => Ok(host.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("asked {text:?}, got {answer:?}"))),
    }
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
