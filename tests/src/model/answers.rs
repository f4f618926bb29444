//! Packets of the balancer's own: RST for connections whose server is dead, and ICMP errors of a router.

use std::net::IpAddr;

use lb_common::counter::Reason;

use super::{
    Model,
    life::{ACK, FIN, RST, SYN},
    parse::Outline,
};
use crate::packet::{
    dut::{Ran, XDP_DROP, XDP_TX},
    frame::checksum,
};

/// Why a packet cannot be forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Its time to live ends here.
    Expired,
    /// It is longer than this.
    TooBig(u16),
    /// Either, but it is an ICMP error itself.
    AboutAnError,
}

const ANSWER_TTL: u8 = 64;

impl Model {
    /// Answers a segment for a dead server (RFC 9293, 3.5.2, group 1).
    pub(super) fn reset(&mut self, frame: &[u8], outline: &Outline) -> Ran {
        self.count(Reason::FlowReset);
        let tcp = &frame[outline.l4..];
        let flags = tcp[13];
        if flags & RST != 0 {
            return Ran { verdict: XDP_DROP, frame: frame.to_vec() };
        }
        let (sequence, acknowledgement) = (be32(tcp, 4), be32(tcp, 8));
        // As the headers say, even where they contradict each other.
        let headers = outline.l4 - outline.l3 + usize::from(tcp[12] >> 4) * 4;
        let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let occupied = (outline.ip_len as u32).wrapping_sub(headers as u32).wrapping_add(ends);
        let (seq, ack, bits) = if flags & ACK != 0 {
            (acknowledgement, 0, RST)
        } else {
            (0, sequence.wrapping_add(occupied), RST | ACK)
        };
        let mut segment = [&tcp[2..4], &tcp[..2]].concat();
        segment.extend(seq.to_be_bytes());
        segment.extend(ack.to_be_bytes());
        segment.extend([0x50, bits, 0, 0, 0, 0, 0, 0]);
        answer(frame, outline, 6, &mut segment, 16)
    }

    /// Tells a packet's sender why it goes no further, if that may be told (RFC 1122, 3.2.2), and not too often.
    pub(super) fn tell(&mut self, frame: &[u8], outline: &Outline, why: Trouble) -> Result<Ran, Reason> {
        let later = outline.fragment.is_some_and(|fragment| !fragment.first);
        let may_be_cut = matches!(why, Trouble::TooBig(_)) && !outline.whole;
        if later || may_be_cut || outline.options || why == Trouble::AboutAnError || self.told {
            return Err(Reason::Untold);
        }
        self.told = true;
        let is_ipv4 = outline.src.is_ipv4();
        let (kind, code, mtu) = match (why, is_ipv4) {
            (Trouble::TooBig(mtu), true) => (3, 4, u32::from(mtu)),
            (Trouble::TooBig(mtu), false) => (2, 0, u32::from(mtu)),
            (_, true) => (11, 0, 0),
            (_, false) => (3, 0, 0),
        };
        self.count(if matches!(why, Trouble::TooBig(_)) { Reason::TooBig } else { Reason::TtlExpired });
        let mut message = vec![kind, code, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(&frame[outline.l3..][..if is_ipv4 { 28 } else { 48 }]);
        Ok(answer(frame, outline, if is_ipv4 { 1 } else { 58 }, &mut message, 2))
    }
}

/// A packet back to where a frame came from, with its checksum at `field`.
fn answer(frame: &[u8], outline: &Outline, proto: u8, message: &mut [u8], field: usize) -> Ran {
    let mut out = [&frame[6..12], &frame[..6], &frame[12..outline.l3]].concat();
    let mut covered = Vec::new();
    let addresses = match (outline.dst, outline.src) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        mixed => panic!("one packet, two families: {mixed:?}"),
    };
    if proto != 1 {
        covered.extend(&addresses);
        covered.extend((message.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, proto]);
    }
    covered.extend(&*message);
    message[field..field + 2].copy_from_slice(&checksum(&covered).to_be_bytes());
    if outline.src.is_ipv4() {
        let start = out.len();
        out.extend([0x45, 0]);
        out.extend((20 + message.len() as u16).to_be_bytes());
        out.extend([0, 0, 0, 0, ANSWER_TTL, proto, 0, 0]);
        out.extend(&addresses);
        let sum = checksum(&out[start..]);
        out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
    } else {
        out.extend([0x60, 0, 0, 0]);
        out.extend((message.len() as u16).to_be_bytes());
        out.extend([proto, ANSWER_TTL]);
        out.extend(&addresses);
    }
    out.extend(&*message);
    Ran { verdict: XDP_TX, frame: out }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
