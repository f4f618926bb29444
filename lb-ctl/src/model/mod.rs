//! Plain data that the rooms of the controller exchange. No I/O, no clocks, no async.

pub mod alerts;
pub mod check;
pub mod checks;
pub mod command;
pub mod config;
pub mod desired;
pub mod explain;
pub mod health;
pub mod history;
pub mod net;
pub mod operator;
pub mod proxied;
pub mod proxy;
pub mod status;
pub mod tables;
pub mod tls;
