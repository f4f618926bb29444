//! What becomes of a frame's bytes. Checksums are computed over everything they cover, before and after a change: a
//! field that was right is right afterwards, and one that was wrong stays wrong by as much.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    backend::{Backend, LinkRecord},
    flow::Hop,
    net::Mac,
};

use super::parse::{Flow, MACS, Outline, Quote};
use crate::packet::frame::checksum;

/// How a frame leaves.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source MAC.
    pub src_mac: Mac,
    /// Interface.
    pub ifindex: u32,
    /// Number of tags.
    pub depth: usize,
    /// VLANs of the tags.
    pub vlan: [u16; 2],
    /// Protocol of the outer tag of two.
    pub outer_tpid: u16,
    /// Longest IP packet; 0 = any.
    pub mtu: u16,
}

impl Way {
    /// To a server.
    #[must_use]
    pub fn to_backend(backend: &Backend) -> Self {
        Self {
            dst_mac: backend.dst_mac,
            src_mac: backend.src_mac,
            ifindex: backend.ifindex,
            depth: backend.vlan_depth.into(),
            vlan: backend.vlan,
            outer_tpid: backend.outer_tpid,
            mtu: backend.mtu,
        }
    }

    /// To a client.
    #[must_use]
    pub fn to_hop(hop: &Hop, link: LinkRecord) -> Self {
        Self {
            dst_mac: hop.mac,
            src_mac: link.mac,
            ifindex: hop.ifindex.into(),
            depth: hop.vlan_depth.into(),
            vlan: hop.vlan,
            outer_tpid: hop.outer_tpid,
            mtu: link.mtu,
        }
    }
}

/// The way back to where a frame came from.
#[must_use]
pub fn hop_of(frame: &[u8], outline: &Outline, ifindex: u16) -> Hop {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let vid = |n: usize| if n < outline.tags { word(MACS + 2 + 4 * n) & 0x0fff } else { 0 };
    Hop {
        mac: Mac([frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]]),
        ifindex,
        vlan: [vid(0), vid(1)],
        outer_tpid: if outline.tags == 2 { word(MACS) } else { 0 },
        vlan_depth: outline.tags as u8,
    }
}

/// The frame with the MACs and tags of its way. Tags keep their priorities; new ones take the outer one's.
#[must_use]
pub fn relinked(frame: &[u8], tags: usize, way: &Way) -> Vec<u8> {
    let l3 = MACS + 4 * tags + 2;
    let mut out = [way.dst_mac.0, way.src_mac.0].concat();
    for n in 0..way.depth {
        let tpid = if way.depth == 2 && n == 0 { way.outer_tpid } else { 0x8100 };
        let from = if tags == way.depth { n } else { 0 };
        let priority = if tags == 0 { 0 } else { frame[MACS + 4 * from + 2] & 0xf0 };
        out.extend(tpid.to_be_bytes());
        out.extend((u16::from(priority) << 8 | way.vlan[n]).to_be_bytes());
    }
    out.extend(&frame[l3 - 2..]);
    out
}

/// A NAT or SNAT packet after one hop: `new` is what it shows then. A later fragment has no ports.
#[must_use]
pub fn translated(frame: &[u8], outline: &Outline, new: &Flow, has_ports: bool) -> Vec<u8> {
    let mut out = frame.to_vec();
    let at = outline.l4;
    if !has_ports {
        change_ip(&mut out, outline, [new.src.ip(), new.dst.ip()]);
        return out;
    }
    let field = at + if new.proto == 6 { 16 } else { 6 };
    // RFC 768; RFC 6936, 4: one without a checksum goes on without, over IPv6 too, where few receivers take it.
    let silent = new.proto == 17 && out[field..field + 2] == [0, 0];
    let sum = Sum { field, from: at, end: outline.end(frame), pseudo: Some((outline.l3, new.proto)) };
    sum.kept(&mut out, |out| {
        change_ip(out, outline, [new.src.ip(), new.dst.ip()]);
        put_ports(out, at, new);
    });
    if silent {
        out[field..field + 2].fill(0);
    } else if new.proto == 17 {
        never_zero(&mut out, field);
    }
    out
}

/// An ICMP error after one hop: its own addresses are `outer`, and the packet that it quotes shows `quoted`.
#[must_use]
pub fn translated_error(
    frame: &[u8],
    outline: &Outline,
    quote: &Quote,
    outer: [IpAddr; 2],
    quoted: &Flow,
) -> Vec<u8> {
    let mut out = frame.to_vec();
    let is_ipv4 = outline.src.is_ipv4();
    let icmp = outline.l4;
    let end = outline.end(frame);
    let pseudo = (!is_ipv4).then_some((outline.l3, 58));
    Sum { field: icmp + 2, from: icmp, end, pseudo }.kept(&mut out, |out| {
        change_ip(out, outline, outer);
        // Of TCP's header all is quoted or, as RFC 792 asks, the start without the checksum.
        let (field, header) = if quoted.proto == 6 { (quote.l4 + 16, 20) } else { (quote.l4 + 6, 8) };
        let silent = quoted.proto == 17 && out[field..field + 2] == [0, 0];
        let carried = end >= quote.l4 + header && !silent;
        let change = |out: &mut Vec<u8>| {
            let addresses = [quoted.src.ip(), quoted.dst.ip()];
            if is_ipv4 {
                let header = Sum { field: quote.l3 + 10, from: quote.l3, end: quote.l4, pseudo: None };
                header.kept(out, |out| put_addresses(out, quote.l3, addresses));
            } else {
                put_addresses(out, quote.l3, addresses);
            }
            put_ports(out, quote.l4, quoted);
        };
        if carried {
            Sum { field, from: quote.l4, end, pseudo: Some((quote.l3, quoted.proto)) }.kept(out, change);
            if quoted.proto == 17 {
                never_zero(out, field);
            }
        } else {
            change(out);
        }
    });
    out
}

/// One hop less, and other addresses.
fn change_ip(out: &mut Vec<u8>, outline: &Outline, addresses: [IpAddr; 2]) {
    let l3 = outline.l3;
    if !outline.src.is_ipv4() {
        out[l3 + 7] -= 1;
        put_addresses(out, l3, addresses);
        return;
    }
    let header_len = usize::from(out[l3] & 0x0f) * 4;
    let end = (l3 + header_len).min(out.len());
    Sum { field: l3 + 10, from: l3, end, pseudo: None }.kept(out, |out| {
        out[l3 + 8] -= 1;
        put_addresses(out, l3, addresses);
    });
}

fn put_addresses(out: &mut [u8], l3: usize, [src, dst]: [IpAddr; 2]) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            out[l3 + 12..l3 + 20].copy_from_slice(&[src.octets(), dst.octets()].concat());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            out[l3 + 8..l3 + 40].copy_from_slice(&[src.octets(), dst.octets()].concat());
        }
        mixed => panic!("one packet, two families: {mixed:?}"),
    }
}

fn put_ports(out: &mut [u8], l4: usize, flow: &Flow) {
    let port = |end: SocketAddr| end.port().to_be_bytes();
    out[l4..l4 + 4].copy_from_slice(&[port(flow.src), port(flow.dst)].concat());
}

/// RFC 768: a UDP checksum that comes out as zero is sent as all ones.
fn never_zero(out: &mut [u8], field: usize) {
    if out[field..field + 2] == [0, 0] {
        out[field..field + 2].fill(0xff);
    }
}

/// A checksum: where it stands and what it covers.
struct Sum {
    field: usize,
    from: usize,
    end: usize,
    /// Where the IP header stands whose addresses are covered, too, and the protocol.
    pseudo: Option<(usize, u8)>,
}

impl Sum {
    /// What the field should say (RFC 1071; RFC 9293, 3.1; RFC 8200, 8.1).
    fn right(&self, frame: &[u8]) -> u16 {
        let mut covered = Vec::new();
        if let Some((l3, proto)) = self.pseudo {
            let addresses = if frame[l3] >> 4 == 4 { l3 + 12..l3 + 20 } else { l3 + 8..l3 + 40 };
            covered.extend(&frame[addresses]);
            covered.extend([0, 0, 0, proto]);
            covered.extend(((self.end - self.from) as u32).to_be_bytes());
        }
        let start = covered.len();
        covered.extend(&frame[self.from..self.end]);
        covered[start + self.field - self.from..][..2].fill(0);
        checksum(&covered)
    }

    /// Makes a change, and then the field as right or wrong as it was.
    fn kept(&self, frame: &mut Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) {
        const ALL: u32 = 0xffff;
        let had = u32::from(u16::from_be_bytes([frame[self.field], frame[self.field + 1]]));
        let before = u32::from(self.right(frame));
        change(frame);
        let after = u32::from(self.right(frame));
        // In ones' complement 0 and 0xffff are one number, which the sum of RFC 1624 (equation 3) writes as 0.
        let has = (had + after + ALL - before) % ALL;
        frame[self.field..self.field + 2].copy_from_slice(&(has as u16).to_be_bytes());
    }
}
