//! Who else answers for addresses of ours: asks and listens on every segment (RFC 826, RFC 4861).
//!
//! A real server that has the VIP on loopback and answers ARP for it takes clients away from the load balancer, one by one, as
//! their caches and their router's run out. So every segment on which a VIP or its servers are is asked twice a minute who has
//! the address, without claiming anything (RFC 5227, 1.1), and listened to in between. Whoever answers, or uses the address as
//! the sender of an ARP packet, stays on the list until two rounds have passed without a word of it.
//!
//! ```text
//! View, NetFacts -> orders (pure) -> a Segment for each interface (I/O) -> Book (pure) -> watch<ForeignAnswers>
//! ```
#![forbid(unsafe_code)]

mod book;
mod orders;
mod segment;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_common::net::Mac;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use self::{
    book::Book,
    orders::{Order, orders},
    segment::Event,
};
use crate::{
    control::View,
    model::{
        config::Config,
        net::{ForeignAnswer, ForeignAnswers, NetFacts},
    },
    net::wire,
    shutdown::Shutdown,
};

/// Events that may wait; a segment with more waits itself.
const EVENTS: usize = 256;
/// Wait before a segment that could not be listened to is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// VIPs that are served.
    pub view: watch::Receiver<Arc<View>>,
    /// Interfaces, addresses of this machine.
    pub facts: watch::Receiver<NetFacts>,
    /// What was heard.
    pub foreign: watch::Sender<Arc<ForeignAnswers>>,
}

/// Asks and listens until shutdown.
///
/// # Errors
///
/// When nobody is left who could tell what to ask for. An interface on which nothing can be heard is told in the log.
pub async fn run(connections: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    let (events, mut heard) = mpsc::channel(EVENTS);
    let mut watch = Watch {
        to: connections,
        events,
        segments: BTreeMap::new(),
        running: JoinSet::new(),
        told: BTreeMap::new(),
        retry_at: None,
        book: Book::default(),
    };
    let mut ended = std::pin::pin!(shutdown.requested());
    watch.follow();
    loop {
        let retry_at = watch.retry_at;
        tokio::select! {
            biased;
            () = &mut ended => return Ok(()),
            changed = watch.to.view.changed() => { changed?; watch.follow(); }
            changed = watch.to.facts.changed() => { changed?; watch.follow(); }
            Some(event) = heard.recv() => watch.take(event),
            Some(stopped) = watch.running.join_next() => match stopped {
                Ok((ifindex, why)) => watch.lost(ifindex, &why),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // No longer wanted.
                Err(_cancelled) => {}
            },
            () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => watch.follow(),
        }
    }
}

struct Watch {
    to: Connections,
    events: mpsc::Sender<Event>,
    segments: BTreeMap<u32, (watch::Sender<Order>, AbortHandle)>,
    running: JoinSet<(u32, String)>,
    /// Segments that cannot be listened to, and why: told once.
    told: BTreeMap<u32, String>,
    retry_at: Option<Instant>,
    book: Book,
}

impl Watch {
    /// Has every segment asked that should be, and no other.
    fn follow(&mut self) {
        self.retry_at = None;
        let view = Arc::clone(&self.to.view.borrow_and_update());
        let facts = self.to.facts.borrow_and_update().clone();
        let orders = orders(&view.config, &view.goal.state.addresses, &facts);
        self.segments.retain(|ifindex, (_, segment)| {
            let wanted = orders.contains_key(ifindex);
            if !wanted {
                segment.abort();
            }
            wanted
        });
        self.told.retain(|ifindex, _| orders.contains_key(ifindex));
        self.book.retain(|answer| orders.get(&answer.ifindex).is_some_and(|order| order.covers(answer)));
        for (ifindex, mut order) in orders {
            order.suspects = self.book.has(ifindex);
            if let Some((to, _)) = self.segments.get(&ifindex) {
                to.send_if_modified(|old| {
                    let differs = *old != order;
                    *old = order;
                    differs
                });
                continue;
            }
            let (to, orders) = watch::channel(order);
            let events = self.events.clone();
            let segment = self.running.spawn(async move {
                let why = segment::run(ifindex, orders, events).await;
                (ifindex, why.map_or_else(|error| error.to_string(), |()| "it ended".to_owned()))
            });
            self.segments.insert(ifindex, (to, segment));
        }
        self.publish();
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Heard(answer) => {
                // It may have been on its way while the address was taken off the list.
                let segment = self.segments.get(&answer.ifindex);
                if segment.is_some_and(|(order, _)| order.borrow().covers(&answer)) {
                    let ifindex = answer.ifindex;
                    self.book.heard(answer);
                    self.suspect(ifindex);
                }
            }
            Event::Round { ifindex } => {
                self.told.remove(&ifindex);
                for gone in self.book.round(ifindex) {
                    self.reclaim(&gone);
                }
                self.suspect(ifindex);
            }
        }
        self.publish();
    }

    /// Tells a segment whether somebody answers there.
    fn suspect(&self, ifindex: u32) {
        let Some((order, _)) = self.segments.get(&ifindex) else { return };
        let suspects = self.book.has(ifindex);
        order.send_if_modified(|order| {
            let differs = order.suspects != suspects;
            order.suspects = suspects;
            differs
        });
    }

    /// A segment cannot be listened to: what was heard there is not known any more.
    fn lost(&mut self, ifindex: u32, why: &str) {
        self.segments.remove(&ifindex);
        self.book.retain(|answer| answer.ifindex != ifindex);
        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
        if self.told.get(&ifindex).is_none_or(|told| told != why) {
            let name = self.to.facts.borrow().link_name(ifindex);
            tracing::warn!("who else answers for addresses of ours on {name} cannot be heard: {why}");
            self.told.insert(ifindex, why.to_owned());
        }
        self.publish();
    }

    /// Who asked while another machine answered believes it still: they are told where the address is.
    fn reclaim(&mut self, gone: &ForeignAnswer) {
        let ForeignAnswer { ip, ifindex, .. } = *gone;
        let facts = self.to.facts.borrow();
        let here = facts.addresses.iter().any(|address| address.ip == ip && address.ifindex == ifindex);
        let Some(mac) = facts.links.get(&ifindex).map(|link| link.mac).filter(|_| here) else { return };
        let name = facts.link_name(ifindex);
        // One frame, and owns nothing.
        tokio::spawn(async move {
            if let Err(error) = wire::announce(ip, ifindex, mac).await {
                tracing::warn!("announcement of {ip} on {name}: {error}; neighbours learn it when they ask");
            }
        });
    }

    fn publish(&self) {
        let answers = self.book.answers();
        let before = Arc::clone(&self.to.foreign.borrow());
        if *before == answers {
            return;
        }
        let (view, facts) = (self.to.view.borrow(), self.to.facts.borrow());
        for new in answers.difference(&before) {
            tracing::warn!("{}", describe(new, &view.config, &facts));
        }
        for gone in before.difference(&answers) {
            let ForeignAnswer { ip, ifindex, mac } = gone;
            tracing::info!("{mac} no longer answers for {ip} on {}", facts.link_name(*ifindex));
        }
        self.to.foreign.send_replace(Arc::new(answers));
    }
}

/// A line about an answer: who it is, what it does, and the cure.
#[must_use]
pub fn describe(answer: &ForeignAnswer, config: &Config, facts: &NetFacts) -> String {
    let ForeignAnswer { ip, ifindex, mac } = *answer;
    let question = if ip.is_ipv4() { "ARP" } else { "neighbour discovery" };
    let on = facts.link_name(ifindex);
    let names = server_names(mac, config, facts);
    let who = if names.is_empty() { "another machine".to_owned() } else { names.join(", ") };
    let s = if names.len() > 1 { "" } else { "s" };
    let answers = format!("{who} answer{s} {question} for {ip} ({mac} on {on})");
    let Some(vip) = config.vips.iter().find(|vip| vip.ip == ip) else {
        return format!("{answers}: packets for this machine go astray: take the address off that machine");
    };
    let stranger =
        if names.is_empty() { "take the address off it, or, if it is a real server, " } else { "" };
    format!(
        "{answers}: clients will bypass the load balancer: {stranger}run there what `lbctl arp-help linux --vip {}` prints",
        vip.name
    )
}

/// Names of the real servers that have a MAC: one machine may stand under several.
fn server_names(mac: Mac, config: &Config, facts: &NetFacts) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for rip in config.vips.iter().flat_map(|vip| &vip.rips) {
        let is_it = facts.paths.get(&rip.ip).is_some_and(|path| path.mac == Some(mac));
        if is_it && !names.contains(&rip.name) {
            names.push(rip.name.clone());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{Mode, Ports, Rip, Vip},
        net::{Link, Path},
    };

    #[test]
    fn an_answer_is_told_by_the_servers_name_or_by_its_mac_with_the_cure() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let server = [10, 12, 1, 110];
        let vip = |name: &str, rip: &str| Vip {
            rips: vec![Rip::new(rip, server.into())],
            ..Vip::new(name, Mode::L4Dr, [10, 12, 1, 100].into(), Ports::All)
        };
        let config = Config { vips: vec![vip("DICOM", "DICOM2"), vip("WEB", "DICOM2")], ..Config::default() };
        let way = Path { ifindex: Some(2), gateway: None, local: false, mac: Some(mac(9)), failed: false };
        let facts = NetFacts {
            links: [(2, Link::ethernet(2, "eth0", mac(1)))].into(),
            paths: [(server.into(), way)].into(),
            ..NetFacts::default()
        };
        let line =
            |mac| describe(&ForeignAnswer { ip: [10, 12, 1, 100].into(), ifindex: 2, mac }, &config, &facts);
        assert_eq!(
            line(mac(9)),
            "DICOM2 answers ARP for 10.12.1.100 (02:00:00:00:00:09 on eth0): clients will bypass the load balancer: run there \
             what `lbctl arp-help linux --vip DICOM` prints"
        );
        let stranger = line(mac(7));
        assert!(
            stranger.starts_with("another machine answers ARP for 10.12.1.100 (02:00:00:00:00:07 on eth0)"),
            "{stranger}"
        );
    }
}
