//! What the tests are made of. [`packet`] drives the real XDP program frame by frame, [`model`] says what it must do.

pub mod lab;
pub mod model;
pub mod packet;
pub mod random;
