//! An echo service on a hand-written readiness loop: one thread, no async runtime.
//!
//! Whatever a peer sends comes back to it (RFC 862). That is a small thing to do, and so the rest
//! can be seen: how one thread serves thousands of peers without waiting for any of them.
//!
//! # How a readiness loop works
//!
//! A socket in non-blocking mode never waits. A read from it gives what is there, or says that it
//! would block. So a thread can look after many, if it knows which of them are worth a call, and
//! that the system's selector tells it: epoll on Linux, kqueue on the BSDs and macOS, behind
//! [`mio::Poll`] on each. Sleep until there are events; do what they make possible; sleep again:
//!
//! ```text
//! loop {
//!     poll.poll(&mut events, echo.timeout(now))    // sleep
//!     for event in &events { echo.handle(event) }  // who has something to do?
//!     echo.run(now)                                // a turn for each of those
//! }
//! ```
//!
//! Three things make it more than that, and most bugs in such loops are in one of them:
//!
//! - **Events are edges.** The selector tells of a change once. Whoever stops before the system
//!   has said "would block" will hear no more of it, and needs a place on a *run queue*.
//! - **A turn is small**: one read and one write. Then it is another's, so that a peer that never
//!   stops sending keeps nobody waiting.
//! - **Writing can fail to make progress too.** A peer that does not read must not make its bytes
//!   pile up here. While any are unsent nothing more is read from it; its own sends then fill the
//!   system's buffers, and TCP makes it wait.
//!
//! # What is where
//!
//! [`Server`] is the loop, in one screen of code: begin reading there. [`Echo`] is what it runs:
//! listeners, datagram sockets, connections and the run queue, without a loop and without a clock,
//! so that it fits into any application's loop. In the source, `connection.rs` has the life of a
//! connection, `bind.rs` and `listener.rs` what can go wrong before it, and `datagram.rs` the side
//! that has no connections. [`Endpoint`] is where to serve, [`BoundSocket`] one where somebody else
//! has opened it, [`Network`] whom to serve; [`Config`] has the knobs, [`Stats`] the counters.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use mio_echo::{Config, Server};
//!
//! let config = Config::builder().endpoint("tcp://127.0.0.1:0".parse()?).build()?;
//! let mut server = Server::bind(config)?;
//! let address = server.endpoints()[0].address().unwrap();
//! let handle = server.shutdown_handle();
//! let service = std::thread::spawn(move || server.run());
//!
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"hello")?;
//! let mut answer = [0; 5];
//! client.read_exact(&mut answer)?;
//! assert_eq!(&answer, b"hello");
//!
//! drop(client);
//! handle.shutdown()?;
//! service.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `cli`, on by default, builds the `mio-echo` program. An application that embeds the library
//! does without it, and without what it depends on: `default-features = false`.
//!
//! # Systems
//!
//! Linux is where it is tried. The rest of what mio supports is written for, with care, and not
//! tried. There, datagrams are received and sent one at a time, and one that was sent to a wildcard
//! address is answered from whichever of the host's addresses the system chooses, with the TTL that
//! it chooses.

#![forbid(unsafe_code)]

mod config;
mod echo;
mod net;
mod policy;
mod server;
mod stats;

pub use config::{Config, ConfigBuilder, ConfigError, ZeroCopy};
pub use echo::Echo;
pub use net::bind::BoundSocket;
pub use net::endpoint::{Endpoint, EndpointError, EndpointErrorKind};
pub use policy::cidr::{Network, NetworkError};
pub use server::{Server, ShutdownHandle};
pub use stats::{Closed, Dropped, Rejected, Stats};

/// For tests of what needs it; where it is missing they fail in continuous integration.
#[cfg(test)]
fn has_ipv6() -> bool {
    let has_it = std::net::TcpListener::bind("[::1]:0").is_ok();
    assert!(
        has_it || std::env::var_os("CI").is_none(),
        "IPv6 is missing"
    );
    has_it
}
