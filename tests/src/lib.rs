//! What the tests are made of. [`lab`] is a small hospital network of namespaces with real servers and clients.

pub mod lab;
