//! The examples do what they say, as child processes of the tests. `cargo test` builds them.

#[path = "../common/mod.rs"]
mod common;

#[cfg(all(target_os = "linux", feature = "tools"))]
mod guide;
mod peer;
mod programs;
mod timeline;
