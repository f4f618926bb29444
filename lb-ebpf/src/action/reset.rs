//! A RST for whoever still sends into a TCP flow whose server is dead (RFC 9293, 3.10.7.1). It is made of the packet
//! that it answers, so its numbers are right without anybody having kept them.

use lb_common::{checksum, counter::Reason, net::PROTO_TCP};
use zerocopy::{IntoBytes as _, network_endian::U32};

use crate::{
    env::Env,
    packet::Packet,
    path::Verdict,
    scratch::{Scratch, Seen},
    steps::Next,
    wire::{
        ipv4::{IPV4_LEN, Ipv4},
        ipv6::{IPV6_LEN, Ipv6},
        tcp::{Flags, TCP_LEN, Tcp},
    },
};

/// Initial TTL of what is made here.
pub const TTL: u8 = 64;

/// Turns the packet in the scratch memory into the RST that answers it.
#[inline(always)]
pub fn answer<E: Env>(env: &E) -> Result<Verdict, Next> {
    let Some(Scratch { seen, .. }) = env.scratch() else { return Err(Next::Drop) };
    env.count(Reason::FlowReset);
    // A RST is never answered by one (RFC 9293, 3.10.7.1).
    if seen.tcp().is_none_or(Flags::is_rst) {
        return Err(Next::Drop);
    }
    let numbers = numbers(env, seen).ok_or(Next::Drop)?;
    let header = if seen.ends.family == 4 { IPV4_LEN } else { IPV6_LEN };
    let mut packet = env.trim((seen.link.l3() + header + TCP_LEN) as u32).ok_or(Next::Drop)?;
    write(&mut packet, seen, numbers, seen.link.l3() + header).ok_or(Next::Drop)?;
    Ok(Verdict::Answer)
}

/// Sequence number, acknowledgement number and control bits.
type Numbers = (u32, u32, u8);

/// Those of the answer to a segment: <SEQ=SEG.ACK><CTL=RST>, or <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK> to one
/// without ACK.
#[inline(always)]
fn numbers<E: Env>(env: &E, seen: &Seen) -> Option<Numbers> {
    let packet = env.packet();
    let tcp = packet.get::<Tcp>(seen.l4 as usize & 0x7ff)?;
    if tcp.flags.0 & Flags::ACK != 0 {
        return Some((tcp.ack.get(), 0, Flags::RST));
    }
    let header = u32::from(tcp.data_offset >> 4) * 4;
    let controls = u32::from(tcp.flags.is_fin()) + u32::from(tcp.flags.0 & Flags::SYN != 0);
    let len = seen.bytes.wrapping_sub(seen.l4).wrapping_sub(header).wrapping_add(controls);
    Some((0, tcp.seq.get().wrapping_add(len), Flags::RST | Flags::ACK))
}

/// Writes the answer over the frame, which ends where it does. `l4` is where its segment starts.
#[inline(always)]
fn write(packet: &mut Packet<'_>, seen: &Seen, (seq, ack, flags): Numbers, l4: usize) -> Option<()> {
    let l3 = seen.link.l3();
    turn_round(packet)?;
    if seen.ends.family == 4 {
        let addresses = seen.ends.dst[0] | seen.ends.src[0] << 32;
        packet.get_mut::<Ipv4>(l3)?.write((IPV4_LEN + TCP_LEN) as u16, TTL, PROTO_TCP, addresses);
    } else {
        let (src, dst) = (seen.ends.dst, seen.ends.src);
        packet.get_mut::<Ipv6>(l3)?.write(TCP_LEN as u16, PROTO_TCP, TTL, src, dst);
    }
    let tcp = packet.get_mut::<Tcp>(l4)?;
    tcp.ports = seen.ends.ports.rotate_left(16).to_le_bytes();
    tcp.seq = U32::new(seq);
    tcp.ack = U32::new(ack);
    tcp.data_offset = (TCP_LEN as u8 / 4) << 4;
    tcp.flags = Flags(flags);
    tcp.window = [0; 2];
    tcp.checksum = [0; 2];
    tcp.urgent = [0; 2];
    let sum = checksum::pseudo(seen.ends.src, seen.ends.dst, PROTO_TCP, TCP_LEN as u16);
    tcp.checksum = (!checksum::fold(sum + checksum::sum(tcp.as_bytes()))).to_ne_bytes();
    Some(())
}

/// Exchanges the MACs of a frame.
#[inline(always)]
pub fn turn_round(packet: &mut Packet<'_>) -> Option<()> {
    let macs = packet.get_mut::<[[u8; 6]; 2]>(0)?;
    *macs = [macs[1], macs[0]];
    Some(())
}
