//! lbd and HAProxy as one: what becomes of connections and persistence when either of them is killed, reloaded or told
//! otherwise.
#![forbid(unsafe_code)]

mod certificates;
mod operator;
mod processes;
mod refusals;
mod reloads;
mod stand;
