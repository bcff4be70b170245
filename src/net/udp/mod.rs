//! UDP sockets: many datagrams with one system call, and where each was sent to.

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod fallback;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
pub(crate) mod packet_info;

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use fallback::{BATCH, PacketSocket};
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::{BATCH, PacketSocket};
