//! The command line as its user meets it: what it prints for what the daemon says, and the built program against
//! a server that speaks the daemon's API on a Unix socket.

mod checks;
mod daemon;
mod history;
mod offline;
mod operator;
mod printing;
mod program;
mod reach;
mod samples;
mod tables;
mod tls;
