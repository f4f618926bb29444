//! The controller. Data flows one way:
//!
//! ```text
//! TOML -> FileConfig -> Config --+
//! lbctl -> Command --------------+ compile (pure)              +-> BPF maps -> XDP
//! checks -> Health --------------+---> DesiredState -- plan ---+
//! netlink -> NetFacts -----------+     (plain data, Eq)  ops   +-> addresses (netlink)
//!
//! counters, ring buffer, flow sweeps -> ObservedState (watch) -> API -> lbctl
//! ```
//!
//! Nothing that reads observed state can write a map: the writer is owned by the reconciler alone.

pub mod claims;
pub mod compile;
pub mod dataplane;
pub mod model;
pub mod operator;
pub mod plan;
pub mod shutdown;
pub mod state_file;
