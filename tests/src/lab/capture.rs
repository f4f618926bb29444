//! What crosses the balancer's own cable, frame by frame: captured at the switch, where XDP cannot eat it first.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    proc::{Proc, wait_until},
    topology::{Cable, Host, Lab},
};

/// Bytes kept of a frame: Ethernet, IPv6 and TCP with all options.
const SNAP: u16 = 128;

/// A capture of all frames of some addresses on the cable of one host.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Proc,
    file: PathBuf,
    mac: [u8; 6],
}

/// Time after which a capture whose counts stand still is taken for complete.
const SETTLED: Duration = Duration::from_secs(1);

impl Capture {
    /// Captures the TCP and UDP that goes over the cable of `host` to or from any of `addresses`, and waits until it
    /// does. Not ARP and neighbour discovery: there the balancer answers for its VIPs, as it should. Nor what the host itself
    /// says, by an address that is not captured: the balancer tries its VIPs at the servers.
    ///
    /// # Panics
    ///
    /// When tcpdump does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, addresses: &[IpAddr]) -> Self {
        Self::on(lab, &host.cables()[0], addresses)
    }

    /// [`Self::start`] for one cable of a host that has several.
    ///
    /// # Panics
    ///
    /// When tcpdump does not start.
    #[must_use]
    pub fn on(lab: &Lab, Cable { port, mac, v4, v6, .. }: &Cable, addresses: &[IpAddr]) -> Self {
        static CAPTURES: AtomicU32 = AtomicU32::new(0);
        let name = format!("tcpdump-{port}-{}", CAPTURES.fetch_add(1, Ordering::Relaxed));
        let file = lab.dir().join(format!("{name}.pcap"));
        let hosts: Vec<_> = addresses.iter().map(|ip| format!("host {ip}")).collect();
        let own = [IpAddr::V4(*v4), IpAddr::V6(*v6)].into_iter().filter(|own| !addresses.contains(own));
        let own: String = own.map(|ip| format!(" and not host {ip}")).collect();
        let filter = format!("(tcp or udp) and ({}){own}", hosts.join(" or "));
        let mut command = lab.switch().command("tcpdump");
        command
            .args("--immediate-mode -n -U -Z root -B 32768".split(' '))
            .args(["-i", port, "-s", &SNAP.to_string(), "-w"])
            .arg(&file)
            .arg(filter);
        let mut tcpdump = Proc::spawn(&name, lab.switch(), lab.dir(), &mut command);
        tcpdump.wait_ready(|tcpdump| tcpdump.log_text().contains("listening on"));
        Self { tcpdump, file, mac: *mac }
    }

    /// Ends the capture and sorts what it saw.
    ///
    /// # Panics
    ///
    /// When tcpdump missed a frame, for then the capture proves nothing.
    #[must_use]
    #[track_caller]
    pub fn finish(mut self) -> Crossing {
        // On a cable in use, libpcap throws away what came before its filter stood, and counts it as received. So the
        // two may never be equal; then it is enough that neither moves any more.
        let (mut last, mut since) = (None, Instant::now());
        wait_until(Duration::from_secs(10), "tcpdump has written all it received", || {
            self.tcpdump.signal(Signal::USR1);
            let Some(counts) = Counts::last(&self.tcpdump.log_text()) else { return false };
            let now = Some((counts.captured, counts.received));
            if now != last {
                (last, since) = (now, Instant::now());
            }
            counts.captured == counts.received || since.elapsed() > SETTLED
        });
        self.tcpdump.stop(Signal::INT);
        let log = self.tcpdump.log_text();
        let counts = Counts::last(&log).unwrap_or_else(|| panic!("tcpdump told no counts: {log}"));
        assert_eq!(counts.dropped, 0, "tcpdump missed frames: {log}");
        let bytes = fs::read(&self.file)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", self.file.display()));
        let mut crossing = Crossing::default();
        for frame in frames(&bytes) {
            if let Some(packet) = Packet::parse(frame) {
                crossing.add(&packet, self.mac);
            }
        }
        crossing
    }
}

/// What tcpdump says of itself.
struct Counts {
    captured: u64,
    received: u64,
    dropped: u64,
}

impl Counts {
    /// The last counts in its log: on one line after SIGUSR1, on three at the end.
    fn last(log: &str) -> Option<Self> {
        let count = |of: &str| {
            let before = log.get(..log.rfind(of)?)?;
            before.trim_end().rsplit(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
        };
        Some(Self {
            captured: count("packets captured")?,
            received: count("packets received by filter")?,
            dropped: count("packets dropped by kernel")?,
        })
    }
}

/// What went into a host and what came out of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Crossing {
    /// Packets to the captured addresses that went in, by destination.
    pub entered: BTreeMap<IpAddr, Tally>,
    /// The same packets as they came out again.
    pub left: BTreeMap<IpAddr, Tally>,
    /// Frames that went in or out by source address.
    pub sources: BTreeMap<IpAddr, u64>,
}

/// Packets in a form that receive offload cannot change: it joins neighbouring segments with payload into one, and
/// leaves all others alone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Frames; fewer after receive offload than before.
    pub frames: u64,
    /// Packets without joinable payload: TCP segments without any, and datagrams.
    pub bare: BTreeMap<Packet, u64>,
    /// Bytes of TCP payload by source and destination.
    pub payload: BTreeMap<(SocketAddr, SocketAddr), u64>,
}

impl Crossing {
    /// Frames to `ip` that went in.
    #[must_use]
    pub fn frames_in(&self, ip: IpAddr) -> u64 {
        self.entered.get(&ip).map_or(0, |tally| tally.frames)
    }

    /// Frames with the source address `ip`, in whichever direction.
    #[must_use]
    pub fn frames_from(&self, ip: IpAddr) -> u64 {
        self.sources.get(&ip).copied().unwrap_or(0)
    }

    /// What went in to `ip` and did not come out exactly so, a line each. Empty = nothing lost, doubled or changed.
    #[must_use]
    pub fn differences(&self, ip: IpAddr) -> Vec<String> {
        let nothing = Tally::default();
        let entered = self.entered.get(&ip).unwrap_or(&nothing);
        let left = self.left.get(&ip).unwrap_or(&nothing);
        let bare = unequal(&entered.bare, &left.bare)
            .map(|(packet, before, after)| format!("{packet:?}: {before} times in, {after} times out"));
        let payload = unequal(&entered.payload, &left.payload).map(|((from, to), before, after)| {
            format!("{from} to {to}: {before} bytes in, {after} bytes out")
        });
        bare.chain(payload).collect()
    }

    fn add(&mut self, packet: &Framed, mac: [u8; 6]) {
        *self.sources.entry(packet.packet.from.ip()).or_default() += 1;
        if packet.destination == mac {
            self.entered.entry(packet.packet.to.ip()).or_default().add(packet);
        } else if packet.source == mac {
            self.left.entry(packet.packet.to.ip()).or_default().add(packet);
        }
    }
}

impl Tally {
    fn add(&mut self, framed: &Framed) {
        self.frames += 1;
        let packet = framed.packet;
        if packet.protocol == TCP && packet.payload > 0 {
            *self.payload.entry((packet.from, packet.to)).or_default() += u64::from(packet.payload);
        } else {
            *self.bare.entry(packet).or_default() += 1;
        }
    }
}

/// What identifies a packet within a test.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Packet {
    /// IP protocol number.
    pub protocol: u8,
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: u32,
}

/// A packet in its frame.
struct Framed {
    destination: [u8; 6],
    source: [u8; 6],
    packet: Packet,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl Packet {
    /// Parses an Ethernet frame; `None` for what is neither TCP nor UDP, or too short.
    fn parse(frame: &[u8]) -> Option<Framed> {
        let destination = frame.first_chunk::<6>().copied()?;
        let source = frame.get(6..)?.first_chunk::<6>().copied()?;
        let ip = frame.get(14..)?;
        let (from, to, protocol, transport, length) = match be16(frame, 12)? {
            0x0800 => {
                let header = usize::from(ip.first()? & 0xf) * 4;
                let length = usize::from(be16(ip, 2)?).checked_sub(header)?;
                let address =
                    |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*ip.get(at..)?.first_chunk::<4>()?)));
                (address(12)?, address(16)?, *ip.get(9)?, ip.get(header..)?, length)
            }
            0x86dd => {
                let address =
                    |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*ip.get(at..)?.first_chunk::<16>()?)));
                (address(8)?, address(24)?, *ip.get(6)?, ip.get(40..)?, usize::from(be16(ip, 4)?))
            }
            _ => return None,
        };
        if !matches!(protocol, TCP | UDP) {
            return None;
        }
        let mut packet = Self {
            protocol,
            from: SocketAddr::new(from, be16(transport, 0)?),
            to: SocketAddr::new(to, be16(transport, 2)?),
            sequence: 0,
            acknowledgement: 0,
            flags: 0,
            payload: u32::try_from(length).ok()?,
        };
        if protocol == TCP {
            packet.sequence = be32(transport, 4)?;
            packet.acknowledgement = be32(transport, 8)?;
            packet.flags = *transport.get(13)?;
            packet.payload -= u32::from(transport.get(12)? >> 4) * 4;
        }
        Some(Framed { destination, source, packet })
    }
}

/// Frames of a pcap file as tcpdump writes it here: native byte order.
fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        // Seconds, microseconds, captured length, original length.
        let (head, after) = rest.split_at_checked(16)?;
        let length = u32::from_ne_bytes(*head.get(8..)?.first_chunk()?);
        let (frame, next) = after.split_at_checked(usize::try_from(length).ok()?)?;
        rest = next;
        Some(frame)
    })
}

/// Keys with different values in two maps, and both values.
fn unequal<'a, K: Ord + Copy>(
    before: &'a BTreeMap<K, u64>,
    after: &'a BTreeMap<K, u64>,
) -> impl Iterator<Item = (K, u64, u64)> {
    let value = |map: &BTreeMap<K, u64>, key| map.get(key).copied().unwrap_or(0);
    let only_after = after.keys().filter(|key| !before.contains_key(key));
    before
        .keys()
        .chain(only_after)
        .map(move |key| (*key, value(before, key), value(after, key)))
        .filter(|(_, before, after)| before != after)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_be_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 0, 100));
    const LB: [u8; 6] = [2; 6];

    fn segment(sequence: u32, payload: u32, into_lb: bool) -> Framed {
        let other = [4; 6];
        let (destination, source) = if into_lb { (LB, other) } else { (other, LB) };
        let from = SocketAddr::new(Ipv4Addr::new(10, 10, 0, 50).into(), 40000);
        let (to, flags) = (SocketAddr::new(VIP, 104), 16);
        let packet = Packet { protocol: TCP, from, to, sequence, acknowledgement: 7, flags, payload };
        Framed { destination, source, packet }
    }

    fn differences(segments: &[(u32, u32, bool)]) -> Vec<String> {
        let mut crossing = Crossing::default();
        for (sequence, payload, into_lb) in segments {
            crossing.add(&segment(*sequence, *payload, *into_lb), LB);
        }
        crossing.differences(VIP)
    }

    #[test]
    fn segments_joined_on_the_way_out_are_no_loss() {
        let joined = [(1, 0, true), (1, 0, false), (1, 1448, true), (1449, 52, true), (1, 1500, false)];
        assert_eq!(differences(&joined), Vec::<String>::new());
    }

    #[test]
    fn a_lost_acknowledgement_a_doubled_one_and_lost_payload_are_told() {
        assert_eq!(differences(&[(1, 0, true)]).len(), 1);
        assert_eq!(differences(&[(1, 0, true), (1, 0, false), (1, 0, false)]).len(), 1);
        assert_eq!(differences(&[(1, 1448, true), (1449, 52, true), (1, 1448, false)]).len(), 1);
    }

    #[test]
    fn a_datagram_is_parsed_and_a_short_one_is_not() {
        let mut frame = [LB, [4; 6]].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, 17, 64]);
        frame.extend([[0xfd; 16], [0xfe; 16]].concat());
        frame.extend([0, 1, 0, 2, 0, 10, 0, 0, b'h', b'i']);
        let packet = Packet::parse(&frame).expect("whole").packet;
        assert_eq!((packet.protocol, packet.from.port(), packet.to.port(), packet.payload), (UDP, 1, 2, 10));
        assert!(Packet::parse(frame.split_at(40).0).is_none());
    }
}
