//! The real data plane: pinned maps of its own, the program on links of its own namespace, a controller's writer that
//! comes and goes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Pod, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    flow::{Bucket4, Bucket6, WAYS},
    limits::{PROGRAM, map},
    persist::{PersistEntry, PersistKey},
    settings::Settings,
};
use lb_ctl::{
    dataplane::{
        FlowCensus, Op, Writer as _,
        bpf::{BpfWriter, Options, detach, open},
    },
    plan::Step,
};

use super::dut::INGRESS;
use crate::lab::{bpffs, netns::Netns};

/// Does what a plan says, tables that stand next to each other at once, as the reconciler does.
///
/// # Panics
///
/// When something fails.
pub fn carry_out(writer: &mut BpfWriter, ops: &[&Op]) {
    let is_table = |op: &Op| matches!(op, Op::PutTable { .. });
    for run in ops.chunk_by(|one, next| is_table(one) == is_table(next)) {
        let tables = run.iter().filter_map(|op| {
            let Op::PutTable { service, table } = op else { return None };
            Some((*service, table))
        });
        for outcome in writer.put_tables(&tables.collect::<Vec<_>>()) {
            outcome.unwrap_or_else(|error| panic!("{}", error.line()));
        }
        for op in run.iter().filter(|op| !is_table(op)) {
            writer.apply(op).unwrap_or_else(|error| panic!("{op:?}: {}", error.line()));
        }
    }
}

/// Maps under pins, and whoever writes them. Dropped, it takes everything away.
pub struct Plane {
    pins: Pins,
    writer: Option<BpfWriter>,
    program: Option<Xdp>,
    settings: Settings,
}

impl Plane {
    /// Makes the maps, with room for so many flows: IPv4, IPv6, half-open.
    ///
    /// # Panics
    ///
    /// When the kernel refuses them.
    #[must_use]
    pub fn new(netns: &Netns, name: &str, flows: [u32; 3]) -> Self {
        bpffs::mount();
        let pins = Pins { path: bpffs::path(&format!("{}{name}", netns.name())), flows };
        let writer = pins.open();
        let settings = writer.settings();
        Self { pins, writer: Some(writer), program: None, settings }
    }

    /// What the maps hold.
    #[must_use]
    pub const fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Unit of time.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The controller's writer.
    ///
    /// # Panics
    ///
    /// When no controller lives.
    pub const fn writer(&mut self) -> &mut BpfWriter {
        self.writer.as_mut().expect("a controller lives")
    }

    /// Applies steps, as the reconciler does.
    ///
    /// # Panics
    ///
    /// When something fails.
    pub fn apply(&mut self, steps: &[Step]) {
        let ops: Vec<&Op> = steps.iter().map(|step| &step.op).collect();
        carry_out(self.writer(), &ops);
        self.find_program();
    }

    /// The controller is gone from one moment to the next. What it had pinned goes on.
    pub fn lose_controller(&mut self) {
        self.writer = None;
    }

    /// Another controller comes, and puts its own program on the links.
    ///
    /// # Panics
    ///
    /// When something fails.
    pub fn open_again(&mut self) {
        self.writer = Some(self.pins.open());
        self.find_program();
    }

    /// Retires and counts.
    ///
    /// # Panics
    ///
    /// When something fails.
    pub fn sweep(&mut self) -> FlowCensus {
        self.writer().sweep().unwrap_or_else(|error| panic!("{}", error.line()))
    }

    /// Runs a frame that comes in by the first interface; gives the verdict and the frame afterwards.
    ///
    /// # Panics
    ///
    /// When no program is attached.
    #[must_use]
    pub fn run(&self, frame: &[u8]) -> (u32, Vec<u8>) {
        let program = self.program.as_ref().expect("the program is attached");
        let mut out = vec![0; frame.len() + 64];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap_or_else(|error| panic!("{error}"));
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    fn find_program(&mut self) {
        self.program = Some(program_on(&self.pins.path, INGRESS));
    }
}

/// The program that runs on an interface by the link that is pinned.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn program_on(pin_dir: &Path, ifindex: u32) -> Xdp {
    let link = PinnedLink::from_pin(pin_dir.join(format!("link-{ifindex}"))).expect("a pinned link");
    let id = FdLink::from(link).info().expect("the kernel knows its link").program_id();
    let info = loaded_programs()
        .map(|info| info.expect("the kernel lists its programs"))
        .find(|info| info.id() == id)
        .expect("a link's program is loaded");
    Xdp::from_program_info(info, PROGRAM.into(), XdpAttachType::Interface).expect("an XDP program")
}

/// A directory of pins, which goes away with its owner.
pub struct Pins {
    path: PathBuf,
    flows: [u32; 3],
}

impl Pins {
    fn open(&self) -> BpfWriter {
        let [flows_v4, flows_v6, half_open] = self.flows;
        let opened = open(Options { pin_dir: self.path.clone(), flows_v4, flows_v6, half_open });
        let opened = opened.unwrap_or_else(|error| panic!("{}", error.line()));
        assert_eq!(opened.notes, Vec::<String>::new());
        opened.writer
    }

    /// A pinned map.
    ///
    /// # Panics
    ///
    /// When there is none like that.
    #[must_use]
    pub fn map<T: TryFrom<Map, Error = MapError>>(&self, name: &str) -> T {
        let data = MapData::from_pin(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        Map::from_map_data(data).and_then(T::try_from).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Every value of an array.
    ///
    /// # Panics
    ///
    /// When there is none like that.
    #[must_use]
    pub fn values<V: Pod>(&self, name: &str) -> Vec<V> {
        let array: Array<MapData, V> = self.map(name);
        array.iter().map(|value| value.unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
    }

    /// Every entry of a hash.
    ///
    /// # Panics
    ///
    /// When there is none like that.
    #[must_use]
    pub fn entries<K: Pod, V: Pod>(&self, name: &str) -> Vec<(K, V)> {
        let hash: HashMap<MapData, K, V> = self.map(name);
        hash.iter().map(|entry| entry.unwrap_or_else(|e| panic!("{name}: {e}"))).collect()
    }

    /// Lets ticks pass for every flow and every persistence entry.
    ///
    /// # Panics
    ///
    /// When a map cannot be written.
    pub fn age(&self, ticks: u32) {
        let aged = |words: &mut [u64]| {
            words[0] = words[0] & !0xffff_ffff | u64::from((words[0] as u32).wrapping_sub(ticks));
        };
        for name in [map::FLOWS_V4, map::HALF_OPEN_V4] {
            self.change(name, |bucket: &mut Bucket4| {
                let used = (0..WAYS).any(|way| bucket.0[way][0] != 0);
                bucket.0.iter_mut().for_each(|words| aged(words));
                used
            });
        }
        for name in [map::FLOWS_V6, map::HALF_OPEN_V6] {
            self.change(name, |bucket: &mut Bucket6| {
                let used = (0..WAYS).any(|way| bucket.0[way][0] != 0);
                bucket.0.iter_mut().for_each(|words| aged(words));
                used
            });
        }
        for name in [map::PERSIST, map::PERSIST_NEW] {
            let mut persisted: HashMap<MapData, PersistKey, PersistEntry> = self.map(name);
            for (key, entry) in self.entries::<PersistKey, PersistEntry>(name) {
                let last_seen = entry.last_seen.wrapping_sub(ticks);
                persisted
                    .insert(key, PersistEntry { last_seen, ..entry }, 0)
                    .expect("room for what is there");
            }
        }
    }

    /// Writes those values of an array back that `change` says it changed.
    fn change<V: Pod>(&self, name: &str, change: impl Fn(&mut V) -> bool) {
        let mut array: Array<MapData, V> = self.map(name);
        for index in 0..array.len() {
            let mut value = array.get(&index, 0).expect("an index below the length");
            if change(&mut value) {
                array.set(index, value, 0).expect("an index below the length");
            }
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The lock is the writer's, which is gone by now; what is left after a failure must not stay pinned.
        if detach(&self.path).is_err() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
