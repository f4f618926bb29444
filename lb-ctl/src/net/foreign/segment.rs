//! One segment: asks in rounds who has the addresses, and hears everybody who says that it has one.
#![forbid(unsafe_code)]

use std::{io, net::IpAddr, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::orders::Order;
use crate::{
    model::net::ForeignAnswer,
    net::{
        arp::Arp,
        wire::{ArpEar, NeighbourEar},
    },
    random::random,
};

/// Time from round to round, give or take a tenth.
const ROUND: Duration = Duration::from_secs(30);
/// The same while somebody answers who should not.
const SUSPECT_ROUND: Duration = Duration::from_secs(2);
/// Questions of a round (PROBE_NUM of RFC 5227, 1.1): one may get lost.
const PROBES: u32 = 3;
/// Time from question to question, and from the last one to the end of the round: an answer on a LAN takes milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// What is told of a segment.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody says that it has an address.
    Heard(ForeignAnswer),
    /// A round of questions is over.
    Round {
        /// Where.
        ifindex: u32,
    },
}

/// Asks and listens until the orders end.
pub(super) async fn run(
    ifindex: u32,
    mut orders: watch::Receiver<Order>,
    events: mpsc::Sender<Event>,
) -> io::Result<()> {
    let arp = ArpEar::open(ifindex)?;
    let neighbours = NeighbourEar::open(ifindex)?;
    let mut order = orders.borrow_and_update().clone();
    let mut asked = 0;
    let mut next = Instant::now();
    loop {
        let heard = tokio::select! {
            changed = orders.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let before = std::mem::replace(&mut order, orders.borrow_and_update().clone());
                let is_new = !order.ips.is_subset(&before.ips) || !order.claimed.is_subset(&before.claimed);
                if is_new || (order.suspects && !before.suspects) {
                    asked = 0;
                    next = Instant::now();
                }
                None
            }
            packet = arp.next() => packet?.filter(|packet| !packet.sender_ip.is_unspecified())
                .map(|packet| (IpAddr::V4(packet.sender_ip), packet.sender_mac)),
            heard = neighbours.next() => heard?.map(|(ip, mac)| (IpAddr::V6(ip), mac)),
            () = sleep_until(next) => {
                if asked < PROBES {
                    ask(&order, &arp, &neighbours).await?;
                    asked += 1;
                    next = Instant::now() + PROBE_INTERVAL;
                } else {
                    asked = 0;
                    next = Instant::now() + spread(if order.suspects { SUSPECT_ROUND } else { ROUND });
                    if events.send(Event::Round { ifindex }).await.is_err() {
                        return Ok(());
                    }
                }
                None
            }
        };
        let Some((ip, mac)) = heard else { continue };
        let answer = ForeignAnswer { ip, ifindex, mac };
        if order.covers(&answer) && events.send(Event::Heard(answer)).await.is_err() {
            return Ok(());
        }
    }
}

/// One question for each address.
async fn ask(order: &Order, arp: &ArpEar, neighbours: &NeighbourEar) -> io::Result<()> {
    for ip in &order.ips {
        match (ip, order.source) {
            (IpAddr::V4(ip), _) => arp.ask(&Arp::probe(order.mac, *ip)).await?,
            (IpAddr::V6(ip), Some(source)) => neighbours.ask(*ip, order.mac, source).await?,
            // Without an address there is nobody whom an answer could be sent to: what is said unasked is heard.
            (IpAddr::V6(_), None) => {}
        }
    }
    Ok(())
}

/// A time, or up to a tenth more or less, so that two load balancers on a segment drift apart.
fn spread(time: Duration) -> Duration {
    time / 1000 * (900 + u32::try_from(random() % 201).unwrap_or_default())
}
