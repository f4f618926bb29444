//! Finds a toolchain for the BPF target and builds the object with it.
