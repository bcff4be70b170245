//! Bytes that were read from a peer and that the system would not yet take back.

/// Unsent bytes of one connection. Owns memory only while there are any.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct SendBuffer {
    bytes: Box<[u8]>,
    sent: usize,
}

impl SendBuffer {
    /// Keeps a copy of `bytes`, in memory of just that size.
    pub(crate) fn keeping(bytes: &[u8]) -> Self {
        SendBuffer {
            bytes: bytes.into(),
            sent: 0,
        }
    }

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
