//! Pseudo-random numbers: the same seed gives the same numbers.

use std::cell::Cell;

/// A generator of the kind xorshift64* (S. Vigna, 2016).
#[derive(Debug, Clone, Default)]
pub(crate) struct Random(Cell<u64>);

impl Random {
    /// Seeds that differ in one bit give unrelated numbers (the finalizer of `SplitMix64`).
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random(Cell::new((state ^ (state >> 31)) | 1))
    }

    /// A number from 0 to `end - 1`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to `max`, of any magnitude: small ones are as frequent as large ones.
    pub(super) fn magnitude(&self, max: u64) -> u64 {
        let bits = self.below(65 - u64::from(max.leading_zeros()));
        self.below(max.min((1 << bits) - 1) + 1)
    }

    /// True once in `n` times; never if `n` is 0.
    pub(super) fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// `rare` once in `n` times, and else `usual`.
    pub(super) fn either<T>(&self, n: u64, rare: T, usual: T) -> T {
        if self.one_in(n) { rare } else { usual }
    }

    /// `max` in most cases, and else a number from 1 to `max`.
    pub(super) fn partly(&self, max: u64) -> u64 {
        self.either(4, 1 + self.below(max), max)
    }

    pub(super) fn pick<T: Copy>(&self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
