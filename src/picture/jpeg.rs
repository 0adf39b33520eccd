//! JPEG, unless it is cut short.

use anyhow::{Result, ensure};
use image::RgbImage;

/// The picture's pixels; `exif` turns it as its EXIF orientation says.
pub fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage> {
    ensure!(!is_cut_short(encoded), "the JPEG is cut short: it has no end marker");
    #[cfg(feature = "exact-jpeg")]
    return super::libjpeg::decode(encoded, exif);
    #[cfg(not(feature = "exact-jpeg"))]
    return super::by_library(encoded, image::ImageFormat::Jpeg, exif);
}

/// Whether a JPEG ends before its end-of-image marker. The decoder would paint the missing part
/// grey, which Pillow refuses. An embedded thumbnail has a marker of its own, so only what follows
/// the headers counts.
fn is_cut_short(encoded: &[u8]) -> bool {
    if !encoded.starts_with(&[0xff, 0xd8]) {
        return false;
    }
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = encoded.get(at..at + 4) {
        if marker == 0xff {
            at += 1; // fill byte
            continue;
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
        const START_OF_SCAN: u8 = 0xda;
        if marker == START_OF_SCAN {
            break;
        }
    }
    !encoded.get(at..).unwrap_or_default().windows(2).any(|pair| pair == [0xff, 0xd9])
}
