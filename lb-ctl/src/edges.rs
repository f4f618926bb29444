//! Where the daemon meets the machine: configuration files, the kernel's data plane and network, privileges, the
//! service manager. Thin: each function joins one room to the [`App`](crate::app::App).
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Display,
    os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, anyhow, bail};
use rustix::thread::CapabilitySet;
use tokio::sync::watch;

use crate::{
    claims::{AddressBook, Claimed},
    config::{self, EditError},
    control::{ConfigStore, LoadedConfig, Refused},
    dataplane::bpf,
    health,
    history::{History, HistoryError, Recovered},
    model::{
        command::Edit,
        config::{Config, Node, Sources},
        history::{Cause, Version, VersionHead},
        net::{NetFacts, VipAddress, Watched},
    },
    net::{PacketSocket, addresses, watch as network_watch},
    reset::Post,
    shutdown::Shutdown,
    source_ports,
    tls::place,
};

/// The configuration on disk, and those that were there before.
#[derive(Clone, Debug)]
pub struct Files {
    sources: Sources,
    history: History,
}

impl Files {
    /// The configuration read from `sources`, with its history in a state directory.
    #[must_use]
    pub fn new(sources: Sources, state_dir: &Path) -> Self {
        let history = History::new(state_dir, sources.clone());
        Self { sources, history }
    }

    /// Finishes a rollback that a crash broke off, and says so. To be called before the files are read.
    ///
    /// # Errors
    ///
    /// When it cannot be finished.
    pub fn recover(&self) -> Result<Option<String>, HistoryError> {
        let named = |paths: &[PathBuf]| {
            let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            paths.join(", ")
        };
        Ok(match self.history.recover()? {
            Recovered::Nothing => None,
            Recovered::Finished(paths) if paths.is_empty() => {
                Some("a rollback that was broken off had put all files back".to_owned())
            }
            Recovered::Finished(paths) => {
                Some(format!("a rollback that was broken off is finished: put back {}", named(&paths)))
            }
            Recovered::Left(paths) => Some(format!(
                "a rollback was broken off, and {} edited since: all files are left as they are, see `lbctl config history`",
                named(&paths)
            )),
        })
    }
}

impl ConfigStore for Files {
    fn load(&self) -> Result<LoadedConfig, Refused> {
        let loaded = config::load(&self.sources).map_err(invalid)?;
        source_ports_are_free(&loaded.config)?;
        Ok(in_short(loaded))
    }

    fn edit(&self, edit: &Edit, dry_run: bool) -> Result<LoadedConfig, Refused> {
        let before = config::load(&self.sources).map_err(invalid)?;
        let edited = config::plan_edit(&before, edit).map_err(|error| match error {
            EditError::Invalid(errors) => invalid(errors),
            EditError::Refused(line) => Refused::Invalid(line),
        })?;
        source_ports_are_free(&edited.loaded.config)?;
        let mut advice = place::advice(&edited, SystemTime::now());
        if !dry_run {
            let placed = place::put(&edited.files)?;
            for rewrite in &edited.rewrites {
                if let Err(error) = rewrite.write() {
                    let mut told = error.to_string();
                    told.extend(placed.take_back().iter().map(|left| format!("; {left}")));
                    return Err(Refused::Failed(told));
                }
            }
            advice.extend(place::remove(&edited.files));
        }
        let files = place::changes(&edited.files);
        let mut loaded = LoadedConfig { files, ..in_short(edited.loaded) };
        loaded.warnings.extend(edited.notes);
        loaded.warnings.extend(advice);
        Ok(loaded)
    }

    fn keep(&self, loaded: &LoadedConfig, cause: Cause) -> Result<(), Refused> {
        let kept = self.history.keep(&loaded.texts, &loaded.config, cause, SystemTime::now());
        kept.map_err(Refused::from)
    }

    fn history(&self) -> Result<Vec<VersionHead>, Refused> {
        Ok(self.history.list()?)
    }

    fn version(&self, number: u64) -> Result<Version, Refused> {
        Ok(self.history.version(number)?)
    }

    fn roll_back(&self, to: Option<u64>, force: bool, dry_run: bool) -> Result<(u64, LoadedConfig), Refused> {
        let rollback = self.history.plan_rollback(to, force)?;
        source_ports_are_free(&rollback.loaded.config)?;
        if !dry_run {
            self.history.roll_back(&rollback)?;
        }
        Ok((rollback.to, in_short(rollback.loaded)))
    }

    fn diff(&self, from: &Config, to: &Config) -> Vec<String> {
        config::diff(from, to)
    }

    fn show(&self, config: &Config) -> String {
        config::show(config)
    }
}

fn in_short(loaded: config::Loaded) -> LoadedConfig {
    LoadedConfig {
        config: loaded.config,
        warnings: loaded.warnings.iter().map(|w| format!("{}: {}", w.message, w.help)).collect(),
        files: Vec::new(),
        texts: loaded.texts,
    }
}

impl From<HistoryError> for Refused {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::State(_) | HistoryError::File { .. } => Self::Failed(error.to_string()),
            HistoryError::Unknown { .. }
            | HistoryError::NothingBefore
            | HistoryError::Edited { .. }
            | HistoryError::Elsewhere { .. }
            | HistoryError::Invalid { .. } => Self::Invalid(error.to_string()),
        }
    }
}

/// Refuses a configuration whose source ports somebody on this machine uses.
fn source_ports_are_free(config: &Config) -> Result<(), Refused> {
    if !source_ports::concern(config) {
        return Ok(());
    }
    let facts = source_ports::gather().map_err(|error| {
        Refused::Failed(format!("{error}: source ports of SNAT cannot be checked; is /proc mounted?"))
    })?;
    let conflicts: Vec<String> =
        source_ports::conflicts(config, &facts).iter().map(ToString::to_string).collect();
    if conflicts.is_empty() { Ok(()) } else { Err(Refused::Invalid(conflicts.join("\n"))) }
}

fn invalid(error: impl Display) -> Refused {
    Refused::Invalid(error.to_string())
}

/// Addresses of this machine, over netlink.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

impl AddressBook for Machine {
    async fn add(&self, address: VipAddress) -> Result<Claimed, String> {
        match addresses::add(address).await {
            Ok(addresses::Claim::Added) => Ok(Claimed::Added),
            Ok(addresses::Claim::Existed) => Ok(Claimed::Existed),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn remove(&self, address: VipAddress) -> Result<(), String> {
        addresses::remove(address).await.map_err(|error| error.to_string())
    }
}

/// Interfaces of this machine as sockets that frames leave by, each opened when it is needed.
#[derive(Default)]
pub struct Wire(BTreeMap<u32, PacketSocket>);

impl Post for Wire {
    async fn send(&mut self, ifindex: u32, frame: &[u8]) -> Result<(), String> {
        let failed = |error| format!("sending by interface {ifindex}: {error}");
        let socket = match self.0.entry(ifindex) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                place.insert(PacketSocket::open(ifindex, PacketSocket::RECEIVES_NOTHING).map_err(failed)?)
            }
        };
        let sent = socket.send(frame).await;
        if sent.is_err() {
            // The interface may have gone and come back: another try opens it anew.
            self.0.remove(&ifindex);
        }
        sent.map_err(failed)
    }
}

/// Opens the kernel's data plane, sized for a node.
///
/// # Errors
///
/// When the kernel refuses, or what is pinned was made by another version.
pub fn open_dataplane(pin_dir: &Path, node: &Node) -> anyhow::Result<bpf::Opened> {
    let opened = bpf::open(bpf::Options {
        pin_dir: pin_dir.to_owned(),
        flows_v4: node.flows_v4,
        flows_v6: node.flows_v6,
        half_open: node.half_open,
    });
    opened.map_err(|error| {
        tracing::debug!("{error:?}");
        anyhow!(error.line())
    })
}

/// Follows the network until shutdown.
///
/// # Errors
///
/// When the kernel lets nobody follow it.
pub async fn network(
    watched: watch::Receiver<Watched>,
    facts: watch::Sender<NetFacts>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.requested() => Ok(()),
        ended = network_watch::run(watched, facts) => Ok(ended?),
    }
}

/// Runs checks until shutdown.
///
/// # Errors
///
/// When they have no thread to run on. What a check meets is its result.
pub async fn checks(connections: health::Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    health::apart::run(connections, shutdown.requested()).await.context("checks cannot run")
}

/// Refuses to start without what the kernel will ask for.
///
/// # Errors
///
/// Names the capabilities that are missing.
pub fn require_privileges() -> anyhow::Result<()> {
    let has =
        rustix::thread::capabilities(None).context("cannot read this process's capabilities")?.effective;
    let all = CapabilitySet::SYS_ADMIN;
    let needed = [
        ("CAP_BPF", CapabilitySet::BPF | all),
        ("CAP_PERFMON", CapabilitySet::PERFMON | all),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ];
    let missing: Vec<&str> =
        needed.iter().filter(|(_, any)| !has.intersects(*any)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing privileges: {}; run lbd as root, or by its unit (systemctl start lbd)", missing.join(", "))
}

/// Tells the service manager, if there is one, how the daemon stands (`READY=1`; sd_notify(3)).
pub fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = path.to_string_lossy();
    let address = name
        .strip_prefix('@')
        .map_or_else(|| SocketAddr::from_pathname(Path::new(&path)), SocketAddr::from_abstract_name);
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &to));
    if let Err(error) = sent {
        tracing::warn!("cannot tell the service manager {state} on {name}: {error}");
    }
}
