//! The promises of the clients: `mio-echo ping`, `mio-echo load` and the example `client`.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod client;
mod load;
mod ping;
mod process;
