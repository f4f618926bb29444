//! Certificates and keys as files hold them: read, held against each other, judged.
#![forbid(unsafe_code)]

pub mod facts;
pub mod file;
pub mod judge;
pub mod key;
pub mod lasting;
pub mod pem;
pub mod pfx;
pub mod place;
pub mod report;
pub mod strength;
pub mod upload;
pub mod users;
