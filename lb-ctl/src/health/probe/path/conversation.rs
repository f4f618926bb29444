//! A TCP connection with the VIP at one server, in user space: smoltcp makes the packets, the Ethernet header is ours.
//!
//! Whoever waits on it drives it: frames that came in are looked at, packets that are due are sent, and a timer wakes it
//! for the next. There is no task behind it, so nothing is left when it is dropped but a RST to a server that is connected.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    future::{Future as _, poll_fn},
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use lb_common::net::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac};
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, SocketHandle, SocketSet},
    phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium},
    socket::tcp::{Socket, SocketBuffer, State},
    time::Instant as Moment,
    wire::{HardwareAddress, IpCidr, TcpPacket},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    frame::{Heard, Segment, What},
    told,
    wires::{Line, Wires},
};
use crate::{
    model::health::{DirectPath, Failure},
    net::subnet::host_prefix,
    random::random,
};

/// Largest packet. What every IPv6 link takes (RFC 8200, 5) also goes by an IPv4 link of the smallest common MTU, and
/// nothing long is said here.
const PACKET_BYTES: usize = 1280;
/// Room for what is received and sent.
const BUFFER_BYTES: usize = 16 * 1024;
/// Routers that a packet may pass. The server is the next machine, but its service may be in a container behind a bridge or
/// two; a server without the VIP that routes sends it back here, and it must not go round many times.
const HOPS: u8 = 4;
/// Frames looked at before others have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// Rounds of sending before others have their turn.
const ROUNDS_AT_ONCE: usize = 16;

/// A connection that is being opened, is open, or is over.
pub(super) struct Conversation<'a> {
    path: &'a DirectPath,
    wires: &'a Wires,
    line: Line,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    queues: Queues,
    started: Instant,
    timer: Pin<Box<Sleep>>,
    opening: Opening,
    /// What a SYN of ours is acknowledged by.
    expected: Option<u32>,
    note: Option<String>,
}

/// How far the opening is.
enum Opening {
    /// The SYN is on its way. With `unseen` the answer to it is a RST.
    Asked { unseen: bool },
    /// It failed.
    Failed(Failure),
    /// The server said yes.
    Done,
}

impl<'a> Conversation<'a> {
    /// Begins to open a connection. With `unseen` it is given up as soon as the server has said yes, before its
    /// application sees it.
    pub(super) fn open(path: &'a DirectPath, wires: &'a Wires, unseen: bool) -> Result<Self, Failure> {
        let line = wires.line(path).map_err(|error| told::not_tried(path, &error.to_string()))?;
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        // Sequence numbers come from it (RFC 6528).
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut queues, Moment::ZERO);
        let mut addressed = false;
        interface.update_ip_addrs(|addresses| {
            let own = IpCidr::new(path.source.into(), host_prefix(path.source));
            addressed = addresses.push(own).is_ok();
        });
        let routed = match path.vip.ip() {
            IpAddr::V4(vip) => interface.routes_mut().add_default_ipv4_route(vip).is_ok(),
            IpAddr::V6(vip) => interface.routes_mut().add_default_ipv6_route(vip).is_ok(),
        };
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_hop_limit(Some(HOPS));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let from = (smoltcp::wire::IpAddress::from(path.source), line.port);
        let asked = socket.connect(interface.context(), path.vip, from);
        if !addressed || !routed || asked.is_err() {
            return Err(told::not_tried(path, "no connection can be made of these addresses"));
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let started = Instant::now();
        Ok(Self {
            path,
            wires,
            line,
            interface,
            sockets,
            handle,
            queues,
            started,
            timer: Box::pin(sleep_until(started)),
            opening: Opening::Asked { unseen },
            expected: None,
            note: None,
        })
    }

    /// Waits until the server has said yes, or something that means no.
    pub(super) async fn opened(&mut self) -> Result<(), Failure> {
        poll_fn(|cx| {
            self.drive(cx);
            match &self.opening {
                Opening::Asked { .. } => Poll::Pending,
                Opening::Failed(failure) => Poll::Ready(Err(failure.clone())),
                Opening::Done => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Waits until the server has taken our FIN and sent its own, or is gone.
    pub(super) async fn closed(&mut self) {
        poll_fn(|cx| {
            self.drive(cx);
            let over = matches!(self.socket().state(), State::Closed | State::TimeWait);
            if over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What is worth knowing though nothing failed.
    pub(super) const fn note(&mut self) -> Option<String> {
        self.note.take()
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'static>>(self.handle)
    }

    /// Does all that can be done now. Afterwards the task is woken by a frame, or by the timer.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let mut frames = 0;
        while let Poll::Ready(heard) = self.line.heard.poll_recv(cx) {
            let Some(heard) = heard else {
                self.hung_up();
                break;
            };
            self.take(heard);
            frames += 1;
            if frames == FRAMES_AT_ONCE {
                cx.waker().wake_by_ref();
                break;
            }
        }
        for _ in 0..ROUNDS_AT_ONCE {
            let now = self.step();
            let next = self.interface.poll_at(now, &self.sockets);
            match next {
                None => return,
                Some(next) if next > now => {
                    let wait = std::time::Duration::from_micros(next.total_micros().unsigned_abs());
                    self.timer.as_mut().reset(self.started + wait);
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return;
                    }
                }
                Some(_) => {}
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Nothing comes in any more, which is no fault of the server's.
    fn hung_up(&mut self) {
        if let Opening::Asked { .. } = self.opening {
            self.opening = Opening::Failed(told::not_tried(self.path, "the interface is gone"));
        }
    }

    /// One round: what came in is digested, what is due is sent.
    fn step(&mut self) -> Moment {
        let now = self.now();
        while !matches!(
            self.interface.poll_ingress_single(now, &mut self.queues, &mut self.sockets),
            PollIngressSingleResult::None
        ) {}
        if let Opening::Asked { unseen } = self.opening {
            let state = self.socket().state();
            if state == State::Closed {
                self.opening = Opening::Failed(told::refused(self.path));
            } else if state != State::SynSent {
                self.opening = Opening::Done;
                if unseen {
                    // A RST leaves in place of the ACK.
                    self.socket().abort();
                }
            }
        }
        self.interface.poll_egress(now, &mut self.queues, &mut self.sockets);
        self.send();
        now
    }

    fn now(&self) -> Moment {
        Moment::from_micros(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn send(&mut self) {
        let ethertype = if self.path.vip.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let header =
            [&self.path.server_mac.0[..], &self.path.source_mac.0, &ethertype.to_be_bytes()].concat();
        while let Some(packet) = self.queues.outgoing.pop_front() {
            if self.expected.is_none() {
                self.expected = sequence_number(&packet).map(|number| number.wrapping_add(1));
            }
            let sent = self.line.send(&[&header[..], &packet].concat());
            if let (Err(error), Opening::Asked { .. }) = (sent, &self.opening) {
                self.wires.forget(self.path.ifindex);
                self.opening = Opening::Failed(told::not_tried(self.path, &error.to_string()));
            }
        }
    }

    /// Looks at a frame. Who says what matters until the connection is open; from then on segments alone do.
    fn take(&mut self, Heard { from, what }: Heard) {
        let path = self.path;
        let opening = matches!(self.opening, Opening::Asked { .. });
        let failed = match what {
            What::Segment(segment) if segment.source == path.vip => {
                let failed = if opening && self.is_answer(&segment) { self.suspect(from) } else { None };
                if failed.is_none() {
                    self.queues.incoming.push_back(segment.packet);
                }
                failed
            }
            What::Segment(segment) if opening && self.is_answer(&segment) => {
                Some(told::own_address(path, segment.source))
            }
            What::Returned { to } if opening && to == path.vip => Some(told::routed(path, "sends them back")),
            What::Icmp { by, message, about } if opening && about == path.vip => {
                Some(told::icmp(path, by, message))
            }
            What::Segment(_) | What::Returned { .. } | What::Icmp { .. } => None,
        };
        if let Some(failure) = failed {
            self.opening = Opening::Failed(failure);
        }
    }

    /// True for what answers our SYN and nothing older.
    fn is_answer(&self, segment: &Segment) -> bool {
        segment.acknowledges.is_some() && segment.acknowledges == self.expected
    }

    /// What is wrong with an answer from a MAC, if anything.
    fn suspect(&mut self, from: Mac) -> Option<Failure> {
        if from == self.path.server_mac {
            return None;
        }
        if let Some(other) = self.wires.name(from) {
            return Some(told::other_server(self.path, &other, from));
        }
        self.note = Some(format!(
            "the answer came from {from}, not from {}: another interface of the server, or a router",
            self.path.server_mac
        ));
        None
    }
}

/// Of a TCP segment in an IP packet without options or extension headers.
fn sequence_number(packet: &[u8]) -> Option<u32> {
    let header = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    let segment = TcpPacket::new_checked(packet.get(header..)?).ok()?;
    Some(segment.seq_number().0.cast_unsigned())
}

impl AsyncRead for Conversation<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.drive(cx);
        let socket = this.socket();
        if socket.can_recv() {
            let length = socket
                .recv_slice(buffer.initialize_unfilled())
                .map_err(|error| io::Error::other(error.to_string()))?;
            buffer.advance(length);
            // Room was made: the server may have to be told.
            this.step();
            return Poll::Ready(Ok(()));
        }
        if socket.state() == State::Closed {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else if socket.may_recv() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl AsyncWrite for Conversation<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.drive(cx);
        let socket = this.socket();
        if !socket.may_send() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !socket.can_send() {
            return Poll::Pending;
        }
        let length = socket.send_slice(bytes).map_err(|error| io::Error::other(error.to_string()))?;
        this.drive(cx);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().drive(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.socket().close();
        this.drive(cx);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        // A server that is connected learns that we are gone; who never answered has nothing to forget.
        if !matches!(self.socket().state(), State::Closed | State::SynSent | State::TimeWait) {
            self.socket().abort();
            self.step();
        }
    }
}

/// What smoltcp takes for its network.
#[derive(Default)]
struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = PACKET_BYTES;
        // Whoever sends over a virtual cable leaves TCP's checksum to hardware that is not there, and a packet socket sees it
        // before anybody has made it good.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let written = write(&mut packet);
        self.0.push_back(packet);
        written
    }
}
