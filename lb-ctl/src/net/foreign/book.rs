//! Who answered of late. Pure: time is counted in rounds of questions.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::model::net::{ForeignAnswer, ForeignAnswers};

/// Rounds without a word after which an answer is forgotten.
const PATIENCE_ROUNDS: u8 = 2;
/// Answers kept at most: a host that makes up MACs must not fill the memory.
const MAX_ANSWERS: usize = 1024;

/// Answers, each with the rounds since it was heard.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<ForeignAnswer, u8>);

impl Book {
    /// Somebody answered.
    pub(super) fn heard(&mut self, answer: ForeignAnswer) {
        if self.0.len() < MAX_ANSWERS || self.0.contains_key(&answer) {
            self.0.insert(answer, 0);
        }
    }

    /// A round of questions on an interface is over: gives whoever is forgotten by it.
    pub(super) fn round(&mut self, ifindex: u32) -> Vec<ForeignAnswer> {
        for (_, rounds) in self.0.iter_mut().filter(|(answer, _)| answer.ifindex == ifindex) {
            *rounds += 1;
        }
        let silent: Vec<ForeignAnswer> = self
            .0
            .iter()
            .filter(|(_, rounds)| **rounds > PATIENCE_ROUNDS)
            .map(|(answer, _)| answer.clone())
            .collect();
        self.retain(|answer| !silent.contains(answer));
        silent
    }

    /// True when somebody answers on an interface.
    pub(super) fn has(&self, ifindex: u32) -> bool {
        self.0.keys().any(|answer| answer.ifindex == ifindex)
    }

    /// Forgets all but these.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&ForeignAnswer) -> bool) {
        self.0.retain(|answer, _| wanted(answer));
    }

    /// Everybody.
    pub(super) fn answers(&self) -> ForeignAnswers {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::net::Mac;

    use super::*;

    fn answer(ifindex: u32, last: u8) -> ForeignAnswer {
        ForeignAnswer { ip: [10, 0, 0, 100].into(), ifindex, mac: Mac([2, 0, 0, 0, 0, last]) }
    }

    #[test]
    fn an_answer_is_forgotten_after_two_whole_rounds_of_its_own_segment_without_it() {
        let mut book = Book::default();
        book.heard(answer(2, 1));
        book.heard(answer(3, 1));
        // The round in which it was heard ends first.
        assert_eq!((book.round(2), book.round(2)), (vec![], vec![]));
        assert_eq!(book.round(3), []);
        book.heard(answer(2, 1));
        assert_eq!((book.round(2), book.round(2)), (vec![], vec![]));
        assert_eq!(book.round(2), [answer(2, 1)]);
        assert_eq!(book.answers(), [answer(3, 1)].into());
        assert!(!book.has(2) && book.has(3));
    }

    #[test]
    fn made_up_macs_fill_no_memory() {
        let mut book = Book::default();
        for number in 0..100_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            book.heard(ForeignAnswer { mac: Mac([2, 0, a, b, c, d]), ..answer(2, 0) });
        }
        assert_eq!(book.answers().len(), MAX_ANSWERS);
    }
}
