//! Pseudo-random numbers: the same seed gives the same numbers.

use super::*;

/// A generator of the kind xorshift64* (S. Vigna, 2016). A draw needs only a shared reference.
#[derive(Debug, Clone, Default)]
pub(crate) struct Random {
    pub(super) state: Cell<u64>,
    /// How many numbers were drawn.
    pub(super) draws: Cell<u64>,
    /// The draws that give 0 instead of a random number.
    pub(super) zeroed: BTreeSet<u64>,
}

impl Random {
    /// Seeds that differ in one bit give unrelated numbers (the finalizer of `SplitMix64`).
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let random = Random::default();
        random.state.set((state ^ (state >> 31)) | 1);
        random
    }

    /// A number from 0 to `end - 1`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut state = self.state.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.state.set(state);
        let draw = self.draws.replace(self.draws.get() + 1);
        let number = u128::from(state.wrapping_mul(0x2545_f491_4f6c_dd1d));
        if self.zeroed.contains(&draw) {
            return 0;
        }
        ((number * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to `max`, of any magnitude: small ones are as frequent as large ones.
    pub(super) fn magnitude(&self, max: u64) -> u64 {
        let bits = self.below(65 - u64::from(max.leading_zeros()));
        self.below(max.min((1 << bits) - 1) + 1)
    }

    /// A number below 2^`bits` of any magnitude, with a draw for each bit: zeroing one makes it smaller.
    pub(super) fn bits(&self, bits: u64) -> u64 {
        let used = (1 << self.below(bits + 1)) - 1;
        (0..bits).map(|bit| self.below(2) << bit).sum::<u64>() & used
    }

    /// True once in `n` times, and never if `n` is 0. A draw of 0 gives false, except for an `n` of 1.
    pub(super) fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) + 1 == n
    }

    /// `rare` once in `n` times, and else `usual`.
    pub(super) fn either<T>(&self, n: u64, rare: T, usual: T) -> T {
        if self.one_in(n) { rare } else { usual }
    }

    /// One of the words of a text.
    pub(super) fn word(&self, text: &'static str) -> &'static str {
        self.pick(&text.split(' ').collect::<Vec<_>>())
    }

    pub(super) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
