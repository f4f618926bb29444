//! Random numbers where nobody gains by guessing them: the spread of intervals, identifiers, first ports.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// One. The hasher's keys are random: the standard library's way to a random number.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
