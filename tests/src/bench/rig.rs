//! The driver program and a list of flows to drive through some program.

use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute};

use crate::packet::frame::Frame;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drive.o"));

/// A flow of the list, as the driver reads it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Flow {
    client: [u8; 4],
    vip: [u8; 4],
    ports: [u8; 4],
}

/// Where the driver is, as it keeps it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
struct Progress {
    frames: u64,
    wanted: u64,
    next: u32,
    len: u32,
    begin: u64,
    end: u64,
}

/// The driver with one list and one target.
pub struct Rig {
    ebpf: Ebpf,
    driver: &'static str,
    len: u32,
    next: u32,
}

impl Rig {
    /// A driver over these flows (client, VIP), all of one family, in this order.
    ///
    /// # Panics
    ///
    /// When the kernel refuses the driver.
    #[must_use]
    pub fn new(flows: &[(SocketAddr, SocketAddr)]) -> Self {
        let len = u32::try_from(flows.len()).expect("a list of flows that fits its index");
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("LIST", len)
            .load(OBJECT)
            .unwrap_or_else(|e| panic!("the driver does not load: {e:#?}"));
        let mut list: Array<&mut MapData, [u8; 12]> = ebpf.map_mut("LIST").unwrap().try_into().unwrap();
        for (i, (client, vip)) in (0..).zip(flows) {
            let mut ports = [0; 4];
            ports[..2].copy_from_slice(&client.port().to_be_bytes());
            ports[2..].copy_from_slice(&vip.port().to_be_bytes());
            let flow = Flow { client: tail(client.ip()), vip: tail(vip.ip()), ports };
            let flow: [u8; 12] = transmute!(flow);
            list.set(i, flow, 0).unwrap();
        }
        let driver = if flows[0].0.is_ipv4() { "drive_v4" } else { "drive_v6" };
        let mut rig = Self { ebpf, driver, len, next: 0 };
        rig.xdp("floor").load().unwrap();
        rig.xdp(driver).load().unwrap();
        rig
    }

    fn xdp(&mut self, name: &str) -> &mut Xdp {
        self.ebpf.program_mut(name).unwrap().try_into().unwrap()
    }

    /// Makes the driver call this program.
    pub fn aim(&mut self, target: &ProgramFd) {
        let mut map: ProgramArray<&mut MapData> = self.ebpf.map_mut("TARGET").unwrap().try_into().unwrap();
        map.set(0, target, 0).unwrap();
    }

    /// Makes the driver call the floor.
    pub fn aim_at_floor(&mut self) {
        let fd = self.xdp("floor").fd().unwrap().try_clone().unwrap();
        self.aim(&fd);
    }

    /// Instructions and bytes of machine code of the floor.
    pub fn floor_size(&mut self) -> (u32, u32) {
        size_of_program(self.xdp("floor"))
    }

    /// Drives `frames` copies of `frame`, each with the next flow of the list, and gives nanoseconds per frame.
    ///
    /// # Panics
    ///
    /// When the program does not end with `verdict`.
    pub fn drive(&mut self, frame: &Frame, frames: u64, verdict: u32) -> f64 {
        let (ns, last) = self.drive_any(frame, frames);
        assert_eq!(last, verdict, "verdict of the last frame");
        ns
    }

    /// The same, whatever becomes of the frames: the last one's verdict, too.
    ///
    /// # Panics
    ///
    /// When the kernel refuses to.
    pub fn drive_any(&mut self, frame: &Frame, frames: u64) -> (f64, u32) {
        let progress =
            Progress { frames: 0, wanted: frames, next: self.next, len: self.len, begin: 0, end: 0 };
        let progress: [u64; 5] = transmute!(progress);
        self.progress().set(0, progress, 0).unwrap();
        let bytes = frame.bytes();
        let driver = self.driver;
        let result = self
            .xdp(driver)
            .test_run(TestRunOptions {
                data_in: Some(&bytes),
                repeat: u32::try_from(frames + 1).expect("a number of frames that fits"),
                ..TestRunOptions::new()
            })
            .unwrap();
        let progress: Progress = transmute!(self.progress().get(&0, 0).unwrap());
        assert_eq!(progress.frames, frames + 1, "frames driven");
        self.next = progress.next;
        ((progress.end - progress.begin) as f64 / frames as f64, result.return_value)
    }

    fn progress(&mut self) -> Array<&mut MapData, [u64; 5]> {
        self.ebpf.map_mut("PROGRESS").unwrap().try_into().unwrap()
    }
}

/// Instructions (as the verifier left them) and bytes of machine code of a loaded program.
///
/// # Panics
///
/// When the kernel does not tell.
pub fn size_of_program(program: &mut Xdp) -> (u32, u32) {
    let info = program.info().unwrap();
    (info.size_translated().unwrap_or_default() / 8, info.size_jitted())
}

/// Last four bytes of an address.
const fn tail(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            [a, b, c, d]
        }
    }
}
