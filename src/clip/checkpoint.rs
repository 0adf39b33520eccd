//! A checkpoint directory: of transformers, config.json, model.safetensors (or its sharded index),
//! tokenizer.json, preprocessor_config.json (or processor_config.json); of OpenCLIP,
//! open_clip_config.json, open_clip_model.safetensors, tokenizer.json.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use serde_json::{Map, Value};

use super::{
    ImageEncoder, ModelId, Preprocess, Tokenizer,
    config::{self, Config, Family},
    cpu::{self, affine::Pass},
    format::{Format, read_json},
    model_id::name_of,
    open_clip, tensor,
    tokenizer_files::TokenizerFiles,
    weights::{WeightFiles, Weights},
};
use crate::{Error, dense::bfloat16::Unit};

/// What says how images are prepared: a file, and the key in it; the first that does. So transformers
/// 5 reads them, whose CLIPProcessor writes the first file alone, and whose CLIPImageProcessor
/// writes the second.
const PREPROCESSING: [(&str, Option<&str>); 2] =
    [("processor_config.json", Some("image_processor")), ("preprocessor_config.json", None)];

/// Tensors that every CLIP has, whatever its sizes.
const EVERY_CLIP: [&str; 5] = [
    "logit_scale",
    "text_model.embeddings.token_embedding.weight",
    "text_projection.weight",
    "vision_model.embeddings.class_embedding",
    "visual_projection.weight",
];

/// A checkpoint on disk, its configuration read and its weights mapped. What of it cannot be used
/// is an [`Error::Checkpoint`], whichever method finds it.
pub struct Checkpoint {
    dir: PathBuf,
    format: Format,
    /// The sizes of the encoders.
    pub config: Config,
    weights: WeightFiles,
}

impl Checkpoint {
    /// Opens a checkpoint directory. Nothing is computed yet.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::read(dir).map_err(|error| Error::Checkpoint(error).into())
    }

    fn read(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a directory; --model takes the directory of a CLIP checkpoint", dir.display());
        }
        let format = Format::of(dir);
        let json: Value = read_json(dir, format.config())?;
        let path = dir.join(format.config());
        let place = || path.display().to_string();
        let (config, weights) = match format {
            Format::Transformers => {
                let config = Config::from_json(&json).with_context(place)?;
                let weights = WeightFiles::open(dir, format, [false; 2])?;
                let missing = EVERY_CLIP.into_iter().find(|name| !weights.has(name));
                if let Some(name) = missing.filter(|_| !config::names_its_model(&json)) {
                    bail!("{} has no model_type, and the weights are no CLIP's: they lack {name:?}", path.display());
                }
                (config, weights)
            }
            Format::OpenClip => {
                let model = open_clip::Description::from_json(&json).with_context(place)?;
                (model.config, WeightFiles::open(dir, format, model.layer_scale)?)
            }
        };
        Ok(Checkpoint { dir: dir.to_owned(), format, config, weights })
    }

    /// Name, hash and place of the checkpoint. Reads all weights once.
    pub fn id(&self) -> Result<ModelId> {
        let path = self.dir.canonicalize().with_context(|| format!("cannot resolve {}", self.dir.display()))?;
        Ok(ModelId { name: name_of(&path), sha256: self.weights.sha256()?, config: self.config.identity()?, path })
    }

    /// Parameters of the image encoder, and of the text encoder. Reads no weight.
    pub fn parameters(&self) -> [usize; 2] {
        self.weights.parameters()
    }

    /// How images are prepared for this checkpoint.
    pub fn preprocess(&self) -> Result<Preprocess> {
        self.read_preprocess().map_err(|error| Error::Checkpoint(error).into())
    }

    fn read_preprocess(&self) -> Result<Preprocess> {
        match self.format {
            Format::Transformers => self.preprocess_of_transformers(),
            Format::OpenClip => {
                let name = self.format.config();
                let settings = open_clip::preprocessing(&read_json(&self.dir, name)?);
                let preprocess = settings.and_then(|settings| {
                    let side = self.config.vision_config.image_size;
                    Preprocess::from_open_clip(&settings, side).context("preprocess_cfg")
                });
                preprocess.with_context(|| self.dir.join(name).display().to_string())
            }
        }
    }

    fn preprocess_of_transformers(&self) -> Result<Preprocess> {
        for (name, key) in PREPROCESSING {
            if !self.dir.join(name).exists() {
                continue;
            }
            let mut settings: Map<String, Value> = read_json(&self.dir, name)?;
            let settings = match key {
                Some(key) => settings.remove(key).unwrap_or_default(),
                None => settings.into(),
            };
            if settings.is_null() {
                continue;
            }
            let path = self.dir.join(name);
            let place = || [path.display().to_string()].into_iter().chain(key.map(str::to_owned)).collect::<Vec<_>>();
            let preprocess = match self.config.family {
                Family::Clip => Preprocess::from_config(&settings),
                Family::Siglip => Preprocess::from_siglip(&settings),
            };
            let preprocess = preprocess.with_context(|| place().join(": "))?;
            let image_size = self.config.vision_config.image_size;
            if preprocess.crop != image_size {
                bail!(
                    "{} makes images of side {}, but config.json has an image size of {image_size}",
                    path.display(),
                    preprocess.crop
                );
            }
            return Ok(preprocess);
        }
        let [(whole, _), (alone, _)] = PREPROCESSING;
        bail!(
            "the checkpoint {} does not say how images are prepared: it has no {alone}, and no {whole} with an \
             image_processor; save_pretrained of transformers' CLIPProcessor or SiglipProcessor writes one of them",
            self.dir.display()
        )
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let open = |files| Tokenizer::open(&files, &self.config.text_config, self.format.config());
        self.tokenizer_files().and_then(open).map_err(|error| Error::Checkpoint(error).into())
    }

    /// SHA-256 of the tokenizer's files.
    pub fn tokenizer_sha256(&self) -> Result<String> {
        self.tokenizer_files().map_err(Error::Checkpoint)?.sha256()
    }

    fn tokenizer_files(&self) -> Result<TokenizerFiles> {
        let json: Value = read_json(&self.dir, self.format.config())?;
        let usual = match self.config.family {
            Family::Clip => "openai/clip-vit-base-patch32",
            Family::Siglip => "google/siglip-base-patch16-224",
        };
        TokenizerFiles::find(&self.dir, self.config.family, open_clip::tokenizer_name(&json).unwrap_or(usual))
    }

    /// The file that says which model it is.
    pub fn config_name(&self) -> &'static str {
        self.format.config()
    }

    /// The image encoder on a device, its products in `dtype`.
    pub fn image_encoder(&self, device: &Device, dtype: DType) -> Result<ImageEncoder> {
        Ok(match device {
            Device::Cpu => {
                let pass = match dtype {
                    DType::BF16 => Pass::Rounded(Unit::detect()?),
                    _ => Pass::Forward,
                };
                ImageEncoder::Cpu(cpu::vision::ImageEncoder::new(&self.config, &self.on_the_cpu(), pass)?)
            }
            _ => ImageEncoder::Device(self.image_encoder_on(device, dtype)?),
        })
    }

    /// The image encoder on candle's tensors.
    pub fn image_encoder_on(&self, device: &Device, dtype: DType) -> Result<tensor::vision::ImageEncoder> {
        tensor::vision::ImageEncoder::new(&self.config, &self.weights_on(device, dtype))
    }

    /// The text encoder on the CPU.
    pub fn text_encoder(&self, tokenizer: &Tokenizer) -> Result<cpu::text::TextEncoder> {
        cpu::text::TextEncoder::new(&self.config, &self.on_the_cpu(), tokenizer.start())
    }

    /// The text encoder on candle's tensors, in float32.
    pub fn text_encoder_on(&self, device: &Device) -> Result<tensor::text::TextEncoder> {
        tensor::text::TextEncoder::new(&self.config, &self.weights_on(device, DType::F32))
    }

    /// The weights, in float32.
    pub(crate) fn on_the_cpu(&self) -> Weights<'_> {
        self.weights_on(&Device::Cpu, DType::F32)
    }

    fn weights_on<'a>(&'a self, device: &'a Device, dtype: DType) -> Weights<'a> {
        self.weights.on(device, dtype)
    }
}
