//! The packet path, as pure code. It compiles for the kernel and for the host, where its tests run.
//!
//! ```text
//! frame -> wire -> parse -> is it ours? -> flow table -> hit ------------------------------> action -> verdict
//!                            (filter)          |                                               ^
//!                                              +- steps: first packets, changes, pairs, odd ---+
//!                                                        packets -> service -> persistence -> scheduler
//! ```
//!
//! What it needs from its surroundings - maps, clock, counters - it asks of an [`env::Env`]; the kernel's is in
//! the binary. Rules of this crate:
//!
//! - No helper call, map or log here; no header arithmetic in the binary.
//! - `unsafe` in two files only: [`packet`] makes references into the frame, [`flow_table`] touches shared words.
//! - Nothing panics and nothing is indexed unchecked: the verifier would refuse it, or worse, a loop would stay.
//! - What is written into a frame is one file each under [`action`].
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    feature(core_intrinsics),
    allow(internal_features, reason = "compare-and-swap: see flow_table")
)]

pub mod action;
pub mod env;
pub mod first;
pub mod flow_table;
pub mod icmp;
pub mod life;
pub mod load;
pub mod odd;
pub mod packet;
pub mod pair;
pub mod parse;
pub mod path;
pub mod scratch;
pub mod steer;
pub mod steps;
pub mod wire;
