//! Everything that is looked at, and the waiting for it to change.

use std::sync::Arc;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::situation::{Situation, Sources};
use crate::{
    control::View,
    model::{
        config::Config,
        health::HealthMap,
        net::{ForeignAnswers, NetFacts},
        proxied::Proxied,
        tls::Validity,
    },
    reconcile::Reconciled,
};

/// The ends of channels.
#[derive(Debug)]
pub(super) struct Watches {
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) health: watch::Receiver<HealthMap>,
    pub(super) foreign: watch::Receiver<Arc<ForeignAnswers>>,
    pub(super) facts: watch::Receiver<NetFacts>,
    pub(super) reconciled: watch::Receiver<Arc<Reconciled>>,
    pub(super) proxied: watch::Receiver<Arc<Proxied>>,
    pub(super) validities: watch::Receiver<Option<Arc<Vec<Validity>>>>,
}

impl Watches {
    /// The configuration in force.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.view.borrow().config)
    }

    /// Ready when something may be otherwise, but not before `earliest`.
    pub(super) async fn changed(&mut self, earliest: Instant) {
        let Self { view, health, foreign, facts, reconciled, proxied, validities } = self;
        tokio::select! {
            () = change(view) => {}
            () = change(health) => {}
            () = change(foreign) => {}
            () = change(facts) => {}
            () = change(reconciled) => {}
            () = change(proxied) => {}
            () = change(validities) => {}
        }
        sleep_until(earliest).await;
    }

    /// What is so now.
    pub(super) fn situation(&mut self, foreign_heard: bool) -> Situation {
        Situation::of(&Sources {
            view: &self.view.borrow_and_update(),
            health: &self.health.borrow_and_update(),
            foreign: &self.foreign.borrow_and_update(),
            foreign_heard,
            facts: &self.facts.borrow_and_update(),
            reconciled: &self.reconciled.borrow_and_update(),
            proxied: &self.proxied.borrow_and_update(),
            validities: self.validities.borrow_and_update().as_deref().map(Vec::as_slice),
        })
    }
}

/// Ready when the value changes; never when nobody is left to change it, which is so at the end.
async fn change<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
