//! How long the certificates last that something uses: looked at again and again, since files change and time passes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    facts::facts,
    file,
    judge::{date, days_word, step_days},
    pem::parse,
    report::epoch_secs,
    users::Users,
};
use crate::{
    control::View,
    model::{
        config::Config,
        tls::{CertificateFacts, Lasts, Validity},
    },
    shutdown::Shutdown,
};

/// Time from one look at the files to the next.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// The configuration in force.
    pub view: watch::Receiver<Arc<View>>,
    /// To those who show it, and to those who tell people; `None` = nobody has looked yet.
    pub validities: watch::Sender<Option<Arc<Vec<Validity>>>>,
}

/// Looks until shutdown.
///
/// # Errors
///
/// When a task that it needs is gone.
pub async fn run(mut to: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut ended = std::pin::pin!(shutdown.requested());
    loop {
        let config = Arc::clone(&to.view.borrow_and_update().config);
        let looked = Instant::now();
        let read = Arc::clone(&config);
        let found = tokio::task::spawn_blocking(move || validities(&read, SystemTime::now())).await?;
        to.validities.send_if_modified(|validities| {
            let is_new = validities.as_deref() != Some(&found);
            *validities = Some(Arc::new(found));
            is_new
        });
        tokio::select! {
            () = &mut ended => return Ok(()),
            changed = another(&mut to.view, &config) => changed?,
            () = sleep_until(looked + LOOK_EVERY) => {}
        }
    }
}

/// Ready when another configuration is in force.
async fn another(view: &mut watch::Receiver<Arc<View>>, config: &Arc<Config>) -> anyhow::Result<()> {
    view.wait_for(|view| !Arc::ptr_eq(&view.config, config)).await?;
    Ok(())
}

/// How every certificate and authority stands that something uses. Reads their files.
#[must_use]
pub fn validities(config: &Config, now: SystemTime) -> Vec<Validity> {
    let users = Users::of(config);
    let now = epoch_secs(now);
    let mut validities = Vec::new();
    for (name, path) in &config.pki.certs {
        let used = users.of_cert(name);
        if !used.is_empty() {
            let read = file::identity(name, path).map(|identity| identity.chain);
            let cure = format!("put another in its place with `lbctl tls cert add {name} FILE --replace`");
            validities.push(judged(format!("certificate {name}"), read, used, &cure, now));
        }
    }
    for (family, members) in &config.pki.families {
        let used = users.of_family(family);
        for (label, path) in members.iter().filter(|_| !used.is_empty()) {
            let read = file::authorities(family, path);
            let cure =
                format!("put another in its place with `lbctl tls ca add {family} {label} FILE --replace`");
            validities.push(judged(format!("authority {label} of family {family}"), read, used, &cure, now));
        }
    }
    validities
}

fn judged(
    name: String,
    read: Result<Vec<CertificateDer<'static>>, String>,
    users: &[String],
    cure: &str,
    now_epoch_secs: i64,
) -> Validity {
    let Ok(certificates) = read else { return Validity { name, lasts: Lasts::Unknown } };
    let all = certificates.iter().filter_map(|certificate| parse(certificate));
    let first = all.map(|parsed| facts(&parsed)).min_by_key(|facts| facts.not_after_epoch_secs);
    let Some(first) = first else { return Validity { name, lasts: Lasts::Unknown } };
    let lasts = match step_days(first.not_after_epoch_secs, now_epoch_secs) {
        None => Lasts::Long,
        Some(days) => Lasts::Within { days, text: told(&name, &first, days, users, cure) },
    };
    Validity { name, lasts }
}

fn told(name: &str, first: &CertificateFacts, days: u32, users: &[String], cure: &str) -> String {
    let until = date(first.not_after_epoch_secs);
    let when = match days {
        0 => format!("has expired, on {until}"),
        days => format!("expires within {}, on {until}", days_word(days)),
    };
    format!("{name} ({}) {when}: {} need it; {cure}", first.subject, users.join(", "))
}
