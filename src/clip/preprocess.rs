//! Pixels as the original CLIP makes them with Pillow: decode, shortest side to n by antialiased
//! bicubic on 8 bits, centre crop, normalise.

use anyhow::{Context, Result, anyhow, bail};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::RgbImage;
use serde_json::{Value, json};

use crate::{
    picture::{self, MAX_BYTES},
    profile::{Phase, time},
};

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
    /// Reads what preprocessor_config.json, or the image_processor of processor_config.json, says.
    /// What is missing or null is as CLIPImageProcessor has it, unless the settings are of another
    /// kind of processor.
    pub fn from_config(settings: &Value) -> Result<Self> {
        let kind = ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| settings[*key].as_str());
        let defaults = match kind {
            None => clips_own(),
            Some(kind) if kind.starts_with("CLIPImageProcessor") || kind == "CLIPFeatureExtractor" => clips_own(),
            Some(_) => Value::Null,
        };
        let get = |key: &str| Some(&settings[key]).filter(|value| !value.is_null()).unwrap_or(&defaults[key]);
        for step in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
            if get(step) == &Value::Bool(false) {
                bail!("{step} is false; only CLIP's own preprocessing is supported, which has it on");
            }
        }
        for step in ["do_pad", "use_square_size"] {
            if get(step) == &Value::Bool(true) {
                bail!("{step} is true; only CLIP's own preprocessing is supported, which has it off");
            }
        }
        if !get("resample").is_null() && get("resample") != 3 {
            bail!("resample is {}; only 3 (bicubic) is supported", get("resample"));
        }
        if get("rescale_factor").as_f64().is_some_and(|f| (f * 255.0 - 1.0).abs() > 1e-6) {
            bail!("rescale_factor is {}; only 1/255 is supported", get("rescale_factor"));
        }
        let side = |key: &str, part: &str| {
            let value = get(key).as_u64().or_else(|| get(key)[part].as_u64());
            value
                .filter(|&n| n > 0)
                .map(|n| n as usize)
                .with_context(|| format!("{key} should be a number or hold {part}"))
        };
        let channels = |key: &str| -> Result<[f32; 3]> {
            let values: Vec<f32> = serde_json::from_value(get(key).clone()).unwrap_or_default();
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

    /// An encoded picture to normalised pixels (3, crop, crop), flat.
    pub fn pixels(&self, encoded: &[u8]) -> Result<Vec<f32>> {
        let image = time(Phase::Decode, || picture::decode(encoded, self.exif))?;
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

    /// Resizes and crops as torchvision does with Pillow: the long side is truncated, the margin
    /// rounded half to even.
    fn crop(&self, image: RgbImage) -> Result<RgbImage> {
        let (w, h) = (image.width() as usize, image.height() as usize);
        let (n, short) = (self.resize, w.min(h));
        let (width, height) = if w == short { (n, n * h / w) } else { (n * w / h, n) };
        if 3 * (width * height) as u64 > MAX_BYTES {
            bail!("{w}x{h} pixels would become {width}x{height}: too elongated");
        }
        // One direction at a time, as Pillow goes: overshoots are clipped in between, so the order
        // shows.
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

/// The settings of transformers' CLIPImageProcessor where nothing else is said.
fn clips_own() -> Value {
    json!({
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    })
}
