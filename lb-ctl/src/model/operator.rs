//! What an operator says of a real server: whether it takes connections, and what its check is overruled by.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::health::RipId;

/// Servers of which an operator has said anything; all others are online, and their checks decide.
pub type Words = BTreeMap<RipId, Word>;

/// All that an operator has said of a real server.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Word {
    /// Whether it takes connections.
    #[serde(flatten)]
    pub order: Order,
    /// What counts in place of the check's verdict.
    pub forced: Option<Forced>,
}

/// Whether a real server takes connections. Times are those of the wall clock, so that they outlive a restart.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum Order {
    /// Existing flows go on, new ones go elsewhere.
    Drain {
        /// New connections of clients that persistence would send here go elsewhere, too. `None` = as the VIP's layer has
        /// it: on layer 4 they come here, on layer 7 they go elsewhere, since cookies are kept for hours.
        #[serde(default)]
        migrate: Option<bool>,
        /// When those in progress have had their time.
        #[serde(default)]
        deadline_epoch_secs: Option<u64>,
        /// It is halted once the time is over, or nothing is left of it.
        #[serde(default)]
        then_halt: bool,
    },
    /// Nothing new goes there.
    Halt {
        /// Connections in progress go on all the same.
        #[serde(default)]
        keep_sessions: bool,
    },
    /// In service (while healthy).
    #[default]
    Online,
}

/// An operator's verdict.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Forced {
    /// Up, or down.
    pub up: bool,
    /// When the check decides again; `None` = when the operator says so.
    pub until_epoch_secs: Option<u64>,
}

impl Word {
    /// True when nothing was said that matters.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// When it changes by itself.
    #[must_use]
    pub fn next_epoch_secs(&self) -> Option<u64> {
        let halts = match self.order {
            Order::Drain { deadline_epoch_secs, then_halt: true, .. } => deadline_epoch_secs,
            Order::Drain { then_halt: false, .. } | Order::Halt { .. } | Order::Online => None,
        };
        let relaxes = self.forced.and_then(|forced| forced.until_epoch_secs);
        halts.into_iter().chain(relaxes).min()
    }

    /// What has become of it by a time: the word that holds then, and why it is another one. `left` says what a server
    /// that drains still has.
    #[must_use]
    pub fn at(self, now_epoch_secs: u64, left: Left) -> (Self, Vec<&'static str>) {
        let is_over = |at: Option<u64>| at.is_some_and(|at| at <= now_epoch_secs);
        let (mut word, mut why) = (self, Vec::new());
        if let Order::Drain { migrate, deadline_epoch_secs, then_halt: true } = self.order {
            let ended = match (left, migrate) {
                (Left::Nothing, _) | (Left::Persistence, Some(true)) => {
                    Some("drain ended, no connection left: halted")
                }
                (Left::Connections, _) | (Left::Persistence, None | Some(false)) => {
                    is_over(deadline_epoch_secs).then_some("drain ended, its time is over: halted")
                }
            };
            if ended.is_some() {
                word.order = Order::Halt { keep_sessions: false };
            }
            why.extend(ended);
        }
        if let Some(Forced { up, until_epoch_secs }) = self.forced
            && is_over(until_epoch_secs)
        {
            word.forced = None;
            why.push(if up {
                "forced up no longer: the check decides"
            } else {
                "forced down no longer: the check decides"
            });
        }
        (word, why)
    }
}

impl From<Order> for Word {
    fn from(order: Order) -> Self {
        Self { order, forced: None }
    }
}

/// What a server has left while it drains.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Left {
    /// Connections in progress, or nobody knows.
    Connections,
    /// Clients that persistence would send there.
    Persistence,
    /// Neither.
    Nothing,
}

impl Order {
    /// The one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Halt { .. } => "halt",
            Self::Online => "online",
        }
    }
}

/// `online`, `halt (keeps sessions)`, `drain (migrates; until 2026-05-08 12:37:21 UTC; then halt)`.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut more = Vec::new();
        match *self {
            Self::Drain { migrate, deadline_epoch_secs, then_halt } => {
                more.extend(migrate.map(|migrates| {
                    if migrates { "migrates" } else { "keeps persistent clients" }.to_owned()
                }));
                more.extend(deadline_epoch_secs.map(|at| format!("until {}", utc(at))));
                more.extend(then_halt.then(|| "then halt".to_owned()));
            }
            Self::Halt { keep_sessions } => more.extend(keep_sessions.then(|| "keeps sessions".to_owned())),
            Self::Online => {}
        }
        f.write_str(self.name())?;
        if more.is_empty() { Ok(()) } else { write!(f, " ({})", more.join("; ")) }
    }
}

/// `forced up`, `forced down until 2026-05-08 12:37:21 UTC`.
impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.up { "forced up" } else { "forced down" })?;
        self.until_epoch_secs.map_or(Ok(()), |at| write!(f, " until {}", utc(at)))
    }
}

/// `2026-05-08 12:37:21 UTC`.
#[must_use]
pub fn utc(epoch_secs: u64) -> String {
    // The year 9999 is the last that the format has room for.
    let time = UNIX_EPOCH + Duration::from_secs(epoch_secs.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Order = Order::Drain { migrate: None, deadline_epoch_secs: None, then_halt: false };
    const HALT: Order = Order::Halt { keep_sessions: false };

    fn order(migrate: Option<bool>, deadline_epoch_secs: Option<u64>, then_halt: bool) -> Word {
        Word { order: Order::Drain { migrate, deadline_epoch_secs, then_halt }, forced: None }
    }

    #[test]
    fn a_drain_ends_by_itself_only_if_it_is_to_halt_then() {
        for (word, left, halts) in [
            (order(None, Some(100), true), Left::Connections, true),
            (order(None, Some(101), true), Left::Connections, false),
            (order(None, Some(100), false), Left::Nothing, false),
            (order(Some(true), Some(101), true), Left::Persistence, true),
            (order(Some(true), None, true), Left::Persistence, true),
            (order(Some(true), None, true), Left::Connections, false),
            (order(None, None, true), Left::Persistence, false),
            (order(None, Some(101), true), Left::Nothing, true),
        ] {
            let (then, why) = word.at(100, left);
            assert_eq!(then.order == HALT, halts, "{word:?} {left:?}");
            assert_eq!(why.len(), usize::from(halts));
            assert!(halts || then == word);
        }
    }

    #[test]
    fn a_forced_verdict_ends_at_its_time_and_leaves_the_order() {
        let forced = Some(Forced { up: true, until_epoch_secs: Some(100) });
        let word = Word { order: DRAIN, forced };
        assert_eq!(word.at(99, Left::Nothing), (word, vec![]));
        let expected = (Word { order: DRAIN, forced: None }, vec!["forced up no longer: the check decides"]);
        assert_eq!(word.at(100, Left::Nothing), expected);
        assert_eq!(word.next_epoch_secs(), Some(100));
        let both = Word { forced, ..order(Some(true), Some(7), true) };
        assert_eq!(both.next_epoch_secs(), Some(7));
        assert_eq!(order(Some(true), Some(7), false).next_epoch_secs(), None, "nothing happens then");
    }

    #[test]
    fn words_are_told_and_understood_in_short() {
        let json = r#"{"state":"drain","forced":null}"#;
        assert_eq!(serde_json::from_str::<Word>(json).unwrap(), Word { order: DRAIN, forced: None });
        for word in [order(Some(true), Some(5), true), Word::default(), HALT.into()] {
            let json = serde_json::to_string(&word).unwrap();
            assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), word, "{json}");
        }
        let told = order(Some(true), Some(1_778_243_841), true).order.to_string();
        assert_eq!(told, "drain (migrates; until 2026-05-08 12:37:21 UTC; then halt)");
        assert_eq!(Order::Halt { keep_sessions: true }.to_string(), "halt (keeps sessions)");
        assert_eq!(Forced { up: false, until_epoch_secs: None }.to_string(), "forced down");
    }
}
