//! Pseudo-random numbers: the same seed gives the same numbers.

/// A generator of the kind xorshift64* (S. Vigna, 2016).
#[derive(Debug, Clone, Default)]
pub(super) struct Random(u64);

impl Random {
    /// Seeds that differ in one bit give unrelated numbers (the finalizer of `SplitMix64`).
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((state ^ (state >> 31)) | 1)
    }

    /// A number from 0 to `end - 1`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 to `max`, of any magnitude: small ones are as frequent as large ones.
    pub(super) fn magnitude(&mut self, max: u64) -> u64 {
        let bits = self.below(65 - u64::from(max.leading_zeros()));
        self.below(max.min((1 << bits) - 1) + 1)
    }

    /// True once in `n` times; never if `n` is 0.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
