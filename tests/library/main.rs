//! The promises of the library over real sockets. One module for each promise.

#[path = "../common/mod.rs"]
mod common;

mod accept;
mod admission;
mod back_pressure;
mod bound_socket;
mod budget;
mod datagram;
mod dropped;
mod echo;
mod embedding;
mod endpoints;
mod examples;
mod fairness;
mod half_close;
mod nesting;
mod reset;
mod shutdown;
mod timeouts;
mod unix_socket;
mod urgent;
mod zero_copy;
