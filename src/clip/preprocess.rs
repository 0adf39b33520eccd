//! Pixels as the original CLIP makes them with Pillow: decode, shortest side to n by antialiased
//! bicubic on 8 bits, centre crop, normalise.

use std::io::Cursor;

use anyhow::{Context, Result, anyhow, bail};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use serde_json::Value;

use crate::profile::{Phase, time};

/// Largest picture that is decoded or resized, in bytes: a header may claim anything.
const MAX_BYTES: u64 = 512 << 20;

/// The preprocessing of a checkpoint.
#[derive(Clone, Debug)]
pub struct Preprocess {
    resize: usize,
    /// Side of the square that the encoder sees, in pixels.
    pub crop: usize,
    mean: [f32; 3],
    std: [f32; 3],
    /// Turn the image as its EXIF orientation says. The original CLIP does not.
    pub exif: bool,
}

impl Preprocess {
    /// Reads preprocessor_config.json.
    pub fn from_config(config: &Value) -> Result<Self> {
        for step in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
            if config.get(step).is_some_and(|on| on == &Value::Bool(false)) {
                bail!("{step} is false; only CLIP's own preprocessing is supported, which has it on");
            }
        }
        if config.get("resample").is_some_and(|r| r != 3) {
            bail!("resample is {}; only 3 (bicubic) is supported", config["resample"]);
        }
        if config.get("rescale_factor").and_then(Value::as_f64).is_some_and(|f| (f * 255.0 - 1.0).abs() > 1e-6) {
            bail!("rescale_factor is {}; only 1/255 is supported", config["rescale_factor"]);
        }
        let side = |key: &str, part: &str| {
            let value = config.get(key).and_then(|size| size.as_u64().or_else(|| size.get(part)?.as_u64()));
            value
                .filter(|&n| n > 0)
                .map(|n| n as usize)
                .with_context(|| format!("{key} should be a number or hold {part}"))
        };
        let channels = |key: &str| -> Result<[f32; 3]> {
            let values: Vec<f32> =
                serde_json::from_value(config.get(key).cloned().unwrap_or_default()).unwrap_or_default();
            values.try_into().map_err(|_| anyhow!("{key} should be three numbers"))
        };
        let (resize, crop) = (side("size", "shortest_edge")?, side("crop_size", "height")?);
        if side("crop_size", "width")? != crop {
            bail!("crop_size is not a square");
        }
        let std = channels("image_std")?;
        if std.iter().any(|&x| x <= 0.0) {
            bail!("image_std should be above 0, but is {std:?}");
        }
        if crop > resize {
            bail!("crop_size is {crop}, more than the shortest edge after resizing, {resize}");
        }
        Ok(Preprocess { resize, crop, mean: channels("image_mean")?, std, exif: false })
    }

    /// What was done, in words that change when it changes.
    pub fn id(&self) -> String {
        let Preprocess { resize, crop, mean, std, exif } = self;
        format!("rgb8; shortest side {resize}, bicubic; centre crop {crop}; mean {mean:?}; std {std:?}; exif {exif}")
    }

    /// An encoded image (JPEG, PNG or WebP) to normalised pixels (3, crop, crop), flat.
    pub fn pixels(&self, encoded: &[u8]) -> Result<Vec<f32>> {
        let image = time(Phase::Decode, || self.decode(encoded))?;
        let image = time(Phase::Resize, || self.crop(image))?;
        let plane = self.crop * self.crop;
        let mut pixels = vec![0f32; 3 * plane];
        for (i, rgb) in image.pixels().enumerate() {
            for c in 0..3 {
                pixels[c * plane + i] = (f32::from(rgb[c]) / 255.0 - self.mean[c]) / self.std[c];
            }
        }
        Ok(pixels)
    }

    fn decode(&self, encoded: &[u8]) -> Result<RgbImage> {
        if jpeg_is_cut_short(encoded) {
            bail!("the JPEG is cut short: it has no end marker");
        }
        let mut decoder = ImageReader::new(Cursor::new(encoded)).with_guessed_format()?.into_decoder()?;
        let (width, height) = decoder.dimensions();
        if decoder.total_bytes() > MAX_BYTES {
            bail!("{width}x{height} pixels are more than {} MiB", MAX_BYTES >> 20);
        }
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        if self.exif {
            image.apply_orientation(orientation);
        }
        Ok(image.into_rgb8())
    }

    /// Resizes and crops as torchvision does with Pillow: the long side is truncated, the margin
    /// rounded half to even.
    fn crop(&self, image: RgbImage) -> Result<RgbImage> {
        let (w, h) = (image.width() as usize, image.height() as usize);
        let (n, short) = (self.resize, w.min(h));
        let (width, height) = if w == short { (n, n * h / w) } else { (n * w / h, n) };
        if 3 * (width * height) as u64 > MAX_BYTES {
            bail!("{w}x{h} pixels would become {width}x{height}: too elongated");
        }
        // One direction at a time, as Pillow goes: overshoots are clipped in between, so the order shows.
        let bicubic = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        let mut resized = Image::from_vec_u8(w as u32, h as u32, image.into_raw(), PixelType::U8x3)?;
        for (width, height) in [(width, h), (width, height)] {
            let source = std::mem::replace(&mut resized, Image::new(width as u32, height as u32, PixelType::U8x3));
            Resizer::new().resize(&source, &mut resized, &bicubic)?;
        }
        let margin = |side: usize| ((side - self.crop) as f64 / 2.0).round_ties_even() as u32;
        let resized = RgbImage::from_raw(width as u32, height as u32, resized.into_vec()).context("image size")?;
        let side = self.crop as u32;
        Ok(image::imageops::crop_imm(&resized, margin(width), margin(height), side, side).to_image())
    }
}

/// Whether a JPEG ends before its end-of-image marker. The decoder would paint the missing part grey, which
/// Pillow refuses. An embedded thumbnail has a marker of its own, so only what follows the headers counts.
fn jpeg_is_cut_short(encoded: &[u8]) -> bool {
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
