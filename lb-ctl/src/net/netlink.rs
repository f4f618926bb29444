//! Netlink sockets: one to ask, another to listen.
//!
//! They are separate because the kernel stamps the notification of a change with the sequence number of the
//! request that made it: on a shared socket it would be taken for an answer and lost as news.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are open-ended: what is not named here says nothing that is needed"
)]

use std::{io, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket as _;
use rtnetlink::MulticastGroup;
use tokio::{task::JoinHandle, time::timeout};

/// Longest wait for the answer to one request. The kernel answers in microseconds; a dump of a large neighbour
/// table takes milliseconds.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Receive buffer of the listening socket: room for a burst of some thousand notifications.
const EVENT_BUFFER_BYTES: usize = 1 << 20;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Why the kernel's network tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No netlink socket.
    #[error(
        "netlink socket: {source}; the kernel needs CONFIG_NETLINK_ROUTE, the service AF_NETLINK allowed"
    )]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{what}: {source}{}", cure(.source))]
    Refused {
        /// What was asked.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No answer in time, or an unreadable one.
    #[error("{what}: no readable answer from the kernel within {} s; try again", ANSWER_DEADLINE.as_secs())]
    Silence {
        /// What was asked.
        what: String,
    },
}

impl Error {
    /// The kernel's error number, if it refused.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Open { .. } | Self::Silence { .. } => None,
        }
    }
}

fn cure(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied { "; run as root or with CAP_NET_ADMIN" } else { "" }
}

/// A socket to ask with.
pub(crate) struct Netlink {
    handle: rtnetlink::Handle,
    _driver: Driver,
}

impl Netlink {
    /// Opens the socket in the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(|source| Error::Open { source })?;
        let _driver = Driver(tokio::spawn(connection));
        Ok(Self { handle, _driver })
    }

    /// Everything of one kind; `message` says which.
    pub(crate) async fn dump(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.ask(what, message, NLM_F_DUMP).await
    }

    /// One question with one answer.
    pub(crate) async fn get(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.ask(what, message, 0).await
    }

    /// A change; `flags` beside request and acknowledgement.
    pub(crate) async fn change(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Error> {
        self.ask(what, message, NLM_F_ACK | flags).await.map(|_| ())
    }

    async fn ask(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let silence = || Error::Silence { what: what.to_owned() };
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut answers = self.handle.clone().request(request).map_err(|_| silence())?;
        let collect = async {
            let mut messages = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => messages.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(Error::Refused { what: what.to_owned(), source: error.to_io() });
                    }
                    NetlinkPayload::Overrun(_) => return Err(silence()),
                    _ => {}
                }
            }
            Ok(messages)
        };
        timeout(ANSWER_DEADLINE, collect).await.map_err(|_| silence())?
    }
}

/// What the listening socket hears.
pub(crate) enum Event {
    /// Something changed.
    Changed(RouteNetlinkMessage),
    /// Notifications were lost (ENOBUFS): what is known must be read anew.
    Lost,
}

/// A socket to listen with.
pub(crate) struct Events {
    messages: Pin<Box<dyn Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Send>>,
    _driver: Driver,
}

impl Events {
    /// Listens for changes of links, addresses, neighbours, routes and rules.
    pub(crate) fn open() -> Result<Self, Error> {
        let open = |source| Error::Open { source };
        let (mut connection, _handle, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(open)?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(EVENT_BUFFER_BYTES).map_err(open)?;
        let _driver = Driver(tokio::spawn(connection));
        Ok(Self { messages: Box::pin(messages.map(|(message, _)| message)), _driver })
    }

    /// The next event; `None` when the socket is no more. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => return Some(Event::Changed(message)),
                NetlinkPayload::Overrun(_) => return Some(Event::Lost),
                _ => {}
            }
        }
    }
}

/// The task that moves a socket's bytes; ends with its owner.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
