//! The first packet of a flow.

use std::net::SocketAddr;

use lb_common::{
    counter::Reason,
    flow::{State, kind},
    hash,
    limits::SOURCE_TRIES,
    service::mode,
};

use super::{
    FLOOD_TICKS, Model,
    flows::{Choice, Entry, Rewrite},
    life::{Decided, Packet, Which},
    parse::Flow,
    steer::{scaled, steering_hash},
};

impl Model {
    pub(super) fn begin(&mut self, packet: &Packet) -> Result<Decided, Reason> {
        let flow = packet.flow;
        let service = self.service_of(&flow).ok_or(Reason::NoService)?;
        let direct = self.services[&service].mode == mode::DR;
        if packet.is_reset() && !direct {
            return Err(Reason::MidStreamReset);
        }
        let now = self.now;
        let full = self.table(Which::Established, &flow).is_full(&flow);
        if full && !direct {
            return Err(Reason::FlowRefused);
        }
        // A choice that nobody may remember has to come out the same again.
        let by_hash = full
            || packet.is_mid_stream()
            || self.table(Which::HalfOpen, &flow).is_crowded(&flow, now, FLOOD_TICKS);
        let choice = self.choose(service, &flow, by_hash)?;
        if packet.is_mid_stream() {
            self.count(Reason::MidStream);
        }
        if direct {
            self.begin_direct(packet, choice);
            return Ok(Decided::Go(choice, None));
        }
        let rewrite = self.begin_pair(packet, choice)?;
        Ok(Decided::Go(choice, Some(rewrite)))
    }

    fn begin_direct(&mut self, packet: &Packet, choice: Choice) {
        if packet.is_reset() {
            return;
        }
        self.remember(packet.flow, choice, None);
        self.service_traffic.entry(choice.service).or_default().flows += 1;
    }

    /// NAT and SNAT: an entry for each direction, the server's first.
    fn begin_pair(&mut self, packet: &Packet, choice: Choice) -> Result<Rewrite, Reason> {
        let flow = packet.flow;
        let mut server = self.targets[&choice.slot];
        if server.port() == 0 {
            server.set_port(flow.dst.port());
        }
        let there = match choice.kind {
            kind::NAT => {
                let there = Flow { dst: server, ..flow };
                self.give_up_lost(&there.reversed(), &flow);
                if self.is_taken(&there.reversed())? {
                    return Err(Reason::ReplyClash);
                }
                there
            }
            _ => self.with_source(&flow, choice, server)?,
        };
        let rewrite = Rewrite { flow: there, hop: packet.hop };
        let back = Rewrite { flow: flow.reversed(), ..rewrite };
        self.remember(there.reversed(), Choice { kind: kind::REPLY, ..choice }, Some(back));
        self.remember(flow, choice, Some(rewrite));
        self.service_traffic.entry(choice.service).or_default().flows += 1;
        Ok(rewrite)
    }

    /// A reply entry that is there already may be this flow's own, whose other half was lost: it makes room.
    fn give_up_lost(&mut self, reply: &Flow, flow: &Flow) {
        for which in [Which::Established, Which::HalfOpen] {
            if self.leads_to(which, reply, flow) {
                self.table(which, reply).remove(reply);
                self.count(Reason::HalfPair);
            }
        }
    }

    /// Source address and port of a SNAT flow: tried in an order that the client's ends decide.
    fn with_source(&mut self, flow: &Flow, choice: Choice, server: SocketAddr) -> Result<Flow, Reason> {
        let sources = self.sources.get(&choice.service).cloned().unwrap_or_default();
        let any = !sources.addrs.is_empty() && sources.ports != 0;
        for n in 0..if any { SOURCE_TRIES.into() } else { 0 } {
            let h = hash::finish(hash::mix(steering_hash(flow), n));
            let address = sources.addrs[scaled(h, sources.addrs.len())];
            let port = sources.first_port + scaled(h << 32, sources.ports.into()) as u16;
            let there = Flow { src: SocketAddr::new(address, port), dst: server, proto: flow.proto };
            if !self.is_taken(&there.reversed())? {
                return Ok(there);
            }
        }
        Err(Reason::NoSourcePort)
    }

    /// True if another flow has these ends towards the server; an error if there is no room to ever establish them.
    fn is_taken(&mut self, reply: &Flow) -> Result<bool, Reason> {
        let known = |model: &mut Self, which| model.table(which, reply).find(reply).is_some();
        if known(self, Which::HalfOpen) || known(self, Which::Established) {
            return Ok(true);
        }
        if self.table(Which::Established, reply).is_full(reply) {
            return Err(Reason::FlowRefused);
        }
        Ok(false)
    }

    fn remember(&mut self, flow: Flow, choice: Choice, rewrite: Option<Rewrite>) {
        let entry = Entry { flow, choice, rewrite, state: State::New, last_seen: self.now };
        if self.table(Which::HalfOpen, &flow).insert_over_oldest(entry) {
            self.count(Reason::HalfOpenOverwritten);
        }
    }
}
