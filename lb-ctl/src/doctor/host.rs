//! Checks of the machine: kernel, BPF, privileges, memory.

use lb_common::{limits::flow_table_bytes, service::Table};

use super::{Facts, Finding, KernelVersion};
use crate::model::config::Config;

/// Oldest kernel whose features suffice: packets of several buffers in XDP came with it.
const OLDEST: KernelVersion = KernelVersion(5, 18);
/// Oldest kernel that is tested.
const TESTED: KernelVersion = KernelVersion(6, 1);

/// What the daemon needs: capability number (linux/capability.h) and name.
const NEEDED: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// Includes what the later CAP_BPF and CAP_PERFMON allow, but nothing of the network's.
const CAP_SYS_ADMIN: u32 = 21;

const MIB: u64 = 1 << 20;

pub(super) fn examine(facts: &Facts, config: &Config) -> Vec<Finding> {
    let mut findings = vec![kernel(facts), btf(facts), bpffs(facts), privileges(facts)];
    findings.extend(jit(facts));
    findings.extend(memory(facts, config));
    findings.extend(haproxy(facts));
    findings
}

fn haproxy(facts: &Facts) -> Option<Finding> {
    Some(match facts.haproxy.as_ref()? {
        Ok(words) => Finding::ok("haproxy", words.clone()),
        Err(why) => {
            let (what, cure) = why.rsplit_once(": ").unwrap_or((why, "see `haproxy -v`"));
            Finding::problem("haproxy", what, cure)
        }
    })
}

fn kernel(facts: &Facts) -> Finding {
    let release = &facts.kernel_release;
    match KernelVersion::parse(release) {
        Some(version) if version >= TESTED => Finding::ok("kernel", format!("Linux {release}")),
        Some(version) if version >= OLDEST => Finding::warning(
            "kernel",
            format!("Linux {release} should do, but {TESTED} is the oldest that is tested"),
            format!("install a kernel of {TESTED} or newer (Debian 12 has it)"),
        ),
        Some(_) => Finding::problem(
            "kernel",
            format!("Linux {release} is too old: {OLDEST} is the first with all that the packet path uses"),
            format!("install a kernel of {TESTED} or newer (Debian 12 has it)"),
        ),
        None => Finding::warning(
            "kernel",
            format!("the kernel release \"{release}\" cannot be read"),
            format!("make sure that the kernel is {TESTED} or newer"),
        ),
    }
}

fn btf(facts: &Facts) -> Finding {
    if facts.btf {
        return Finding::ok("btf", "the kernel describes its types");
    }
    Finding::warning(
        "btf",
        "/sys/kernel/btf/vmlinux is missing: the program may not load",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are",
    )
}

fn jit(facts: &Facts) -> Option<Finding> {
    match facts.jit? {
        true => Some(Finding::ok("jit", "BPF programs are compiled")),
        false => Some(Finding::warning(
            "jit",
            "BPF programs are interpreted, which is many times slower",
            "sysctl -w net.core.bpf_jit_enable=1, and keep it in /etc/sysctl.d",
        )),
    }
}

fn bpffs(facts: &Facts) -> Finding {
    if facts.bpffs {
        return Finding::ok("bpffs", "mounted on /sys/fs/bpf");
    }
    Finding::problem(
        "bpffs",
        "no BPF file system on /sys/fs/bpf: nothing would outlive a restart of lbd",
        "mount -t bpf bpf /sys/fs/bpf, and keep it in /etc/fstab",
    )
}

fn privileges(facts: &Facts) -> Finding {
    let set = |bit: u32| facts.capabilities >> bit & 1 == 1;
    let has = |bit: u32| set(bit) || (bit > CAP_SYS_ADMIN && set(CAP_SYS_ADMIN));
    let missing: Vec<&str> = NEEDED.into_iter().filter(|&(bit, _)| !has(bit)).map(|(_, name)| name).collect();
    if missing.is_empty() {
        return Finding::ok("privileges", "this process may do all that lbd does");
    }
    Finding::warning(
        "privileges",
        format!(
            "this process lacks {}: what follows may be incomplete, and lbd would not start",
            missing.join(", ")
        ),
        "run as root, or give the service these capabilities (AmbientCapabilities= of its unit)",
    )
}

fn memory(facts: &Facts, config: &Config) -> Option<Finding> {
    let available = facts.memory_available_bytes?;
    let node = &config.node;
    let rounded = |flows: u32| flows.checked_next_power_of_two().unwrap_or(flows);
    let flows = flow_table_bytes(rounded(node.flows_v4), rounded(node.flows_v6), rounded(node.half_open));
    // Every VIP that is served has a look-up table of its own.
    let vips = config.vips.iter().filter(|vip| vip.enabled).count();
    let lookup = vips as u64 * size_of::<Table>() as u64;
    let needed = flows + lookup;
    let text = format!(
        "tables take {} MiB of {} MiB available: {} MiB for flows, {} MiB to look up the servers of {vips} VIP{}",
        needed.div_ceil(MIB),
        available / MIB,
        flows.div_ceil(MIB),
        lookup.div_ceil(MIB),
        if vips == 1 { "" } else { "s" },
    );
    let cure = "lower `flows_v4`, `flows_v6` or `half_open` in [node], or add memory";
    Some(if needed > available {
        Finding::problem("memory", text, cure)
    } else if needed > available / 2 {
        Finding::warning("memory", text, cure)
    } else {
        Finding::ok("memory", text)
    })
}
