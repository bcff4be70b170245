//! The promises of the built program, as a child process of the tests.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[cfg(target_os = "linux")]
#[path = "../../src/bin/mio-echo/near_valid.rs"]
mod near_valid;

mod arguments;
mod check;
mod metrics;
#[cfg(target_os = "linux")]
mod restarts;
mod service;
#[cfg(target_os = "linux")]
mod supervision;
mod trace;
