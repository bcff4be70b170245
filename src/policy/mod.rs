//! Decisions without I/O: which connections are admitted, which datagrams get a reply, and how often
//! the log is warned. A policy returns a reason; the engine counts it.

pub(crate) mod admission;
pub(crate) mod cidr;
#[cfg(test)]
pub(crate) mod log_lines;
pub(crate) mod log_throttle;
pub(crate) mod reply_filter;
