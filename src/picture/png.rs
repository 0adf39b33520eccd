//! What of a PNG the decoder does not say, or does not take as Pillow does.

use std::borrow::Cow;

/// The file with an end chunk, where it stops after a whole chunk without one: the decoder waits
/// for what follows the pixels.
pub fn with_end(encoded: &[u8]) -> Cow<'_, [u8]> {
    const SIGNATURE: usize = 8;
    // length, name, and checksum
    const AROUND: usize = 12;
    const END: [u8; AROUND] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82];
    let mut at = SIGNATURE;
    while let Some((length, name)) = encoded.get(at..at + 8).and_then(|head| head.split_first_chunk::<4>()) {
        if name == b"IEND" {
            return Cow::Borrowed(encoded);
        }
        at = at.saturating_add(u32::from_be_bytes(*length) as usize + AROUND);
    }
    if at == encoded.len() { Cow::Owned([encoded, &END].concat()) } else { Cow::Borrowed(encoded) }
}

/// Whether its colour type is that of grey without opacity.
pub fn is_of_grey(encoded: &[u8]) -> bool {
    const COLOUR_TYPE: usize = 25;
    encoded.get(COLOUR_TYPE) == Some(&0)
}
