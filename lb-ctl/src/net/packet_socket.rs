//! A packet socket: whole Ethernet frames of one type on one interface (packet(7)).
//!
//! The only file of this room with `unsafe`: neither the socket address of a packet socket nor the runtime's
//! registration of a socket has a safe constructor.

use std::{
    io::{self, Read as _, Write as _},
    mem::{align_of, size_of},
};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

const _: () = assert!(
    size_of::<libc::sockaddr_ll>() <= size_of::<SockAddrStorage>()
        && align_of::<libc::sockaddr_ll>() <= align_of::<SockAddrStorage>()
);

/// A packet socket bound to one interface and one Ethernet type.
pub(crate) struct PacketSocket(AsyncFd<Socket>);

impl PacketSocket {
    /// The Ethernet type of a socket that is only sent by (packet(7)).
    pub(crate) const RECEIVES_NOTHING: u16 = 0;

    /// Opens and binds; needs CAP_NET_RAW. `ethertype` in host order.
    pub(crate) fn open(ifindex: u32, ethertype: u16) -> io::Result<Self> {
        Self::open_filtered(ifindex, ethertype, &[])
    }

    /// [`Self::open`] for the frames that a classic BPF program lets through; an empty one lets through all.
    pub(crate) fn open_filtered(ifindex: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Protocol 0 receives nothing, so no frame of another interface, or past the filter, slips in before bind.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        if !filter.is_empty() {
            socket.attach_filter(filter)?;
        }
        socket.bind(&link_address(ifindex, ethertype)?)?;
        register(socket).map(Self)
    }

    /// Sends one frame, Ethernet header included.
    pub(crate) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = self.0.async_io(Interest::WRITABLE, |mut socket| socket.write(frame)).await?;
        whole(sent, frame)
    }

    /// Sends one frame now or not at all: [`io::ErrorKind::WouldBlock`] when there is no room for it.
    pub(crate) fn try_send(&self, frame: &[u8]) -> io::Result<()> {
        let mut socket = self.0.get_ref();
        whole(socket.write(frame)?, frame)
    }

    /// Receives one frame that came in; gives its length, at most the buffer's. Cancel-safe.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut socket| socket.read(buffer)).await
    }
}

fn whole(sent: usize, frame: &[u8]) -> io::Result<()> {
    if sent == frame.len() {
        Ok(())
    } else {
        Err(io::Error::other(format!("sent {sent} of {} bytes", frame.len())))
    }
}

/// Hands a non-blocking socket to the runtime.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor: it is open, and names the same socket, for as long as the `Socket`
    // lives, which is as long as the `AsyncFd` that takes it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

fn link_address(ifindex: u32, ethertype: u16) -> io::Result<SockAddr> {
    let ifindex = i32::try_from(ifindex)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "interface index above 2147483647"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain integers, any bit pattern of which is valid, and it is neither larger nor
    // more strictly aligned than the storage (asserted above).
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = ethertype.to_be();
    link.sll_ifindex = ifindex;
    // SAFETY: the storage holds an initialised sockaddr_ll, its family says so, and the length is its size.
    Ok(unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) })
}
