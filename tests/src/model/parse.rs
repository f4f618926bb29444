//! What a frame says, read byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{counter::Reason, flow::Ends};

/// A packet's five-tuple.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Flow {
    /// Who sends it.
    pub src: SocketAddr,
    /// To whom.
    pub dst: SocketAddr,
    /// IP protocol.
    pub proto: u8,
}

impl Flow {
    /// In the form of the tables' keys.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends::between(self.src, self.dst, self.proto)
    }

    /// The packets in the other direction.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, proto: self.proto }
    }
}

/// Where the headers of a frame lie, and what the IP header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outline {
    /// Number of VLAN tags.
    pub tags: usize,
    /// Where the IP header starts.
    pub l3: usize,
    /// Where what IP carries starts, behind options and extension headers.
    pub l4: usize,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol at `l4`.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Length of the IP packet as its header says.
    pub ip_len: usize,
    /// True if routers may not cut it (RFC 791, 3.1; RFC 8200, 5).
    pub whole: bool,
    /// True if there are IPv4 options or IPv6 extension headers.
    pub options: bool,
    /// `None`: not a fragment.
    pub fragment: Option<Fragment>,
}

/// What makes a packet a fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Protocol of what was cut, as all fragments name it.
    pub proto: u8,
    /// True if it is the one that starts the datagram.
    pub first: bool,
}

impl Outline {
    /// Where the IP packet ends in this frame, which may be cut or padded.
    #[must_use]
    pub fn end(&self, frame: &[u8]) -> usize {
        frame.len().min(self.l3 + self.ip_len)
    }

    /// Bytes that are counted: from the Ethernet header to the end of the IP packet.
    #[must_use]
    pub const fn counted(&self) -> u64 {
        (self.l3 + self.ip_len) as u64
    }
}

/// What a packet is to the balancer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// It has ports, and TCP's control bits or none (UDP).
    Ports(Flow, Option<u8>),
    /// A later fragment.
    Later(Fragment),
    /// An ICMP error about a packet.
    Error(Quote),
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quote {
    /// Where its IP header starts in the frame.
    pub l3: usize,
    /// Where its transport header starts.
    pub l4: usize,
    /// Its five-tuple.
    pub flow: Flow,
}

/// Whose addresses a packet has.
pub trait Ours {
    /// True if this may be a balanced address.
    fn is_vip(&self, address: IpAddr) -> bool;
    /// True if this may be a server behind NAT or SNAT.
    fn is_server(&self, address: IpAddr) -> bool;
}

/// Length of the Ethernet addresses.
pub const MACS: usize = 12;
/// Extension headers that are followed.
const MAX_EXTENSIONS: usize = 6;
/// Farthest place of a transport header behind the start of the IPv6 header.
const MAX_L4: usize = 1024;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

/// Reads a frame, or says why it is none to balance.
///
/// # Errors
///
/// The reason that is counted.
pub fn parse(frame: &[u8], ours: &impl Ours) -> Result<(Outline, Content), Reason> {
    let mut tags = 0;
    let mut ethertype = be16(frame, MACS)?;
    while ethertype == 0x8100 || ethertype == 0x88a8 {
        if tags == 2 {
            return Err(Reason::VlanDepth);
        }
        tags += 1;
        ethertype = be16(frame, MACS + 4 * tags)?;
    }
    let l3 = MACS + 4 * tags + 2;
    let (src, dst) = match ethertype {
        0x0800 => {
            let header: [u8; 20] = take(frame, l3)?;
            (ipv4_at(&header, 12), ipv4_at(&header, 16))
        }
        0x86dd => {
            let header: [u8; 40] = take(frame, l3)?;
            (ipv6_at(&header, 8)?, ipv6_at(&header, 24)?)
        }
        _ => return Err(Reason::NotIp),
    };
    let outline = if src.is_ipv4() { ipv4(frame, tags, l3) } else { ipv6(frame, tags, l3) };
    if !ours.is_vip(dst) && !ours.is_server(src) {
        // Somebody else's packet, unless it is an error about one of ours.
        let outline = outline.map_err(|_| Reason::NotVip)?;
        // What it quotes came from a VIP or went to a server, or we never saw it.
        let [src, dst] = quoted_addresses(frame, &outline).ok_or(Reason::NotVip)?;
        if !ours.is_vip(src) && !ours.is_server(dst) {
            return Err(Reason::NotVip);
        }
        let quote = quote(frame, &outline).ok_or(Reason::IcmpUnknown)?;
        return Ok((outline, Content::Error(quote)));
    }
    let outline = outline?;
    if let Some(fragment) = outline.fragment.filter(|fragment| !fragment.first) {
        // Behind an IPv6 fragment header may stand another header, which only the first fragment shows.
        let may_have_ports = [6, 17, 0, 43, 60].contains(&fragment.proto);
        return if may_have_ports { Ok((outline, Content::Later(fragment))) } else { Err(Reason::NotTcpUdp) };
    }
    if outline.is_icmp() {
        if outline.end(frame) < outline.l4 + 8 {
            return Err(Reason::Malformed);
        }
        if !outline.is_icmp_error(frame) {
            return Err(Reason::NotTcpUdp);
        }
        let quote = quote(frame, &outline).ok_or(Reason::IcmpUnknown)?;
        return Ok((outline, Content::Error(quote)));
    }
    let (flow, flags) = transport(frame, &outline)?;
    Ok((outline, Content::Ports(flow, flags)))
}

fn ipv4(frame: &[u8], tags: usize, l3: usize) -> Result<Outline, Reason> {
    let header: [u8; 20] = take(frame, l3)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(be16(&header, 2)?);
    if header[0] >> 4 != 4 || header_len < 20 || total < header_len {
        return Err(Reason::Malformed);
    }
    let more = header[6] & 0x20 != 0;
    let offset = be16(&header, 6)? & 0x1fff;
    let fragment = (more || offset != 0).then(|| Fragment {
        id: u16::from_be_bytes([header[4], header[5]]).into(),
        proto: header[9],
        first: offset == 0,
    });
    Ok(Outline {
        tags,
        l3,
        l4: l3 + header_len,
        src: ipv4_at(&header, 12),
        dst: ipv4_at(&header, 16),
        proto: header[9],
        ttl: header[8],
        ip_len: total,
        whole: header[6] & 0x40 != 0,
        options: header_len > 20,
        fragment,
    })
}

fn ipv6(frame: &[u8], tags: usize, l3: usize) -> Result<Outline, Reason> {
    let header: [u8; 40] = take(frame, l3)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let (mut proto, mut l4, mut fragment) = (header[6], l3 + 40, None);
    let mut followed = 0;
    // IANA, "IPv6 Extension Header Types".
    while [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254].contains(&proto) {
        let again = proto == 44 && fragment.is_some();
        if followed == MAX_EXTENSIONS || again || ![0, 43, 44, 60].contains(&proto) {
            return Err(Reason::ExtensionHeader);
        }
        followed += 1;
        let [next, len] = take(frame, l4)?;
        if proto != 44 {
            proto = next;
            l4 += 8 * (1 + usize::from(len));
            continue;
        }
        let extension: [u8; 8] = take(frame, l4)?;
        proto = next;
        l4 += 8;
        let field = be16(&extension, 2)?;
        let (offset, more) = (field >> 3, field & 1 != 0);
        if offset == 0 && !more {
            // A whole packet that calls itself a fragment (RFC 6946).
            continue;
        }
        let [.., a, b, c, d] = extension;
        fragment = Some(Fragment { id: u32::from_be_bytes([a, b, c, d]), proto, first: offset == 0 });
        if offset != 0 {
            break;
        }
    }
    if l4 - l3 > MAX_L4 {
        return Err(Reason::ExtensionHeader);
    }
    let ip_len = 40 + usize::from(be16(&header, 4)?);
    if l3 + ip_len < l4 {
        return Err(Reason::Malformed);
    }
    Ok(Outline {
        tags,
        l3,
        l4,
        src: ipv6_at(&header, 8)?,
        dst: ipv6_at(&header, 24)?,
        proto,
        ttl: header[7],
        ip_len,
        whole: true,
        options: l4 != l3 + 40,
        fragment,
    })
}

/// Ports, and TCP's control bits. The whole header must be in the frame and in what the IP header promises.
fn transport(frame: &[u8], outline: &Outline) -> Result<(Flow, Option<u8>), Reason> {
    let l4 = outline.l4;
    let (flags, len) = match outline.proto {
        6 => (Some(take::<20>(frame, l4)?[13]), 20),
        17 => {
            take::<8>(frame, l4)?;
            (None, 8)
        }
        _ => return Err(Reason::NotTcpUdp),
    };
    if outline.l3 + outline.ip_len < l4 + len {
        return Err(Reason::Malformed);
    }
    let src = SocketAddr::new(outline.src, be16(frame, l4)?);
    let dst = SocketAddr::new(outline.dst, be16(frame, l4 + 2)?);
    Ok((Flow { src, dst, proto: outline.proto }, flags))
}

impl Outline {
    /// Whole, and right behind the IP header.
    fn is_icmp(&self) -> bool {
        let direct = self.src.is_ipv4() || self.l4 == self.l3 + 40;
        direct && self.fragment.is_none() && self.proto == if self.src.is_ipv4() { ICMP } else { ICMP6 }
    }

    fn is_icmp_error(&self, frame: &[u8]) -> bool {
        let errors = if self.src.is_ipv4() { [3, 4, 11, 12] } else { [1, 2, 3, 4] };
        self.is_icmp() && self.l4 + 8 <= self.end(frame) && errors.contains(&frame[self.l4])
    }
}

/// Both addresses of the packet that an ICMP error quotes; `None` = it is no error, or has no quote.
fn quoted_addresses(frame: &[u8], outline: &Outline) -> Option<[IpAddr; 2]> {
    if !outline.is_icmp_error(frame) {
        return None;
    }
    let packet = &frame[..outline.end(frame)];
    let l3 = outline.l4 + 8;
    if outline.src.is_ipv4() {
        let header: [u8; 20] = take(packet, l3).ok()?;
        Some([ipv4_at(&header, 12), ipv4_at(&header, 16)])
    } else {
        let header: [u8; 40] = take(packet, l3).ok()?;
        Some([ipv6_at(&header, 8).ok()?, ipv6_at(&header, 24).ok()?])
    }
}

/// The start of the TCP or UDP packet that an ICMP error quotes; it may be cut behind eight bytes of transport header.
fn quote(frame: &[u8], outline: &Outline) -> Option<Quote> {
    let [src, dst] = quoted_addresses(frame, outline)?;
    let packet = &frame[..outline.end(frame)];
    let l3 = outline.l4 + 8;
    let first = packet[l3];
    let (proto, l4) = if outline.src.is_ipv4() {
        let header_len = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || header_len < 20 || be16(packet, l3 + 6).ok()? & 0x1fff != 0 {
            return None;
        }
        (packet[l3 + 9], l3 + header_len)
    } else {
        if first >> 4 != 6 {
            return None;
        }
        (packet[l3 + 6], l3 + 40)
    };
    let start: [u8; 8] = take(packet, l4).ok()?;
    if proto != 6 && proto != 17 {
        return None;
    }
    let src = SocketAddr::new(src, be16(&start, 0).ok()?);
    let dst = SocketAddr::new(dst, be16(&start, 2).ok()?);
    Some(Quote { l3, l4, flow: Flow { src, dst, proto } })
}

const fn ipv4_at(header: &[u8; 20], at: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]))
}

fn ipv6_at(header: &[u8; 40], at: usize) -> Result<IpAddr, Reason> {
    Ok(Ipv6Addr::from(take::<16>(header, at)?).into())
}

/// So many bytes from there.
///
/// # Errors
///
/// [`Reason::Malformed`] when they are not there.
pub fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Reason> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Reason::Malformed)
}

/// A number of two bytes.
///
/// # Errors
///
/// [`Reason::Malformed`] when they are not there.
pub fn be16(bytes: &[u8], at: usize) -> Result<u16, Reason> {
    take(bytes, at).map(u16::from_be_bytes)
}
