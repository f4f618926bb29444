//! The task that keeps [`NetFacts`] true, and the real servers' MACs confirmed.
//!
//! A change is told at once when it concerns a watched neighbour, and within 20 ms when routes must be
//! asked for again. Lost notifications and a broken socket end in a fresh start from full dumps, with the last
//! facts standing until the new ones are whole.
//!
//! **Keeping MACs warm.** Nothing but ARP and neighbour discovery passes through this machine's own stack, so
//! the kernel would let entries of busy servers grow old and then forget them. Each second it is asked to
//! resolve what it does not know (`NTF_USE`), and each MAC that it knows is confirmed once in
//! ten seconds by unicast probes (`NUD_PROBE`), while it goes on counting. A server whose MAC
//! changes without a word is thus found at the new one after about fifteen seconds, and one that announces it
//! at once. Entries that an administrator made permanent are left alone: `NTF_USE` would undo them.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "netlink's enums are open-ended: what is not named here says nothing that is needed"
)]

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at},
};
use tracing::{debug, warn};

use super::{
    Error, Netlink,
    facts::{Ask, Effect, Route, State, route},
    netlink::{Event, Events},
    subnet::host_prefix,
};
use crate::model::net::{NetFacts, Watched};

/// Longest time from a change of links, addresses or routes to asking for the routes again.
const COALESCE: Duration = Duration::from_millis(20);
/// Time from round to round of asking the kernel about neighbours.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds in which each known MAC is confirmed once.
const CONFIRM_ROUNDS: u64 = 10;
/// Rounds after which the routes are asked for again though nothing was heard: next-hop objects and the like
/// have notifications of their own.
const REROUTE_ROUNDS: u64 = 30;
/// Waits before a broken socket is opened again.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);

/// Runs until the sender of `watched` is gone. Publishes whole facts at each change.
///
/// # Errors
///
/// When the kernel will not let this process ask about neighbours (CAP_NET_ADMIN). Everything else is retried.
pub async fn run(mut watched: watch::Receiver<Watched>, facts: watch::Sender<NetFacts>) -> Result<(), Error> {
    let mut delay = *RETRY.start();
    loop {
        let started = Instant::now();
        match session(&mut watched, &facts).await {
            Ok(End::Done) => return Ok(()),
            Ok(End::Lost) => debug!("netlink notifications were lost; reading everything again"),
            Err(error) if error.errno() == Some(libc::EPERM) => return Err(error),
            Err(error) => warn!("network facts may be out of date, trying again: {error}"),
        }
        if started.elapsed() > *RETRY.end() {
            delay = *RETRY.start();
        }
        sleep(delay).await;
        delay = (delay * 2).min(*RETRY.end());
    }
}

/// The facts once, without a running task: dumps everything, has the watched addresses resolved, and waits
/// until each is known or failed, but not past `patience` (the kernel gives up on a neighbour after three
/// seconds).
///
/// # Errors
///
/// When netlink does not answer. Without CAP_NET_ADMIN nothing is resolved, and the facts say what is known.
pub async fn snapshot(watched: &Watched, patience: Duration) -> Result<NetFacts, Error> {
    let deadline = Instant::now() + patience;
    let mut events = Events::open()?;
    let netlink = Netlink::open()?;
    let mut state = read_all(&netlink, &State::default(), watched).await?;
    state.forget_failures();
    if let Err(error) = ask_round(&netlink, &state, 0).await
        && error.errno() != Some(libc::EPERM)
    {
        return Err(error);
    }
    while !state.is_settled() && Instant::now() < deadline {
        match timeout_at(deadline, events.next()).await {
            Ok(Some(Event::Changed(message))) => _ = state.apply(message, watched),
            Ok(Some(Event::Lost)) => state = read_all(&netlink, &state, watched).await?,
            Ok(None) | Err(_) => break,
        }
    }
    Ok(state.facts())
}

/// Why a session ended without an error.
enum End {
    /// Nobody needs facts any more.
    Done,
    /// Notifications were lost.
    Lost,
}

/// From one fresh start to the next.
async fn session(
    watched: &mut watch::Receiver<Watched>,
    facts: &watch::Sender<NetFacts>,
) -> Result<End, Error> {
    // Listening starts before reading, so that nothing falls between.
    let mut events = Events::open()?;
    let netlink = Netlink::open()?;
    let mut now_watched = watched.borrow_and_update().clone();
    let mut state = read_all(&netlink, &State::default(), &now_watched).await?;
    publish(facts, &state);

    let mut reroute_at: Option<Instant> = None;
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = 0u64;
    loop {
        let reroute = async {
            match reroute_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = watched.changed() => {
                if changed.is_err() {
                    return Ok(End::Done);
                }
                now_watched = watched.borrow_and_update().clone();
                state = read_all(&netlink, &state, &now_watched).await?;
                reroute_at = None;
                publish(facts, &state);
                ask_round(&netlink, &state, round).await?;
            }
            () = reroute => {
                reroute_at = None;
                state.set_routes(read_routes(&netlink, &now_watched).await?);
                publish(facts, &state);
                ask_round(&netlink, &state, round).await?;
            }
            _ = rounds.tick() => {
                ask_round(&netlink, &state, round).await?;
                round = round.wrapping_add(1);
                if round.is_multiple_of(REROUTE_ROUNDS) {
                    reroute_at.get_or_insert_with(Instant::now);
                }
            }
            event = events.next() => match event {
                Some(Event::Changed(message)) => match state.apply(message, &now_watched) {
                    Effect::Nothing => {}
                    // Not before the routes are whole again, if they are being waited for.
                    Effect::Neighbour => if reroute_at.is_none() {
                        publish(facts, &state);
                    },
                    Effect::Routes => _ = reroute_at.get_or_insert_with(|| Instant::now() + COALESCE),
                },
                Some(Event::Lost) | None => return Ok(End::Lost),
            },
        }
    }
}

fn publish(facts: &watch::Sender<NetFacts>, state: &State) {
    let new = state.facts();
    facts.send_if_modified(|old| {
        let changed = *old != new;
        if changed {
            *old = new;
        }
        changed
    });
}

async fn read_all(netlink: &Netlink, before: &State, watched: &Watched) -> Result<State, Error> {
    let dumps = [
        ("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())),
        ("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default())),
        ("list neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())),
    ];
    let mut state = before.successor();
    for (what, message) in dumps {
        for message in netlink.dump(what, message).await? {
            state.apply(message, watched);
        }
    }
    state.set_routes(read_routes(netlink, watched).await?);
    Ok(state)
}

async fn read_routes(netlink: &Netlink, watched: &Watched) -> Result<BTreeMap<IpAddr, Route>, Error> {
    let mut routes = BTreeMap::new();
    for &ip in watched {
        routes.insert(ip, read_route(netlink, ip).await?);
    }
    Ok(routes)
}

async fn read_route(netlink: &Netlink, ip: IpAddr) -> Result<Route, Error> {
    let mut question = RouteMessage::default();
    question.header.address_family = family(ip);
    question.header.destination_prefix_length = host_prefix(ip);
    question.header.kind = RouteType::Unicast;
    question.attributes.push(RouteAttribute::Destination(RouteAddress::from(ip)));
    let what = format!("look up the route to {ip}");
    match netlink.get(&what, RouteNetlinkMessage::GetRoute(question)).await {
        Ok(answers) => Ok(answers
            .iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Some(route(message)),
                _ => None,
            })
            .unwrap_or_default()),
        // No route, an unreachable one, a family that is switched off: each is refused with its own number.
        Err(error @ Error::Refused { .. }) => {
            debug!("{error}");
            Ok(Route::default())
        }
        Err(error) => Err(error),
    }
}

async fn ask_round(netlink: &Netlink, state: &State, round: u64) -> Result<(), Error> {
    for (ifindex, ip, ask) in state.asks(round, CONFIRM_ROUNDS) {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = ifindex;
        message.attributes.push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        let flags = match ask {
            Ask::Confirm => {
                message.header.state = NeighbourState::Probe;
                NLM_F_REPLACE
            }
            Ask::Resolve => {
                message.header.flags = NeighbourFlags::Use;
                NLM_F_CREATE | NLM_F_REPLACE
            }
        };
        let what = format!("ask who has {ip} on interface {ifindex}");
        match netlink.change(&what, RouteNetlinkMessage::NewNeighbour(message), flags).await {
            Ok(()) => {}
            // Links and entries come and go under our hands; the notification of it is on its way.
            Err(error @ Error::Refused { .. }) if error.errno() != Some(libc::EPERM) => debug!("{error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
