//! What is so now, as far as people may be told of it: each subject stands well, fails, or nothing can be said. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    compile::RipNote,
    control::View,
    model::{
        config::{Fallback, Vip},
        health::{FailureReason, Health, HealthMap, RipId, Verdict},
        net::{ForeignAnswer, ForeignAnswers, NetFacts},
        operator::{Forced, Order, Word},
        proxied::Proxied,
        status::RipState,
        tls::{EXPIRY_STEPS_DAYS, Lasts, Validity},
    },
    net::foreign::describe,
    reconcile::Reconciled,
};

/// What people are told of. The worst comes first.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub(super) enum Subject {
    /// A VIP of which no server is left.
    Outage {
        /// Its name.
        vip: String,
    },
    /// A VIP that is not served, whatever its servers do.
    Unserved {
        /// Its name.
        vip: String,
    },
    /// A real server.
    Server(RipId),
    /// Another machine that answers for an address of ours.
    Foreign {
        /// The VIP of the address; `None` = it is a source of SNAT or a gateway.
        vip: Option<String>,
        /// The address.
        ip: IpAddr,
        /// Who answers.
        mac: String,
    },
    /// A certificate that is about to end, or has ended. Each step is a subject of its own, so that people are told anew.
    Certificate {
        /// What it is called.
        name: String,
        /// Days that are left at most; 0 = it has ended.
        days: u32,
    },
}

impl Subject {
    /// The VIP that it concerns.
    pub(super) fn vip(&self) -> Option<&str> {
        match self {
            Self::Outage { vip } | Self::Unserved { vip } => Some(vip),
            Self::Server(id) => Some(&id.vip),
            Self::Foreign { vip, .. } => vip.as_deref(),
            Self::Certificate { .. } => None,
        }
    }

    /// True for what is told again while it fails. A certificate that still counts is not: its next step will be told.
    pub(super) const fn is_repeated(&self) -> bool {
        !matches!(self, Self::Certificate { days: 1.., .. })
    }
}

/// How a subject stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// All well.
    Well,
    /// It fails.
    Failing(Failing),
    /// Nothing can be said: not checked yet, or an operator took it out. What was told last goes on being so.
    Unsaid,
}

/// How something fails.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Failing {
    /// Class of the failure, of a check.
    pub(super) reason: Option<FailureReason>,
    /// One line for people.
    pub(super) text: String,
    /// Seconds since the epoch; `None` = since it is seen.
    pub(super) since_epoch_secs: Option<u64>,
}

/// Real servers of a VIP.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Left {
    /// Those that serve.
    pub(super) serving: usize,
    /// All.
    pub(super) of: usize,
}

/// Everything that says something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources<'a> {
    /// Configuration, operator's words, and what became of servers.
    pub(super) view: &'a View,
    /// Verdicts.
    pub(super) health: &'a HealthMap,
    /// Who else answers.
    pub(super) foreign: &'a ForeignAnswers,
    /// True once everybody who answers would have been heard.
    pub(super) foreign_heard: bool,
    /// Whose a MAC is.
    pub(super) facts: &'a NetFacts,
    /// What the data plane refuses.
    pub(super) reconciled: &'a Reconciled,
    /// What the companion proxy refuses.
    pub(super) proxied: &'a Proxied,
    /// How long certificates last; `None` = nobody has looked yet.
    pub(super) validities: Option<&'a [Validity]>,
}

/// All of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Situation {
    /// Every subject but foreign answers that are not there.
    standings: BTreeMap<Subject, Standing>,
    /// By VIP: the servers that are left.
    pub(super) left: BTreeMap<String, Left>,
    /// A foreign answer that is not there is over.
    foreign_heard: bool,
    /// A certificate that is not there is not used any more.
    certificates_seen: bool,
}

impl Situation {
    /// Looks at everything.
    pub(super) fn of(sources: &Sources<'_>) -> Self {
        let mut situation = Self {
            foreign_heard: sources.foreign_heard,
            certificates_seen: sources.validities.is_some(),
            ..Self::default()
        };
        for vip in sources.view.config.vips.iter().filter(|vip| vip.enabled) {
            situation.put_servers(vip, sources);
            let unserved = Subject::Unserved { vip: vip.name.clone() };
            situation.standings.insert(unserved, serving(vip, sources));
        }
        for answer in sources.foreign {
            let (subject, failing) = foreign(answer, sources);
            situation.standings.insert(subject, Standing::Failing(failing));
        }
        for validity in sources.validities.unwrap_or_default() {
            situation.put_certificate(validity);
        }
        situation
    }

    /// A step that is past is no subject any more: that would be told as its end.
    fn put_certificate(&mut self, validity: &Validity) {
        let subject = |days| Subject::Certificate { name: validity.name.clone(), days };
        match &validity.lasts {
            Lasts::Within { days, text } => {
                let failing = Failing { reason: None, text: text.clone(), since_epoch_secs: None };
                self.standings.insert(subject(*days), Standing::Failing(failing));
            }
            Lasts::Long | Lasts::Unknown => {
                let is_long = validity.lasts == Lasts::Long;
                for days in EXPIRY_STEPS_DAYS.into_iter().chain([0]) {
                    let standing = if is_long { Standing::Well } else { Standing::Unsaid };
                    self.standings.insert(subject(days), standing);
                }
            }
        }
    }

    /// A situation of these; for tests.
    #[cfg(test)]
    pub(super) fn made_of(
        standings: impl IntoIterator<Item = (Subject, Standing)>,
        foreign_heard: bool,
    ) -> Self {
        let standings = standings.into_iter().collect();
        Self { standings, foreign_heard, certificates_seen: true, ..Self::default() }
    }

    /// Every subject that is there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Subject, &Standing)> {
        self.standings.iter()
    }

    /// How a subject stands; `None` when there is no such subject any more.
    pub(super) fn standing(&self, subject: &Subject) -> Option<&Standing> {
        match (self.standings.get(subject), subject) {
            (Some(standing), _) => Some(standing),
            (None, Subject::Foreign { vip, .. }) => {
                let is_served = |vip: &String| self.left.contains_key(vip);
                let silent = if self.foreign_heard { &Standing::Well } else { &Standing::Unsaid };
                vip.as_ref().is_none_or(is_served).then_some(silent)
            }
            (None, Subject::Certificate { .. }) => (!self.certificates_seen).then_some(&Standing::Unsaid),
            (None, Subject::Outage { .. } | Subject::Unserved { .. } | Subject::Server(_)) => None,
        }
    }

    fn put_servers(&mut self, vip: &Vip, sources: &Sources<'_>) {
        let mut left = Left { of: vip.rips.len(), ..Left::default() };
        let mut count = Count::default();
        for rip in &vip.rips {
            let id = RipId { vip: vip.name.clone(), rip: rip.name.clone() };
            let word = sources.view.operator.get(&id).copied().unwrap_or_default();
            let (health, note) = (sources.health.get(&id), sources.view.notes.rips.get(&id));
            let standing = server(word, health, note);
            match &standing {
                Standing::Well => left.serving += 1,
                Standing::Failing(failing) => {
                    count.failing += 1;
                    count.last_epoch_secs = count.last_epoch_secs.max(failing.since_epoch_secs);
                }
                Standing::Unsaid if is_in_operators_hands(word) => count.taken_out += 1,
                Standing::Unsaid => count.unknown += 1,
            }
            self.standings.insert(Subject::Server(id), standing);
        }
        let outage = Subject::Outage { vip: vip.name.clone() };
        self.standings.insert(outage, outage_of(vip, left, &count));
        self.left.insert(vip.name.clone(), left);
    }
}

/// Servers of a VIP that do not serve.
#[derive(Debug, Default)]
struct Count {
    failing: usize,
    taken_out: usize,
    unknown: usize,
    /// Since when the last of those that fail does.
    last_epoch_secs: Option<u64>,
}

/// A server that an operator took out, or whose check he overruled, is nobody's failure.
fn is_in_operators_hands(word: Word) -> bool {
    word.order != Order::Online || matches!(word.forced, Some(Forced { up: false, .. }))
}

fn server(word: Word, health: Option<&Health>, note: Option<&RipNote>) -> Standing {
    if is_in_operators_hands(word) {
        return Standing::Unsaid;
    }
    let verdict = match word.forced {
        Some(Forced { up, .. }) if up => Verdict::Up,
        Some(_) | None => health.map_or(Verdict::Unknown, |health| health.verdict),
    };
    match verdict {
        Verdict::Unknown => Standing::Unsaid,
        Verdict::Down => {
            let failure = health.and_then(Health::failure);
            Standing::Failing(Failing {
                reason: failure.map(|failure| failure.reason),
                text: failure.map_or_else(|| "its checks fail".to_owned(), |failure| failure.text.clone()),
                since_epoch_secs: health.map(|health| epoch_secs(health.since)),
            })
        }
        // Its check passes, and still no packet gets there: its MAC is not known.
        Verdict::Up => match note {
            Some(RipNote { state: RipState::Down, detail: Some(why), .. }) => {
                Standing::Failing(Failing { reason: None, text: why.clone(), since_epoch_secs: None })
            }
            Some(_) | None => Standing::Well,
        },
    }
}

fn outage_of(vip: &Vip, left: Left, count: &Count) -> Standing {
    if left.serving > 0 {
        return Standing::Well;
    }
    if count.failing == 0 || count.unknown > 0 {
        return Standing::Unsaid;
    }
    let mut text = format!("no real server is left: {} down", count.failing);
    if count.taken_out > 0 {
        text.push_str(&format!(", {} taken out by an operator", count.taken_out));
    }
    text.push_str(&match vip.fallback {
        Fallback::Drop => "; new connections are dropped".to_owned(),
        Fallback::Page => "; new connections go to the fallback page".to_owned(),
        Fallback::Reject => "; new connections are refused".to_owned(),
        Fallback::Server { ip, .. } => format!("; new connections go to the fallback server {ip}"),
    });
    Standing::Failing(Failing { reason: None, text, since_epoch_secs: count.last_epoch_secs })
}

/// Whether a VIP is served at all, by what the compiled configuration and the data plane say.
fn serving(vip: &Vip, sources: &Sources<'_>) -> Standing {
    let Sources { view, facts, reconciled, proxied, .. } = sources;
    let here = view.notes.vips.get(&vip.name);
    let (refusals, number) = if vip.mode.is_layer7() {
        (&proxied.refused, proxied.number.min(reconciled.number))
    } else {
        (&reconciled.vips, reconciled.number)
    };
    let refused = || refusals.get(&vip.name).or_else(|| reconciled.addresses.get(&vip.ip));
    let is_known = facts.complete && reconciled.settled && number >= view.goal.number;
    match here.filter(|_| facts.complete).or_else(refused) {
        Some(why) => Standing::Failing(Failing { reason: None, text: why.clone(), since_epoch_secs: None }),
        None if is_known && view.goal.number > 0 => Standing::Well,
        None => Standing::Unsaid,
    }
}

fn foreign(answer: &ForeignAnswer, sources: &Sources<'_>) -> (Subject, Failing) {
    let ForeignAnswer { ip, mac, ifindex: _ } = answer;
    let vips = &sources.view.config.vips;
    let vip = vips.iter().find(|vip| vip.enabled && vip.ip == *ip).map(|vip| vip.name.clone());
    let text = describe(answer, &sources.view.config, sources.facts);
    let subject = Subject::Foreign { vip, ip: *ip, mac: mac.to_string() };
    (subject, Failing { reason: None, text, since_epoch_secs: None })
}

/// Seconds since the epoch; a clock before it is at zero.
pub(super) fn epoch_secs(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
