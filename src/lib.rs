//! An echo server (RFC 862) on a hand-written readiness loop: one thread, no async runtime.
//!
//! Whatever a peer sends comes back to it, over TCP, UDP and Unix sockets. The task is small, so that
//! the machinery can be seen: how one thread serves thousands of peers without waiting for any of
//! them.
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
//! # Which type to use
//!
//! - [`Server`] is a complete service with its own loop. `EventLoop::turn` in its file is the place to
//!   begin reading: one iteration of the loop, on one screen.
//! - [`Echo`] is the engine without a loop: it fits into the loop of any application that uses
//!   [`mio`].
//! - [`Config`] has the settings, [`Endpoint`] is an address to serve at, [`BoundSocket`] a socket
//!   that another part of the application or a supervisor has bound, [`Network`] an entry of the
//!   allow list, and [`Stats`] the counters.
//!
//! `docs/embedding.md` has the glue for other loops, and what an application decides.
//!
//! The [guide] builds such a loop in twelve small programs, from the blocking calls of a first lesson to
//! this crate. Each program has a fault that one command shows.
//!
//! # How it works
//!
//! ## The loop
//!
//! A non-blocking socket never waits: a call either does something or returns `EWOULDBLOCK`. So one
//! thread can serve many sockets if it knows which of them are ready. The system's selector knows:
//! epoll on Linux, kqueue on macOS and the BSDs, behind [`mio::Poll`] on every system. The loop sleeps
//! until there are events, notes what they make possible, and does it:
//!
//! ```text
//! loop {
//!     poll.poll(&mut events, echo.timeout(now))    // sleep until an event or a deadline
//!     for event in &events { echo.handle(event) }  // queue its socket, if it has something to do
//!     echo.run(now)                                // give each socket on the queue one turn
//! }
//! ```
//!
//! `handle` makes no system call. `run` first acts on the deadlines that have passed, then gives each
//! socket on the run queue one turn, then closes the timed-out connections in which still no byte has
//! moved. An error of one connection closes that connection, is counted, and never reaches the caller.
//!
//! `mio-echo -vv` logs each of these steps, and `docs/trace.md` follows one echo through them, beside
//! the same run under `strace`. `examples/timeline.rs` shows them on a time axis, and `examples/peer.rs`
//! is a client that misbehaves.
//!
//! ## Edge-triggered readiness
//!
//! An edge-triggered selector reports a change once: bytes have arrived, or the send buffer has room
//! again. Four rules follow:
//!
//! 1. **Readiness is a hint, the system call is the truth.** Events may be stale, merged or without
//!    effect. The end of the stream is a read that returns 0, and an error is what a call returned.
//! 2. **A socket is drained, or stays on the run queue.** Code that stops before `EWOULDBLOCK` gets no
//!    further event for the bytes that remain.
//! 3. **A short read means "drained" on epoll**: a read that did not fill its buffer has emptied the
//!    socket (epoll(7)). This saves the call that would return `EWOULDBLOCK`, a third of all calls.
//!    There are exceptions: if the event also reports the end of the stream, at a TCP urgent mark,
//!    behind descriptors sent over a Unix socket, for splice(2), and on other selectors than epoll.
//! 4. **A connection is registered once**, for reading and writing. Changing the registration with each
//!    change of state would cost a system call each time.
//!
//! ## The run queue
//!
//! A turn of a connection is one read and one write. If there may be more to do, the connection goes
//! to the back of the run queue, behind all others with work. So a peer that never stops sending
//! delays another one by one turn of each connection, and no more. Listeners and UDP sockets take
//! turns on the same queue, with budgets of their own: up to 32 connections are accepted, or 32
//! messages of UDP received, in one turn. While the queue is not empty, `timeout` is zero and the loop
//! polls for events without sleeping.
//!
//! ## Back-pressure
//!
//! A peer that does not read must not make its bytes pile up here. When a write takes only a part, the
//! rest is kept as pending bytes, and nothing more is read from that peer until they are sent. The
//! kernel's buffers then fill, and TCP flow control stops the sender:
//!
//! ```text
//!             readable                    more may be readable
//!   Reading ───────────────► echo ─────────────────────► run queue ─► echo (next turn)
//!      ▲                       │ write would block
//!      │ read would block      └──────► WriteBlocked: pending bytes kept, not reading
//!      └───────────────────────────────────── flush ◄─ writable ──┘
//!   end of stream, nothing pending ─► close     error, reset, timeout, limit ─► close with that reason
//!   end of drain time ─► Flushing ─► shutdown(Write) ─► Lingering (read and discard) ─► close
//! ```
//!
//! All connections read into one shared buffer and write from it at once. Only pending bytes are
//! copied, so a connection whose peer keeps up owns no memory except its entry in the slab. A limit
//! ([`max_buffered`](ConfigBuilder::max_buffered)) holds for the pending bytes of all connections
//! together. At the limit, the write-blocked connection whose last byte moved longest ago is closed.
//!
//! ## Streams in bulk
//!
//! On Linux, a stream that fills a buffer of at least 16 KiB with one read is spliced from then on, if one
//! of 32 pipes is free: splice(2) moves its bytes from the socket into a pipe and from the pipe back to
//! the socket, without copying them. One pipe serves all connections that keep up, as it is empty between
//! two turns. A write-blocked connection keeps its pipe. When less than 16 KiB arrive at once, the
//! connection reads and writes again.
//!
//! ## Timeouts
//!
//! A read only records a timestamp. A timer wheel holds the key of each connection in the slot of its
//! deadline. When that slot is over, the connection has timed out, or its key moves to the slot of its
//! new deadline. Before a timeout is judged the connection gets a turn, so that none is closed while
//! its bytes wait in the kernel, for example after a pause of the process.
//!
//! ## UDP
//!
//! A UDP socket has many peers and no connections. Its turn is a batch: one `recvmmsg` call, and one
//! `sendmmsg` call for replies with the same control messages (local address and TTL). While batches
//! keep coming, the socket leaves the selector and is polled from the run queue, as Linux does with
//! network cards (NAPI). Replies that cannot be sent at once are dropped and counted: a queue would let
//! one peer delay the others.
//!
//! Datagrams of one peer that come one right behind the other come as a train on Linux: several of the same
//! size in one message, which goes back in one (`UDP_GRO` and `UDP_SEGMENT`; see udp(7)). They take one
//! walk through the system together. On the network they are ordinary datagrams.
//!
//! # Layout
//!
//! Dependencies point one way: the program → `server` → `echo` → `config` and `stats` → `policy` and
//! `net`. The last two know nothing of each other.
//!
//! - `server.rs`: the poll loop, and the handle that shuts it down from another thread.
//! - `echo/`: the engine. It has no poll and no clock.
//!   - `mod.rs`: `Echo`, with the sockets of the operating system. `engine.rs`: `handle`, `run` and
//!     `timeout`. `endpoint_sockets.rs`: the listeners and UDP sockets. `control.rs`, `events.rs`: limits
//!     and connections that the application changes, and what it learns of them.
//!   - `connection.rs`: the echo state machine of one connection. `splice.rs`: its zero-copy mode.
//!   - `shared.rs`: the read buffer and the pool of pipes, which all connections share.
//!   - `accept.rs`: accepts connections, pauses at limits, backs off from errors.
//!   - `udp.rs`: receives a batch of datagrams, filters it and replies.
//!   - `timers.rs`: the timer wheel. `timeouts.rs`: which connections it closes.
//!   - `shutdown.rs`: drain, linger, abort.
//! - `net/`: sockets and the operating system. It has no policy and no counters.
//!   - `mod.rs`: the interface between the engine and the system: the list of all system calls, and
//!     what an event says.
//!   - `endpoint.rs`, `bind.rs`: from text to bound sockets.
//!   - `listener.rs`, `stream.rs`, `pipe.rs`, `udp/`: what the engine does with sockets.
//!   - `unix_socket.rs`: the file of a Unix socket. `syn_filter.rs`: the socket filter of a restart.
//! - `policy/`: decisions without I/O.
//!   - `cidr.rs`, `admission.rs`: the allow list, and the limit of connections per source.
//!   - `reply_filter.rs`: which datagrams get a reply. `log_throttle.rs`: one warning a minute.
//! - `config.rs`, `stats.rs`: the settings and the counters.
//! - `simulation/`: the engine in a simulated world, for tests. `guide.rs`: the pages of `docs/guide`.
//! - `bin/mio-echo/`: the program, which uses only the public API.
//!
//! # The steps of a socket program
//!
//! | step | code |
//! |---|---|
//! | socket, bind | `Bound::bind` in `net/bind.rs` |
//! | make it non-blocking | `Bound::new` in `net/bind.rs`; accept4(2) makes accepted sockets so |
//! | listen | `Listener::listen` in `net/listener.rs` |
//! | all of this, done before by a supervisor | `BoundSocket::new` in `net/bind.rs` |
//! | wait for many sockets at once | `EventLoop::turn` in `server.rs` |
//! | accept | `Listener::accept` in `net/listener.rs`; how often, and when not: `Engine::accept` in `echo/accept.rs`; from which addresses: `Admission::acquire` in `policy/admission.rs` |
//! | recv, send | `Connection::echo` and `Connection::flush` in `echo/connection.rs`; without a copy: `Connection::splice_echo` in `echo/splice.rs` |
//! | recvfrom, sendto | `net/udp/fallback.rs`; many at once: `net/udp/linux.rs` |
//! | shutdown | `Connection::flush` in `echo/connection.rs`, when this side ends the connection |
//! | close | `Engine::close` in `echo/engine.rs`, where the connection is dropped |
//! | the client's connect, send, recv | `connect`, `talk_in_a_stream` and `talk_in_datagrams` in `examples/client.rs` |
//!
//! # Features
//!
//! - `cli` (default): the `mio-echo` program, which serves, and its subcommand `check`.
//! - `tools` (default): the subcommands `ping` and `load`. Includes `cli`.
//! - `man` (default): the subcommands `man` and `completions`. Includes `cli`.
//!
//! An application that embeds the library sets `default-features = false`, and has none of the
//! program's dependencies.
//!
//! # Systems
//!
//! Linux is the tested system. On Windows, the tests hold under Wine; for macOS and FreeBSD, the code is
//! compiled and not run. On these systems datagrams are received and sent one at a time. A datagram
//! that comes to a socket at a wildcard address is answered from the address that the system chooses, with
//! the TTL that it chooses, also if it was a broadcast or has no TTL left. Windows has no Unix sockets.

#![forbid(unsafe_code)]

mod config;
mod echo;
#[cfg(all(doc, not(doctest)))]
pub mod guide;
mod net;
mod policy;
mod server;
#[cfg(test)]
mod simulation;
mod stats;

pub use config::{Config, ConfigBuilder, ConfigError, ZeroCopy};
pub use echo::{ConnectionEvent, Echo};
pub use mio;
pub use net::bind::BoundSocket;
pub use net::endpoint::{Endpoint, EndpointError, EndpointErrorKind};
pub use policy::cidr::{Network, NetworkError};
pub use server::{Server, ShutdownHandle};
pub use stats::{CloseReason, Closed, Dropped, Rejected, Stats};

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

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the examples of the page on embedding.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
