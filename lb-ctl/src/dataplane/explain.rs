//! What the packet path would do with a packet that nobody sent: the program itself is asked, on a copy of its tables.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{counter::Reason, load::Limits, service::Service};

use super::{Error, Flow, Installed, ServiceKey};

/// A packet of a client to a VIP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Client's address and port. Port 0 asks for one that no flow has.
    pub client: SocketAddr,
    /// Where it goes.
    pub to: ServiceKey,
    /// Interface that it comes in by; `None` = the one of the flow that it belongs to, or the loopback.
    pub ingress: Option<u32>,
}

/// What became of the packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rehearsal {
    /// Client's address and port.
    pub client: SocketAddr,
    /// Interface that it came in by.
    pub ingress: u32,
    /// What was sent.
    pub sent: Sent,
    /// What the program said.
    pub verdict: Verdict,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
    /// What it counted, in the order of [`Reason::ALL`].
    pub reasons: Vec<Reason>,
    /// Backend slot that the packet was forwarded to.
    pub slot: Option<u16>,
    /// Id of the service that the key leads to, and its record; `None` = the key leads nowhere.
    pub service: Option<(u16, Service)>,
    /// The flow that the packet belongs to.
    pub flow: Option<Flow>,
    /// The persistence entry of the client.
    pub persisted: Option<Remembered>,
    /// How busy the service's backends were, by slot.
    pub loads: BTreeMap<u16, Occupancy>,
}

/// The packet that was made up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent {
    /// A bare ACK of a connection in progress.
    Ack,
    /// A UDP datagram.
    Datagram,
    /// The first segment of a connection.
    Syn,
}

/// What an XDP program says of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// It is left to the kernel.
    Pass,
    /// It leaves by another interface than it came in by.
    Redirect,
    /// It leaves by the interface that it came in by.
    Transmit,
}

/// A persistence entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// The slot that it names, as the service that was asked has it; `None` = it has no such server.
    pub slot: Option<u16>,
    /// It counts: its server is live and it is not too old.
    pub counts: bool,
    /// The client has answered a server since; otherwise this is the choice for its first packet.
    pub proved: bool,
    /// Milliseconds since it was last used, to within a second.
    pub idle_millis: u64,
    /// Milliseconds that it is kept for without being used.
    pub timeout_millis: u64,
}

/// How busy a backend was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Occupancy {
    /// Active connections.
    pub active: u64,
    /// It reached its maximum, and has not come below its minimum since.
    pub full: bool,
    /// Its limits and weight.
    pub limits: Limits,
    /// It gets packets of connections in progress.
    pub live: bool,
}

/// Asks the program.
pub trait Explainer: Send + Sync {
    /// Runs the packet through a copy of the program with a copy of what it would look at. Nothing that is in use is
    /// written. Blocks for as long as the kernel takes to look the program over, a second or several.
    ///
    /// # Errors
    ///
    /// When a map cannot be read, or the copy cannot be made or run.
    fn rehearse(&self, probe: &Probe, installed: &Installed) -> Result<Rehearsal, Error>;
}
