//! Gathers the facts: netlink for what belongs to the network namespace, `/proc` and `/sys` for the rest.

use std::{collections::BTreeMap, path::Path, time::Duration};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BondMode, BondXmitHashPolicy, InfoBond, InfoData, LinkAttribute, LinkInfo, LinkMessage, LinkXdp,
        XdpAttached,
    },
};
use tokio::{fs, process::Command, time::timeout};

use super::{Bond, Facts, Interface, Xdp, addresses};
use crate::{
    haproxy,
    model::config::Config,
    net::{Error, Netlink, watch},
    source_ports,
};

/// The kernel gives up on a neighbour after three seconds.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(4);
/// Longest wait for one call of another program.
const PROGRAM_DEADLINE: Duration = Duration::from_secs(2);

/// Gathers the facts that matter for a configuration. Takes up to four seconds: real servers and VIPs are asked
/// for by ARP and neighbour discovery. Changes nothing but the kernel's neighbour table.
pub async fn gather(config: &Config) -> Facts {
    let mut facts = Facts {
        kernel_release: text("/proc/sys/kernel/osrelease").await.unwrap_or_default().trim().to_owned(),
        btf: exists("/sys/kernel/btf/vmlinux").await,
        jit: number("/proc/sys/net/core/bpf_jit_enable").await.map(|value| value != 0),
        bpffs: text("/proc/self/mounts").await.is_some_and(|mounts| has_bpffs(&mounts)),
        capabilities: text("/proc/self/status").await.and_then(|status| capabilities(&status)).unwrap_or(0),
        memory_available_bytes: text("/proc/meminfo").await.and_then(|meminfo| memory_available(&meminfo)),
        forwarding_v4: number("/proc/sys/net/ipv4/ip_forward").await.map(|value| value != 0),
        forwarding_v6: number("/proc/sys/net/ipv6/conf/all/forwarding").await.map(|value| value != 0),
        nft: nft().await,
        ports: tokio::task::spawn_blocking(source_ports::gather).await.ok().and_then(Result::ok),
        ..Facts::default()
    };
    if config.vips.iter().any(|vip| vip.enabled && vip.mode.is_layer7()) {
        facts.haproxy = Some(haproxy::version::installed().await);
    }
    if let Err(error) = gather_net(config, &mut facts).await {
        facts.net_error = Some(error.to_string());
    }
    facts
}

async fn gather_net(config: &Config, facts: &mut Facts) -> Result<(), Error> {
    facts.net = watch::snapshot(&addresses::watched(config), NEIGHBOUR_PATIENCE).await?;
    let links =
        Netlink::open()?.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())).await?;
    for message in links {
        if let RouteNetlinkMessage::NewLink(message) = message
            && let Some(link) = facts.net.links.get(&message.header.index)
        {
            let kind = link.kind.clone();
            let interface = Interface {
                driver: if kind.is_some() { kind } else { driver(&message).await },
                xdp: xdp(&message),
                offloads: offloads(&link.name).await,
                rp_filter: sysctl(&link.name, "rp_filter").await,
                arp_ignore: sysctl(&link.name, "arp_ignore").await,
                send_redirects: sysctl(&link.name, "send_redirects").await,
                accept_ra: number(&format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name)).await,
                bond: bond(&message),
            };
            facts.interfaces.insert(message.header.index, interface);
        }
    }
    Ok(())
}

/// The driver of the device below an interface. `/sys/class/net` would show another namespace's interfaces;
/// devices on buses are the same everywhere.
async fn driver(message: &LinkMessage) -> Option<String> {
    let (mut device, mut bus) = (None, None);
    for attribute in &message.attributes {
        if let LinkAttribute::ParentDevName(name) = attribute {
            device = Some(name);
        } else if let LinkAttribute::ParentDevBusName(name) = attribute {
            bus = Some(name);
        }
    }
    let link = Path::new("/sys/bus").join(bus?).join("devices").join(device?).join("driver");
    let target = fs::read_link(link).await.ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn xdp(message: &LinkMessage) -> Xdp {
    let attached = message
        .attributes
        .iter()
        .filter_map(|attribute| if let LinkAttribute::Xdp(xdp) = attribute { Some(xdp) } else { None })
        .flatten()
        .find_map(|xdp| if let LinkXdp::Attached(how) = xdp { Some(*how) } else { None });
    match attached {
        Some(XdpAttached::Driver | XdpAttached::Hardware | XdpAttached::Multiple) => Xdp::Native,
        Some(XdpAttached::SocketBuffer) => Xdp::Generic,
        _ => Xdp::None,
    }
}

fn bond(message: &LinkMessage) -> Option<Bond> {
    let infos = message.attributes.iter().filter_map(|attribute| {
        if let LinkAttribute::LinkInfo(infos) = attribute { Some(infos) } else { None }
    });
    let values = infos.flatten().find_map(|info| {
        if let LinkInfo::Data(InfoData::Bond(values)) = info { Some(values) } else { None }
    })?;
    let (mut mode, mut hash) = (BondMode::default(), BondXmitHashPolicy::default());
    for value in values {
        if let InfoBond::Mode(found) = value {
            mode = *found;
        } else if let InfoBond::XmitHashPolicy(found) = value {
            hash = *found;
        }
    }
    Some(Bond { mode: mode.to_string(), hash: hash.to_string() })
}

/// Whether `nft` can be run; `None` when that could not be tried.
async fn nft() -> Option<bool> {
    let mut command = Command::new("nft");
    command.arg("--version").kill_on_drop(true);
    match timeout(PROGRAM_DEADLINE, command.output()).await.ok()? {
        Ok(output) => Some(output.status.success()),
        Err(error) => (error.kind() == std::io::ErrorKind::NotFound).then_some(false),
    }
}

async fn offloads(interface: &str) -> Option<BTreeMap<String, bool>> {
    let mut command = Command::new("ethtool");
    command.args(["-k", interface]).env("LC_ALL", "C").kill_on_drop(true);
    let output = timeout(PROGRAM_DEADLINE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| features(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads `ethtool -k`: `large-receive-offload: off [fixed]`.
fn features(text: &str) -> BTreeMap<String, bool> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.trim().split_once(": ")?;
            Some((name.to_owned(), value.starts_with("on")))
        })
        .collect()
}

async fn sysctl(interface: &str, key: &str) -> Option<u8> {
    let all = number(&format!("/proc/sys/net/ipv4/conf/all/{key}")).await?;
    let own = number(&format!("/proc/sys/net/ipv4/conf/{interface}/{key}")).await?;
    Some(all.max(own))
}

async fn number(path: &str) -> Option<u8> {
    text(path).await?.trim().parse().ok()
}

async fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).await.ok()
}

async fn exists(path: &str) -> bool {
    fs::try_exists(path).await.unwrap_or(false)
}

fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some("/sys/fs/bpf"), Some("bpf"))
    })
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn memory_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_tables_are_read() {
        assert!(has_bpffs("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"));
        assert!(!has_bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt bpf rw 0 0\n"));
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(memory_available("MemFree: 1 kB\nMemAvailable:     2048 kB\n"), Some(2 << 20));
        let features = features(
            "Features for eth0:\nrx-gro-hw: on\n\ttx-checksum-ipv4: on [fixed]\nlarge-receive-offload: off [fixed]\n",
        );
        assert_eq!(features.get("rx-gro-hw"), Some(&true));
        assert_eq!(features.get("tx-checksum-ipv4"), Some(&true));
        assert_eq!(features.get("large-receive-offload"), Some(&false));
    }
}
