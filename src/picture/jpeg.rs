//! JPEG to the last bit as libjpeg-turbo decodes it, and so Pillow; but not if it is cut short.

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, RgbImage, metadata::Orientation};
use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, PixelFormat};

use super::{MAX_BYTES, levels, require_size};

/// The picture's pixels; `exif` turns it as its EXIF orientation says.
pub fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage> {
    ensure!(!is_cut_short(encoded), "the JPEG is cut short: it has no end marker");
    let limits = DecodeLimits { max_memory: Some(4 * MAX_BYTES), ..DecodeLimits::default() };
    let mut decoder = Decoder::new_with_limits(encoded, limits)?;
    let (width, height) = (u32::from(decoder.header().width), u32::from(decoder.header().height));
    require_size(width, height, 3 * u64::from(width) * u64::from(height))?;
    let is_of_inks = matches!(decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
    decoder.set_output_format(if is_of_inks { PixelFormat::Cmyk } else { PixelFormat::Rgb });
    decoder.set_lenient(true); // as Pillow takes what is damaged, but not cut short
    let orientation = decoder.exif_orientation().filter(|_| exif).and_then(Orientation::from_exif);
    let decoded = decoder.decode_image()?.data;
    let rgb = match is_of_inks {
        // stored the other way round, as Adobe does
        true => decoded.as_chunks().0.iter().flat_map(|&inks: &[u8; 4]| levels::from_cmyk(inks.map(|x| !x))).collect(),
        false => decoded,
    };
    let mut image = DynamicImage::from(RgbImage::from_raw(width, height, rgb).context("its size")?);
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(image.into_rgb8())
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
