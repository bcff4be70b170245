//! Pings in flight, and the ping that an answer belongs to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::payload;

/// Fills the payload of a ping: its number, and bytes that depend on the number.
pub(crate) fn fill(payload: &mut [u8], seq: u64) {
    payload::fill_noise(payload::write_number(payload, seq), seq);
}

/// A received message, after every byte was compared.
pub(crate) enum Answer {
    /// As it was sent, for the first time or again.
    Intact {
        seq: u64,
        time: Duration,
        is_duplicate: bool,
    },
    /// Not as it was sent. The number can be corrupted too.
    Corrupt { seq: Option<u64>, what: String },
}

struct Ping {
    sent: Instant,
    is_answered: bool,
}

/// The latest pings. Older ones are forgotten, so that memory is bounded.
pub(crate) struct InFlight {
    pings: VecDeque<Ping>,
    /// The number of the first ping in `pings`. The first of all is 1.
    first: u64,
    /// All pings before this one are answered.
    oldest: u64,
    missing: usize,
    is_stream: bool,
    /// A buffer for the expected payload.
    expected: Vec<u8>,
}

impl InFlight {
    const LIMIT: usize = 65_536;

    pub(crate) fn new(is_stream: bool, size: usize) -> Self {
        InFlight {
            pings: VecDeque::new(),
            first: 1,
            oldest: 1,
            missing: 0,
            is_stream,
            expected: vec![0; size],
        }
    }

    /// Adds a ping that is sent now. Returns its number.
    pub(crate) fn add(&mut self, sent: Instant) -> u64 {
        if self.pings.len() == Self::LIMIT {
            self.forget_first();
        }
        self.pings.push_back(Ping {
            sent,
            is_answered: false,
        });
        self.missing += 1;
        self.end() - 1
    }

    fn forget_first(&mut self) {
        let is_missing = self.pings.pop_front().is_some_and(|ping| !ping.is_answered);
        self.missing -= usize::from(is_missing);
        self.first += 1;
        self.oldest = self.oldest.max(self.first);
    }

    /// Whether another ping would replace one that will be answered. Only in streams, which lose
    /// nothing; a datagram as old as that is lost.
    pub(crate) fn is_full(&self) -> bool {
        self.is_stream && self.missing == Self::LIMIT
    }

    /// The number of unanswered pings.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    pub(crate) fn is_last_answered(&self) -> bool {
        self.pings.back().is_some_and(|ping| ping.is_answered)
    }

    /// Matches a message to its ping, and compares it.
    pub(crate) fn check(&mut self, message: &[u8], now: Instant) -> Answer {
        let corrupt = |seq, what| Answer::Corrupt { seq, what };
        if message.len() != self.expected.len() {
            return corrupt(None, format!("{} bytes were sent", self.expected.len()));
        }
        let Some(seq) = self.find_ping(message) else {
            return corrupt(None, "not asked for, or long ago".to_owned());
        };
        fill(&mut self.expected, seq);
        let differs = |(one, other)| one != other;
        if let Some(place) = message.iter().zip(&self.expected).position(differs) {
            if self.is_stream {
                // Its place in the stream identifies the ping. No other answer will arrive.
                self.mark_answered(seq);
            }
            return corrupt(Some(seq), format!("from byte {}", place + 1));
        }
        let (sent, is_duplicate) = self.mark_answered(seq);
        Answer::Intact {
            seq,
            time: now.saturating_duration_since(sent),
            is_duplicate,
        }
    }

    /// The number of the ping that a message answers.
    fn find_ping(&mut self, message: &[u8]) -> Option<u64> {
        if self.is_stream {
            // A stream keeps the order.
            self.oldest_missing()
        } else if message.is_empty() {
            // Empty messages cannot be told apart, and duplicates neither.
            let latest = self.pings.back().map(|_| self.end() - 1);
            self.oldest_missing().or(latest)
        } else {
            self.find_by_number(message)
        }
    }

    fn oldest_missing(&mut self) -> Option<u64> {
        while self.get(self.oldest)?.is_answered {
            self.oldest += 1;
        }
        Some(self.oldest)
    }

    /// The latest ping whose number ends in the first bytes of the message. If only one byte fits,
    /// the others with the same byte are older by a multiple of 256.
    fn find_by_number(&self, message: &[u8]) -> Option<u64> {
        let (number, mask) = payload::number(message);
        let latest = self.end() - 1;
        let seq = latest.checked_sub(latest.wrapping_sub(number) & mask)?;
        self.get(seq).map(|_| seq)
    }

    /// Marks a ping as answered. Returns when it was sent, and whether it was answered before.
    fn mark_answered(&mut self, seq: u64) -> (Instant, bool) {
        let index = self.index(seq).expect("it was found a moment ago");
        let ping = &mut self.pings[index];
        let was_answered = ping.is_answered;
        ping.is_answered = true;
        self.missing -= usize::from(!was_answered);
        (ping.sent, was_answered)
    }

    fn get(&self, seq: u64) -> Option<&Ping> {
        self.pings.get(self.index(seq)?)
    }

    fn index(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.first)?).ok()
    }

    /// The number of the next ping.
    fn end(&self) -> u64 {
        self.first + self.pings.len() as u64
    }
}
