//! Frames from descriptions: every field can be set, lengths and checksums are right unless a test makes them wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP or UDP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination MAC.
    pub dst_mac: [u8; 6],
    /// Source MAC.
    pub src_mac: [u8; 6],
    /// Tags, outer first: tag protocol and control information.
    pub tags: Vec<(u16, u16)>,
    /// Client.
    pub src: SocketAddr,
    /// VIP.
    pub dst: SocketAddr,
    /// Transport header.
    pub transport: Transport,
    /// IPv4 options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: number, and length in bytes, a multiple of eight. One of number 44 carries `fragment`
    /// and `id`.
    pub extensions: Vec<(u8, usize)>,
    /// IPv4 flags and fragment offset; an IPv6 fragment header says the same.
    pub fragment: u16,
    /// Identification; IPv4 has room for the lower half.
    pub id: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP's sequence number.
    pub seq: u32,
    /// TCP's acknowledgement number.
    pub ack: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

/// Transport header of a [`Frame`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// TCP with these control bits.
    Tcp(u8),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6, whichever the addresses ask for: type, code, and the four bytes behind the checksum.
    Icmp(u8, u8, [u8; 4]),
    /// Any other protocol number; the payload follows the IP header.
    Other(u8),
}

/// TCP control bits for tests.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

impl Frame {
    /// A TCP segment without payload.
    #[must_use]
    pub const fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self {
            dst_mac: [2, 0x1b, 0, 0, 0, 1],
            src_mac: [2, 0xc1, 0, 0, 0, 1],
            tags: Vec::new(),
            src,
            dst,
            transport: Transport::Tcp(flags),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: 0x4000,
            id: 0x1234,
            ttl: 64,
            seq: 1,
            ack: 2,
            payload: Vec::new(),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Self {
        Self { transport: Transport::Udp, payload: payload.to_vec(), ..Self::tcp(src, dst, 0) }
    }

    /// An ICMP error from a router or host about a packet, of which so many bytes are quoted from its IP header on.
    #[must_use]
    pub fn error(src: IpAddr, dst: IpAddr, kind: u8, code: u8, about: &[u8], quoted: usize) -> Self {
        let l3 = l3_of(about);
        let payload = about[l3..about.len().min(l3 + quoted)].to_vec();
        let [src, dst] = [src, dst].map(|address| SocketAddr::new(address, 0));
        Self {
            transport: Transport::Icmp(kind, code, [0; 4]),
            fragment: 0,
            payload,
            ..Self::tcp(src, dst, 0)
        }
    }

    /// The packet as fragments of at most `room` bytes of what IP carries, a multiple of eight: one checksum over all.
    ///
    /// # Panics
    ///
    /// For an IPv6 packet without a fragment header.
    #[must_use]
    pub fn fragments(&self, room: usize) -> Vec<Vec<u8>> {
        let whole = Self { fragment: 0, ..self.clone() }.bytes();
        let l3 = self.l2_len();
        let is_ipv4 = self.src.is_ipv4();
        let l4 = if is_ipv4 {
            l3 + 20 + self.options.len()
        } else {
            l3 + 40 + self.extensions.iter().map(|(_, len)| len).sum::<usize>()
        };
        let header = (!is_ipv4).then(|| {
            let before = self.extensions.iter().take_while(|(number, _)| *number != 44);
            l3 + 40 + before.map(|(_, len)| len).sum::<usize>()
        });
        let from = header.map_or(l4, |header| header + 8);
        let pieces: Vec<&[u8]> = whole[from..].chunks(room).collect();
        let cut = |(n, piece): (usize, &&[u8])| {
            let mut out = [&whole[..from], piece].concat();
            let (offset, more) = ((n * room / 8) as u16, n + 1 < pieces.len());
            let length = (out.len() - l3) as u16;
            if let Some(header) = header {
                out[l3 + 4..l3 + 6].copy_from_slice(&(length - 40).to_be_bytes());
                out[header + 2..header + 4].copy_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
            } else {
                out[l3 + 2..l3 + 4].copy_from_slice(&length.to_be_bytes());
                out[l3 + 6..l3 + 8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
                out[l3 + 10..l3 + 12].fill(0);
                let sum = checksum(&out[l3..l4]);
                out[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            }
            out
        };
        pieces.iter().enumerate().map(cut).collect()
    }

    /// The bytes.
    ///
    /// # Panics
    ///
    /// When source and destination are of different families.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.dst_mac);
        out.extend(self.src_mac);
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(&mut out, src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.ipv6(&mut out, src, dst),
            mixed => panic!("one frame, two families: {mixed:?}"),
        }
        out
    }

    /// Bytes before the IP header.
    #[must_use]
    pub const fn l2_len(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    fn ipv4(&self, out: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr) {
        let (proto, l4) = self.l4(&[&src.octets()[..], &dst.octets()].concat());
        let header = 20 + self.options.len();
        out.extend(0x0800u16.to_be_bytes());
        let start = out.len();
        out.push(0x40 | (header / 4) as u8);
        out.push(0);
        out.extend(((header + l4.len()) as u16).to_be_bytes());
        out.extend((self.id as u16).to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, proto, 0, 0]);
        out.extend(src.octets());
        out.extend(dst.octets());
        out.extend(&self.options);
        let sum = checksum(&out[start..]);
        out[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        out.extend(l4);
    }

    fn ipv6(&self, out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr) {
        let (proto, l4) = self.l4(&[&src.octets()[..], &dst.octets()].concat());
        let numbers: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).chain([proto]).collect();
        let mut chain = Vec::new();
        for ((number, len), next) in self.extensions.iter().zip(&numbers[1..]) {
            let start = chain.len();
            if *number == 44 {
                let more = self.fragment >> 13 & 1;
                chain.extend([*next, 0]);
                chain.extend(((self.fragment & 0x1fff) << 3 | more).to_be_bytes());
                chain.extend(self.id.to_be_bytes());
                continue;
            }
            chain.extend([*next, (len / 8 - 1) as u8]);
            chain.resize(start + len, 0);
        }
        out.extend(0x86ddu16.to_be_bytes());
        out.extend([0x60, 0, 0, 0]);
        out.extend(((chain.len() + l4.len()) as u16).to_be_bytes());
        out.extend([numbers[0], self.ttl]);
        out.extend(src.octets());
        out.extend(dst.octets());
        out.extend(chain);
        out.extend(l4);
    }

    /// Protocol number and the bytes behind the IP header, with the checksum over this pseudo-header's addresses.
    fn l4(&self, addresses: &[u8]) -> (u8, Vec<u8>) {
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        let (proto, mut l4, at) = match self.transport {
            Transport::Tcp(flags) => {
                let mut tcp = ports;
                tcp.extend(self.seq.to_be_bytes());
                tcp.extend(self.ack.to_be_bytes());
                tcp.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
                (6, tcp, 16)
            }
            Transport::Udp => {
                let mut udp = ports;
                udp.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                udp.extend([0, 0]);
                (17, udp, 6)
            }
            Transport::Icmp(kind, code, rest) => {
                let icmp = [&[kind, code, 0, 0], &rest[..]].concat();
                (if self.src.is_ipv4() { 1 } else { 58 }, icmp, 2)
            }
            Transport::Other(proto) => return (proto, self.payload.clone()),
        };
        l4.extend(&self.payload);
        // ICMP's alone is without addresses.
        let mut summed = if proto == 1 { Vec::new() } else { addresses.to_vec() };
        if proto != 1 {
            summed.extend((l4.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, proto]);
        }
        summed.extend(&l4);
        let sum = checksum(&summed);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        (proto, l4)
    }
}

/// Where the IP header of a frame starts.
#[must_use]
pub fn l3_of(frame: &[u8]) -> usize {
    let tagged = |at: usize| matches!([frame[at], frame[at + 1]], [0x81, 0x00] | [0x88, 0xa8]);
    if !tagged(12) {
        14
    } else if !tagged(16) {
        18
    } else {
        22
    }
}

/// Internet checksum (RFC 1071).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_verify() {
        let frame =
            Frame::tcp("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap(), flags::SYN).bytes();
        assert_eq!(frame.len(), 54);
        assert_eq!(checksum(&frame[14..34]), 0);
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 6, 0, 20]);
        pseudo.extend(&frame[34..]);
        assert_eq!(checksum(&pseudo), 0);
    }
}
