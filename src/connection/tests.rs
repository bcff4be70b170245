//! A connection over streams that are played: first by a script, call by call; then by a model of
//! an edge-triggered socket, in every order that things can happen.

mod model;
mod scripted;

use std::net::Ipv4Addr;
use std::time::Instant;

use super::{Connection, Stream};
use crate::readiness::Readiness;
use crate::stream::Peer;

fn connect<S: Stream>(stream: S) -> Connection<S> {
    Connection::new(
        stream,
        Peer::Tcp((Ipv4Addr::LOCALHOST, 7).into()),
        Instant::now(),
    )
}

const READABLE: Readiness = Readiness {
    readable: true,
    writable: false,
    more_behind: false,
};
const WRITABLE: Readiness = Readiness {
    readable: false,
    writable: true,
    more_behind: false,
};
const MORE_BEHIND: Readiness = Readiness {
    readable: true,
    writable: true,
    more_behind: true,
};
