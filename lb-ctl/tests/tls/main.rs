//! Certificates: what of their files reaches the proxy, what is said of them, and how they are put in place.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod edits;
mod gathered;
mod judged;
mod made;
mod uploads;
