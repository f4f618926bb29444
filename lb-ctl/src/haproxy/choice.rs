//! Which VIPs the proxy can serve as they are wanted: one that it refuses keeps none of the others from it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::blame;
use crate::model::{
    config::Vip,
    proxied::{DesiredProxy, Proxies, Service, Takes},
};

/// What became of each VIP.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// As they were accepted last.
    good: BTreeMap<String, Vip>,
    /// As they were refused, and why: they need not be tried again.
    judged: BTreeMap<String, (Vip, String)>,
    /// Not served as wanted, and why.
    refused: BTreeMap<String, String>,
    /// Not even as they were accepted last.
    left_out: Vec<String>,
}

impl Choice {
    /// Why VIPs are not served as they are wanted.
    pub(super) const fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// What was refused may be offered once more.
    pub(super) fn judge_anew(&mut self) {
        self.judged.clear();
    }

    /// Begins with what is wanted, but for VIPs whose files are faulty and those that were refused as they are.
    pub(super) fn begin(&mut self, faulty: &BTreeMap<String, String>, wanted: &Proxies) {
        self.left_out.clear();
        self.refused.clone_from(faulty);
        self.good.retain(|name, _| wanted.vip(name).is_some());
        self.judged.retain(|name, (vip, _)| wanted.vip(name).is_some_and(|desired| desired.vip == *vip));
        for (name, (_, why)) in &self.judged {
            self.refused.entry(name.clone()).or_insert_with(|| why.clone());
        }
    }

    /// What is to be offered.
    pub(super) fn chosen(&self, wanted: &Proxies) -> Proxies {
        let vips = wanted.vips.iter().filter_map(|desired| {
            let name = &desired.vip.name;
            if self.left_out.contains(name) {
                return None;
            }
            if !self.refused.contains_key(name) {
                return Some(desired.clone());
            }
            self.good.get(name).map(|vip| as_it_was(vip, desired))
        });
        Proxies { settings: wanted.settings.clone(), vips: vips.collect() }
    }

    /// The proxy takes this.
    pub(super) fn accepted(&mut self, chosen: &Proxies) {
        for desired in &chosen.vips {
            self.good.insert(desired.vip.name.clone(), desired.vip.clone());
        }
    }

    /// The proxy refuses this. False when no VIP is to blame.
    pub(super) fn refuse(&mut self, words: &str, text: &str, chosen: &Proxies) -> bool {
        let Some(desired) = blame::vip(words, text, chosen).and_then(|name| chosen.vip(name)) else {
            return false;
        };
        let name = desired.vip.name.clone();
        let why = format!("haproxy refuses it: {}", blame::without_place(words));
        if self.refused.contains_key(&name) {
            // As it was it is refused as well now.
            self.good.remove(&name);
            self.left_out.push(name);
        } else {
            self.judged.insert(name.clone(), (desired.vip.clone(), why.clone()));
            self.refused.insert(name, why);
        }
        true
    }
}

/// A VIP as it was accepted last, with what its servers may do now; servers that are gone since take nothing.
fn as_it_was(vip: &Vip, desired: &DesiredProxy) -> DesiredProxy {
    let nothing = Service { takes: Takes::Nothing, weight: 0, ends_sessions: false };
    let servers = vip
        .rips
        .iter()
        .map(|rip| (rip.name.clone(), desired.servers.get(&rip.name).copied().unwrap_or(nothing)));
    DesiredProxy { servers: servers.collect(), vip: vip.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        config::{Mode, Ports},
        proxied::DesiredProxy,
    };

    fn wanted(vips: &[(&str, u16)]) -> Proxies {
        let vip = |&(name, port): &(&str, u16)| DesiredProxy {
            vip: Vip::new(name, Mode::L7Tcp, "10.0.0.1".parse().unwrap(), Ports::Ranges(vec![port..=port])),
            servers: BTreeMap::new(),
        };
        Proxies { vips: vips.iter().map(vip).collect(), ..Proxies::default() }
    }

    #[test]
    fn a_refused_vip_goes_on_as_it_was_and_others_as_they_are_wanted() {
        let mut choice = Choice::default();
        let before = wanted(&[("A", 1), ("B", 2)]);
        choice.begin(&BTreeMap::new(), &before);
        choice.accepted(&choice.chosen(&before));
        let after = wanted(&[("A", 11), ("B", 22)]);
        choice.begin(&BTreeMap::new(), &after);
        assert!(choice.refuse("Proxy 'A': no", "", &choice.chosen(&after)));
        assert_eq!(choice.chosen(&after), wanted(&[("A", 1), ("B", 22)]));
        assert_eq!(choice.refused()["A"], "haproxy refuses it: Proxy 'A': no");
        // What it was does not work any more either.
        assert!(choice.refuse("Proxy 'A': no", "", &choice.chosen(&after)));
        assert_eq!(choice.chosen(&after), wanted(&[("B", 22)]));
    }

    #[test]
    fn a_refused_vip_is_offered_again_when_it_changes() {
        let mut choice = Choice::default();
        let first = wanted(&[("A", 1)]);
        choice.begin(&BTreeMap::new(), &first);
        assert!(choice.refuse("Proxy 'A': no", "", &choice.chosen(&first)));
        choice.begin(&BTreeMap::new(), &first);
        assert!(choice.chosen(&first).vips.is_empty(), "as it is it was refused");
        let second = wanted(&[("A", 2)]);
        choice.begin(&BTreeMap::new(), &second);
        assert_eq!(choice.chosen(&second), second);
    }

    #[test]
    fn nobody_is_blamed_for_what_concerns_all() {
        let mut choice = Choice::default();
        let all = wanted(&[("A", 1)]);
        choice.begin(&BTreeMap::new(), &all);
        assert!(!choice.refuse("out of memory", "", &choice.chosen(&all)));
    }
}
