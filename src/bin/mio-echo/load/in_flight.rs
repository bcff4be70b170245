//! The unanswered messages of a connection, and when they were due.

use crate::payload;

/// Bits of the number that count the messages of a connection. The other bits are the number of the
/// connection, so that an answer on the wrong connection is detected.
const SEQ_BITS: u32 = 40;
const SEQ: u64 = (1 << SEQ_BITS) - 1;

/// Instead of a time, for messages that are no longer in flight.
const ANSWERED: u64 = u64::MAX;
const LOST: u64 = u64::MAX - 1;

/// An intact answer.
pub(crate) enum Answer {
    /// The first answer to the message, which was due at this time.
    First {
        due: u64,
        is_reordered: bool,
    },
    Again,
    /// The message was already counted as lost.
    Late,
}

/// A ring buffer of the latest messages: the time when each was due, in nanoseconds.
pub(crate) struct InFlight {
    /// The upper bits of the numbers.
    connection: u64,
    due: Box<[u64]>,
    /// The number of the next message. The first one is 0.
    next: u64,
    /// No message before this one is in flight.
    oldest: u64,
    /// One more than the highest answered number.
    expected: u64,
    outstanding: usize,
}

impl InFlight {
    /// Has room for as many messages in flight and for more that are not: so a lost message does
    /// not block the others before its timeout, and a duplicate is recognized.
    pub(crate) fn new(connection: usize, outstanding: usize) -> Self {
        let len = (outstanding * 4).next_power_of_two().max(16);
        InFlight {
            connection: (connection as u64) << SEQ_BITS,
            due: vec![ANSWERED; len].into_boxed_slice(),
            next: 0,
            oldest: 0,
            expected: 0,
            outstanding: 0,
        }
    }

    pub(crate) fn number(&self, seq: u64) -> u64 {
        self.connection | seq & SEQ
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    pub(crate) fn has_room(&self) -> bool {
        self.next - self.oldest < self.due.len() as u64
    }

    /// Adds the next message, which is due at this time.
    pub(crate) fn issue(&mut self, due: u64) {
        let next = self.next;
        *self.slot(next) = due;
        self.next += 1;
        self.outstanding += 1;
    }

    /// The message that an answer belongs to, by the bits of its number that fit: preferably the
    /// oldest in flight, or else the latest possible one.
    pub(crate) fn find(&self, header: &[u8]) -> Option<u64> {
        let (number, mask) = payload::number(header);
        let is_of = |seq: u64| (self.number(seq) ^ number) & mask == 0;
        if self.oldest < self.next && is_of(self.oldest) {
            return Some(self.oldest);
        }
        let latest = self.next.checked_sub(1)?;
        let seq = latest.checked_sub(latest.wrapping_sub(number) & mask & SEQ)?;
        is_of(seq).then_some(seq)
    }

    /// Counts an intact answer.
    pub(crate) fn answer(&mut self, seq: u64) -> Answer {
        match self.take(seq, ANSWERED) {
            Ok(due) => {
                let is_reordered = seq < self.expected;
                self.expected = self.expected.max(seq + 1);
                Answer::First { due, is_reordered }
            }
            Err(LOST) => Answer::Late,
            Err(_) => Answer::Again,
        }
    }

    /// Removes a message whose answer was corrupt.
    pub(crate) fn remove(&mut self, seq: u64) {
        let _ = self.take(seq, ANSWERED);
    }

    pub(crate) fn remove_oldest(&mut self) {
        if self.oldest < self.next {
            self.remove(self.oldest);
        }
    }

    /// Gives up messages that were due at `until` or before. Calls `lost` with the time of each.
    pub(crate) fn give_up(&mut self, until: u64, mut lost: impl FnMut(u64)) {
        for seq in self.oldest..self.next {
            let due = *self.slot(seq);
            if due <= until && self.take(seq, LOST).is_ok() {
                lost(due);
            }
        }
    }

    /// Takes a message out and returns when it was due, or its state if it is no longer in flight.
    fn take(&mut self, seq: u64, state: u64) -> Result<u64, u64> {
        if seq < self.oldest && self.next - seq > self.due.len() as u64 {
            // Its slot is in use again. Such a late duplicate is rare, and counted as late.
            return Err(LOST);
        }
        let due = std::mem::replace(self.slot(seq), state);
        if due >= LOST {
            return Err(due);
        }
        self.outstanding -= 1;
        while self.oldest < self.next && *self.slot(self.oldest) >= LOST {
            self.oldest += 1;
        }
        Ok(due)
    }

    fn slot(&mut self, seq: u64) -> &mut u64 {
        // A power of two, so that the remainder needs no division.
        let place = seq & (self.due.len() as u64 - 1);
        &mut self.due[usize::try_from(place).expect("less than the length")]
    }
}
