//! Made-up DICOM instances: small images, valid and complete enough for any archive, each with unique identifiers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Secondary Capture Image Storage (PS3.4 B.5).
const SOP_CLASS: &str = "1.2.840.10008.5.1.4.1.1.7";
/// Explicit VR Little Endian (PS3.5 A.2).
const TRANSFER_SYNTAX: &str = "1.2.840.10008.1.2.1";

/// A DICOM file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Instance {
    /// SOP Instance UID: what an archive knows it by.
    pub uid: String,
    /// The file.
    pub path: PathBuf,
}

/// Writes `count` instances of one new study into `dir`, each an image of `side` times `side` grey pixels (a byte
/// each).
///
/// # Panics
///
/// When a file cannot be written.
#[must_use]
pub fn generate(dir: &Path, count: usize, side: u16) -> Vec<Instance> {
    let (study, series) = (new_uid(), new_uid());
    (1..=count)
        .map(|number| {
            let uid = new_uid();
            let path = dir.join(format!("{uid}.dcm"));
            fs::write(&path, file(&uid, &study, &series, number, side))
                .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
            Instance { uid, path }
        })
        .collect()
}

/// A unique identifier below 2.25, where any 128-bit number may stand (PS3.5 B.2).
fn new_uid() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // 64 bits of time, 22 of process id (the kernel's limit), 32 of count: no two alike on this machine.
    let number = (nanos << 54) | (u128::from(std::process::id()) << 32) | u128::from(count);
    format!("2.25.{number}")
}

/// A file of PS3.10: preamble, file meta information, data set.
fn file(uid: &str, study: &str, series: &str, number: usize, side: u16) -> Vec<u8> {
    let mut meta = Elements::default();
    meta.binary((0x0002, 0x0001), b"OB", &[0, 1]);
    meta.text((0x0002, 0x0002), b"UI", SOP_CLASS);
    meta.text((0x0002, 0x0003), b"UI", uid);
    meta.text((0x0002, 0x0010), b"UI", TRANSFER_SYNTAX);
    meta.text((0x0002, 0x0012), b"UI", "2.25.1");

    let mut data = Elements::default();
    data.text((0x0008, 0x0016), b"UI", SOP_CLASS);
    data.text((0x0008, 0x0018), b"UI", uid);
    data.text((0x0008, 0x0020), b"DA", "20260101");
    data.text((0x0008, 0x0030), b"TM", "120000");
    data.text((0x0008, 0x0050), b"SH", "");
    data.text((0x0008, 0x0060), b"CS", "OT");
    data.text((0x0008, 0x0064), b"CS", "SYN");
    data.text((0x0008, 0x0090), b"PN", "");
    data.text((0x0010, 0x0010), b"PN", "Lab^Patient");
    data.text((0x0010, 0x0020), b"LO", "LAB-1");
    data.text((0x0010, 0x0030), b"DA", "");
    data.text((0x0010, 0x0040), b"CS", "O");
    data.text((0x0020, 0x000d), b"UI", study);
    data.text((0x0020, 0x000e), b"UI", series);
    data.text((0x0020, 0x0010), b"SH", "1");
    data.text((0x0020, 0x0011), b"IS", "1");
    data.text((0x0020, 0x0013), b"IS", &number.to_string());
    data.number((0x0028, 0x0002), 1);
    data.text((0x0028, 0x0004), b"CS", "MONOCHROME2");
    data.number((0x0028, 0x0010), side);
    data.number((0x0028, 0x0011), side);
    data.number((0x0028, 0x0100), 8);
    data.number((0x0028, 0x0101), 8);
    data.number((0x0028, 0x0102), 7);
    data.number((0x0028, 0x0103), 0);
    let pixels: Vec<u8> = (0..usize::from(side).pow(2)).map(|at| (at % 251) as u8).collect();
    data.binary((0x7fe0, 0x0010), b"OB", &pixels);

    let mut group_length = Elements::default();
    let meta_length = u32::try_from(meta.0.len()).unwrap_or(u32::MAX);
    group_length.short((0x0002, 0x0000), b"UL", &meta_length.to_le_bytes());
    [vec![0; 128], b"DICM".to_vec(), group_length.0, meta.0, data.0].concat()
}

/// Data elements in Explicit VR Little Endian.
#[derive(Default)]
struct Elements(Vec<u8>);

impl Elements {
    /// Text, padded to even length: identifiers with a NUL, the rest with a blank (PS3.5 6.2).
    fn text(&mut self, tag: (u16, u16), vr: &[u8; 2], value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        if !bytes.len().is_multiple_of(2) {
            bytes.push(if vr == b"UI" { 0 } else { b' ' });
        }
        self.short(tag, vr, &bytes);
    }

    fn number(&mut self, tag: (u16, u16), value: u16) {
        self.short(tag, b"US", &value.to_le_bytes());
    }

    /// An element whose length has two bytes (PS3.5 table 7.1-2).
    fn short(&mut self, tag: (u16, u16), vr: &[u8; 2], value: &[u8]) {
        self.head(tag, vr);
        self.0.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.0.extend(value);
    }

    /// An element whose length has four bytes after two reserved ones (PS3.5 table 7.1-1).
    fn binary(&mut self, tag: (u16, u16), vr: &[u8; 2], value: &[u8]) {
        self.head(tag, vr);
        let padded = value.len().next_multiple_of(2);
        self.0.extend([0, 0]);
        self.0.extend(u32::try_from(padded).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len() + padded - value.len(), 0);
    }

    fn head(&mut self, (group, element): (u16, u16), vr: &[u8; 2]) {
        self.0.extend(group.to_le_bytes());
        self.0.extend(element.to_le_bytes());
        self.0.extend(vr);
    }
}
