//! Payload of messages: a number, and noise that depends on it. So every byte can be compared
//! without keeping the messages.

/// Bytes of the number, if it fits.
pub(crate) const NUMBER: usize = size_of::<u64>();

/// Writes the number in big-endian order. Returns the rest of the payload.
///
/// A shorter payload gets the low-order bytes.
pub(crate) fn write_number(payload: &mut [u8], number: u64) -> &mut [u8] {
    let (place, rest) = payload.split_at_mut(payload.len().min(NUMBER));
    place.copy_from_slice(&number.to_be_bytes()[NUMBER - place.len()..]);
    rest
}

/// The number at the start of a payload, and a mask of the bits that fit.
pub(crate) fn number(payload: &[u8]) -> (u64, u64) {
    let (mut number, mut mask) = (0, 0);
    for &byte in payload.iter().take(NUMBER) {
        number = number << 8 | u64::from(byte);
        mask = mask << 8 | 0xff;
    }
    (number, mask)
}

/// Fills with noise that depends on the seed.
pub(crate) fn fill_noise(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(NUMBER) {
        chunk.copy_from_slice(&next_noise(&mut state).to_be_bytes()[..chunk.len()]);
    }
}

/// One step of `SplitMix64`: consecutive numbers give unrelated bytes.
fn next_noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
