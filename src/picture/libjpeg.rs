//! JPEG to the last bit as libjpeg-turbo decodes it, and so Pillow.

use anyhow::{Context, Result};
use image::{DynamicImage, RgbImage, metadata::Orientation};
use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, PixelFormat};

use super::{MAX_BYTES, levels, require_size};

/// The picture's pixels; `exif` turns it as its EXIF orientation says.
pub fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage> {
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
