//! A configuration in memory, in place of files.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use super::{ConfigStore, LoadedConfig, Refused};
use crate::{
    config::Texts,
    model::{
        command::Edit,
        config::Config,
        history::{Cause, Version, VersionHead},
    },
};

/// "The disk": what would be loaded next.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<Result<Config, String>>>);

impl Disk {
    pub(crate) fn new(config: Config) -> Self {
        Self(Arc::new(Mutex::new(Ok(config))))
    }

    pub(crate) fn put(&self, config: Result<Config, String>) {
        *self.0.lock().unwrap() = config;
    }
}

impl ConfigStore for Disk {
    fn load(&self) -> Result<LoadedConfig, Refused> {
        let config = self.0.lock().unwrap().clone().map_err(Refused::Invalid)?;
        Ok(LoadedConfig {
            config,
            warnings: Vec::new(),
            files: Vec::new(),
            texts: Texts::single("lbd.toml", ""),
        })
    }

    fn edit(&self, edit: &Edit, dry_run: bool) -> Result<LoadedConfig, Refused> {
        let mut loaded = self.load()?;
        let Edit::VipDelete { vip } = edit else {
            return Err(Refused::Invalid("the test's disk only deletes".to_owned()));
        };
        loaded.config.vips.retain(|v| v.name != *vip);
        if !dry_run {
            self.put(Ok(loaded.config.clone()));
        }
        Ok(loaded)
    }

    fn keep(&self, _loaded: &LoadedConfig, _cause: Cause) -> Result<(), Refused> {
        Ok(())
    }

    fn history(&self) -> Result<Vec<VersionHead>, Refused> {
        Ok(Vec::new())
    }

    fn version(&self, number: u64) -> Result<Version, Refused> {
        Err(Refused::Invalid(format!("the test's disk has no version {number}")))
    }

    fn roll_back(
        &self,
        _to: Option<u64>,
        _force: bool,
        _dry_run: bool,
    ) -> Result<(u64, LoadedConfig), Refused> {
        Err(Refused::Invalid("the test's disk keeps nothing".to_owned()))
    }

    fn diff(&self, from: &Config, to: &Config) -> Vec<String> {
        let names = |c: &Config| c.vips.iter().map(|v| v.name.clone()).collect::<BTreeSet<_>>();
        let (from, to) = (names(from), names(to));
        from.symmetric_difference(&to).map(|name| format!("VIP {name}")).collect()
    }

    fn show(&self, config: &Config) -> String {
        format!("# {} VIPs", config.vips.len())
    }
}
