//! `cargo xtask build`: what is shipped.

use anyhow::Result;

use crate::exec::{cargo, exec, note};
use crate::place;

pub(crate) fn run() -> Result<()> {
    let toolchain = lb_ebpf_build::find()?;
    let target = place::target()?;
    note(format_args!("building for BPF with {}", toolchain.compiler));
    let object = lb_ebpf_build::build(&toolchain, place::root(), "lb", &target.join("bpf"))?;
    exec(cargo().args(["build", "--release", "--package", "lb-ctl", "--bins"]))?;
    let release = target.join("release");
    for built in [object, release.join("lbd"), release.join("lbctl")] {
        note(format_args!("built {}", built.display()));
    }
    Ok(())
}
