//! What the tests are made of. [`lab`] is a small hospital network of namespaces with real servers and clients,
//! [`packet`] runs single frames through the real program, [`mod@bench`] measures what they cost.

pub mod bench;
pub mod lab;
pub mod model;
pub mod packet;
pub mod random;
