//! Claiming an address on the wire: ARP probes and announcements (RFC 5227), unsolicited neighbour
//! advertisements (RFC 4861, 7.2.6), and ears for who answers: IPv6 duplicate address detection, ARP, and neighbour
//! discovery.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    num::NonZeroU32,
    time::Duration,
};

use lb_common::net::{ETHERTYPE_IPV6, Mac};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

use super::{
    arp::{Arp, ETHERTYPE_ARP},
    ndp,
    packet_socket::{PacketSocket, register},
};

/// Probes sent before an address counts as free (PROBE_NUM of RFC 5227, 1.1).
const PROBES: u32 = 3;
/// Time from probe to probe, and from the last one to the verdict. RFC 5227 says one to two seconds, meant for
/// hosts that start by the hundred; a VIP has to serve, and an answer on a LAN takes milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// Large enough for any ARP frame or neighbour advertisement; longer messages are cut, which no parser here minds.
const MESSAGE_BYTES: usize = 512;
/// Neighbour discovery messages looked at in one go.
const MESSAGES_AT_ONCE: usize = 1024;

/// Asks on an interface whether another host has `ip` or is about to claim it: `Some(mac)` names it. Takes
/// 600 ms when nobody has it. `mac` is the interface's own, `ours` are the addresses of all our interfaces.
///
/// # Errors
///
/// When the packet socket cannot be opened (CAP_NET_RAW) or a probe cannot be sent (interface down).
pub async fn probe(ip: Ipv4Addr, ifindex: u32, mac: Mac, ours: &BTreeSet<Mac>) -> io::Result<Option<Mac>> {
    let socket = PacketSocket::open(ifindex, ETHERTYPE_ARP)?;
    let frame = Arp::probe(mac, ip).frame();
    for _ in 0..PROBES {
        socket.send(&frame).await?;
        let deadline = Instant::now() + PROBE_INTERVAL;
        let mut buffer = [0; MESSAGE_BYTES];
        // The clock is asked too: in a storm of ARP the timeout alone would always find another frame first.
        while Instant::now() < deadline
            && let Ok(length) = timeout_at(deadline, socket.receive(&mut buffer)).await
        {
            let contender = Arp::parse(&buffer[..length?]).and_then(|packet| packet.contender(ip, ours));
            if contender.is_some() {
                return Ok(contender);
            }
        }
    }
    Ok(None)
}

/// Tells everybody on an interface, once, that `ip` is at `mac`: a gratuitous ARP request, or an unsolicited
/// neighbour advertisement (`ip` must then already be on the interface).
///
/// # Errors
///
/// When the socket cannot be opened (CAP_NET_RAW) or the frame cannot be sent (interface down).
pub async fn announce(ip: IpAddr, ifindex: u32, mac: Mac) -> io::Result<()> {
    match ip {
        IpAddr::V4(ip) => {
            let socket = PacketSocket::open(ifindex, ETHERTYPE_ARP)?;
            socket.send(&Arp::announcement(mac, ip).frame()).await
        }
        IpAddr::V6(ip) => {
            let socket = icmp6_socket(ifindex)?;
            socket.get_ref().bind(&SockAddr::from(SocketAddrV6::new(ip, 0, 0, ifindex)))?;
            let everybody = SockAddr::from(SocketAddrV6::new(ALL_NODES, 0, 0, ifindex));
            let message = ndp::advertisement(mac, ip);
            socket
                .async_io(Interest::WRITABLE, |socket| socket.send_to(&message, &everybody))
                .await
                .map(|_| ())
        }
    }
}

/// All nodes of the link (RFC 4291, 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Hears who answers the kernel's duplicate address detection, so that a conflict can be named.
pub(super) struct AdvertisementEar(AsyncFd<Socket>);

impl AdvertisementEar {
    /// Listens on an interface from now on.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        icmp6_socket(ifindex).map(Self)
    }

    /// The MAC of whoever advertised `ip` among the messages that have come in; does not wait.
    pub(super) fn advertiser(&self, ip: Ipv6Addr) -> Option<Mac> {
        let mut socket = self.0.get_ref();
        let mut buffer = [0; MESSAGE_BYTES];
        // Ends at EWOULDBLOCK; the limit is for a flood that comes in faster than it is read.
        (0..MESSAGES_AT_ONCE)
            .map_while(|_| socket.read(&mut buffer).ok().map(|length| ndp::advertiser(&buffer[..length], ip)))
            .flatten()
            .next()
    }
}

/// All ARP of an interface, and a voice there.
pub(super) struct ArpEar(PacketSocket);

impl ArpEar {
    /// Listens on an interface from now on.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        PacketSocket::open(ifindex, ETHERTYPE_ARP).map(Self)
    }

    /// The next packet; `None` = a frame that is none. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<Option<Arp>> {
        let mut buffer = [0; MESSAGE_BYTES];
        let length = self.0.receive(&mut buffer).await?;
        Ok(buffer.get(..length).and_then(Arp::parse))
    }

    /// Sends a packet to everybody.
    pub(super) async fn ask(&self, packet: &Arp) -> io::Result<()> {
        self.0.send(&packet.frame()).await
    }
}

/// All neighbour advertisements of an interface, and a voice to ask for them.
pub(super) struct NeighbourEar(PacketSocket);

impl NeighbourEar {
    /// Listens on an interface from now on.
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        PacketSocket::open_filtered(ifindex, ETHERTYPE_IPV6, &advertisements()).map(Self)
    }

    /// The next advertisement: an address, and the MAC that it is said to be at; `None` = it names no MAC. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<Option<(Ipv6Addr, Mac)>> {
        let mut buffer = [0; MESSAGE_BYTES];
        let length = self.0.receive(&mut buffer).await?;
        Ok(buffer.get(ndp::MESSAGE_OFFSET..length).and_then(ndp::advertised))
    }

    /// Asks who has `ip`, from an address of this machine.
    pub(super) async fn ask(&self, ip: Ipv6Addr, mac: Mac, source: Ipv6Addr) -> io::Result<()> {
        self.0.send(&ndp::solicitation(mac, source, ip)).await
    }
}

/// Lets through neighbour advertisements that no router has passed on (RFC 4861, 7.1.2).
fn advertisements() -> [SockFilter; 8] {
    // Classic BPF (the kernel's Documentation/networking/filter.rst): load a byte, jump if equal, return.
    const LOAD: u16 = 0x30;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let [message, kind] = [ndp::MESSAGE_OFFSET as u32, u32::from(ndp::TYPE_ADVERTISEMENT)];
    [
        SockFilter::new(LOAD, 0, 0, 20),
        SockFilter::new(EQUAL, 0, 5, u32::from(ndp::PROTO_ICMPV6)),
        SockFilter::new(LOAD, 0, 0, 21),
        SockFilter::new(EQUAL, 0, 3, u32::from(ndp::HOP_LIMIT)),
        SockFilter::new(LOAD, 0, 0, message),
        SockFilter::new(EQUAL, 0, 1, kind),
        SockFilter::new(RETURN, 0, 0, MESSAGE_BYTES as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

fn icmp6_socket(ifindex: u32) -> io::Result<AsyncFd<Socket>> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    socket.bind_device_by_index_v6(NonZeroU32::new(ifindex))?;
    // Receivers discard neighbour discovery that a router might have passed on (RFC 4861, 7.1.2).
    socket.set_multicast_hops_v6(255)?;
    register(socket)
}
