//! What the machine itself must be for the servers behind it: a router that sends no redirects, and that lends its
//! address to their own traffic where the configuration says so; and for a proxy that sends with its clients' addresses the end of
//! the servers' replies.
//!
//! What is wanted follows from the configuration and the links in use ([`wanted()`], pure). One task makes it so, and
//! looks again now and then whether it still is. Forwarding is never switched off: who else relies on it is not
//! known here. The nftables table is ours alone, and goes when nothing wants it.
#![forbid(unsafe_code)]

pub mod nft;
mod parameter;
mod replies;
pub mod wanted;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use self::{
    nft::Table,
    wanted::{Wanted, wanted},
};
use crate::{control::View, model::net::NetFacts, shutdown::Shutdown};

/// Pause between looks at what others may have changed: `systemctl restart nftables` flushes every table.
const LOOK: Duration = Duration::from_secs(15);

/// What keeps the machine from being what it should, a line each with its cure.
pub type Problems = Arc<Vec<String>>;

/// What the task is connected to.
pub struct Connections {
    /// The configuration in force, and the links that the program should run on.
    pub view: watch::Receiver<Arc<View>>,
    /// From netlink.
    pub facts: watch::Receiver<NetFacts>,
    /// To those who show it.
    pub problems: watch::Sender<Problems>,
}

/// Makes the machine what the configuration wants, until shutdown, and leaves it so.
///
/// # Errors
///
/// When the tasks that say what is wanted are gone.
pub async fn run(mut to: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut ended = std::pin::pin!(shutdown.requested());
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut table = Table::default();
    let mut last: Option<Wanted> = None;
    loop {
        let again = tokio::select! {
            () = &mut ended => return Ok(()),
            changed = to.view.changed() => {
                changed?;
                false
            }
            changed = to.facts.changed() => {
                changed?;
                false
            }
            _ = look.tick() => true,
        };
        let Some(now) = current(&mut to) else {
            continue;
        };
        if !again && last.as_ref() == Some(&now) {
            continue;
        }
        let problems = reach(&now, &mut table).await;
        for problem in problems.iter().filter(|p| !to.problems.borrow().contains(p)) {
            tracing::error!("{problem}");
        }
        to.problems.send_replace(Arc::new(problems));
        last = Some(now);
    }
}

/// What is wanted now; `None` before netlink's picture is whole.
fn current(to: &mut Connections) -> Option<Wanted> {
    let view = Arc::clone(&to.view.borrow_and_update());
    let facts = to.facts.borrow_and_update();
    facts.complete.then(|| wanted(&view.config, &facts, &view.goal.state.links))
}

async fn reach(wanted: &Wanted, table: &mut Table) -> Vec<String> {
    let mut problems = Vec::new();
    for parameter in &wanted.parameters {
        problems.extend(parameter::ensure(parameter).await.err());
    }
    problems.extend(table.reach(&wanted.rules).await.err());
    problems.extend(replies::reach(wanted.replies).await.err());
    problems
}

/// Removes what can be known for ours; gives a line for each thing removed. Kernel parameters stay.
///
/// # Errors
///
/// Why something stays.
pub async fn remove() -> Result<Vec<String>, String> {
    let mut removed = Vec::new();
    if nft::remove().await? {
        removed.push("removed the nftables table inet lbd".to_owned());
    }
    if replies::remove().await? {
        removed.push("removed the routing rule and the route of transparent VIPs".to_owned());
    }
    Ok(removed)
}
