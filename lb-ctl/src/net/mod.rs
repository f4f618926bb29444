//! The kernel's view of the network: facts come in over netlink, VIP addresses go out.
//!
//! - [`watch`]: links, addresses and the ways to VIPs and real servers as [`NetFacts`], replaced whole at each
//!   change; keeps the real servers' MACs confirmed.
//! - [`addresses`]: puts VIP addresses onto interfaces, after asking whether another host has them.
//! - [`wire`]: the frames for that: ARP probes, announcements of both families.
//! - [`foreign`]: hears who else answers for addresses of ours.
//! - [`subnet`]: which interface is connected to an address.
//!
//! Everything goes by netlink and sockets, nothing by `/sys/class/net`: the daemon may have been started in a
//! network namespace with `nsenter --net`, where `/sys` still shows the interfaces of another one.
//!
//! `packet_socket` is the only file here with `unsafe` in it.

pub mod addresses;
pub mod arp;
mod facts;
pub mod foreign;
pub mod ndp;
mod netlink;
mod packet_socket;
pub mod subnet;
pub mod watch;
pub mod wire;

pub use netlink::Error;
pub(crate) use netlink::Netlink;
pub(crate) use packet_socket::PacketSocket;

#[cfg(doc)]
use crate::model::net::NetFacts;
