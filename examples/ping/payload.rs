//! What a ping carries: its number, and bytes that only this number has.

/// How many bytes the number takes, where there is room for all of it.
const NUMBER: usize = size_of::<u64>();

/// Fills the payload of the ping `seq`: its number, big-endian, and noise that follows from the
/// number. Whoever knows the number can so verify every byte without having kept any.
///
/// A payload shorter than a number has the number's low-order bytes.
pub(crate) fn fill(payload: &mut [u8], seq: u64) {
    let (number, noise) = payload.split_at_mut(payload.len().min(NUMBER));
    number.copy_from_slice(&seq.to_be_bytes()[NUMBER - number.len()..]);
    let mut state = seq;
    for chunk in noise.chunks_mut(NUMBER) {
        chunk.copy_from_slice(&next_noise(&mut state).to_be_bytes()[..chunk.len()]);
    }
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

/// A step of `SplitMix64`: neighbouring numbers give bytes that have nothing in common, so that
/// none is taken for another.
fn next_noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
