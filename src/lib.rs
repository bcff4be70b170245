//! stub
#![forbid(unsafe_code)]

mod config;
mod connection;
mod echo;
mod endpoint;
mod listener;
mod readiness;
mod send_buffer;
mod server;
mod stats;

pub use config::{Config, ConfigBuilder, ConfigError};
pub use echo::Echo;
pub use endpoint::{Endpoint, EndpointError, EndpointErrorKind};
pub use server::{Server, ShutdownHandle};
pub use stats::Stats;
