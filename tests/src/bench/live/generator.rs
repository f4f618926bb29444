//! The generator at the near end, and the counters at both.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRunAttrs, Xdp},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use super::{
    line::{ENTRY, FAR, Line, NEAR, VIP, VIP_PORT},
    ways::attach,
};
use crate::packet::frame::{Frame, checksum, flags};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/live.o"));

/// Frames that the kernel sends before it lets others work: what a driver takes out of its ring at once.
const BATCH: u32 = 64;
/// Flows when each packet begins one: all that the generator can tell apart.
pub const ENDLESS: u32 = 1 << 27;

/// What to send, as the generator reads it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Plan {
    frame: [u8; 64],
    ifindex: u32,
    mask: u32,
    next: u32,
    pad: u32,
    frames: u64,
    wanted: u64,
    begin: u64,
    end: u64,
}

/// What a run gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Nanoseconds from the first frame to the last.
    pub nanos: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames that reached one of the ends.
    pub arrived: u64,
}

impl Sample {
    /// Nanoseconds for each frame that arrived.
    #[must_use]
    pub const fn ns_per_packet(&self) -> f64 {
        self.nanos as f64 / self.arrived as f64
    }
}

/// A generator at the near end of a line.
pub struct Generator {
    ebpf: Ebpf,
    line: Line,
    next: u32,
}

impl Generator {
    /// Loads the programs, and attaches the counters at both ends.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn new(line: &Line) -> Self {
        let mut ebpf = Ebpf::load(OBJECT).unwrap_or_else(|e| panic!("the generator does not load: {e:#?}"));
        for name in ["generate", "count", "reflect"] {
            xdp(&mut ebpf, name).load().unwrap_or_else(|e| panic!("{name} does not load: {e:#?}"));
        }
        for (netns, port) in [(&line.near, NEAR), (&line.far, FAR)] {
            let count = xdp(&mut ebpf, "count");
            netns.enter(|| attach(count, port));
        }
        Self { ebpf, line: line.clone(), next: 0 }
    }

    /// Puts one of the generator's own programs (`count`, `reflect`) on the box's near interface.
    pub fn answer_with(&mut self, name: &str) {
        let program = xdp(&mut self.ebpf, name);
        self.line.middle.enter(|| attach(program, ENTRY));
    }

    /// Sends `frames` packets of `flows` flows in turn, and waits until the last has arrived or is lost.
    ///
    /// # Panics
    ///
    /// When the kernel does not send them.
    pub fn send(&mut self, flows: u32, control: u8, frames: u64) -> Sample {
        assert!(flows.is_power_of_two() && flows <= ENDLESS, "{flows} flows cannot be told apart");
        let before = self.arrived();
        let plan = Plan {
            frame: template(control),
            ifindex: NEAR.ifindex,
            mask: flows - 1,
            next: self.next,
            pad: 0,
            frames: 0,
            wanted: frames - 1,
            begin: 0,
            end: 0,
        };
        let plan: [u64; 14] = transmute!(plan);
        self.plan().set(0, plan, 0).expect("the generator's plan");
        let data = template(control);
        let generate: &Xdp = xdp(&mut self.ebpf, "generate");
        self.line.near.enter(|| {
            generate
                .test_run(TestRunOptions {
                    data_in: Some(&data),
                    repeat: u32::try_from(frames).expect("a number of frames that fits"),
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                })
                .unwrap_or_else(|e| panic!("the kernel sends no live frames: {e}"))
        });
        let plan: Plan = transmute!(self.plan().get(&0, 0).expect("the generator's plan"));
        assert_eq!(plan.frames, frames, "frames sent");
        self.next = plan.next;
        let arrived = self.settled() - before;
        Sample { nanos: plan.end - plan.begin, sent: frames, arrived }
    }

    fn plan(&mut self) -> Array<&mut MapData, [u64; 14]> {
        self.ebpf.map_mut("PLAN").unwrap().try_into().unwrap()
    }

    fn arrived(&self) -> u64 {
        let map: PerCpuArray<&MapData, u64> = self.ebpf.map("ARRIVED").unwrap().try_into().unwrap();
        map.get(&0, 0).expect("the counter").iter().sum()
    }

    /// The counter once it stands: nothing is on its way any more.
    fn settled(&self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut last = self.arrived();
        loop {
            thread::park_timeout(Duration::from_millis(2));
            let now = self.arrived();
            if now == last || Instant::now() > deadline {
                return now;
            }
            last = now;
        }
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// The first flow's packet. What the generator varies stands in it twice, once inverted, so that checksums stay right.
fn template(control: u8) -> [u8; 64] {
    let client = SocketAddr::from((Ipv4Addr::new(10, 64, 0, 0), 0x8000));
    let frame = Frame {
        dst_mac: ENTRY.mac.0,
        src_mac: NEAR.mac.0,
        payload: vec![0xff, 0xff, 0x7f, 0xff, 0, 0, 0, 0, 0, 0],
        ..Frame::tcp(client, SocketAddr::from((VIP, VIP_PORT)), control)
    };
    let mut bytes: [u8; 64] = frame.bytes().try_into().expect("a frame of 64 bytes");
    bytes[18..20].copy_from_slice(&[0xff; 2]);
    bytes[24..26].copy_from_slice(&[0; 2]);
    let sum = checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Control bits of packets within a connection.
pub const WITHIN: u8 = flags::ACK;
/// Control bits of a connection's first packet.
pub const FIRST: u8 = flags::SYN;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program in `lb-ebpf/src/bin/live` does to the template.
    fn of_flow(flow: u32) -> [u8; 64] {
        let mut bytes = template(WITHIN);
        let address = ((flow >> 11) as u16).to_be_bytes();
        let port = (0x8000 | (flow & 0x7ff) as u16).to_be_bytes();
        for (at, word) in [
            (18, address.map(|b| !b)),
            (28, address),
            (34, port),
            (54, address.map(|b| !b)),
            (56, port.map(|b| !b)),
        ] {
            bytes[at..at + 2].copy_from_slice(&word);
        }
        bytes
    }

    #[test]
    fn every_flows_packet_has_right_checksums() {
        for flow in [0, 1, 2047, 2048, 65_535, ENDLESS - 1] {
            let bytes = of_flow(flow);
            assert_eq!(checksum(&bytes[14..34]), 0, "IP header of flow {flow}");
            let mut pseudo = bytes[26..34].to_vec();
            pseudo.extend([0, 6, 0, 30]);
            pseudo.extend(&bytes[34..]);
            assert_eq!(checksum(&pseudo), 0, "TCP segment of flow {flow}");
        }
        assert_eq!(of_flow(0), template(WITHIN));
    }
}
