//! The life of a flow: what a packet does to the entry that it finds.

use lb_common::{
    counter::Reason,
    flow::{Hop, State, VOID_GENERATION, kind},
    net::PROTO_TCP,
    service::flags::{RESET, RETURN_BY_ROUTE},
};

use super::{
    Busy, Model, REPEAT_TICKS, TOUCH_TICKS, family,
    flows::{Choice, Entry, FlowTable, Rewrite},
    parse::Flow,
};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// A packet with ports.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Its five-tuple.
    pub flow: Flow,
    /// TCP's control bits; `None` = UDP.
    pub flags: Option<u8>,
    /// The way that it came.
    pub hop: Hop,
}

/// What was decided for a packet.
#[derive(Clone, Copy, Debug)]
pub enum Decided {
    /// It goes on.
    Go(Choice, Option<Rewrite>),
    /// Its server is dead, and its sender must be told.
    Reset,
}

impl Choice {
    /// True for the server's packets of NAT and SNAT.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        self.kind == kind::REPLY
    }

    const fn is_direct(&self) -> bool {
        self.kind == kind::DR
    }
}

/// One of the two tables of a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    Established,
    HalfOpen,
}

/// What an entry's packet leaves to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It goes where the entry says.
    Go,
    /// It goes where the entry says, and the flow is over.
    End,
    /// The entry no longer counts: the packet begins a flow.
    Anew,
    /// The other half was lost, and its ends are another flow's now.
    Clash,
}

impl Packet {
    /// A bare SYN, for TCP.
    pub(super) fn opens(&self) -> bool {
        self.flags.is_some_and(|flags| flags & (SYN | ACK | RST) == SYN)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.is_some_and(|flags| flags & flag != 0)
    }

    /// A segment of a connection that is on its way already.
    pub(super) fn is_mid_stream(&self) -> bool {
        self.flags.is_some() && !self.opens()
    }

    pub(super) fn is_reset(&self) -> bool {
        self.has(RST)
    }
}

impl Model {
    /// Established flows first, then half-open ones, then everything that is new.
    pub(super) fn decide(&mut self, packet: &Packet) -> Result<Decided, Reason> {
        for which in [Which::Established, Which::HalfOpen] {
            let Some(entry) = self.table(which, &packet.flow).find(&packet.flow).copied() else { continue };
            if !self.live(entry.choice) {
                if self.is_answered_for_the_dead(&entry, packet) {
                    return Ok(Decided::Reset);
                }
                self.retire(which, &entry);
                self.count(Reason::FlowOrphaned);
                continue;
            }
            let step = match which {
                Which::Established => self.step_established(&entry, packet),
                Which::HalfOpen => self.step_half_open(&entry, packet),
            };
            if step == Step::Clash {
                // This flow is over.
                self.table(which, &entry.flow).remove(&entry.flow);
                return Err(Reason::ReplyClash);
            }
            if step != Step::Anew {
                if step == Step::Go {
                    self.follow_hop(&entry, packet);
                }
                return Ok(Decided::Go(entry.choice, entry.rewrite));
            }
        }
        self.begin(packet)
    }

    /// Pairs of a service that wants it, and flows that an operator ended: senders of a dead connection are told, but
    /// one that opens another is not.
    fn is_answered_for_the_dead(&self, entry: &Entry, packet: &Packet) -> bool {
        let service = self.services.get(&entry.choice.service);
        let resets = !entry.choice.is_direct() && service.is_some_and(|service| service.flags & RESET != 0);
        (resets || entry.choice.generation == VOID_GENERATION)
            && packet.flow.proto == PROTO_TCP
            && !packet.opens()
    }

    pub(super) const fn table(&mut self, which: Which, flow: &Flow) -> &mut FlowTable {
        match which {
            Which::Established => &mut self.established[family(flow)],
            Which::HalfOpen => &mut self.half_open[family(flow)],
        }
    }

    /// An operator has ended a flow.
    pub fn void(&mut self, flow: &Flow) {
        for which in [Which::Established, Which::HalfOpen] {
            self.change(which, flow, |kept| kept.choice.generation = VOID_GENERATION);
        }
    }

    /// Forgets a flow in both directions.
    fn retire(&mut self, which: Which, entry: &Entry) {
        self.uncount(entry);
        self.table(which, &entry.flow).remove(&entry.flow);
        if let Some(sibling) = entry.sibling()
            && self.leads_to(which, &sibling, &entry.flow)
        {
            let other = self.table(which, &sibling).find(&sibling).copied();
            other.iter().for_each(|other| self.uncount(other));
            self.table(which, &sibling).remove(&sibling);
        }
    }

    /// True if there is such an entry and its other half is this one. One whose other half was lost may be about a
    /// flow that has begun anew with other ends.
    pub(super) fn leads_to(&mut self, which: Which, flow: &Flow, other: &Flow) -> bool {
        self.table(which, flow).find(flow).is_some_and(|entry| entry.sibling() == Some(*other))
    }

    fn step_established(&mut self, entry: &Entry, packet: &Packet) -> Step {
        let which = Which::Established;
        if packet.has(RST) {
            self.retire(which, entry);
            return Step::End;
        }
        let ended = matches!(entry.state, State::Closing | State::PeerClosing | State::Closed);
        if packet.opens() && ended && !entry.choice.is_reply() {
            self.retire(which, entry);
            return Step::Anew;
        }
        // A SYN changes nothing, whatever else it says.
        let fin = packet.has(FIN) && (entry.choice.is_direct() || !packet.opens());
        let state = if fin { after_own_fin(entry.state, entry.choice.is_direct()) } else { entry.state };
        let now = self.now;
        if state != entry.state || now - entry.last_seen >= TOUCH_TICKS {
            self.change(which, &entry.flow, |kept| (kept.state, kept.last_seen) = (state, now));
        }
        if !is_active(state) {
            self.uncount(entry);
        }
        if let Some(sibling) = entry.sibling().filter(|_| state != entry.state) {
            let other = self.table(which, &sibling).find(&sibling).copied();
            other.iter().for_each(|other| self.uncount(other));
            self.change(which, &sibling, |kept| {
                (kept.state, kept.last_seen) = (after_peers_fin(kept.state), now);
            });
        }
        Step::Go
    }

    fn step_half_open(&mut self, entry: &Entry, packet: &Packet) -> Step {
        let which = Which::HalfOpen;
        if packet.has(RST) {
            self.retire(which, entry);
            return Step::End;
        }
        if packet.opens()
            && let Some(sibling) = entry.sibling().filter(|_| !entry.choice.is_reply())
            && !self.leads_to(which, &sibling, &entry.flow)
        {
            // The server's answer would find no entry.
            self.table(which, &entry.flow).remove(&entry.flow);
            self.count(Reason::HalfPair);
            return Step::Anew;
        }
        if packet.opens() || entry.choice.is_reply() {
            // The opening segment once more, or the server's answer: the flow is as young as before.
            let reply = entry.choice.is_reply();
            if self.now - entry.last_seen >= if reply { TOUCH_TICKS } else { REPEAT_TICKS } {
                self.refresh(entry);
                if !reply {
                    self.busy(entry.choice).syn_repeats += 1;
                }
            }
            return Step::Go;
        }
        let state = match packet.flags {
            None => State::Datagrams,
            Some(flags) if flags & FIN != 0 => State::Closing,
            Some(_) => State::Established,
        };
        if self.confirm(entry, state) { Step::Go } else { Step::Clash }
    }

    /// A flow that was active is not any more. Only the client's entry counts, and only for a server that lives.
    fn uncount(&mut self, entry: &Entry) {
        if is_active(entry.state) && !entry.choice.is_reply() && self.live(entry.choice) {
            self.busy(entry.choice).active -= 1;
        }
    }

    fn busy(&mut self, choice: Choice) -> &mut Busy {
        self.loads.entry(choice.slot).or_default()
    }

    fn refresh(&mut self, entry: &Entry) {
        let now = self.now;
        self.change(Which::HalfOpen, &entry.flow, |kept| kept.last_seen = now);
    }

    fn change(&mut self, which: Which, flow: &Flow, how: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.table(which, flow).find(flow) {
            how(entry);
        }
    }

    /// The flow is real: it moves to the established ones, in both directions, if there is room. A reply entry that made
    /// room for a younger one is made again from what this one knows; false when its ends are another flow's by now.
    fn confirm(&mut self, entry: &Entry, state: State) -> bool {
        let now = self.now;
        let established = Which::Established;
        let reply = entry.sibling().zip(entry.rewrite).map(|(sibling, rewrite)| {
            self.table(Which::HalfOpen, &sibling).find(&sibling).copied().unwrap_or(Entry {
                flow: sibling,
                choice: Choice { kind: kind::REPLY, ..entry.choice },
                rewrite: Some(Rewrite { flow: entry.flow.reversed(), ..rewrite }),
                ..*entry
            })
        });
        if let Some(reply) = reply {
            let other = self.table(established, &reply.flow).find(&reply.flow).copied();
            if reply.sibling() != Some(entry.flow)
                || other.is_some_and(|other| other.sibling() != Some(entry.flow))
            {
                return false;
            }
        }
        let reply_state = if state == State::Closing { State::PeerClosing } else { state };
        let moved = reply.map(|reply| Entry { state: reply_state, last_seen: now, ..reply });
        let fits = moved.is_none_or(|reply| self.table(established, &reply.flow).insert(reply));
        if fits && self.table(established, &entry.flow).insert(Entry { state, last_seen: now, ..*entry }) {
            self.table(Which::HalfOpen, &entry.flow).remove(&entry.flow);
            if let Some(sibling) = entry.sibling() {
                self.table(Which::HalfOpen, &sibling).remove(&sibling);
            }
            if is_active(state) {
                let busy = self.busy(entry.choice);
                busy.active += 1;
                busy.syn_repeats = 0;
            }
            self.stick(entry.choice, &entry.flow);
            return true;
        }
        if let Some(reply) = moved.filter(|_| fits) {
            self.table(established, &reply.flow).remove(&reply.flow);
        }
        self.refresh(entry);
        self.count(Reason::FlowTableFull);
        true
    }

    /// Replies follow the client's packets.
    fn follow_hop(&mut self, entry: &Entry, packet: &Packet) {
        let by_route = self
            .services
            .get(&entry.choice.service)
            .is_some_and(|service| service.flags & RETURN_BY_ROUTE != 0);
        let Some(rewrite) = entry.rewrite.filter(|_| !entry.choice.is_reply() && !by_route) else { return };
        if rewrite.hop == packet.hop {
            return;
        }
        self.count(Reason::HopMoved);
        let now = self.now;
        for flow in [entry.flow, rewrite.flow.reversed()] {
            // A packet that confirmed its flow has moved it.
            for which in [Which::Established, Which::HalfOpen] {
                self.change(which, &flow, |kept| {
                    kept.rewrite = kept.rewrite.map(|kept| Rewrite { hop: packet.hop, ..kept });
                    kept.last_seen = now;
                });
            }
        }
    }
}

/// True for flows that count as connections.
const fn is_active(state: State) -> bool {
    matches!(state, State::Established | State::Datagrams)
}

/// RFC 9293, 3.6, as far as it shows from outside.
const fn after_own_fin(state: State, one_direction: bool) -> State {
    let both = matches!(state, State::PeerClosing | State::Closed) && !one_direction;
    if both { State::Closed } else { State::Closing }
}

const fn after_peers_fin(state: State) -> State {
    if matches!(state, State::Closing | State::Closed) { State::Closed } else { State::PeerClosing }
}
