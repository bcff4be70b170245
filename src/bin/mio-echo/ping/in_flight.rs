//! Which pings are on their way, and which answer belongs to which.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::payload;

/// Fills the payload of the ping `seq`: its number, and bytes that only this number has.
pub(crate) fn fill(payload: &mut [u8], seq: u64) {
    payload::fill_noise(payload::write_number(payload, seq), seq);
}

/// What came back, after a look at every byte of it.
pub(crate) enum Answer {
    /// As it was sent: for the first time, or again.
    Intact {
        seq: u64,
        time: Duration,
        is_duplicate: bool,
    },
    /// Not as it was sent. The ping's number may have suffered too.
    Corrupt { seq: Option<u64>, what: String },
}

struct Ping {
    sent: Instant,
    is_answered: bool,
}

/// The latest pings: whatever is older is given up, so that memory does not grow with time.
pub(crate) struct Window {
    pings: VecDeque<Ping>,
    /// The number of the first in `pings`. The first of all is 1.
    first: u64,
    /// No ping before this one is still without an answer.
    oldest: u64,
    missing: usize,
    is_stream: bool,
    /// Room for a payload, to compare with.
    expected: Vec<u8>,
}

impl Window {
    const LIMIT: usize = 65_536;

    pub(crate) fn new(is_stream: bool, size: usize) -> Self {
        Window {
            pings: VecDeque::new(),
            first: 1,
            oldest: 1,
            missing: 0,
            is_stream,
            expected: vec![0; size],
        }
    }

    /// Notes a ping, which is sent now, and gives its number.
    pub(crate) fn add(&mut self, sent: Instant) -> u64 {
        if self.pings.len() == Self::LIMIT {
            self.forget_the_first();
        }
        self.pings.push_back(Ping {
            sent,
            is_answered: false,
        });
        self.missing += 1;
        self.end() - 1
    }

    fn forget_the_first(&mut self) {
        let is_missing = self.pings.pop_front().is_some_and(|ping| !ping.is_answered);
        self.missing -= usize::from(is_missing);
        self.first += 1;
        self.oldest = self.oldest.max(self.first);
    }

    /// Whether no ping can be added without giving up one that will be answered. That is for
    /// streams alone, which lose nothing; of datagrams, one that old is lost.
    pub(crate) fn is_full(&self) -> bool {
        self.is_stream && self.missing == Self::LIMIT
    }

    /// How many pings have no answer yet.
    pub(crate) fn missing(&self) -> usize {
        self.missing
    }

    pub(crate) fn is_last_answered(&self) -> bool {
        self.pings.back().is_some_and(|ping| ping.is_answered)
    }

    /// Finds out which ping a message answers, and whether it is as it was sent.
    pub(crate) fn judge(&mut self, message: &[u8], now: Instant) -> Answer {
        let corrupt = |seq, what| Answer::Corrupt { seq, what };
        if message.len() != self.expected.len() {
            return corrupt(None, format!("{} bytes were sent", self.expected.len()));
        }
        let Some(seq) = self.asked_for(message) else {
            return corrupt(None, "not asked for, or long ago".to_owned());
        };
        fill(&mut self.expected, seq);
        let differs = |(one, other)| one != other;
        if let Some(place) = message.iter().zip(&self.expected).position(differs) {
            if self.is_stream {
                // Its place in the stream shows that it is this one's answer: there is no other.
                self.settle(seq);
            }
            return corrupt(Some(seq), format!("from byte {}", place + 1));
        }
        let (sent, is_duplicate) = self.settle(seq);
        Answer::Intact {
            seq,
            time: now.saturating_duration_since(sent),
            is_duplicate,
        }
    }

    /// The number of the ping that a message answers.
    fn asked_for(&mut self, message: &[u8]) -> Option<u64> {
        if self.is_stream {
            // A stream keeps the order.
            self.oldest_missing()
        } else if message.is_empty() {
            // The next best: nothing tells one from another, a duplicate least of all.
            let latest = self.pings.back().map(|_| self.end() - 1);
            self.oldest_missing().or(latest)
        } else {
            self.numbered(message)
        }
    }

    fn oldest_missing(&mut self) -> Option<u64> {
        while self.get(self.oldest)?.is_answered {
            self.oldest += 1;
        }
        Some(self.oldest)
    }

    /// The latest ping whose number ends in the bytes that the message begins with: where those
    /// are few, the others that end so are 256 pings older, or a multiple of that.
    fn numbered(&self, message: &[u8]) -> Option<u64> {
        let (number, mask) = payload::number(message);
        let latest = self.end() - 1;
        let seq = latest.checked_sub(latest.wrapping_sub(number) & mask)?;
        self.get(seq).map(|_| seq)
    }

    /// Notes that the answer has come. Gives when the ping was sent, and whether it had been
    /// answered before.
    fn settle(&mut self, seq: u64) -> (Instant, bool) {
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
