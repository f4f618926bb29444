//! The proxy's configuration as text: one `listen` section per VIP, in the order of the configuration.
//!
//! Pure: what is wanted goes in, text comes out. Everything is written for HAProxy 2.6, the oldest that is driven.
#![forbid(unsafe_code)]

mod bind;
mod global;
mod http;
mod persist;
mod section;
mod server;
mod switch;
mod text;

use std::path::{Path, PathBuf};

use self::text::Text;
use crate::model::{config::Vip, proxied::Proxies};

/// Name of the section in which stick tables are handed on, and of this node in it.
pub const PEERS: &str = "lbd";
/// Name of the server that clients get when no other is left.
pub const FALLBACK: &str = "fallback";

/// Where the proxy's files are: below the runtime directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    dir: PathBuf,
}

impl Places {
    /// Those of a daemon with this runtime directory.
    #[must_use]
    pub fn below(runtime_dir: &Path) -> Self {
        Self { dir: runtime_dir.join("haproxy") }
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("haproxy.cfg")
    }

    /// A configuration that is tried before it takes the other's place.
    #[must_use]
    pub fn candidate(&self) -> PathBuf {
        self.dir.join("haproxy.cfg.new")
    }

    /// What the proxy runs by, without states and weights: what a daemon compares with when it takes the proxy over.
    #[must_use]
    pub fn running(&self) -> PathBuf {
        self.dir.join("running.cfg")
    }

    /// Process id of the master.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.dir.join("haproxy.pid")
    }

    /// Socket of the master, which leads to every worker.
    #[must_use]
    pub fn master_socket(&self) -> PathBuf {
        self.dir.join("master.sock")
    }

    /// Socket of the present worker.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// What the proxy says on its standard error.
    #[must_use]
    pub fn start_log(&self) -> PathBuf {
        self.dir.join("start.log")
    }

    /// A certificate with its key, by its name in `[pki.cert]`.
    #[must_use]
    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.join("certs").join(format!("{name}.pem"))
    }

    /// A family of authorities, by its name in `[pki.ca]`.
    #[must_use]
    pub fn family(&self, name: &str) -> PathBuf {
        self.dir.join("ca").join(format!("{name}.pem"))
    }
}

/// A configuration of the proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rendered {
    /// The whole file.
    pub text: String,
    /// The workers stay root: to send as a client's address is root's alone.
    pub as_root: bool,
}

/// The configuration with what each server may do now: a worker that begins with it begins right.
#[must_use]
pub fn render(proxies: &Proxies, places: &Places) -> Rendered {
    write(proxies, places, States::Shown, None)
}

/// The configuration of a process that follows another, which tells it who is remembered. Until a time, in seconds since
/// the epoch, clients of VIPs that remember any wait a moment before they are given a server.
#[must_use]
pub fn successor(proxies: &Proxies, places: &Places, learns_until_epoch_secs: u64) -> Rendered {
    write(proxies, places, States::Shown, Some(learns_until_epoch_secs))
}

/// The configuration without states and weights, which are set in the running proxy. Two of these that differ are
/// what a reload is for.
#[must_use]
pub fn neutral(proxies: &Proxies, places: &Places) -> String {
    write(proxies, places, States::Left, None).text
}

/// Name of the section that a server stands in: the VIP's own, or that of one of its pools.
#[must_use]
pub fn section_name(vip: &str, pool: Option<&str>) -> String {
    pool.map_or_else(|| vip.to_owned(), |pool| format!("{vip}.{pool}"))
}

/// Pools of a VIP, each once, in the order in which switch rules and servers name them.
#[must_use]
pub fn pools(vip: &Vip) -> Vec<&str> {
    let switched = vip.proxy.iter().flat_map(|proxy| &proxy.switch).map(|rule| rule.pool.as_str());
    let named = vip.rips.iter().filter_map(|rip| rip.pool.as_deref());
    let mut pools: Vec<&str> = Vec::new();
    for pool in switched.chain(named) {
        if !pools.contains(&pool) {
            pools.push(pool);
        }
    }
    pools
}

/// Names of the stick tables of a VIP: its own, and one for each of its pools.
#[must_use]
pub fn tables(vip: &Vip) -> Vec<String> {
    if !persist::has_table(&vip.persist) {
        return Vec::new();
    }
    let own = std::iter::once(None);
    own.chain(pools(vip).into_iter().map(Some)).map(|pool| section_name(&vip.name, pool)).collect()
}

/// Whether what servers may do is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum States {
    Shown,
    Left,
}

/// What all parts of the text are made from.
struct Context<'a> {
    proxies: &'a Proxies,
    places: &'a Places,
    states: States,
    /// When it has surely been told who is remembered, in seconds since the epoch.
    learns_until_epoch_secs: Option<u64>,
}

fn write(
    proxies: &Proxies,
    places: &Places,
    states: States,
    learns_until_epoch_secs: Option<u64>,
) -> Rendered {
    let context = Context { proxies, places, states, learns_until_epoch_secs };
    let as_root =
        proxies.vips.iter().any(|desired| desired.vip.proxy.as_ref().is_some_and(|proxy| proxy.transparent));
    let mut text = Text::default();
    global::write(&mut text, &context, as_root);
    for desired in &proxies.vips {
        if let Some(proxy) = &desired.vip.proxy {
            section::write(&mut text, &context, desired, proxy);
        }
    }
    Rendered { text: text.into_string(), as_root }
}
