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
        // A choice that nobody may remember has to come out the same again.
        let by_hash = packet.is_mid_stream()
            || self.table(Which::HalfOpen, &flow).is_crowded(&flow, now, FLOOD_TICKS)
            || self.table(Which::Established, &flow).is_full(&flow);
        let choice = self.choose(service, &flow, by_hash)?;
        if direct {
            self.begin_direct(packet, choice);
            return Ok(Decided::Go(choice, None));
        }
        let rewrite = self.begin_pair(packet, choice)?;
        Ok(Decided::Go(choice, Some(rewrite)))
    }

    fn begin_direct(&mut self, packet: &Packet, choice: Choice) {
        if packet.is_mid_stream() {
            self.count(Reason::MidStream);
            if packet.is_reset() {
                return;
            }
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
            kind::NAT => Flow { dst: server, ..flow },
            _ => self.with_source(&flow, choice, server)?,
        };
        let reply = there.reversed();
        if self.table(Which::Established, &flow).is_full(&flow)
            || self.table(Which::Established, &reply).is_full(&reply)
        {
            return Err(Reason::FlowRefused);
        }
        if self.is_taken(&reply) {
            return Err(Reason::ReplyClash);
        }
        if packet.is_mid_stream() {
            self.count(Reason::MidStream);
        }
        let rewrite = Rewrite { flow: there, hop: packet.hop };
        let back = Rewrite { flow: flow.reversed(), ..rewrite };
        self.remember(reply, Choice { kind: kind::REPLY, ..choice }, Some(back));
        self.remember(flow, choice, Some(rewrite));
        self.service_traffic.entry(choice.service).or_default().flows += 1;
        Ok(rewrite)
    }

    /// Source address and port of a SNAT flow: tried in an order that the client's ends decide.
    fn with_source(&mut self, flow: &Flow, choice: Choice, server: SocketAddr) -> Result<Flow, Reason> {
        let sources = self.sources.get(&choice.service).cloned().unwrap_or_default();
        let tries = if sources.addrs.is_empty() { 0 } else { SOURCE_TRIES.into() };
        for n in 0..tries {
            let h = hash::finish(hash::mix(steering_hash(flow), n));
            let address = sources.addrs[scaled(h, sources.addrs.len())];
            let port = sources.first_port + scaled(h << 32, sources.ports.into()) as u16;
            let there = Flow { src: SocketAddr::new(address, port), dst: server, proto: flow.proto };
            if !self.is_taken(&there.reversed()) {
                return Ok(there);
            }
        }
        Err(Reason::NoSourcePort)
    }

    fn is_taken(&mut self, reply: &Flow) -> bool {
        [Which::Established, Which::HalfOpen]
            .into_iter()
            .any(|which| self.table(which, reply).find(reply).is_some())
    }

    fn remember(&mut self, flow: Flow, choice: Choice, rewrite: Option<Rewrite>) {
        let entry = Entry { flow, choice, rewrite, state: State::New, last_seen: self.now };
        if self.table(Which::HalfOpen, &flow).insert_over_oldest(entry) {
            self.count(Reason::HalfOpenOverwritten);
        }
    }
}
