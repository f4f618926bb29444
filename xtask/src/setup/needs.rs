//! What is needed, why, and what brings it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use lb_ebpf_build::{Core, find_compiler, find_linker};

use crate::place::find_program;

/// Where lbd pins its maps and links.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// The LLVM that bpf-linker is built against.
pub(super) const LLVM: &str = "/usr/lib/llvm-22";

/// Something that is not there.
pub(super) struct Need {
    /// What it is.
    pub(super) what: String,
    /// Who wants it.
    pub(super) why: &'static str,
    /// What brings it.
    pub(super) cure: Cure,
}

/// What brings something that is missing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Cure {
    /// These packages, all of them; and the daemon that comes with them, which nobody asked for.
    Packages { names: &'static [&'static str], daemon: Option<&'static str> },
    /// A compiler for BPF, under whichever name this release of the distribution has one.
    Compiler,
    /// `bpf-linker`, compiled here; and the LLVM it is compiled against, if that is missing too.
    Linker { wants_llvm: bool },
    /// A component of rustup; `None` is the toolchain that runs us.
    Component { toolchain: Option<String>, component: &'static str },
    /// The file system for pinned maps, mounted.
    BpfFs,
}

impl Cure {
    pub(super) const fn needs_apt(&self) -> bool {
        match self {
            Self::Packages { .. } | Self::Compiler => true,
            Self::Linker { wants_llvm } => *wants_llvm,
            Self::Component { .. } | Self::BpfFs => false,
        }
    }
}

/// A program that must be in `PATH`, and the packages that bring it.
struct Program {
    name: &'static str,
    packages: &'static [&'static str],
    daemon: Option<&'static str>,
    why: &'static str,
}

/// No `cc`: without one, cargo could not have linked us.
const PROGRAMS: [Program; 23] = [
    Program { name: "git", packages: &["git"], daemon: None, why: "tells tidy which files are ours" },
    Program {
        name: "ip",
        packages: &["iproute2"],
        daemon: None,
        why: "lays out the lab's namespaces and links",
    },
    Program {
        name: "ethtool",
        packages: &["ethtool"],
        daemon: None,
        why: "sets the offloads of the lab's links",
    },
    Program {
        name: "bpftool",
        packages: &["bpftool"],
        daemon: None,
        why: "tells which program and maps the kernel holds in the lab",
    },
    Program {
        name: "nsenter",
        packages: &["util-linux"],
        daemon: None,
        why: "starts programs inside the lab",
    },
    Program {
        name: "curl",
        packages: &["curl"],
        daemon: None,
        why: "is the browser of the lab, and asks its archives what they stored",
    },
    Program {
        name: "tcpdump",
        packages: &["tcpdump"],
        daemon: None,
        why: "shows which way packets went in the lab",
    },
    Program {
        name: "ping",
        packages: &["iputils-ping"],
        daemon: None,
        why: "asks whether a virtual address answers in the lab",
    },
    Program {
        name: "iperf3",
        packages: &["iperf3"],
        daemon: Some("iperf3"),
        why: "sends streams through the load balancer and counts what is lost",
    },
    Program {
        name: "nginx",
        packages: &["nginx-light"],
        daemon: Some("nginx"),
        why: "is the web server behind it",
    },
    Program {
        name: "aiosmtpd",
        packages: &["python3-aiosmtpd"],
        daemon: None,
        why: "is the library of the lab's mail server",
    },
    Program {
        name: "dnsmasq",
        packages: &["dnsmasq-base"],
        daemon: None,
        why: "says in the lab where the mail of a domain goes",
    },
    Program {
        name: "storescu",
        packages: &["dcmtk"],
        daemon: None,
        why: "sends studies through the load balancer",
    },
    Program {
        name: "Orthanc",
        packages: &["orthanc"],
        daemon: Some("orthanc"),
        why: "is the archive behind it",
    },
    Program {
        name: "mllp_send",
        packages: &["python3-hl7"],
        daemon: None,
        why: "comes with the library of the lab's HL7 receiver",
    },
    Program { name: "cpio", packages: &["cpio"], daemon: None, why: "packs what other kernels boot from" },
    Program { name: "xz", packages: &["xz-utils"], daemon: None, why: "unpacks their modules" },
    Program { name: "modprobe", packages: &["kmod"], daemon: None, why: "loads their modules" },
    Program {
        name: "nft",
        packages: &["nftables"],
        daemon: None,
        why: "sets up the kernel's own address translation, for comparison",
    },
    Program {
        name: "ipvsadm",
        packages: &["ipvsadm"],
        daemon: None,
        why: "sets up the kernel's own load balancer, for comparison",
    },
    Program {
        name: "haproxy",
        packages: &["haproxy"],
        daemon: Some("haproxy"),
        why: "is what lbd runs for layer 7, and what benchmarks compare with",
    },
    Program {
        name: "openssl",
        packages: &["openssl"],
        daemon: None,
        why: "is a TLS client in the lab, and makes the certificate files that administrators are given",
    },
    Program { name: "wrk", packages: &["wrk"], daemon: None, why: "counts connections per second" },
];

/// Everything that is missing on this machine.
pub(super) fn missing() -> Vec<Need> {
    let programs =
        PROGRAMS.iter().filter(|program| find_program(program.name).is_none()).map(|program| Need {
            what: format!("the program {}", program.name),
            why: program.why,
            cure: Cure::Packages { names: program.packages, daemon: program.daemon },
        });
    programs.chain(developer_tools()).chain(bpf_toolchain()).chain(bpf_file_system()).collect()
}

/// Which compiler builds the XDP program, for the last line of a set-up.
pub(super) fn compiler_in_use() -> String {
    match find_compiler() {
        Ok(compiler) => format!("the XDP program is compiled by {compiler}"),
        Err(why) => why,
    }
}

/// Whether the LLVM for bpf-linker is there.
fn has_llvm() -> bool {
    Path::new(LLVM).join("bin/llvm-config").exists()
}

/// Formatter and linter stand beside the cargo that runs us, or are not installed: rustup's proxies in `PATH` say nothing.
fn developer_tools() -> Vec<Need> {
    let cargo = env::var_os("CARGO").map(PathBuf::from).or_else(|| find_program("cargo")).unwrap_or_default();
    let has_rustup = find_program("rustup").is_some();
    [
        ("cargo-fmt", "rustfmt", &["rustfmt-web"], "keeps one format"),
        ("cargo-clippy", "clippy", &["rust-web-clippy"], "lints"),
    ]
    .into_iter()
    .filter(|(program, ..)| !cargo.with_file_name(program).is_file())
    .map(|(program, component, packages, why)| Need {
        what: format!("{program} beside {}", cargo.display()),
        why,
        cure: if has_rustup {
            Cure::Component { toolchain: None, component }
        } else {
            Cure::Packages { names: packages, daemon: None }
        },
    })
    .collect()
}

fn bpf_toolchain() -> Vec<Need> {
    let mut needs = Vec::new();
    match find_compiler() {
        Err(what) => needs.push(Need { what, why: "compiles the XDP program", cure: Cure::Compiler }),
        Ok(compiler) if compiler.cargo_clippy().is_none() => needs.push(Need {
            what: format!("clippy beside {}", compiler.rustc.display()),
            why: "lints the XDP program",
            cure: match compiler.core {
                Core::InSysroot => Cure::Packages { names: &["rust-web-clippy"], daemon: None },
                Core::FromSource => {
                    Cure::Component { toolchain: Some("nightly".into()), component: "clippy" }
                }
            },
        }),
        Ok(_) => {}
    }
    if let Err(what) = find_linker() {
        needs.push(Need {
            what,
            why: "links the XDP program",
            cure: Cure::Linker { wants_llvm: !has_llvm() },
        });
    }
    needs
}

fn bpf_file_system() -> Option<Need> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    (!is_bpffs_mounted(&mounts)).then(|| Need {
        what: format!("bpffs on {BPFFS}"),
        why: "holds the maps that keep traffic flowing while lbd restarts",
        cure: Cure::BpfFs,
    })
}

/// Whether the last thing mounted on the directory is bpffs.
fn is_bpffs_mounted(mounts: &str) -> bool {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .rfind(|(point, _)| *point == BPFFS)
        .is_some_and(|(_, kind)| kind == "bpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_counts_only_where_lbd_looks_for_it_and_uncovered() {
        assert!(is_bpffs_mounted("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!is_bpffs_mounted("bpf /mnt/bpf bpf rw 0 0\n"));
        assert!(!is_bpffs_mounted("bpf /sys/fs/bpf bpf rw 0 0\ntmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_bpffs_mounted(""));
    }

    #[test]
    fn every_program_has_a_package_and_a_reason_and_stands_in_the_table_once() {
        for program in &PROGRAMS {
            assert!(!program.packages.is_empty() && !program.why.is_empty(), "{}", program.name);
            assert_eq!(
                PROGRAMS.iter().filter(|other| other.name == program.name).count(),
                1,
                "{}",
                program.name
            );
        }
    }
}
