//! The promises of the built program, as a child process of the tests.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod arguments;
mod check;
mod metrics;
#[cfg(target_os = "linux")]
mod restarts;
mod service;
#[cfg(target_os = "linux")]
mod supervision;
