//! The controller. Data flows one way:
//!
//! ```text
//! TOML -> tree -> Config --------+
//! lbctl -> Command --------------+ compile (pure)              +-> BPF maps -> XDP
//! checks -> Health --------------+---> DesiredState -- plan ---+
//! netlink -> NetFacts -----------+     (plain data, Eq)  ops   +-> addresses (netlink)
//!
//! counters, ring buffer, flow sweeps -> observe -> Status -> API -> lbctl
//! ```
//!
//! Nothing that shows state can write a map: the writer is owned by the reconciler alone.

pub mod alert;
pub mod api;
pub mod app;
pub mod claims;
pub mod cli;
pub mod colour;
pub mod companion;
pub mod compile;
pub mod config;
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod doctor;
pub mod edges;
pub mod explain;
pub mod fallback_page;
pub mod haproxy;
pub mod health;
pub mod history;
mod lent;
pub mod model;
pub mod net;
pub mod observe;
pub mod operator;
pub mod plan;
pub mod predict;
mod random;
pub mod reconcile;
mod replace_file;
pub mod reset;
pub mod routing;
pub mod shutdown;
pub mod source_ports;
pub mod state_file;
pub mod telemetry;
pub mod tls;
