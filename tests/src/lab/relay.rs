//! A TCP relay between address families: dcmtk and Orthanc as packaged speak IPv4 only, and IPv6 has to be tested with
//! what they really say.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::topology::Host;

/// Accepts on one address of a host and passes every byte on to another, both ways. Dropped, it accepts no more.
#[derive(Debug)]
pub struct Relay {
    host: Host,
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens on `from` and connects to `to`, both on `host`.
    ///
    /// # Panics
    ///
    /// When the host cannot listen there.
    #[must_use]
    pub fn start(host: &Host, from: SocketAddr, to: SocketAddr) -> Self {
        let listener = host
            .netns
            .enter(|| TcpListener::bind(from))
            .unwrap_or_else(|error| panic!("{} cannot listen on {from}: {error}", host.name));
        let address = listener.local_addr().unwrap_or(from);
        let ended = Arc::new(AtomicBool::new(false));
        let (flag, inside) = (Arc::clone(&ended), host.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                // Dropped when the server does not answer: the client sees its connection close.
                if let Ok(server) = inside.netns.enter(|| TcpStream::connect(to)) {
                    join(client, server);
                }
            }
        });
        Self { host: host.clone(), address, ended, thread: Some(thread) }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread up, so that it sees the flag; refused when it has ended already.
        let woken = self.host.netns.enter(|| TcpStream::connect(self.address)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic of the relay shows as a broken connection.
            let _ = thread.join();
        }
    }
}

/// Passes bytes on in both directions until both are closed.
fn join(client: TcpStream, server: TcpStream) {
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    for (mut from, mut to) in [(client, server), (server_too, client_too)] {
        thread::spawn(move || {
            // An end without a word and an orderly one are passed on alike.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
