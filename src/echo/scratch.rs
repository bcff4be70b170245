//! What all connections use in their turns, one after the other.

use crate::config::ZeroCopy;
use crate::echo::pipes::{Pipe, Pipes};
use crate::echo::timers::Millis;

/// It holds no bytes between two turns.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Scratch<P> {
    /// Read into, and written from.
    pub(crate) buffer: Box<[u8]>,
    /// For streams in bulk.
    pub(crate) pipes: Pipes<P>,
    /// When these turns are.
    pub(crate) now: Millis,
}

impl<P: Pipe> Scratch<P> {
    pub(crate) fn new(buffer_size: usize, zero_copy: ZeroCopy) -> Self {
        Scratch {
            buffer: vec![0; buffer_size].into(),
            pipes: Pipes::new(zero_copy),
            now: 0,
        }
    }
}
