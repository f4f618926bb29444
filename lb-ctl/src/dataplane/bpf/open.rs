//! Opening the data plane: adopting what is pinned, or making it.
#![forbid(unsafe_code)]

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, Map, MapData, MapError, RingBuf},
    programs::{Program, ProgramError, Xdp},
};
use lb_common::{
    ABI_VERSION,
    fragment::FRAGMENT_SECS,
    limits::{FILTER_WORDS, FLOWS_RANGE, PROGRAM, map},
    persist::NEW_SECS,
    settings::{Settings, UNATTENDED_SECS, tick_shift},
};

use super::{
    BpfReader, BpfWriter, Error, Opened, Options, clock, fail, fault,
    flows::{FlowTables, buckets},
    links,
    loads::Loads,
    pins::{self, Found, PinDir},
    read::ReaderMaps,
    sys::SharedMemory,
    write::{WriterMaps, WriterMemory},
};

/// The XDP programs and the declarations of their maps.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb.o"));

/// Names and order of the flow table sizes in [`Settings::flows`], as the configuration calls them.
const SIZE_NAMES: [&str; 3] = ["flows_v4", "flows_v6", "half_open"];

/// Opens the data plane: adopts maps and links that an earlier controller left pinned, and replaces its program
/// by this build's without a packet in between; makes everything anew when there is nothing.
///
/// # Errors
///
/// No BPF file system, no privilege, maps of another ABI version or an incomplete set of them (both are left
/// as they are), or whatever the kernel refuses; the text has the cure.
pub fn open(options: Options) -> Result<Opened, Error> {
    let wanted = wanted_flows(&options)?;
    let pin_dir = pins::take(&options.pin_dir)?;
    match pins::prepare(&pin_dir)? {
        Found::Maps(settings) => {
            let mut notes = Vec::new();
            notes.extend(size_note(settings.flows, wanted));
            start(pin_dir, &settings, notes)
        }
        Found::Nothing => {
            let opened =
                new_settings(wanted).and_then(|settings| start(pin_dir.clone(), &settings, Vec::new()));
            if opened.is_err() {
                // What was made so far would only hold memory. The error that counts is the first one; what
                // cannot be removed now is removed by the next start, since it has no settings.
                drop(pins::clear(&pin_dir));
            }
            opened
        }
    }
}

/// Flow table sizes that the options ask for: powers of two.
fn wanted_flows(options: &Options) -> Result<[u32; 3], Error> {
    let mut flows = [options.flows_v4, options.flows_v6, options.half_open];
    for (size, name) in flows.iter_mut().zip(SIZE_NAMES) {
        if !FLOWS_RANGE.contains(size) {
            return Err(fail(format!(
                "{name} = {size} is out of range: choose {} to {}",
                FLOWS_RANGE.start(),
                FLOWS_RANGE.end()
            )));
        }
        *size = size.next_power_of_two();
    }
    Ok(flows)
}

fn size_note(there: [u32; 3], wanted: [u32; 3]) -> Option<String> {
    let differences: Vec<String> = SIZE_NAMES
        .iter()
        .zip(there.iter().zip(&wanted))
        .filter(|(_, (there, wanted))| there != wanted)
        .map(|(name, (there, wanted))| format!("{name} stays {there} (configured: {wanted})"))
        .collect();
    (!differences.is_empty()).then(|| {
        format!(
            "{}: flow table size changes take effect after `lbd --detach` (interrupts traffic) and a new start",
            differences.join(", ")
        )
    })
}

/// Settings for maps that are still to be made. `abi_version` is set: they are written when all else is done.
fn new_settings(flows: [u32; 3]) -> Result<Settings, Error> {
    let hz = probe_hz()?;
    let mut seed = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut f| f.read_exact(&mut seed))
        .map_err(|e| fault("no random numbers for the flow hash: /dev/urandom cannot be read", e))?;
    Ok(Settings {
        abi_version: ABI_VERSION,
        hz,
        flow_seed: u64::from_ne_bytes(seed),
        flows,
        tick_shift: tick_shift(hz),
    })
}

/// Measures the timer rate with a copy of the object that nobody else sees: the rate is one of the constants that
/// the real one is loaded with.
fn probe_hz() -> Result<u32, Error> {
    let mut loader = EbpfLoader::new();
    for name in [map::FLOWS_V4, map::FLOWS_V6, map::HALF_OPEN_V4, map::HALF_OPEN_V6] {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(OBJECT).map_err(not_loaded)?;
    let clock_map = take(&mut ebpf, clock::MAP)?;
    let program = xdp(&mut ebpf, clock::PROGRAM)?;
    program.load().map_err(|e| not_verified(clock::PROGRAM, e))?;
    clock::measure_hz(program, &clock_map)
}

/// Loads the object over the maps under the pin directory, makes those that are missing, and adopts the links.
fn start(dir: PinDir, settings: &Settings, mut notes: Vec<String>) -> Result<Opened, Error> {
    let pin_dir = &dir.path;
    let mut ebpf = load(settings, Some(pin_dir))?;
    xdp(&mut ebpf, clock::PROGRAM)?.load().map_err(|e| not_verified(clock::PROGRAM, e))?;
    let mut links = Vec::new();
    let program = xdp(&mut ebpf, PROGRAM)?;
    for ifindex in pins::linked_interfaces(pin_dir)? {
        match links::adopt(program, pin_dir, ifindex)? {
            Some(mode) => links.push((ifindex, mode)),
            None => notes.push(format!(
                "interface {ifindex}, which an earlier lbd had attached to, is gone; its pin was removed"
            )),
        }
    }
    let clock_map = take(&mut ebpf, clock::MAP)?;
    let open_data = |name: &str| {
        let path = pin_dir.join(name);
        MapData::from_pin(&path).map_err(|e| fault(format!("map {} cannot be opened", path.display()), e))
    };
    let flows = Arc::new(FlowTables::map(settings, open_data)?);
    let memory = |name: &str, words: usize| {
        SharedMemory::map(open_data(name)?.fd(), words * size_of::<u64>())
            .map_err(|e| fault(format!("map `{name}` cannot be mapped into memory"), e))
    };
    let memory = WriterMemory {
        filter: memory(map::FILTER, FILTER_WORDS)?,
        heartbeat: memory(map::HEARTBEAT, 1)?,
        loads: Loads::map(&open_data(map::LOADS)?)?,
    };
    let reader_maps = ReaderMaps {
        service_traffic: open_again(pin_dir, map::SERVICE_TRAFFIC)?,
        backend_traffic: open_again(pin_dir, map::BACKEND_TRAFFIC)?,
        service_info: open_again(pin_dir, map::SERVICE_INFO)?,
        persist: open_again(pin_dir, map::PERSIST)?,
        reasons: take(&mut ebpf, map::REASONS)?,
        events: take::<RingBuf<MapData>>(&mut ebpf, map::EVENTS)?,
    };
    let writer_maps = WriterMaps {
        keys_v4: take(&mut ebpf, map::SERVICE_KEYS_V4)?,
        keys_v6: take(&mut ebpf, map::SERVICE_KEYS_V6)?,
        services: take(&mut ebpf, map::SERVICES)?,
        service_info: take(&mut ebpf, map::SERVICE_INFO)?,
        tables: take(&mut ebpf, map::TABLES)?,
        backends: take(&mut ebpf, map::BACKENDS)?,
        backend_info: take(&mut ebpf, map::BACKEND_INFO)?,
        sources: take(&mut ebpf, map::SOURCES)?,
        targets: take(&mut ebpf, map::TARGETS)?,
        links: take(&mut ebpf, map::LINKS)?,
        persist: take(&mut ebpf, map::PERSIST)?,
        persist_new: take(&mut ebpf, map::PERSIST_NEW)?,
        twins: take(&mut ebpf, map::TWINS)?,
        devices: take(&mut ebpf, map::DEVICES)?,
        service_traffic: take(&mut ebpf, map::SERVICE_TRAFFIC)?,
        backend_traffic: take(&mut ebpf, map::BACKEND_TRAFFIC)?,
        clock: clock_map,
    };
    // From here on the directory counts as complete.
    let mut stored: Array<MapData, Settings> = take(&mut ebpf, map::SETTINGS)?;
    stored.set(0, settings, 0).map_err(|e| fault("map `SETTINGS` cannot be written", e))?;

    let (writer, in_use) =
        BpfWriter::new(dir, ebpf, *settings, writer_maps, memory, Arc::clone(&flows), links)?;
    let reader = BpfReader::new(reader_maps, flows, settings, in_use);
    Ok(Opened { writer, reader, notes })
}

/// Loads the object and its program. With a pin directory, maps that are pinned there are used, others are made and
/// pinned; without one, all of them are new and nobody else's.
pub(super) fn load(settings: &Settings, pin_dir: Option<&Path>) -> Result<Ebpf, Error> {
    let [v4, v6, half_open] = settings.flows.map(buckets);
    let masks = [v4 - 1, v6 - 1, half_open - 1];
    let fragment_ticks = settings.ticks(FRAGMENT_SECS);
    let persist_new_ticks = settings.ticks(NEW_SECS);
    let unattended_ticks = settings.ticks(UNATTENDED_SECS);
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(map::FLOWS_V4, v4)
        .map_max_entries(map::FLOWS_V6, v6)
        .map_max_entries(map::HALF_OPEN_V4, half_open)
        .map_max_entries(map::HALF_OPEN_V6, half_open)
        .override_global("FLOW_SEED", &settings.flow_seed, true)
        .override_global("TICK_SHIFT", &settings.tick_shift, true)
        .override_global("BUCKET_MASK_V4", &masks[0], true)
        .override_global("BUCKET_MASK_V6", &masks[1], true)
        .override_global("BUCKET_MASK_HALF_V4", &masks[2], true)
        .override_global("BUCKET_MASK_HALF_V6", &masks[2], true)
        .override_global("FRAGMENT_TICKS", &fragment_ticks, true)
        .override_global("PERSIST_NEW_TICKS", &persist_new_ticks, true)
        .override_global("UNATTENDED_TICKS", &unattended_ticks, true);
    if let Some(pin_dir) = pin_dir {
        for name in map::PINNED {
            loader.map_pin_path(name, pin_dir.join(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(not_loaded)?;
    xdp(&mut ebpf, PROGRAM)?.load().map_err(|e| not_verified(PROGRAM, e))?;
    Ok(ebpf)
}

fn not_loaded(error: EbpfError) -> Error {
    fault("the XDP program cannot be loaded", error)
}

/// The verifier's log is long; the last line before its statistics says what it did not like.
fn not_verified(name: &str, error: ProgramError) -> Error {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return fault(format!("the XDP program `{name}` cannot be loaded"), error);
    };
    let log = verifier_log.to_string();
    let statistics = ["verification time", "stack depth", "processed"];
    let complaint = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|s| line.starts_with(s)))
        .unwrap_or("no reason given");
    tracing::debug!(program = name, %log, "verifier log");
    fault(format!("the kernel refuses the XDP program `{name}` ({complaint})"), io_error)
}

/// A program of the object.
pub(super) fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut Xdp, Error> {
    match ebpf.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(fail(format!(
            "this build's BPF object has no XDP program `{name}`: it was not built with this lbd; build both again"
        ))),
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or_else(|| {
        fail(format!(
            "this build's BPF object has no map `{name}`: it was not built with this lbd; build both again"
        ))
    })?;
    T::try_from(map).map_err(|e| fault(format!("map `{name}` is not what it should be"), e))
}

fn open_again<T: TryFrom<Map, Error = MapError>>(pin_dir: &Path, name: &str) -> Result<T, Error> {
    let path = pin_dir.join(name);
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(|e| fault(format!("map {} cannot be opened", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_and_nonsense_is_refused_by_name() {
        let mut options = Options {
            pin_dir: "/sys/fs/bpf/never".into(),
            flows_v4: 100_000,
            flows_v6: 1024,
            half_open: 1025,
        };
        assert_eq!(wanted_flows(&options).unwrap(), [131_072, 1024, 2048]);
        options.half_open = 7;
        assert_eq!(
            wanted_flows(&options).unwrap_err().text,
            "half_open = 7 is out of range: choose 1024 to 67108864"
        );
    }

    #[test]
    fn a_note_names_only_the_sizes_that_differ() {
        assert_eq!(size_note([1024; 3], [1024; 3]), None);
        let note = size_note([1024, 2048, 4096], [1024, 1024, 4096]).unwrap();
        assert!(note.starts_with("flows_v6 stays 2048 (configured: 1024): flow table size"), "{note}");
    }
}
