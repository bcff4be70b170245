//! Bytes that were read from a peer and that the system would not yet take back.

use crate::zero_copy::Pipe;

/// Unsent bytes of one connection, and where they are.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) enum Unsent<P> {
    Buffer(SendBuffer),
    /// They came by [zero copy](crate::zero_copy).
    Pipe(P),
}

impl<P: Pipe> Unsent<P> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Unsent::Buffer(buffer) => buffer.unsent().len(),
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

impl From<Box<[u8]>> for SendBuffer {
    fn from(bytes: Box<[u8]>) -> Self {
        SendBuffer { bytes, sent: 0 }
    }
}

impl SendBuffer {
    /// Keeps a copy of `bytes`, in memory of just that size.
    pub(crate) fn keeping(bytes: &[u8]) -> Self {
        Box::<[u8]>::from(bytes).into()
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
        let mut buffer = SendBuffer::keeping(b"abcdef");
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
