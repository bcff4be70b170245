//! What messages are made of: a number, and noise that follows from a number. Whoever knows the
//! numbers can so verify every byte without having kept any.

/// How many bytes the number takes, where there is room for all of it.
pub(crate) const NUMBER: usize = size_of::<u64>();

/// Writes the number, big-endian, and gives the rest of the payload.
///
/// A payload shorter than a number has the number's low-order bytes.
pub(crate) fn write_number(payload: &mut [u8], number: u64) -> &mut [u8] {
    let (place, rest) = payload.split_at_mut(payload.len().min(NUMBER));
    place.copy_from_slice(&number.to_be_bytes()[NUMBER - place.len()..]);
    rest
}

/// The number that a payload begins with, and the mask of those of its bits that fitted.
pub(crate) fn number(payload: &[u8]) -> (u64, u64) {
    let (mut number, mut mask) = (0, 0);
    for &byte in payload.iter().take(NUMBER) {
        number = number << 8 | u64::from(byte);
        mask = mask << 8 | 0xff;
    }
    (number, mask)
}

/// Fills with noise: other bytes for each seed.
pub(crate) fn fill_noise(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(NUMBER) {
        chunk.copy_from_slice(&next_noise(&mut state).to_be_bytes()[..chunk.len()]);
    }
}

/// A step of `SplitMix64`: neighbouring numbers give bytes that have nothing in common, so that
/// none is taken for another.
fn next_noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
