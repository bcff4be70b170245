//! Elsewhere than on Linux nothing moves bytes from one socket to another.

use std::io;

use crate::echo::pipes::Pipe;

/// There are none.
#[derive(Debug)]
pub(crate) enum SystemPipe {}

impl Pipe for SystemPipe {
    fn is_usable() -> bool {
        false
    }

    fn open() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> usize {
        match *self {}
    }
}

impl SystemPipe {
    pub(crate) fn fill<S>(&mut self, _from: &S) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) fn drain<S>(&mut self, _to: &S) -> io::Result<usize> {
        match *self {}
    }
}
