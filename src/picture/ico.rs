//! The picture of an icon that Pillow takes.

use anyhow::{Context, Result};
use image::{ImageFormat, RgbImage};

use super::{by_library, readable};

/// Sizes of the header and of an entry, in bytes.
const HEADER: usize = 6;
const ENTRY: usize = 16;

/// The pixels of the largest picture, of several as large of the one with the fewest colours.
pub fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let count = encoded.get(4..HEADER).context("it has no entries")?;
    let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
    let entries = encoded.get(HEADER..HEADER + ENTRY * count).context("it is cut short: its entries have no end")?;
    let side = |length: u8| if length == 0 { 256 } else { u32::from(length) };
    let order = |entry: &&[u8]| {
        let (bits, colours) = (u16::from_le_bytes([entry[6], entry[7]]), entry[2]);
        let depth = match (bits, colours) {
            (0, 0) => 256,
            (0, colours) => u32::from(colours).next_power_of_two().trailing_zeros(),
            (bits, _) => u32::from(bits),
        };
        (std::cmp::Reverse(side(entry[0]) * side(entry[1])), depth)
    };
    let best = entries.chunks_exact(ENTRY).min_by_key(order).context("it has no entries")?;
    let number = |at: usize| u32::from_le_bytes([best[at], best[at + 1], best[at + 2], best[at + 3]]) as usize;
    let (length, start) = (number(8), number(12));
    let picture = encoded.get(start..start.saturating_add(length)).context("it is cut short")?;
    if let Some((_, ImageFormat::Png)) = readable(picture) {
        return by_library(picture, ImageFormat::Png, false);
    }
    // the decoder takes the one of the most colours: it is shown one alone, in the place of the first
    let mut alone = encoded.to_vec();
    alone[4..HEADER].copy_from_slice(&1u16.to_le_bytes());
    alone[HEADER..HEADER + ENTRY].copy_from_slice(best);
    by_library(&alone, ImageFormat::Ico, false)
}
