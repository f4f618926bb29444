//! What a frame says, read byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{counter::Reason, flow::Ends};

/// A TCP or UDP packet for an address that is balanced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Number of VLAN tags.
    pub tags: usize,
    /// Who and whither.
    pub flow: Flow,
    /// TCP's control bits; `None` = UDP.
    pub flags: Option<u8>,
    /// Bytes that are counted: from the Ethernet header to the end of the IP packet.
    pub bytes: u64,
}

/// A flow's five-tuple. Ports in host order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Flow {
    /// Client address.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// VIP address.
    pub vip: IpAddr,
    /// VIP port.
    pub vip_port: u16,
    /// IP protocol.
    pub proto: u8,
}

impl Flow {
    /// In the form of the tables' keys.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        let src = SocketAddr::new(self.client, self.client_port);
        Ends::between(src, SocketAddr::new(self.vip, self.vip_port), self.proto)
    }
}

/// Length of the Ethernet addresses.
pub const MACS: usize = 12;

/// Reads a frame, or says why it is none to balance. `is_ours` knows the balanced addresses.
///
/// # Errors
///
/// The reason that is counted.
pub fn parse(frame: &[u8], is_ours: impl Fn(IpAddr) -> bool) -> Result<Seen, Reason> {
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
    match ethertype {
        0x0800 => ipv4(frame, tags, l3, is_ours),
        0x86dd => ipv6(frame, tags, l3, is_ours),
        _ => Err(Reason::NotIp),
    }
}

fn ipv4(frame: &[u8], tags: usize, l3: usize, is_ours: impl Fn(IpAddr) -> bool) -> Result<Seen, Reason> {
    let header: [u8; 20] = take(frame, l3)?;
    let client = Ipv4Addr::new(header[12], header[13], header[14], header[15]).into();
    let vip = Ipv4Addr::new(header[16], header[17], header[18], header[19]).into();
    if !is_ours(vip) {
        return Err(Reason::NotVip);
    }
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 {
        return Err(Reason::Malformed);
    }
    let more_fragments = header[6] & 0x20 != 0;
    let offset = u16::from_be_bytes([header[6] & 0x1f, header[7]]);
    if more_fragments || offset != 0 {
        return Err(Reason::FragmentUnknown);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let Some(payload) = total.checked_sub(header_len) else { return Err(Reason::Malformed) };
    let (client_port, vip_port, flags) = transport(frame, l3 + header_len, header[9], payload)?;
    let flow = Flow { client, client_port, vip, vip_port, proto: header[9] };
    Ok(Seen { tags, flow, flags, bytes: (l3 + total) as u64 })
}

fn ipv6(frame: &[u8], tags: usize, l3: usize, is_ours: impl Fn(IpAddr) -> bool) -> Result<Seen, Reason> {
    let header: [u8; 40] = take(frame, l3)?;
    let client = Ipv6Addr::from(take::<16>(&header, 8)?).into();
    let vip = Ipv6Addr::from(take::<16>(&header, 24)?).into();
    if !is_ours(vip) {
        return Err(Reason::NotVip);
    }
    if header[0] >> 4 != 6 {
        return Err(Reason::Malformed);
    }
    let next = header[6];
    if next == 44 {
        return Err(Reason::FragmentUnknown);
    }
    // IANA, "IPv6 Extension Header Types".
    if [0, 43, 50, 51, 60, 135, 139, 140, 253, 254].contains(&next) {
        return Err(Reason::ExtensionHeader);
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (client_port, vip_port, flags) = transport(frame, l3 + 40, next, payload)?;
    let flow = Flow { client, client_port, vip, vip_port, proto: next };
    Ok(Seen { tags, flow, flags, bytes: (l3 + 40 + payload) as u64 })
}

/// Ports, and TCP's control bits. The whole header must be in the frame and in what the IP header promises.
fn transport(frame: &[u8], l4: usize, proto: u8, payload: usize) -> Result<(u16, u16, Option<u8>), Reason> {
    let (flags, len) = match proto {
        6 => (Some(take::<20>(frame, l4)?[13]), 20),
        17 => {
            take::<8>(frame, l4)?;
            (None, 8)
        }
        _ => return Err(Reason::NotTcpUdp),
    };
    if payload < len {
        return Err(Reason::Malformed);
    }
    Ok((be16(frame, l4)?, be16(frame, l4 + 2)?, flags))
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Reason> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Reason::Malformed)
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, Reason> {
    take(bytes, at).map(u16::from_be_bytes)
}
