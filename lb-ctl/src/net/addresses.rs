//! VIP addresses on interfaces: claimed after asking whether another host has them, announced, and removed.
//!
//! An address that was there before is not ours: [`add`] says which it was, and who calls it keeps a list of what
//! was added and removes only that.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures_util::future::join_all;
use lb_common::net::Mac;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, CacheInfo},
    link::{LinkFlags, LinkMessage},
};
use tokio::time::{Instant, interval, sleep};
use tracing::warn;

use super::{
    Error, Netlink,
    facts::{address as read_address, link as read_link},
    subnet::host_prefix,
    wire::{self, AdvertisementEar},
};
use crate::model::net::{Address, Link, VipAddress};

/// Longest wait for the kernel's duplicate address detection: it starts after up to one second and takes one more
/// per probe (RFC 4862, 5.4).
const DAD_DEADLINE: Duration = Duration::from_secs(5);
/// Time from look to look at an address that is still being tried.
const DAD_POLL: Duration = Duration::from_millis(50);
/// Time from the first announcement to the second (ANNOUNCE_INTERVAL of RFC 5227, 1.1).
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);

/// How an address came to be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// It was not there; now it is, and it is ours to remove.
    Added,
    /// It was there before: not ours to remove, unless an earlier run of ours added it.
    Existed,
}

/// Why an address was not claimed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another host has it, or is about to claim it.
    #[error(
        "{ip} is already used by {} on {interface}; it was not claimed: free the address there, or configure another one",
        .mac.map_or_else(|| "another host".to_owned(), |mac| mac.to_string())
    )]
    Conflict {
        /// Address.
        ip: IpAddr,
        /// Who has it, if that could be heard.
        mac: Option<Mac>,
        /// Interface on which it was asked for.
        interface: String,
    },
    /// The interface is down, so nobody could be asked.
    #[error("{ip} was not claimed: {interface} {what}")]
    LinkDown {
        /// Address.
        ip: IpAddr,
        /// Interface.
        interface: String,
        /// What is missing, with the cure.
        what: &'static str,
    },
    /// There is no such interface.
    #[error(
        "{ip} was not claimed: there is no interface with index {ifindex}; set `interface` to one that `ip link` lists"
    )]
    NoInterface {
        /// Address.
        ip: IpAddr,
        /// Interface index.
        ifindex: u32,
    },
    /// Duplicate address detection came to no end.
    #[error(
        "{ip} was not claimed: duplicate address detection on {interface} did not end within {} s; look at `ip -6 address show dev {interface}`",
        DAD_DEADLINE.as_secs()
    )]
    Undecided {
        /// Address.
        ip: IpAddr,
        /// Interface.
        interface: String,
    },
    /// Probes could not be sent or heard.
    #[error(
        "{ip} was not claimed: probing on {interface}: {source}; lbd needs CAP_NET_RAW and an Ethernet interface"
    )]
    Probe {
        /// Address.
        ip: IpAddr,
        /// Interface.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not tell or do.
    #[error(transparent)]
    Netlink(#[from] Error),
}

/// Claims an address for a VIP: asks whether another host has it, puts it onto the interface (prefix 32 or 128) and
/// announces it. Idempotent. Takes 600 ms for IPv4; up to three seconds for IPv6, where the kernel's duplicate
/// address detection is what asks. A second announcement follows two seconds later, on its own.
///
/// # Errors
///
/// [`ClaimError`]; nothing was changed then.
pub async fn add(wanted: VipAddress) -> Result<Claim, ClaimError> {
    let netlink = Netlink::open()?;
    let interfaces = Interfaces::read(&netlink, wanted).await?;
    let existing = find(&netlink, wanted).await?;
    match (wanted.ip, existing) {
        (IpAddr::V4(_), Some(_)) => return Ok(Claim::Existed),
        // What lost its claim serves nobody: it is what an earlier run was stopped in the middle of.
        (IpAddr::V6(_), Some(lost)) if lost.duplicate && lost.prefix == host_prefix(wanted.ip) => {
            remove(wanted).await?;
        }
        (IpAddr::V6(ip), Some(_)) => {
            await_dad(&netlink, wanted, &interfaces, ip, None).await?;
            return Ok(Claim::Existed);
        }
        (_, None) => {}
    }
    interfaces.check_up(wanted.ip)?;
    match wanted.ip {
        IpAddr::V4(ip) => add_v4(&netlink, wanted, &interfaces, ip).await?,
        IpAddr::V6(ip) => add_v6(&netlink, wanted, &interfaces, ip).await?,
    }
    // Lives for two seconds and owns nothing.
    tokio::spawn(announce_twice(wanted, interfaces.link.mac, interfaces.link.name));
    Ok(Claim::Added)
}

/// Claims several addresses at the same time; the answers are in the order of the addresses.
pub async fn add_all(wanted: &[VipAddress]) -> Vec<Result<Claim, ClaimError>> {
    join_all(wanted.iter().copied().map(add)).await
}

/// Takes an address off its interface. That it (or the interface) is not there is success. Only the prefix that
/// [`add`] uses is removed: an administrator's own address with a subnet stays.
///
/// # Errors
///
/// When the kernel refuses, e.g. without CAP_NET_ADMIN.
pub async fn remove(unwanted: VipAddress) -> Result<(), Error> {
    let netlink = Netlink::open()?;
    let what = format!("remove {} from interface {}", unwanted.ip, unwanted.ifindex);
    match netlink.change(&what, RouteNetlinkMessage::DelAddress(message(unwanted)), 0).await {
        Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        result => result,
    }
}

/// The interface to claim on, and the hardware addresses of all.
struct Interfaces {
    link: Link,
    asks_nobody: bool,
    macs: BTreeSet<Mac>,
}

impl Interfaces {
    async fn read(netlink: &Netlink, wanted: VipAddress) -> Result<Self, ClaimError> {
        let messages =
            netlink.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
        let mut found = None;
        let mut macs = BTreeSet::new();
        for message in messages {
            if let RouteNetlinkMessage::NewLink(message) = message {
                let link = read_link(&message);
                macs.insert(link.mac);
                if link.index == wanted.ifindex {
                    let flags = message.header.flags;
                    found = Some((link, flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp)));
                }
            }
        }
        let (link, asks_nobody) =
            found.ok_or(ClaimError::NoInterface { ip: wanted.ip, ifindex: wanted.ifindex })?;
        Ok(Self { link, asks_nobody, macs })
    }

    /// On a dead interface every address seems free.
    fn check_up(&self, ip: IpAddr) -> Result<(), ClaimError> {
        let what = match (self.link.up, self.link.carrier) {
            (false, _) => "is down; bring it up with `ip link set dev NAME up`",
            (true, false) => {
                "has no carrier, so nobody can be asked whether the address is free; plug in the cable"
            }
            (true, true) => return Ok(()),
        };
        Err(ClaimError::LinkDown { ip, interface: self.link.name.clone(), what })
    }

    fn conflict(&self, ip: IpAddr, mac: Option<Mac>) -> ClaimError {
        ClaimError::Conflict { ip, mac, interface: self.link.name.clone() }
    }

    fn probe_error(&self, ip: IpAddr, source: io::Error) -> ClaimError {
        ClaimError::Probe { ip, interface: self.link.name.clone(), source }
    }
}

async fn add_v4(
    netlink: &Netlink,
    wanted: VipAddress,
    interfaces: &Interfaces,
    ip: Ipv4Addr,
) -> Result<(), ClaimError> {
    if !interfaces.asks_nobody {
        let owner = wire::probe(ip, wanted.ifindex, interfaces.link.mac, &interfaces.macs)
            .await
            .map_err(|source| interfaces.probe_error(wanted.ip, source))?;
        if owner.is_some() {
            return Err(interfaces.conflict(wanted.ip, owner));
        }
    }
    Ok(put(netlink, wanted, &interfaces.link.name).await?)
}

async fn add_v6(
    netlink: &Netlink,
    wanted: VipAddress,
    interfaces: &Interfaces,
    ip: Ipv6Addr,
) -> Result<(), ClaimError> {
    let ear =
        AdvertisementEar::open(wanted.ifindex).map_err(|source| interfaces.probe_error(wanted.ip, source))?;
    put(netlink, wanted, &interfaces.link.name).await?;
    let verdict = await_dad(netlink, wanted, interfaces, ip, Some(&ear)).await;
    if verdict.is_err() {
        remove(wanted).await?;
    }
    verdict
}

/// Waits for the kernel's duplicate address detection; `ear` listens for who has the address.
async fn await_dad(
    netlink: &Netlink,
    wanted: VipAddress,
    interfaces: &Interfaces,
    ip: Ipv6Addr,
    ear: Option<&AdvertisementEar>,
) -> Result<(), ClaimError> {
    let deadline = Instant::now() + DAD_DEADLINE;
    let mut polls = interval(DAD_POLL);
    let mut owner = None;
    while Instant::now() < deadline {
        polls.tick().await;
        let found = find(netlink, wanted).await?;
        // Asked after the kernel: what made it give the address up has been heard by then.
        owner = owner.or_else(|| ear.and_then(|ear| ear.advertiser(ip)));
        match found {
            // The kernel takes the address away when the interface is told to do without IPv6.
            None => break,
            Some(address) if address.duplicate => return Err(interfaces.conflict(wanted.ip, owner)),
            Some(address) if address.tentative => {}
            Some(_) => return Ok(()),
        }
    }
    Err(ClaimError::Undecided { ip: wanted.ip, interface: interfaces.link.name.clone() })
}

async fn put(netlink: &Netlink, wanted: VipAddress, interface: &str) -> Result<(), Error> {
    let what = format!("add {} to {interface}", wanted.ip);
    let message = RouteNetlinkMessage::NewAddress(message(wanted));
    match netlink.change(&what, message, NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// The wanted address on its interface, whatever its prefix.
async fn find(netlink: &Netlink, wanted: VipAddress) -> Result<Option<Address>, Error> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink.dump("list addresses", question).await?;
    Ok(answers
        .iter()
        .filter_map(|answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            read_address(message)
        })
        .find(|address| address.ifindex == wanted.ifindex && address.ip == wanted.ip))
}

fn message(address: VipAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = address.ifindex;
    message.header.prefix_len = host_prefix(address.ip);
    message.header.family = match address.ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes = vec![AddressAttribute::Address(address.ip), AddressAttribute::Local(address.ip)];
    if address.ip.is_ipv6() {
        // Deprecated from the start: the kernel must not choose a VIP as source address (RFC 6724, 5, rule 3) of
        // our own connections, such as health checks to servers that have the VIP on their loopback.
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

/// RFC 5227, 2.3, and the same for IPv6. Neighbours that miss both find the address by asking; only caches that
/// still hold another owner's MAC need to be told.
async fn announce_twice(claimed: VipAddress, mac: Mac, interface: String) {
    let VipAddress { ip, ifindex } = claimed;
    let told = async |ordinal: &str| {
        if let Err(error) = wire::announce(ip, ifindex, mac).await {
            warn!(
                "{ordinal} announcement of {ip} on {interface}: {error}; neighbours learn it when they ask"
            );
        }
    };
    told("first").await;
    sleep(ANNOUNCE_INTERVAL).await;
    // It may have been removed in the meantime, and then belongs to whoever claims it next.
    let still_there = async { find(&Netlink::open()?, claimed).await };
    if matches!(still_there.await, Ok(Some(_))) {
        told("second").await;
    }
}
