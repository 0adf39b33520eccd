//! Levels of 8 bits, and RGB of other colours, as Pillow's `convert("RGB")` makes them.

use image::{DynamicImage, ImageBuffer, Pixel};

/// A picture of 16 bits in 8, each level by `narrow`; another as it is.
pub fn of_wide(image: DynamicImage, narrow: impl Fn(u16) -> u8) -> DynamicImage {
    fn narrowed<W: Pixel<Subpixel = u16>, N: Pixel<Subpixel = u8>>(
        image: ImageBuffer<W, Vec<u16>>,
        narrow: impl Fn(u16) -> u8,
    ) -> ImageBuffer<N, Vec<u8>> {
        let (width, height) = image.dimensions();
        let levels = image.into_raw().into_iter().map(narrow).collect();
        ImageBuffer::from_raw(width, height, levels).unwrap_or_else(|| ImageBuffer::new(width, height))
    }
    match image {
        DynamicImage::ImageLuma16(image) => DynamicImage::ImageLuma8(narrowed(image, narrow)),
        DynamicImage::ImageLumaA16(image) => DynamicImage::ImageLumaA8(narrowed(image, narrow)),
        DynamicImage::ImageRgb16(image) => DynamicImage::ImageRgb8(narrowed(image, narrow)),
        DynamicImage::ImageRgba16(image) => DynamicImage::ImageRgba8(narrowed(image, narrow)),
        image => image,
    }
}

/// Of 16 bits: the upper half where they are of a colour or beside transparency, or else what is
/// more than 255 is 255.
pub fn of_u16(values: impl Iterator<Item = u16>, of_colour: bool) -> Vec<u8> {
    match of_colour {
        true => values.map(|x| (x >> 8) as u8).collect(),
        false => values.map(|x| x.min(255) as u8).collect(),
    }
}

/// Of cyan, magenta, yellow and black.
pub fn from_cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = u32::from(255 - k);
    let level = |ink: u8| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    };
    [level(c), level(m), level(y)]
}

/// Of a brightness and two colour differences, in sixty-fourths.
pub fn from_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let part = |factor: f64, level: u8| (factor * 64.0 * (f64::from(level) - 128.0) + 0.5) as i32;
    let level = |difference: i32| (i32::from(y) + (difference >> 6)).clamp(0, 255) as u8;
    [level(part(1.402, cr)), level(part(-0.34414, cb) + part(-0.71414, cr)), level(part(1.772, cb))]
}

/// A colour that was multiplied by its opacity.
pub fn divided(colour: [u8; 3], opacity: u8) -> [u8; 3] {
    match opacity {
        0 => [0; 3],
        opacity => colour.map(|level| (u32::from(level) * 255 / u32::from(opacity)).min(255) as u8),
    }
}
