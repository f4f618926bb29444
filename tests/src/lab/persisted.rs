//! What a running balancer remembers of its clients, and how time passes for it.

use std::net::IpAddr;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use lb_common::{
    limits::map,
    net::words,
    persist::{PersistEntry, PersistKey},
    settings::Settings,
};

use super::Lbd;

/// The persistence table of a balancer, opened by its pin.
#[derive(Debug)]
pub struct Persisted {
    entries: HashMap<MapData, PersistKey, PersistEntry>,
    /// Clients' first choices of the last seconds, which count beside the entries.
    new: HashMap<MapData, PersistKey, PersistEntry>,
    settings: Settings,
}

impl Persisted {
    /// Opens it.
    ///
    /// # Panics
    ///
    /// When nothing is pinned.
    #[must_use]
    pub fn open(lbd: &Lbd) -> Self {
        let settings: Array<MapData, Settings> = pinned(lbd, map::SETTINGS);
        let settings = settings.get(&0, 0).unwrap_or_else(|error| panic!("no settings: {error}"));
        Self { entries: pinned(lbd, map::PERSIST), new: pinned(lbd, map::PERSIST_NEW), settings }
    }

    /// The one entry of a client, whichever group it is kept under; `None` when there is none.
    ///
    /// # Panics
    ///
    /// When there are several.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> Option<(PersistKey, PersistEntry)> {
        let family = if client.is_ipv4() { 4 } else { 6 };
        let all = self.entries.iter().map(|entry| entry.unwrap_or_else(|error| panic!("{error}")));
        let own: Vec<_> =
            all.filter(|(key, _)| (key.client, key.family) == (words(client), family)).collect();
        assert!(own.len() < 2, "{client} is kept several times: {own:?}");
        own.first().copied()
    }

    /// Lets the entry of a client be `idle_secs` old at the tick `now`.
    ///
    /// # Panics
    ///
    /// When the client has none.
    pub fn set_idle(&mut self, client: IpAddr, now: u32, idle_secs: u32) {
        let (key, entry) = self.of(client).unwrap_or_else(|| panic!("{client} has no entry"));
        let last_seen = now.wrapping_sub(self.settings.ticks(idle_secs));
        self.entries
            .insert(key, PersistEntry { last_seen, ..entry }, 0)
            .unwrap_or_else(|error| panic!("the entry of {client} cannot be written: {error}"));
        remove(&mut self.new, client, &key);
    }

    /// Seconds that an entry is old at the tick `now`, to within one; less than 0 when it was written later.
    #[must_use]
    pub fn idle_secs(&self, entry: PersistEntry, now: u32) -> i64 {
        let ticks = i64::from(now.wrapping_sub(entry.last_seen).cast_signed());
        ticks * self.settings.tick_nanos().cast_signed() / 1_000_000_000
    }

    /// Forgets a client, if it is known.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn forget(&mut self, client: IpAddr) {
        if let Some((key, _)) = self.of(client) {
            remove(&mut self.entries, client, &key);
            remove(&mut self.new, client, &key);
        }
    }
}

fn remove(from: &mut HashMap<MapData, PersistKey, PersistEntry>, client: IpAddr, key: &PersistKey) {
    // The kernel refuses to remove what is not there; a lookup says so in a word of its own.
    match from.get(key, 0).and_then(|_| from.remove(key)) {
        Ok(()) | Err(MapError::KeyNotFound) => {}
        Err(error) => panic!("the entry of {client} cannot be removed: {error}"),
    }
}

fn pinned<T: TryFrom<Map, Error = MapError>>(lbd: &Lbd, name: &str) -> T {
    let pin = lbd.paths().pin_dir.join(name);
    MapData::from_pin(&pin)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .unwrap_or_else(|error| panic!("{}: {error}", pin.display()))
}
