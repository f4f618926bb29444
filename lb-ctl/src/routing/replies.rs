//! The way of replies to a proxy that sends as its clients' addresses (R83): to this machine, though their destination
//! is a client.
//!
//! The nftables table marks packets of which a transparent socket of this machine is the other end. A rule sends what
//! has the mark to a routing table in which every address is local. Both are known by their protocol number, which
//! nobody else has, and by nothing else; what others have made is never touched.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are open-ended: what is not named here says nothing that is needed"
)]

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::wanted::Families;
use crate::net::{Error, Netlink};

/// The mark, and the number of the routing table: "lbd" in ASCII.
pub(super) const MARK: u32 = 0x006c_6264;
/// Who made the rule and the route.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(108);
/// Before the main table (32766), behind the table of this machine's own addresses (0).
const PRIORITY: u32 = 100;

/// Lets replies reach the proxy in the families that are wanted, and in no other.
///
/// # Errors
///
/// A line that says what does not work, why, and the cure.
pub(super) async fn reach(wanted: Families) -> Result<(), String> {
    let netlink = Netlink::open().map_err(|error| format!("servers' replies to clients: {error}"))?;
    for (family, is_wanted) in [(AddressFamily::Inet, wanted.v4), (AddressFamily::Inet6, wanted.v6)] {
        if is_wanted {
            make(&netlink, family).await.map_err(|error| {
                format!(
                    "replies to clients whose addresses the proxy sends with do not reach it: {error}; the kernel \
                     needs CONFIG_IP_MULTIPLE_TABLES, or set `transparent = false`"
                )
            })?;
        } else {
            unmake(&netlink, family).await.map_err(|error| {
                format!("a routing rule that no VIP needs any more stays (ip rule show priority {PRIORITY}): {error}")
            })?;
        }
    }
    Ok(())
}

/// Removes what daemons have made; true when there was something.
///
/// # Errors
///
/// Why it stays.
pub(super) async fn remove() -> Result<bool, String> {
    let why = |error: Error| format!("the routing rule of transparent VIPs could not be removed: {error}");
    let netlink = Netlink::open().map_err(why)?;
    let mut removed = false;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        removed |= unmake(&netlink, family).await.map_err(why)?;
    }
    Ok(removed)
}

async fn make(netlink: &Netlink, family: AddressFamily) -> Result<(), Error> {
    // The route comes first: a mark that leads to an empty table would go on to the next rule.
    let route = RouteNetlinkMessage::NewRoute(route(family, loopback(netlink).await?));
    netlink.change("ip route replace local default", route, NLM_F_CREATE | NLM_F_REPLACE).await?;
    if ours(netlink, family).await?.is_empty() {
        let rule = RouteNetlinkMessage::NewRule(rule(family));
        netlink.change("ip rule add", rule, NLM_F_CREATE | NLM_F_EXCL).await?;
        tracing::info!("servers' replies to clients of transparent VIPs now end here ({family:?})");
    }
    Ok(())
}

/// True when there was a rule.
async fn unmake(netlink: &Netlink, family: AddressFamily) -> Result<bool, Error> {
    let rules = ours(netlink, family).await?;
    for rule in &rules {
        netlink.change("ip rule delete", RouteNetlinkMessage::DelRule(rule.clone()), 0).await?;
    }
    if rules.is_empty() {
        return Ok(false);
    }
    let route = RouteNetlinkMessage::DelRoute(route(family, loopback(netlink).await?));
    match netlink.change("ip route delete local default", route, 0).await {
        Err(error) if error.errno() == Some(libc::ESRCH) => {}
        other => other?,
    }
    tracing::info!("servers' replies to clients take the routing table again ({family:?})");
    Ok(true)
}

/// Rules that a daemon has made.
async fn ours(netlink: &Netlink, family: AddressFamily) -> Result<Vec<RuleMessage>, Error> {
    let mut question = RuleMessage::default();
    question.header.family = family;
    let answers = match netlink.dump("ip rule show", RouteNetlinkMessage::GetRule(question)).await {
        // A kernel without the family has no rules of it.
        Err(error) if matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => Vec::new(),
        other => other?,
    };
    let is_ours = |rule: &RuleMessage| {
        rule.header.family == family && rule.attributes.contains(&RuleAttribute::Protocol(PROTOCOL))
    };
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) if is_ours(&rule) => Some(rule),
            _ => None,
        })
        .collect())
}

async fn loopback(netlink: &Netlink) -> Result<u32, Error> {
    let links = netlink.dump("ip link show", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    let index = links.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if link.header.flags.contains(LinkFlags::Loopback) => {
            Some(link.header.index)
        }
        _ => None,
    });
    // The kernel gives it this number in every network namespace.
    Ok(index.unwrap_or(1))
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(PRIORITY),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::Table(MARK),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    rule
}

/// Every address of the family, here.
fn route(family: AddressFamily, loopback: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = RouteType::Local;
    route.header.scope = RouteScope::Host;
    route.header.protocol = PROTOCOL;
    route.attributes = vec![RouteAttribute::Table(MARK), RouteAttribute::Oif(loopback)];
    route
}
