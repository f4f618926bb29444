//! Packet sockets that all tries share: one for each interface and family, since to close one the kernel waits until no
//! processor looks at it any more. A task reads each, and hands what comes in to the try whose port it is for.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lb_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac};
use tokio::{sync::mpsc, task::JoinHandle};

use super::frame::{self, FIRST_LOCAL_PORT, Heard};
use crate::{
    model::health::{DirectPath, PathTarget, Target},
    net::PacketSocket,
    random::random,
};

/// Frames that may wait for a try to look at them; what does not fit is lost, as on any wire.
const WAITING_FRAMES: usize = 32;
/// Largest frame: the longest IP packet that segments may have been joined to on their way in.
const FRAME_BYTES: usize = frame::ETHERNET_BYTES + 65_535;

/// The sockets.
#[derive(Debug, Default)]
pub(in crate::health) struct Wires {
    open: Mutex<BTreeMap<(u32, u16), Arc<Wire>>>,
    names: Mutex<BTreeMap<Mac, String>>,
}

impl Wires {
    /// Learns the names of the servers that are checked: who answers in place of another is called by it. Closes what
    /// leads to none of them any more.
    pub(in crate::health) fn know(&self, targets: &[Target]) {
        let mut names = BTreeMap::new();
        let mut used = BTreeSet::new();
        for target in targets {
            if let PathTarget::Direct(path) = &target.path {
                names.insert(path.server_mac, target.id.rip.clone());
                used.insert(path.ifindex);
            }
        }
        *lock(&self.names) = names;
        lock(&self.open).retain(|(ifindex, _), _| used.contains(ifindex));
    }

    /// Name of the server that has a MAC.
    pub(super) fn name(&self, mac: Mac) -> Option<String> {
        lock(&self.names).get(&mac).cloned()
    }

    /// A port to try a path from.
    pub(super) fn line(&self, path: &DirectPath) -> io::Result<Line> {
        let ethertype = if path.vip.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let mut open = lock(&self.open);
        let key = (path.ifindex, ethertype);
        let wire = match open.get(&key) {
            Some(wire) if !wire.reader.is_finished() => Arc::clone(wire),
            _ => {
                let wire = Arc::new(Wire::open(path.ifindex, ethertype)?);
                open.insert(key, Arc::clone(&wire));
                wire
            }
        };
        drop(open);
        wire.line()
    }

    /// Closes what an interface that is gone has left behind: one of the same index may come.
    pub(super) fn forget(&self, ifindex: u32) {
        lock(&self.open).retain(|(open, _), _| *open != ifindex);
    }
}

/// One interface, one family.
#[derive(Debug)]
struct Wire {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

struct Shared {
    socket: PacketSocket,
    ports: Mutex<Ports>,
}

impl Shared {
    /// Nothing comes in any more: tries that wait learn it.
    fn hang_up(&self) {
        lock(&self.ports).taken.clear();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("ports", &self.ports).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Ports {
    taken: HashMap<u16, mpsc::Sender<Heard>>,
    next: u16,
}

impl Wire {
    fn open(ifindex: u32, ethertype: u16) -> io::Result<Self> {
        let socket = PacketSocket::open_filtered(ifindex, ethertype, &frame::filter(ethertype))?;
        // Not always the same port first: after a restart a server may still remember what came from it.
        let span = u64::from(u16::MAX - FIRST_LOCAL_PORT) + 1;
        let next = FIRST_LOCAL_PORT + u16::try_from(random() % span).unwrap_or_default();
        let shared = Arc::new(Shared { socket, ports: Mutex::new(Ports { taken: HashMap::new(), next }) });
        let reader = tokio::spawn(read(Arc::clone(&shared)));
        Ok(Self { shared, reader })
    }

    fn line(&self) -> io::Result<Line> {
        let (sender, heard) = mpsc::channel(WAITING_FRAMES);
        let mut ports = lock(&self.shared.ports);
        for _ in FIRST_LOCAL_PORT..=u16::MAX {
            let port = ports.next;
            ports.next = port.checked_add(1).unwrap_or(FIRST_LOCAL_PORT);
            if let std::collections::hash_map::Entry::Vacant(free) = ports.taken.entry(port) {
                free.insert(sender);
                return Ok(Line { shared: Arc::clone(&self.shared), port, heard });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "every port for tries of VIPs is in use"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
        self.shared.hang_up();
    }
}

/// Reads until the socket is of no use any more.
async fn read(shared: Arc<Shared>) {
    let mut buffer = vec![0; FRAME_BYTES];
    loop {
        match shared.socket.receive(&mut buffer).await {
            Ok(length) => {
                let Some((port, heard)) = buffer.get(..length).and_then(frame::read) else { continue };
                let to = lock(&shared.ports).taken.get(&port).cloned();
                // Without room it is lost, and TCP sends it again.
                drop(to.map(|to| to.try_send(heard)));
            }
            // Told once when the interface goes down; the socket works again when it comes up.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {}
            Err(error) => {
                tracing::debug!("a packet socket for tries of VIPs: {error}");
                shared.hang_up();
                return;
            }
        }
    }
}

/// A local port on a wire, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    /// The port.
    pub(super) port: u16,
    /// What comes in for it.
    pub(super) heard: mpsc::Receiver<Heard>,
}

impl Line {
    /// Sends a frame, unless there is no room for it.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        match self.shared.socket.try_send(frame) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    || error.raw_os_error() == Some(libc::ENOBUFS) =>
            {
                Ok(())
            }
            sent => sent,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        lock(&self.shared.ports).taken.remove(&self.port);
    }
}

/// What a panic elsewhere left behind is whole: nothing is done under these locks that can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
