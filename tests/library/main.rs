//! The promises of the library over real sockets. One module for each promise.

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
mod examples;
mod fairness;
mod half_close;
mod nesting;
mod parsers;
mod reset;
mod shutdown;
mod timeline;
mod timeouts;
mod unix_socket;
mod urgent;
mod zero_copy;
