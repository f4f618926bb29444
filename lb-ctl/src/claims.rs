//! VIP addresses: which of them this daemon put onto an interface, and which it cannot have.
//!
//! Only what was added here is ever removed: the list is on disk before an address is added, and an address that
//! was there already is not on it. An address is wanted on its interface; whether it is there is for netlink to say,
//! so one that somebody deleted comes back.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    model::net::{NetFacts, VipAddress},
    state_file::{self, StateError},
};

const VERSION: u32 = 1;
/// Addresses being claimed at a time: each probe waits for answers for a second or so.
const MAX_IN_FLIGHT: usize = 64;
/// Time until an address that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(15);
/// Time that netlink has to tell of an address that was added.
const SETTLE: Duration = Duration::from_secs(2);

/// What came of adding an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// It was put there.
    Added,
    /// It was there.
    Existed,
}

/// Puts addresses onto interfaces and takes them off.
pub trait AddressBook: Clone + Send + Sync + 'static {
    /// Adds an address, after asking whether another host has it. The error line names the address and the cure.
    fn add(&self, address: VipAddress) -> impl Future<Output = Result<Claimed, String>> + Send;

    /// Removes an address; one that is not there is removed already.
    fn remove(&self, address: VipAddress) -> impl Future<Output = Result<(), String>> + Send;
}

/// An address as it stands in the state file.
#[derive(Deserialize, Serialize)]
struct Entry {
    ifindex: u32,
    ip: IpAddr,
}

/// Addresses that a daemon put there, on disk.
#[derive(Debug)]
pub struct Owned {
    path: PathBuf,
    addresses: BTreeSet<VipAddress>,
}

impl Owned {
    /// Reads the list of a state directory.
    ///
    /// # Errors
    ///
    /// When it cannot be read or understood.
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let path = state_dir.join("addresses.json");
        let cure = "mend it, or move it away: addresses of removed VIPs then stay until you delete them";
        let entries: Vec<Entry> = state_file::load(&path, VERSION, cure)?.unwrap_or_default();
        let addresses = entries.into_iter().map(|Entry { ifindex, ip }| VipAddress { ifindex, ip });
        Ok(Self { addresses: addresses.collect(), path })
    }

    /// The addresses.
    #[must_use]
    pub const fn addresses(&self) -> &BTreeSet<VipAddress> {
        &self.addresses
    }

    /// Puts addresses on the list and takes others off, on disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk refuses; the list is then as it was.
    pub async fn change(
        &mut self,
        add: impl IntoIterator<Item = VipAddress>,
        remove: impl IntoIterator<Item = VipAddress>,
    ) -> Result<(), StateError> {
        let mut addresses = self.addresses.clone();
        addresses.extend(add);
        for address in remove {
            addresses.remove(&address);
        }
        if addresses == self.addresses {
            return Ok(());
        }
        let entries: Vec<Entry> =
            addresses.iter().map(|&VipAddress { ifindex, ip }| Entry { ifindex, ip }).collect();
        state_file::store(&self.path, VERSION, &entries).await?;
        self.addresses = addresses;
        Ok(())
    }
}

/// Claims of addresses in progress.
#[derive(Debug)]
pub(crate) struct Claims<A> {
    book: A,
    owned: Owned,
    /// Being added; true = put on the list for it.
    asked: BTreeMap<VipAddress, bool>,
    /// Added or found, and when.
    here: BTreeMap<VipAddress, Instant>,
    /// Could not be had when last tried, and why.
    refused: BTreeMap<VipAddress, (Instant, String)>,
    running: JoinSet<(VipAddress, Result<Claimed, String>)>,
}

impl<A: AddressBook> Claims<A> {
    pub(crate) fn new(book: A, owned: Owned) -> Self {
        Self {
            book,
            owned,
            asked: BTreeMap::new(),
            here: BTreeMap::new(),
            refused: BTreeMap::new(),
            running: JoinSet::new(),
        }
    }

    /// Takes off what is ours and no longer wanted, except what is just being added: that goes the next time. To
    /// be called before the services behind go. Tells what could not be removed.
    pub(crate) async fn release(&mut self, wanted: &BTreeSet<VipAddress>, facts: &NetFacts) -> Vec<String> {
        self.here.retain(|address, _| wanted.contains(address));
        self.refused.retain(|address, _| wanted.contains(address));
        let mine = self.owned.addresses().difference(wanted);
        let leaving: Vec<VipAddress> = mine.filter(|a| !self.asked.contains_key(a)).copied().collect();
        let mut problems = Vec::new();
        let mut gone = Vec::new();
        for address in leaving {
            match self.book.remove(address).await {
                Ok(()) => {
                    tracing::info!("released {} from {}", address.ip, facts.link_name(address.ifindex));
                    gone.push(address);
                }
                Err(text) => problems.push(text),
            }
        }
        if let Err(error) = self.owned.change([], gone).await {
            problems.push(error.to_string());
        }
        problems
    }

    /// Starts to add what is wanted and not there. To be called once the services behind are in place. Tells what
    /// keeps it from trying.
    pub(crate) async fn acquire(
        &mut self,
        ready: &BTreeSet<VipAddress>,
        facts: &NetFacts,
        now: Instant,
    ) -> Option<String> {
        let room = MAX_IN_FLIGHT.saturating_sub(self.running.len());
        let due = ready.iter().filter(|a| self.is_due(a, facts, now));
        let due: Vec<VipAddress> = due.take(room).copied().collect();
        let unlisted = |a: &&VipAddress| !is_present(**a, facts) && !self.owned.addresses().contains(a);
        let new: BTreeSet<VipAddress> = due.iter().filter(unlisted).copied().collect();
        if let Err(error) = self.owned.change(new.iter().copied(), []).await {
            return Some(error.to_string());
        }
        for address in due {
            self.asked.insert(address, new.contains(&address));
            let book = self.book.clone();
            self.running.spawn(async move { (address, book.add(address).await) });
        }
        None
    }

    /// True when one of these is wanted, not there, and may be tried.
    pub(crate) fn any_due(&self, ready: &BTreeSet<VipAddress>, facts: &NetFacts, now: Instant) -> bool {
        ready.iter().any(|a| self.is_due(a, facts, now))
    }

    fn is_due(&self, address: &VipAddress, facts: &NetFacts, now: Instant) -> bool {
        if self.asked.contains_key(address) {
            return false;
        }
        if let Some((tried, _)) = self.refused.get(address) {
            return now >= *tried + RETRY;
        }
        let here = self.here.get(address);
        here.is_none_or(|since| now >= *since + SETTLE && !is_present(*address, facts))
    }

    /// Waits for an addition to end; forever when none is under way.
    pub(crate) async fn next_done(&mut self) -> (VipAddress, Result<Claimed, String>) {
        loop {
            match self.running.join_next().await {
                Some(Ok(done)) => return done,
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Err(_cancelled)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Notes what came of an addition. Tells when the list could not be kept.
    pub(crate) async fn note(
        &mut self,
        (address, result): (VipAddress, Result<Claimed, String>),
        facts: &NetFacts,
        now: Instant,
    ) -> Option<String> {
        let listed = self.asked.remove(&address).unwrap_or(false);
        let not_mine = match result {
            Ok(claimed) => {
                if claimed == Claimed::Added {
                    tracing::info!("claimed {} on {}", address.ip, facts.link_name(address.ifindex));
                }
                self.refused.remove(&address);
                self.here.insert(address, now);
                (claimed == Claimed::Existed && listed).then_some(address)
            }
            Err(text) => {
                self.here.remove(&address);
                let before = self.refused.insert(address, (now, text.clone()));
                if before.is_none_or(|(_, old)| old != text) {
                    tracing::warn!("{text}");
                }
                Some(address)
            }
        };
        self.owned.change([], not_mine).await.err().map(|error| error.to_string())
    }

    /// Why addresses are not there, by address.
    pub(crate) fn problems(&self) -> BTreeMap<IpAddr, String> {
        self.refused.iter().map(|(address, (_, text))| (address.ip, text.clone())).collect()
    }

    /// True when every one of these was tried, and nothing is under way.
    pub(crate) fn settled(&self, ready: &BTreeSet<VipAddress>) -> bool {
        self.asked.is_empty()
            && ready.iter().all(|a| self.here.contains_key(a) || self.refused.contains_key(a))
    }
}

fn is_present(address: VipAddress, facts: &NetFacts) -> bool {
    facts.addresses.iter().any(|a| a.ip == address.ip && a.ifindex == address.ifindex)
}
