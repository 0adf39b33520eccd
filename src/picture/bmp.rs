//! BMP of 16 bits as Pillow reads it.

use anyhow::Result;
use image::{ImageFormat, RgbImage};

use super::by_library;

/// The picture's pixels. Levels of 5 or 6 bits, which the library rounds to 8, are cut off.
pub fn decode(encoded: &[u8]) -> Result<RgbImage> {
    let mut pixels = by_library(encoded, ImageFormat::Bmp, false)?;
    let number = |at: usize| encoded.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    // of the second header its size, the bits of a pixel, how they are stored, and which are green
    const OLD: u16 = 12;
    const MASKS: u16 = 3;
    if number(14) != Some(OLD) && number(28) == Some(16) {
        let six = number(30) == Some(MASKS) && number(58) == Some(0x7e0);
        let most = [31, if six { 63 } else { 31 }, 31];
        pixels.pixels_mut().for_each(|pixel| (0..3).for_each(|c| pixel[c] = cut_off(pixel[c], most[c])));
    }
    Ok(pixels)
}

/// A level of 8 bits that was rounded from one of `most` and fewer.
fn cut_off(level: u8, most: u32) -> u8 {
    let few = (u32::from(level) * most + 127) / 255;
    (few * 255 / most) as u8
}
