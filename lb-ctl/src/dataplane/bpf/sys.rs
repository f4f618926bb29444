//! The unsafe corner of the controller: what aya does not offer. Maps seen as memory, links taken off at once,
//! and many entries read with one system call.
#![allow(unsafe_code, reason = "memory shared with the kernel, and bpf(2) calls that aya does not wrap")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::atomic::AtomicU64,
};

use aya::Pod;
use lb_ebpf::flow_table::SharedWord;
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::FromZeros;

/// `BPF_OBJ_GET` of `enum bpf_cmd` (linux/bpf.h).
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_CREATE` of `enum bpf_cmd`.
const BPF_MAP_CREATE: libc::c_long = 0;
/// `BPF_MAP_UPDATE_ELEM` of `enum bpf_cmd`.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// `BPF_LINK_DETACH` of `enum bpf_cmd`.
const BPF_LINK_DETACH: libc::c_long = 34;
/// `BPF_MAP_TYPE_ARRAY` of `enum bpf_map_type`.
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_RDONLY` (linux/bpf.h).
const BPF_F_RDONLY: u32 = 1 << 3;

/// A BPF array with `BPF_F_MMAPABLE`, seen as the 64-bit words that the packet path reads and writes.
pub(super) struct SharedMemory {
    memory: MmapRaw,
    bytes: usize,
}

impl SharedMemory {
    /// Maps the first `bytes` bytes of the map behind `fd`.
    pub(super) fn map(fd: &impl AsFd, bytes: usize) -> io::Result<Self> {
        let memory = MmapOptions::new().len(bytes).map_raw(fd.as_fd().as_raw_fd())?;
        Ok(Self { memory, bytes })
    }

    /// The memory as arrays of `N` words.
    pub(super) fn words<const N: usize>(&self) -> &[[SharedWord; N]] {
        let first = self.memory.as_ptr().cast::<[SharedWord; N]>();
        let count = self.bytes / size_of::<[SharedWord; N]>();
        // SAFETY: the mapping starts at a page boundary, holds `count` such arrays, is readable and writable, and
        // lives as long as `self`. An array map never shrinks. A shared word is an atomic, so others (this process
        // through another reference, the kernel's CPUs) may read and write it at any time.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    /// The memory as arrays of `N` words that may be added to.
    pub(super) fn atomics<const N: usize>(&self) -> &[[AtomicU64; N]] {
        let first = self.memory.as_ptr().cast::<[AtomicU64; N]>();
        let count = self.bytes / size_of::<[AtomicU64; N]>();
        // SAFETY: as in `words`; whoever else uses the memory reads and writes whole aligned words, atomically.
        unsafe { std::slice::from_raw_parts(first, count) }
    }
}

/// Takes the program of a pinned link off its interface before it returns. (Removing the pin does so too, but
/// some time later.) The pin stays.
///
/// # Errors
///
/// `ENOENT`: no such pin. `EINVAL`: what is pinned is not a link.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link_fd: u32,
    }
    let link = open_pinned(path, 0)?;
    let mut attr = Attr { link_fd: fd_number(&link) };
    // SAFETY: `Attr` is the layout of `bpf_attr.link_detach`.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Opens a pinned map for reading alone: the kernel refuses every change through this descriptor.
pub(super) fn open_read_only(path: &Path) -> io::Result<OwnedFd> {
    open_pinned(path, BPF_F_RDONLY)
}

fn open_pinned(path: &Path, file_flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags };
    // SAFETY: `Attr` is the layout of `bpf_attr` for `BPF_OBJ_GET`; the path ends with a NUL and outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Where a walk over a hash map stands.
#[derive(Clone, Copy, Default)]
pub(super) enum Cursor {
    /// Before the first entry.
    #[default]
    Start,
    /// At this bucket of the kernel's table.
    At(u32),
    /// Everything has been read.
    End,
}

/// Layout of `bpf_attr.batch`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Puts maps into an array of maps, by one system call. Whether the kernel waits for packets that are on their way
/// depends on its version.
///
/// # Errors
///
/// What the kernel says; some may have been put then. `ENOTSUPP` (524): it does not know how to.
pub(super) fn update_inner_maps(outer: &impl AsFd, indexes: &[u32], inner: &[OwnedFd]) -> io::Result<()> {
    let inner: Vec<u32> = inner.iter().map(fd_number).collect();
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: indexes.as_ptr() as u64,
        values: inner.as_ptr() as u64,
        count: indexes.len().min(inner.len()) as u32,
        map_fd: fd_number(outer),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `BatchAttr` is the layout of `bpf_attr.batch`; the kernel reads `count` keys and values, u32 both, as an
    // array of maps has them, which the slices hold.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// An array of one value, as an inner map of an array of maps.
pub(super) fn array_of_one<V: Pod>(value: &V) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }
    #[repr(C)]
    struct Update {
        map_fd: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut create = Create {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: `Create` is the first part of `bpf_attr` for `BPF_MAP_CREATE`; what is not given is zero.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut create) }?;
    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows it.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let first = 0_u32;
    let mut update = Update {
        map_fd: fd_number(&map),
        key: std::ptr::from_ref(&first) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    // SAFETY: `Update` is the layout of `bpf_attr` for `BPF_MAP_UPDATE_ELEM`; the kernel reads a u32 and a `V`, which are
    // the sizes that the map was made with.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut update) }?;
    Ok(map)
}

/// Opens a pinned map.
pub(super) fn open_writable(path: &Path) -> io::Result<OwnedFd> {
    open_pinned(path, 0)
}

/// Reads the next entries of a hash map, at most `keys.len()` of them, and moves the cursor. Returns how many.
///
/// # Errors
///
/// What the kernel says; `ENOSPC` when one bucket holds more than fits.
pub(super) fn lookup_batch<K: Pod + FromZeros, V: Pod + FromZeros>(
    map: &impl AsFd,
    cursor: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<usize> {
    let from = match *cursor {
        Cursor::Start => None,
        Cursor::At(bucket) => Some(bucket),
        Cursor::End => return Ok(0),
    };
    let mut to = 0u32;
    let mut attr = BatchAttr {
        in_batch: from.as_ref().map_or(0, |f| std::ptr::from_ref(f) as u64),
        out_batch: std::ptr::from_mut(&mut to) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: fd_number(map),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: `BatchAttr` is the layout of `bpf_attr.batch`; the kernel writes at most `count` keys and values, which
    // the slices hold and for which any bytes are a value (`Pod`); a hash map's batch position is a u32. The
    // caller's types have the map's key and value size: they come from the same typed handle.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    match result {
        Ok(_) => *cursor = Cursor::At(to),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => *cursor = Cursor::End,
        Err(error) => return Err(error),
    }
    Ok(attr.count as usize)
}

fn fd_number(fd: &impl AsFd) -> u32 {
    // An open descriptor is never negative.
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// bpf(2). Returns what the kernel returned: a descriptor, or 0.
///
/// # Safety
///
/// `attr` must be the part of `union bpf_attr` that `command` reads, and what it points to must be valid for it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: the caller's promise; size and address are those of one live value.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>() as libc::c_long)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors are small.
    Ok(result as RawFd)
}
