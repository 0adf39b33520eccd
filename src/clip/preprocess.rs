//! Pixels as the original models make them with Pillow: decode, resize antialiased on 8 bits (CLIP:
//! the shortest side, and crop the centre; SigLIP: both sides). The encoder normalises them.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, images::Image};
use image::RgbImage;
use serde_json::{Map, Value, json};

use super::normalisation::Normalisation;
use crate::{
    picture::{self, MAX_BYTES},
    profile::{Phase, time},
};

/// Sides that pictures may be resized and cropped to, in pixels.
const SIDES: RangeInclusive<u64> = 1..=65536;

/// The preprocessing of a checkpoint.
#[derive(Clone, Debug)]
pub struct Preprocess {
    resize: Resize,
    filter: Filter,
    /// Side of the square that the encoder sees, in pixels.
    pub crop: usize,
    mean: [f32; 3],
    std: [f32; 3],
    /// Turn the image as its EXIF orientation says. The original CLIP does not.
    pub exif: bool,
}

/// What a picture is resized to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resize {
    /// Its shortest side to so many pixels; then the centre is cut out.
    Shortest(usize),
    /// Both sides to those of the square that the encoder sees.
    Squash,
}

/// What a picture is resized by, as Pillow does: antialiased.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Filter {
    Bicubic,
    Bilinear,
}

impl Filter {
    fn name(self) -> &'static str {
        match self {
            Filter::Bicubic => "bicubic",
            Filter::Bilinear => "bilinear",
        }
    }
}

impl Preprocess {
    /// Reads what preprocessor_config.json, or the image_processor of processor_config.json, says.
    /// What is missing or null is as CLIPImageProcessor has it.
    pub fn from_config(settings: &Value) -> Result<Self> {
        let settings = Settings::of(settings, "CLIPImageProcessor", clips_own())?;
        settings.require(&[
            "do_resize",
            "do_center_crop",
            "do_rescale",
            "do_normalize",
            "do_pad",
            "use_square_size",
        ])?;
        if settings.get("resample") != &settings.defaults["resample"] {
            bail!("resample is {}; only 3 (bicubic) is supported", settings.get("resample"));
        }
        let resize = side(settings.get("size"), &["shortest_edge"]).context("size")?;
        let crop = side(settings.get("crop_size"), &["height", "width"]).context("crop_size")?;
        if crop > resize {
            bail!("crop_size is {crop}, more than the shortest edge after resizing, {resize}");
        }
        let [mean, std] = settings.colours()?;
        Ok(Preprocess { resize: Resize::Shortest(resize), filter: Filter::Bicubic, crop, mean, std, exif: false })
    }

    /// As [`Preprocess::from_config`], of SigLIP. What is missing or null is as SiglipImageProcessor
    /// has it.
    pub(super) fn from_siglip(settings: &Value) -> Result<Self> {
        let settings = Settings::of(settings, "SiglipImageProcessor", siglips_own())?;
        settings.require(&["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad"])?;
        let filter = match settings.get("resample").as_u64() {
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            _ => bail!("resample is {}; only 2 (bilinear) and 3 (bicubic) are supported", settings.get("resample")),
        };
        let crop = side(settings.get("size"), &["height", "width"]).context("size")?;
        let [mean, std] = settings.colours()?;
        Ok(Preprocess { resize: Resize::Squash, filter, crop, mean, std, exif: false })
    }

    /// Reads the preprocess_cfg of open_clip_config.json, for images of a side. What is missing or
    /// null is as OpenCLIP has it.
    pub(super) fn from_open_clip(settings: &Map<String, Value>, side: usize) -> Result<Self> {
        let defaults = json!({
            "mode": "RGB",
            "mean": clips_own()["image_mean"],
            "std": clips_own()["image_std"],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        });
        let get = |key: &str| settings.get(key).filter(|value| !value.is_null()).unwrap_or(&defaults[key]);
        if get("mode") != &defaults["mode"] {
            bail!("mode is {}; only \"RGB\" is supported", get("mode"));
        }
        let resize = match get("resize_mode").as_str() {
            Some("shortest") => Resize::Shortest(side),
            Some("squash") => Resize::Squash,
            _ => bail!("resize_mode is {}; only \"shortest\" and \"squash\" are supported", get("resize_mode")),
        };
        let filter = match get("interpolation").as_str() {
            Some("bicubic" | "random") => Filter::Bicubic, // random in training, bicubic after it
            Some("bilinear") => Filter::Bilinear,
            _ => bail!("interpolation is {}; only \"bicubic\" and \"bilinear\" are supported", get("interpolation")),
        };
        let (mean, std) = (numbers("mean", get("mean"))?, deviations("std", get("std"))?);
        Ok(Preprocess { resize, filter, crop: side, mean, std, exif: false })
    }

    /// What was done, in words that change when it changes.
    pub fn id(&self) -> String {
        let Preprocess { resize, filter, crop, mean, std, exif } = self;
        let filter = filter.name();
        let shape = match resize {
            Resize::Shortest(side) => format!("shortest side {side}, {filter}; centre crop {crop}"),
            Resize::Squash => format!("squashed to {crop}, {filter}"),
        };
        format!("rgb8; {shape}; mean {mean:?}; std {std:?}; exif {exif}; JPEG by libjpeg-turbo")
    }

    /// An encoded picture to RGB pixels (crop, crop, 3), flat.
    pub fn pixels(&self, encoded: &[u8]) -> Result<Vec<u8>> {
        let image = time(Phase::Decode, || picture::decode(encoded, self.exif))?;
        Ok(time(Phase::Resize, || self.crop(image))?.into_raw())
    }

    /// What the encoder sees of pixels.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation::new(self.mean, self.std)
    }

    /// Resizes and crops as torchvision does with Pillow: the long side is truncated, the margin
    /// rounded half to even.
    fn crop(&self, image: RgbImage) -> Result<RgbImage> {
        let (w, h) = (image.width() as usize, image.height() as usize);
        let (width, height) = match self.resize {
            Resize::Squash => (self.crop, self.crop),
            Resize::Shortest(n) if w <= h => (n, n * h / w),
            Resize::Shortest(n) => (n * w / h, n),
        };
        if 3 * (width * height) as u64 > MAX_BYTES {
            bail!("{w}x{h} pixels would become {width}x{height}, more than {} MiB", MAX_BYTES >> 20);
        }
        // One direction at a time, as Pillow goes: overshoots are clipped in between, so the order
        // shows.
        let filter = match self.filter {
            Filter::Bicubic => FilterType::CatmullRom,
            Filter::Bilinear => FilterType::Bilinear,
        };
        let filter = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        let mut resized = Image::from_vec_u8(w as u32, h as u32, image.into_raw(), PixelType::U8x3)?;
        for (width, height) in [(width, h), (width, height)] {
            let source = std::mem::replace(&mut resized, Image::new(width as u32, height as u32, PixelType::U8x3));
            Resizer::new().resize(&source, &mut resized, &filter)?;
        }
        let margin = |side: usize| ((side - self.crop) as f64 / 2.0).round_ties_even() as u32;
        let resized = RgbImage::from_raw(width as u32, height as u32, resized.into_vec()).context("image size")?;
        let side = self.crop as u32;
        Ok(image::imageops::crop_imm(&resized, margin(width), margin(height), side, side).to_image())
    }
}

/// Settings of one of transformers' image processors, and what it has where nothing is said.
struct Settings<'a> {
    given: &'a Map<String, Value>,
    processor: &'static str,
    defaults: Value,
}

impl<'a> Settings<'a> {
    /// An error if they say that they are another processor's.
    fn of(settings: &'a Value, processor: &'static str, defaults: Value) -> Result<Self> {
        let Some(given) = settings.as_object() else {
            bail!("expected an object of settings, but found {settings}");
        };
        let older = processor.replace("ImageProcessor", "FeatureExtractor");
        let is_own = |kind: &Value| kind.as_str().is_some_and(|kind| kind.starts_with(processor) || kind == older);
        for key in ["image_processor_type", "feature_extractor_type"] {
            if let Some(kind) = given.get(key).filter(|kind| !kind.is_null() && !is_own(kind)) {
                bail!("{key} is {kind}, which prepares images in another way; only {processor:?} is supported");
            }
        }
        Ok(Settings { given, processor, defaults })
    }

    fn get(&self, key: &str) -> &Value {
        self.given.get(key).filter(|value| !value.is_null()).unwrap_or(&self.defaults[key])
    }

    /// An error unless the settings `keys` are the processor's own, and pixels become 0 to 1.
    fn require(&self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let (found, own) = (self.get(key), &self.defaults[*key]);
            if found != own {
                bail!("{key} is {found}; only {}'s own preprocessing is supported, which has {own}", self.processor);
            }
        }
        let factor = self.get("rescale_factor");
        if factor.as_f64().is_none_or(|f| (f * 255.0 - 1.0).abs() > 1e-6) {
            bail!("rescale_factor is {factor}; only 1/255 is supported");
        }
        Ok(())
    }

    /// Mean and deviation of each colour.
    fn colours(&self) -> Result<[[f32; 3]; 2]> {
        Ok([numbers("image_mean", self.get("image_mean"))?, deviations("image_std", self.get("image_std"))?])
    }
}

/// A side in pixels: a number, or an object that has it under each of `keys`, and under no other.
fn side(value: &Value, keys: &[&str]) -> Result<usize> {
    let sides: Vec<&Value> = match value.as_object() {
        Some(parts) => {
            let other = parts.iter().find(|(key, value)| !keys.contains(&key.as_str()) && !value.is_null());
            if let Some((key, value)) = other {
                bail!("{key} is {value}; only {} is supported", keys.join(" and "));
            }
            keys.iter().map(|key| &value[*key]).collect()
        }
        None => vec![value],
    };
    let pixels = |side: &Value| side.as_u64().filter(|side| SIDES.contains(side));
    match pixels(sides[0]) {
        Some(side) if sides.iter().all(|other| *other == sides[0]) => Ok(side as usize),
        _ => bail!(
            "expected a number from {} to {}, or {} with one such number, but found {value}",
            SIDES.start(),
            SIDES.end(),
            keys.join(" and ")
        ),
    }
}

/// A number for each colour.
fn numbers(key: &str, value: &Value) -> Result<[f32; 3]> {
    let numbers: Vec<f32> = serde_json::from_value(value.clone()).unwrap_or_default();
    let numbers = <[f32; 3]>::try_from(numbers).ok().filter(|numbers| numbers.iter().all(|x| x.is_finite()));
    numbers.with_context(|| format!("{key} is {value}; expected three numbers that float32 holds"))
}

/// A deviation for each colour.
fn deviations(key: &str, value: &Value) -> Result<[f32; 3]> {
    let deviations = numbers(key, value)?;
    if deviations.iter().any(|&x| x <= 0.0) {
        bail!("{key} should be above 0, but is {deviations:?}");
    }
    Ok(deviations)
}

/// The settings of transformers' CLIPImageProcessor where nothing else is said.
fn clips_own() -> Value {
    json!({
        "do_resize": true,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": true,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_pad": false,
        "use_square_size": false,
    })
}

/// The settings of transformers' SiglipImageProcessor where nothing else is said.
fn siglips_own() -> Value {
    json!({
        "do_resize": true,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": false,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_pad": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_be_followed_is_named() {
        for (key, value, expected) in [
            ("do_resize", json!("false"), "do_resize is \"false\""),
            ("do_rescale", json!(0), "do_rescale is 0"),
            ("do_pad", json!(true), "do_pad is true"),
            ("resample", json!("3"), "resample is \"3\""),
            ("rescale_factor", json!("x"), "rescale_factor is \"x\""),
            ("image_mean", json!([0.5, 0.5]), "image_mean is [0.5,0.5]"),
            ("image_mean", json!([0.5, "0.5", 0.5]), "image_mean"),
            ("image_std", json!([1e39, 1, 1]), "image_std is [1e+39,1,1]"),
            ("image_std", json!([1, 0, 1]), "above 0"),
            ("image_processor_type", json!("ViTImageProcessor"), "image_processor_type is \"ViTImageProcessor\""),
            ("feature_extractor_type", json!(1), "feature_extractor_type is 1"),
            ("size", json!({"shortest_edge": 224, "longest_edge": 280}), "size: longest_edge is 280"),
            ("size", json!({"height": 224, "width": 224}), "only shortest_edge"),
            ("size", json!(0), "1 to 65536"),
            ("size", json!(65537), "1 to 65536"),
            ("size", json!({"shortest_edge": "224"}), "1 to 65536"),
            ("size", json!(4611686018427387904u64), "1 to 65536"),
            ("crop_size", json!({"height": 224}), "height and width"),
            ("crop_size", json!({"height": 224, "width": 225}), "height and width"),
            ("crop_size", json!(18446744073709551615u64), "1 to 65536"),
            ("crop_size", json!(225), "more than the shortest edge"),
        ] {
            let error = Preprocess::from_config(&json!({key: value})).err().map(|error| format!("{error:#}"));
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{key}: {error:?}");
        }
        for settings in [json!([1]), json!("CLIPImageProcessor")] {
            let error = Preprocess::from_config(&settings).err().unwrap().to_string();
            assert!(error.contains("object of settings") && error.contains(&settings.to_string()), "{error}");
        }
        let settings = json!({"size": 256, "crop_size": {"height": 224, "width": 224, "shortest_edge": null}});
        assert_eq!(Preprocess::from_config(&settings).unwrap().crop, 224);
    }
}
