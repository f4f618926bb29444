//! Frames at random: packets of clients, answers of servers, errors about either, pieces of datagrams, and all of
//! these cut and bent.

use std::net::{IpAddr, SocketAddr};

use lb_tests::{
    model::parse::{Content, Flow, Ours, parse},
    packet::{
        case::ip,
        frame::{Frame, Transport, flags},
    },
    random::Random,
};

use crate::universe::{VIP_PORTS, VIPS_V4, VIPS_V6, World};

const CLIENTS_V4: [&str; 6] = ["10.1.0.1", "10.1.0.2", "10.1.1.1", "10.2.0.1", "192.0.2.7", "203.0.113.99"];
const CLIENTS_V6: [&str; 4] = ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1", "fd00::1"];
const CLIENT_PORTS: u16 = 14;
const TCP_FLAGS: [u8; 12] = [
    flags::SYN,
    flags::SYN,
    flags::SYN | 0xc0,
    flags::SYN | flags::FIN,
    flags::SYN | flags::ACK,
    flags::ACK,
    flags::ACK,
    flags::ACK | flags::PSH,
    flags::FIN | flags::ACK,
    flags::RST,
    flags::RST | flags::ACK,
    0,
];

/// A frame: nearly always a packet that concerns the balancer, now and then one that is cut, bent or no packet at all.
pub(crate) fn frame(random: &mut Random, world: &mut World) -> Vec<u8> {
    if random.once_in(50) {
        let len = 14 + random.below(120);
        return random.bytes(len);
    }
    let mut bytes = whole(random, world);
    if random.once_in(12) {
        for _ in 0..=random.below(4) {
            let at = 12 + random.below(bytes.len() - 12);
            bytes[at] = match random.below(3) {
                0 => bytes[at] ^ 1 << random.below(8),
                1 => *random.pick(&[0, 0xff, 1, 6, 17, 44, 58, 0x45, 0x60, 0x81]),
                _ => random.any() as u8,
            };
        }
    }
    if random.once_in(30) {
        let len = 14 + random.below(bytes.len() - 13);
        bytes.truncate(len);
    } else if random.once_in(10) {
        // Ethernet pads to 60 bytes; the packet does not grow.
        bytes.resize(bytes.len().max(60), 0);
    }
    bytes
}

fn whole(random: &mut Random, world: &mut World) -> Vec<u8> {
    if !world.pieces.is_empty() && random.once_in(2) {
        let n = random.below(world.pieces.len());
        // Now and then one comes twice.
        return if random.once_in(5) { world.pieces[n].clone() } else { world.pieces.swap_remove(n) };
    }
    if random.once_in(14)
        && let Some(error) = error(random, world)
    {
        return error;
    }
    let packet = match world.before.take() {
        Some(before) if !random.once_in(3) => next_of(before, random),
        _ if random.once_in(3) => answer(random, world).unwrap_or_else(|| packet(random)),
        _ => packet(random),
    };
    if random.once_in(40) {
        world.pieces = pieces(random, &packet);
    }
    let bytes = packet.bytes();
    world.before = Some(packet);
    bytes
}

/// Another packet of the same flow, which now and then comes another way.
fn next_of(before: Frame, random: &mut Random) -> Frame {
    let transport = match before.transport {
        Transport::Tcp(_) if random.once_in(3) => Transport::Tcp(*random.pick(&TCP_FLAGS)),
        Transport::Tcp(_) => Transport::Tcp(flags::ACK),
        other => other,
    };
    let src_mac = if random.once_in(16) { mac(random) } else { before.src_mac };
    Frame { transport, src_mac, ..before }
}

fn mac(random: &mut Random) -> [u8; 6] {
    [2, 0xc1, 0, 0, 0, random.below(3) as u8]
}

/// A packet of any client's.
fn packet(random: &mut Random) -> Frame {
    let ours = if random.once_in(20) { 0 } else { 1 };
    let (client, vip) = if random.once_in(3) {
        (*random.pick(&CLIENTS_V6), VIPS_V6[random.below(VIPS_V6.len() - ours)])
    } else {
        (*random.pick(&CLIENTS_V4), VIPS_V4[random.below(VIPS_V4.len() - ours)])
    };
    let src = SocketAddr::new(ip(client), random.below(CLIENT_PORTS.into()) as u16);
    let dst = SocketAddr::new(ip(vip), *random.pick(&VIP_PORTS));
    let proto = if random.once_in(4) { 17 } else { 6 };
    decorated(random, Flow { src, dst, proto })
}

/// The answer to a packet that was forwarded, or another packet of its flow from where it went.
fn answer(random: &mut Random, world: &World) -> Option<Frame> {
    let flow = output(random, world).and_then(|bytes| flow_of(&bytes))?;
    Some(decorated(random, flow.reversed()))
}

fn output(random: &mut Random, world: &World) -> Option<Vec<u8>> {
    world.outputs.get(random.below(world.outputs.len().max(1))).cloned()
}

/// A packet with some of everything that a packet may have.
fn decorated(random: &mut Random, flow: Flow) -> Frame {
    let len = if random.once_in(20) { 200 } else { random.below(40) };
    let payload = random.bytes(len);
    let Flow { src, dst, proto } = flow;
    let mut frame = if proto == 17 {
        Frame::udp(src, dst, &payload)
    } else {
        Frame { payload, ..Frame::tcp(src, dst, *random.pick(&TCP_FLAGS)) }
    };
    frame.src_mac = mac(random);
    (frame.seq, frame.ack) = (random.any() as u32, random.any() as u32);
    for _ in 0..*random.pick(&[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]) {
        frame.tags.push((*random.pick(&[0x8100, 0x88a8]), random.any() as u16));
    }
    frame.ttl = *random.pick(&[64, 64, 64, 64, 255, 64, 64, 2, 1, 0]);
    if random.once_in(10) {
        frame.options = vec![1; 4 * (1 + random.below(10))];
    }
    if random.once_in(30) {
        frame.fragment = *random.pick(&[0x2000, 0x0001, 0x2010, 0x1fff, 0x8000, 0x4000, 0]);
    }
    if random.once_in(40) {
        frame.transport = Transport::Other(*random.pick(&[1, 58, 50, 59, 47, 132]));
    }
    frame.id = random.below(4) as u32;
    if random.once_in(8) {
        for _ in 0..=random.below(7) {
            let number = *random.pick(&[0, 43, 44, 60, 60, 60, 60, 135, 51]);
            let len = if number == 44 { 8 } else { *random.pick(&[8, 8, 16, 40, 256]) };
            frame.extensions.push((number, len));
        }
    }
    frame
}

/// A datagram in pieces, with a fragment header where its family wants one.
fn pieces(random: &mut Random, packet: &Frame) -> Vec<Vec<u8>> {
    let mut whole = Frame { payload: vec![7; 40 + random.below(200)], ..packet.clone() };
    whole.extensions.retain(|(number, _)| *number != 44);
    if !whole.src.is_ipv4() {
        let at = random.below(whole.extensions.len() + 1);
        whole.extensions.insert(at, (44, 8));
    }
    whole.fragments(*random.pick(&[8, 16, 24, 64, 104]))
}

/// An ICMP error about a packet that was forwarded or came in: from its destination or somebody on its way.
fn error(random: &mut Random, world: &World) -> Option<Vec<u8>> {
    let about = match &world.before {
        Some(before) if random.once_in(3) => before.bytes(),
        _ => output(random, world)?,
    };
    let flow = flow_of(&about)?;
    // About the packet itself, or about an answer to it.
    let (about, flow) = if random.once_in(3) {
        let reversed = flow.reversed();
        (Frame { fragment: 0, ..decorated(random, reversed) }.bytes(), reversed)
    } else {
        (about, flow)
    };
    let from = match (random.below(3), flow.dst.ip()) {
        (0, IpAddr::V4(_)) => ip("10.9.9.9"),
        (0, IpAddr::V6(_)) => ip("2001:db8:9::9"),
        (_, dst) => dst,
    };
    let to = if random.once_in(10) { flow.dst.ip() } else { flow.src.ip() };
    let kind = if to.is_ipv4() {
        *random.pick(&[3, 3, 3, 11, 12, 4, 5, 8])
    } else {
        *random.pick(&[1, 2, 3, 4, 128])
    };
    let header = if to.is_ipv4() { 20 } else { 40 };
    let anything = header + random.below(40);
    let quoted = *random.pick(&[header + 8, header + 8, header + 8, header + 20, 500, anything]);
    let mut frame = Frame::error(from, to, kind, random.below(5) as u8, &about, quoted);
    frame.src_mac = mac(random);
    frame.ttl = *random.pick(&[64, 64, 64, 64, 64, 2, 1]);
    for _ in 0..*random.pick(&[0, 0, 1, 2]) {
        frame.tags.push((*random.pick(&[0x8100, 0x88a8]), random.any() as u16));
    }
    if random.once_in(10) {
        frame.options = vec![1; 8];
    }
    Some(frame.bytes())
}

/// The five-tuple of a frame that has one.
fn flow_of(bytes: &[u8]) -> Option<Flow> {
    struct All;
    impl Ours for All {
        fn is_vip(&self, _: IpAddr) -> bool {
            true
        }
        fn is_server(&self, _: IpAddr) -> bool {
            true
        }
    }
    match parse(bytes, &All) {
        Ok((_, Content::Ports(flow, _))) => Some(flow),
        _ => None,
    }
}
