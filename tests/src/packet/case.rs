//! Tables of cases: a frame, and what must become of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::counter::Reason;

use super::{
    bench::{Bench, hex},
    dut::{Options, Ran, XDP_DROP, XDP_PASS, XDP_TX, live_backend},
    frame::Frame,
};

/// A frame and what must become of it.
pub struct Case {
    /// What it shows, in words.
    pub what: String,
    /// The frame.
    pub frame: Vec<u8>,
    /// `XDP_*`.
    pub verdict: u32,
    /// The frame afterwards.
    pub output: Vec<u8>,
    /// What is counted beside forwarding.
    pub reasons: &'static [Reason],
}

impl Case {
    /// A frame that goes out by the interface it came in by, as `output`.
    pub fn sent(
        what: impl Into<String>,
        frame: Vec<u8>,
        output: Vec<u8>,
        reasons: &'static [Reason],
    ) -> Self {
        Self { what: what.into(), frame, verdict: XDP_TX, output, reasons }
    }

    /// A frame that is left to the kernel as it came.
    pub fn passed(what: impl Into<String>, frame: Vec<u8>, reasons: &'static [Reason]) -> Self {
        Self { what: what.into(), output: frame.clone(), frame, verdict: XDP_PASS, reasons }
    }

    /// A frame that is dropped.
    pub fn dropped(what: impl Into<String>, frame: Vec<u8>, reasons: &'static [Reason]) -> Self {
        Self { what: what.into(), output: Vec::new(), frame, verdict: XDP_DROP, reasons }
    }

    /// Runs it.
    ///
    /// # Panics
    ///
    /// When anything is not as it must be.
    pub fn check(&self, bench: &mut Bench) {
        let before = bench.counted().reasons;
        let ran = bench.run(&self.frame);
        let what = &self.what;
        assert_eq!(ran.verdict, self.verdict, "{what}: verdict");
        if ran.verdict != XDP_DROP {
            assert_eq!(hex(&ran.frame), hex(&self.output), "{what}: frame");
        }
        for &reason in Reason::ALL {
            let count = |reasons: &BTreeMap<Reason, u64>| reasons.get(&reason).copied().unwrap_or_default();
            let counted = count(&bench.counted().reasons) - count(&before);
            assert_eq!(counted, u64::from(self.reasons.contains(&reason)), "{what}: {}", reason.name());
        }
    }
}

/// A socket address from text.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An address from text.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The backend slot that a forwarded frame goes to: test backends carry it in their MAC.
///
/// # Panics
///
/// When the frame was not sent back out of its interface.
pub fn slot_of(ran: &Ran) -> u16 {
    assert_eq!(ran.verdict, XDP_TX, "not forwarded: {}", hex(&ran.frame));
    u16::from_be_bytes([ran.frame[4], ran.frame[5]])
}

/// A frame with the MACs of a test backend.
#[must_use]
pub fn to_slot(frame: &Frame, slot: u16) -> Vec<u8> {
    let backend = live_backend(slot);
    Frame { dst_mac: backend.dst_mac.0, src_mac: backend.src_mac.0, ..frame.clone() }.bytes()
}

/// A bench with `servers` live backends and no service.
#[must_use]
pub fn bench(options: Options, servers: u16) -> Bench {
    let mut bench = Bench::new(options);
    for slot in 0..servers {
        bench.set(&super::bench::Op::Backend(slot, live_backend(slot)));
    }
    bench
}
