//! As much of an ELF object as the budget needs: names of sections, and the functions with their instructions.

/// `e_machine` of BPF.
const EM_BPF: u16 = 247;

/// Section type of a symbol table.
const SHT_SYMTAB: u32 = 2;

/// Symbol type of a function.
const STT_FUNC: u8 = 2;

/// Bytes of a symbol, and of an instruction.
const SYMBOL_BYTES: usize = 24;
const INSTRUCTION_BYTES: usize = 8;

/// The frame pointer; the stack grows down from it.
const FP: u8 = 10;

/// An object, as far as we look at it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Object {
    /// Names of the sections.
    pub(super) sections: Vec<String>,
    /// Every function, in the order of the symbol table.
    pub(super) functions: Vec<Function>,
}

/// A function and what it takes.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Instructions of 8 bytes; a 64-bit constant counts as two.
    pub(super) instructions: usize,
    /// How far below the frame pointer it reaches.
    pub(super) frame_bytes: u32,
}

struct Section<'a> {
    name_at: usize,
    kind: u32,
    link: usize,
    bytes: &'a [u8],
}

impl Object {
    /// Reads a little-endian 64-bit BPF object; `None` when it is something else, or cut short.
    pub(super) fn parse(file: &[u8]) -> Option<Self> {
        let is_elf64_le = file.starts_with(b"\x7fELF\x02\x01");
        if !is_elf64_le || u16_at(file, 18)? != EM_BPF {
            return None;
        }
        let table = usize_at(file, 40)?;
        let (size, count) = (usize::from(u16_at(file, 58)?), usize::from(u16_at(file, 60)?));
        let sections: Vec<Section<'_>> =
            (0..count).map(|i| Section::parse(file, table + i * size)).collect::<Option<_>>()?;
        let names = sections.get(usize::from(u16_at(file, 62)?))?.bytes;
        let mut functions = Vec::new();
        for symbols in sections.iter().filter(|section| section.kind == SHT_SYMTAB) {
            let strings = sections.get(symbols.link)?.bytes;
            for symbol in
                symbols.bytes.chunks_exact(SYMBOL_BYTES).filter(|symbol| symbol[4] & 0xf == STT_FUNC)
            {
                let code = sections.get(usize::from(u16_at(symbol, 6)?))?.bytes;
                let (start, length) = (usize_at(symbol, 8)?, usize_at(symbol, 16)?);
                let code = code.get(start..start.checked_add(length)?)?;
                functions.push(Function {
                    name: string_at(strings, u32_at(symbol, 0)? as usize)?,
                    instructions: length / INSTRUCTION_BYTES,
                    frame_bytes: frame_bytes(code),
                });
            }
        }
        let sections =
            sections.iter().map(|section| string_at(names, section.name_at)).collect::<Option<_>>()?;
        Some(Self { sections, functions })
    }
}

impl<'a> Section<'a> {
    fn parse(file: &'a [u8], at: usize) -> Option<Self> {
        /// A section that takes no room in the file.
        const SHT_NOBITS: u32 = 8;
        let header = file.get(at..at + 64)?;
        let kind = u32_at(header, 4)?;
        let (offset, size) = (usize_at(header, 24)?, usize_at(header, 32)?);
        let bytes = if kind == SHT_NOBITS { &[] } else { file.get(offset..offset.checked_add(size)?)? };
        Some(Self { name_at: u32_at(header, 0)? as usize, kind, link: u32_at(header, 40)? as usize, bytes })
    }
}

/// The lowest offset from the frame pointer that is used: read, written, or turned into an address (a move of the frame
/// pointer and an addition to the copy, as compilers write it).
fn frame_bytes(code: &[u8]) -> u32 {
    // RFC 9669, section 4: the class is the lower three bits of the opcode.
    const CLASS: u8 = 0x07;
    const LDX: u8 = 0x01;
    const ST: u8 = 0x02;
    const STX: u8 = 0x03;
    const LDDW: u8 = 0x18;
    const MOV64_X: u8 = 0xbf;
    const ADD64_K: u8 = 0x07;
    let mut lowest = 0;
    let mut copies_of_fp = 0_u16;
    let mut instructions = code.chunks_exact(INSTRUCTION_BYTES);
    while let Some(&[opcode, registers, o0, o1, i0, i1, i2, i3]) = instructions.next() {
        let (destination, source) = (registers & 0xf, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([o0, o1]));
        let immediate = i32::from_le_bytes([i0, i1, i2, i3]);
        match (opcode, opcode & CLASS) {
            (LDDW, _) => {
                // Its second half is no instruction.
                let _ = instructions.next();
            }
            (MOV64_X, _) if source == FP => copies_of_fp |= 1 << destination,
            (ADD64_K, _) if copies_of_fp & (1 << destination) != 0 => {
                lowest = lowest.min(immediate);
                copies_of_fp &= !(1 << destination);
            }
            (_, LDX) if source == FP => lowest = lowest.min(offset),
            (_, ST | STX) if destination == FP => lowest = lowest.min(offset),
            _ => {}
        }
    }
    lowest.unsigned_abs()
}

fn string_at(table: &[u8], at: usize) -> Option<String> {
    let text = table.get(at..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes_at(bytes, at)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Vec<u8> {
        let mut bytes = vec![opcode, source << 4 | destination];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(immediate.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_is_as_deep_as_its_lowest_access_or_address() {
        let store = instruction(0x7b, FP, 1, -24, 0);
        let load = instruction(0x79, 1, FP, -40, 0);
        let address = [instruction(0xbf, 2, FP, 0, 0), instruction(0x07, 2, 0, 0, -56)].concat();
        let elsewhere = [instruction(0x7b, 1, 2, -400, 0), instruction(0x07, 3, 0, 0, -400)].concat();
        assert_eq!(frame_bytes(&store), 24);
        assert_eq!(frame_bytes(&[load.clone(), store].concat()), 40);
        assert_eq!(frame_bytes(&[elsewhere, load, address].concat()), 56);
        assert_eq!(frame_bytes(&[]), 0);
    }

    #[test]
    fn the_second_half_of_a_wide_constant_is_not_read_as_an_instruction() {
        let constant = [instruction(0x18, 1, 0, 0, 1), instruction(0x7b, FP, 1, -400, 0)].concat();
        assert_eq!(frame_bytes(&constant), 0);
    }

    #[test]
    fn what_is_not_a_bpf_object_or_is_cut_short_is_refused() {
        assert_eq!(Object::parse(b""), None);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(Object::parse(&own), None, "this test is a program for the host");
        let mut header = vec![0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18..20].copy_from_slice(&EM_BPF.to_le_bytes());
        header[40] = 64;
        header[60] = 1;
        assert_eq!(Object::parse(&header), None, "its section table lies past its end");
    }
}
