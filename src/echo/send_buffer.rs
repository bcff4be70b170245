//! Bytes that were read from a peer and that the system would not yet take back.

use std::collections::TryReserveError;

use crate::echo::pipes::Pipe;

/// Unsent bytes of one connection, and where they are.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Unsent<P> {
    Buffer(SendBuffer),
    /// They came by [zero copy](crate::echo::pipes).
    Pipe(P),
}

impl<P: Pipe> Unsent<P> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Unsent::Buffer(buffer) => buffer.unsent().len(),
            Unsent::Pipe(pipe) => pipe.len(),
        }
    }

    /// What counts for the memory budget: a buffer is as large as ever until its last byte is sent.
    pub(crate) fn held(&self) -> usize {
        match self {
            Unsent::Buffer(buffer) => buffer.bytes.len(),
            Unsent::Pipe(pipe) => pipe.len(),
        }
    }
}

impl<P> Default for Unsent<P> {
    fn default() -> Self {
        Unsent::Buffer(SendBuffer::default())
    }
}

/// Unsent bytes in memory of their own. Owns it only while there are any.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct SendBuffer {
    bytes: Box<[u8]>,
    sent: usize,
}

/// Bytes of memory that pending bytes leave to allocations that must not fail, such as those of a
/// line of the log.
const HEADROOM: usize = 16 * 1024;

impl SendBuffer {
    /// Keeps a copy of `bytes`, in memory of just that size. Fails where there is no memory: peers
    /// decide how many such buffers there are, and must not be able to end the process.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self, TryReserveError> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len() + HEADROOM)?;
        copy.extend_from_slice(bytes);
        // The headroom is given back here.
        Ok(SendBuffer {
            bytes: copy.into(),
            sent: 0,
        })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Takes the first `count` unsent bytes as sent; gives the memory back after the last.
    pub(crate) fn consume(&mut self, count: usize) {
        self.sent += count;
        debug_assert!(self.sent <= self.bytes.len(), "more was sent than was kept");
        if self.sent == self.bytes.len() {
            *self = SendBuffer::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_and_the_memory_with_the_last() {
        let mut buffer = SendBuffer::copy_of(b"abcdef").unwrap();
        assert!(!buffer.is_empty());
        buffer.consume(4);
        assert_eq!(buffer.unsent(), b"ef");
        assert!(!buffer.is_empty());
        buffer.consume(2);
        assert!(buffer.is_empty());
        assert_eq!(
            buffer.bytes.len(),
            0,
            "memory was kept for a peer that caught up"
        );
    }
}
