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

    /// Writes a message from its byte `offset` on, up to the end of `room`. Returns the number of
    /// bytes.
    pub(crate) fn copy(&self, number: u64, offset: usize, room: &mut [u8]) -> usize {
        let noise = self.noise(number);
        let count = room.len().min(self.size - offset);
        let room = &mut room[..count];
        if offset >= self.header {
            room.copy_from_slice(&noise[offset - self.header..][..count]);
        } else if offset == 0 && count >= self.header {
            let rest = payload::write_number(room, number);
            rest.copy_from_slice(&noise[..rest.len()]);
        } else {
            self.copy_within_number(number, offset, room);
        }
        count
    }

    /// The rare case: the piece begins or ends inside the number.
    #[cold]
    fn copy_within_number(&self, number: u64, offset: usize, room: &mut [u8]) {
        let mut header = [0; NUMBER];
        payload::write_number(&mut header[..self.header], number);
        let bytes = header[..self.header].iter().chain(self.noise(number));
        for (to, from) in room.iter_mut().zip(bytes.skip(offset)) {
            *to = *from;
        }
    }
}
