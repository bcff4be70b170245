//! The promises of the library over real sockets. One module for each promise.
//!
//! No test of this binary starts a process. Between fork(2) and execve(2) a child has a copy of each
//! descriptor, so a socket that another test closes at that moment stays open: its port is still taken,
//! a connection to it is not refused, and its peer does not read the end of the stream yet.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../src/bin/mio-echo/near_valid.rs"]
mod near_valid;

mod accept;
mod admission;
mod back_pressure;
mod bound_socket;
mod budget;
mod control;
mod datagram;
mod dropped;
mod echo;
mod embedding;
mod endpoints;
mod fairness;
mod half_close;
mod nesting;
mod parsers;
mod reset;
mod shutdown;
mod timeouts;
mod unix_socket;
mod urgent;
mod zero_copy;
