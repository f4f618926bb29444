//! `cargo xtask budget`: what the XDP program takes of the kernel's limits, read from the object that is shipped.
//!
//! The kernel grants 512 bytes of stack to a whole chain of calls, and the verifier says which frame was too much only
//! after the program grew. So the frames are measured here, instruction by instruction.

mod elf;

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::exec::note;
use crate::place;
use elf::{Function, Object};

/// The most a single frame may take, in bytes: two of them fit into what the kernel grants.
const MAX_FRAME_BYTES: u32 = 256;

pub(crate) fn run() -> Result<()> {
    let toolchain = lb_ebpf_build::find()?;
    let path = lb_ebpf_build::build(&toolchain, place::root(), "lb", &place::target()?.join("bpf"))?;
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let object =
        Object::parse(&bytes).with_context(|| format!("{} is no object of 64-bit BPF", path.display()))?;
    for Function { name, instructions, frame_bytes } in &object.functions {
        note(format_args!(
            "{name}: {instructions} instructions, {frame_bytes} of {MAX_FRAME_BYTES} bytes of stack"
        ));
    }
    check(&object)
}

fn check(object: &Object) -> Result<()> {
    // An object without code has no types either.
    ensure!(
        object.functions.is_empty() || object.sections.iter().any(|name| name == ".BTF"),
        "the object has functions but no section .BTF, so the kernel cannot name its types; does the profile `bpf` keep \
         debug = 2, and the linker get --btf?"
    );
    for function in &object.functions {
        ensure!(
            function.frame_bytes <= MAX_FRAME_BYTES,
            "the frame of {} takes {} bytes of stack, more than {MAX_FRAME_BYTES}; look for structures copied by value",
            function.name,
            function.frame_bytes
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(sections: &[&str], frame_bytes: u32) -> Object {
        Object {
            sections: sections.iter().map(|name| (*name).to_owned()).collect(),
            functions: vec![Function { name: "lb".to_owned(), instructions: 1, frame_bytes }],
        }
    }

    #[test]
    fn a_frame_above_the_budget_is_refused_by_its_name() {
        assert!(check(&object(&[".BTF"], MAX_FRAME_BYTES)).is_ok());
        let error = check(&object(&[".BTF"], MAX_FRAME_BYTES + 8)).unwrap_err().to_string();
        assert!(error.contains("frame of lb takes 264 bytes"), "{error}");
    }

    #[test]
    fn code_without_types_is_refused() {
        assert!(check(&object(&[".text"], 0)).unwrap_err().to_string().contains("no section .BTF"));
    }
}
