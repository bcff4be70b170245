//! The bytes of each message, so that they can be compared without being kept.
//!
//! A message is its number and a piece of a table of noise. The number selects the offset in the
//! table. So comparing is one memcmp(3), and no byte is computed.

use crate::payload::{self, NUMBER};

/// Possible offsets of a message in the table.
const PLACES: usize = 1 << 16;

pub(crate) struct Pattern {
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Bytes of the number in it.
    pub(crate) header: usize,
    table: Box<[u8]>,
}

impl Pattern {
    pub(crate) fn new(size: usize) -> Self {
        let header = size.min(NUMBER);
        let mut table = vec![0; PLACES + size - header].into_boxed_slice();
        payload::fill_noise(&mut table, 0);
        Pattern {
            size,
            header,
            table,
        }
    }

    /// The bytes of a message after its number.
    pub(crate) fn noise(&self, number: u64) -> &[u8] {
        // The golden ratio spreads consecutive numbers over the table (Fibonacci hashing).
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - PLACES.ilog2());
        let place = usize::try_from(place).expect("16 bits");
        &self.table[place..place + self.size - self.header]
    }

    /// A message from its byte `offset` on: the rest of its number, which is written to `header`, and
    /// of its noise.
    pub(crate) fn pieces<'a>(
        &'a self,
        number: u64,
        offset: usize,
        header: &'a mut [u8; NUMBER],
    ) -> [&'a [u8]; 2] {
        let header = &mut header[..self.header];
        payload::write_number(header, number);
        let noise = &self.noise(number)[offset.saturating_sub(self.header)..];
        [&header[offset.min(self.header)..], noise]
    }

    /// Writes a message from its byte `offset` on, up to the end of `room`. Returns the number of
    /// bytes.
    pub(crate) fn copy(&self, number: u64, offset: usize, room: &mut [u8]) -> usize {
        let mut filled = 0;
        for piece in self.pieces(number, offset, &mut [0; NUMBER]) {
            let count = piece.len().min(room.len() - filled);
            room[filled..][..count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        filled
    }
}
