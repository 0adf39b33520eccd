//! A checkpoint directory in the Hugging Face layout: config.json, model.safetensors (or its
//! sharded index), tokenizer.json, preprocessor_config.json (or processor_config.json).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use serde_json::{Map, Value};

use super::{
    ImageEncoder, ModelId, Preprocess, Tokenizer,
    config::{self, Config},
    cpu,
    files::{read_json, require},
    tensor,
    weights::{WeightFiles, Weights},
};
use crate::Error;

/// What says how images are prepared: a file, and the key in it; the first that does. So transformers
/// 5 reads them, whose CLIPProcessor writes the first file alone, and whose CLIPImageProcessor
/// writes the second.
const PREPROCESSING: [(&str, Option<&str>); 2] =
    [("processor_config.json", Some("image_processor")), ("preprocessor_config.json", None)];

const TOKENIZER: &str = "tokenizer.json";

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
        let json: Value = read_json(dir, "config.json")?;
        let path = dir.join("config.json");
        let config = Config::from_json(&json).with_context(|| path.display().to_string())?;
        let weights = WeightFiles::open(dir)?;
        let missing = EVERY_CLIP.into_iter().find(|name| !weights.has(name));
        if let Some(name) = missing.filter(|_| !config::names_its_model(&json)) {
            bail!("{} has no model_type, and the weights are no CLIP's: they lack {name:?}", path.display());
        }
        Ok(Checkpoint { dir: dir.to_owned(), config, weights })
    }

    /// Name, hash and place of the checkpoint. Reads all weights once.
    pub fn id(&self) -> Result<ModelId> {
        let path = self.dir.canonicalize().with_context(|| format!("cannot resolve {}", self.dir.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelId { name, sha256: self.weights.sha256()?, config: self.config.identity()?, path })
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
            let preprocess = Preprocess::from_config(&settings).with_context(|| place().join(": "))?;
            let image_size = self.config.vision_config.image_size;
            if preprocess.crop != image_size {
                bail!(
                    "{} crops to {}, but config.json has an image size of {image_size}",
                    path.display(),
                    preprocess.crop
                );
            }
            return Ok(preprocess);
        }
        let [(whole, _), (alone, _)] = PREPROCESSING;
        bail!(
            "the checkpoint {} does not say how images are prepared: it has no {alone}, and no {whole} with an \
             image_processor; transformers' CLIPProcessor.save_pretrained writes one of them",
            self.dir.display()
        )
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = require(&self.dir, TOKENIZER).and_then(|path| Tokenizer::open(&path, &self.config.text_config));
        tokenizer.map_err(|error| Error::Checkpoint(error).into())
    }

    /// SHA-256 of tokenizer.json.
    pub fn tokenizer_sha256(&self) -> Result<String> {
        crate::hash::hash_files(&[require(&self.dir, TOKENIZER).map_err(Error::Checkpoint)?])
    }

    /// The image encoder on a device. On the CPU it computes in float32, elsewhere in `dtype`.
    pub fn image_encoder(&self, device: &Device, dtype: DType) -> Result<ImageEncoder> {
        Ok(match device {
            Device::Cpu => ImageEncoder::Cpu(cpu::vision::ImageEncoder::new(&self.config, &self.on_the_cpu())?),
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

    fn on_the_cpu(&self) -> Weights<'_> {
        self.weights_on(&Device::Cpu, DType::F32)
    }

    fn weights_on<'a>(&'a self, device: &'a Device, dtype: DType) -> Weights<'a> {
        self.weights.on(device, dtype)
    }
}
