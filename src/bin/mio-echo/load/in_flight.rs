//! Which messages of a connection are on their way, and since when.

use crate::payload;

/// How many bits of a message's number count the messages of a connection. The others are the
/// connection's, so that what strays into another one is seen there.
const SEQ_BITS: u32 = 40;
const SEQ: u64 = (1 << SEQ_BITS) - 1;

/// Stand for the time of a message that is on its way no more.
const ANSWERED: u64 = u64::MAX;
const LOST: u64 = u64::MAX - 1;

/// What an intact answer is.
pub(crate) enum Answer {
    /// The first to this message, which was due at that time.
    First {
        due: u64,
        is_reordered: bool,
    },
    Again,
    /// It had been given up.
    Late,
}

/// A ring of the latest messages, each as the time when it was due, in nanoseconds.
pub(crate) struct Window {
    /// The connection's part of the numbers.
    connection: u64,
    due: Box<[u64]>,
    /// The number of the next message to be sent. The first of all is 0.
    next: u64,
    /// None before this one is on its way.
    oldest: u64,
    /// One more than the latest that was answered.
    expected: u64,
    outstanding: usize,
}

impl Window {
    /// Room for so many messages on their way; and for more that are not, so that one which is lost
    /// does not hold up the others before it is given up, and a duplicate of one is known.
    pub(crate) fn new(connection: usize, outstanding: usize) -> Self {
        let len = (outstanding * 4).next_power_of_two().max(16);
        Window {
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

    /// Notes the next message, which is due at that time.
    pub(crate) fn issue(&mut self, due: u64) {
        let next = self.next;
        *self.slot(next) = due;
        self.next += 1;
        self.outstanding += 1;
    }

    /// The message that an answer is to, from what its number has of bits: preferably the oldest
    /// on its way, and else the latest that it may be of.
    pub(crate) fn claimed_by(&self, header: &[u8]) -> Option<u64> {
        let (number, mask) = payload::number(header);
        let is_of = |seq: u64| (self.number(seq) ^ number) & mask == 0;
        if self.oldest < self.next && is_of(self.oldest) {
            return Some(self.oldest);
        }
        let latest = self.next.checked_sub(1)?;
        let seq = latest.checked_sub(latest.wrapping_sub(number) & mask & SEQ)?;
        is_of(seq).then_some(seq)
    }

    /// Notes that an intact answer has come.
    pub(crate) fn answer(&mut self, seq: u64) -> Answer {
        match self.settle(seq, ANSWERED) {
            Ok(due) => {
                let is_reordered = seq < self.expected;
                self.expected = self.expected.max(seq + 1);
                Answer::First { due, is_reordered }
            }
            Err(LOST) => Answer::Late,
            Err(_) => Answer::Again,
        }
    }

    /// Notes that what came in place of an answer was of no use.
    pub(crate) fn spoil(&mut self, seq: u64) {
        let _ = self.settle(seq, ANSWERED);
    }

    pub(crate) fn spoil_oldest(&mut self) {
        if self.oldest < self.next {
            self.spoil(self.oldest);
        }
    }

    /// Gives up what was due at that time or before. Gives the time of each to `lost`.
    pub(crate) fn give_up(&mut self, until: u64, mut lost: impl FnMut(u64)) {
        for seq in self.oldest..self.next {
            let due = *self.slot(seq);
            if due <= until && self.settle(seq, LOST).is_ok() {
                lost(due);
            }
        }
    }

    /// The time of a message that was on its way until now; or else what has become of it.
    fn settle(&mut self, seq: u64, state: u64) -> Result<u64, u64> {
        if seq < self.oldest && self.next - seq > self.due.len() as u64 {
            // Nobody knows any more; but the rare duplicate is as late.
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
        // A power of two, so that this is no division.
        let place = seq & (self.due.len() as u64 - 1);
        &mut self.due[usize::try_from(place).expect("less than the length")]
    }
}
