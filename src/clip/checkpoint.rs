//! A checkpoint directory in the Hugging Face layout: config.json, model.safetensors (or its sharded
//! index), tokenizer.json, preprocessor_config.json.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use serde::{Deserialize, de::DeserializeOwned};

use super::{ImageEncoder, Preprocess, Tokenizer, cpu, tensor};
use crate::table::embeddings::ModelId;

/// What config.json says. Defaults are those of transformers' CLIPConfig.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub text_config: TextConfig,
    pub vision_config: VisionConfig,
    /// Dimension of the space that both encoders project into.
    #[serde(default = "default_512")]
    pub projection_dim: usize,
}

/// The text encoder's part of config.json.
#[derive(Debug, Deserialize)]
pub struct TextConfig {
    #[serde(default = "default_49408")]
    pub vocab_size: usize,
    #[serde(default = "default_512")]
    pub hidden_size: usize,
    #[serde(default = "default_2048")]
    pub intermediate_size: usize,
    #[serde(default = "default_12")]
    pub num_hidden_layers: usize,
    #[serde(default = "default_8")]
    pub num_attention_heads: usize,
    #[serde(default = "default_77")]
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub hidden_act: Activation,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    #[serde(default = "default_49407")]
    pub eos_token_id: u32,
}

/// The image encoder's part of config.json.
#[derive(Debug, Deserialize)]
pub struct VisionConfig {
    #[serde(default = "default_768")]
    pub hidden_size: usize,
    #[serde(default = "default_3072")]
    pub intermediate_size: usize,
    #[serde(default = "default_12")]
    pub num_hidden_layers: usize,
    #[serde(default = "default_12")]
    pub num_attention_heads: usize,
    #[serde(default = "default_3")]
    pub num_channels: usize,
    #[serde(default = "default_224")]
    pub image_size: usize,
    #[serde(default = "default_32")]
    pub patch_size: usize,
    #[serde(default)]
    pub hidden_act: Activation,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
}

/// The activation between a block's two feed-forward layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·σ(1.702 x), as in OpenAI's models.
    #[default]
    QuickGelu,
    /// x·Φ(x), as in most OpenCLIP models.
    Gelu,
}

/// Shape of a transformer.
pub struct Size {
    pub width: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub eps: f64,
}

macro_rules! size {
    ($config:ident) => {
        impl $config {
            pub fn size(&self) -> Size {
                Size {
                    width: self.hidden_size,
                    intermediate: self.intermediate_size,
                    layers: self.num_hidden_layers,
                    heads: self.num_attention_heads,
                    activation: self.hidden_act,
                    eps: self.layer_norm_eps,
                }
            }
        }
    };
}
size!(TextConfig);
size!(VisionConfig);

macro_rules! defaults {
    ($($name:ident = $value:literal),*) => { $(fn $name() -> usize { $value })* };
}
defaults!(default_3 = 3, default_8 = 8, default_12 = 12, default_32 = 32, default_77 = 77, default_224 = 224);
defaults!(default_512 = 512, default_768 = 768, default_2048 = 2048, default_3072 = 3072, default_49408 = 49408);

fn default_49407() -> u32 {
    49407
}

fn default_eps() -> f64 {
    1e-5
}

/// A checkpoint on disk, its configuration read and its weights mapped.
pub struct Checkpoint {
    dir: PathBuf,
    pub config: Config,
    weight_files: Vec<PathBuf>,
    weights: MmapedSafetensors,
}

impl Checkpoint {
    /// Opens a checkpoint directory. Nothing is computed yet.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a directory; --model takes the directory of a CLIP checkpoint", dir.display());
        }
        let config: Config = read_json(dir, "config.json")?;
        for (part, width, heads) in [
            ("text_config", config.text_config.hidden_size, config.text_config.num_attention_heads),
            ("vision_config", config.vision_config.hidden_size, config.vision_config.num_attention_heads),
        ] {
            if heads == 0 || !width.is_multiple_of(heads) {
                bail!("{}: {part}: {heads} heads do not divide a width of {width}", dir.join("config.json").display());
            }
        }
        let v = &config.vision_config;
        if v.patch_size == 0 || !v.image_size.is_multiple_of(v.patch_size) || v.num_channels != 3 {
            bail!(
                "{}: vision_config: images of {}x{}, {} channels, cannot be cut into patches of {}; \
                 expected 3 channels and a patch size that divides the image size",
                dir.join("config.json").display(),
                v.image_size,
                v.image_size,
                v.num_channels,
                v.patch_size
            );
        }
        if config.text_config.layer_norm_eps < 0.0 || v.layer_norm_eps < 0.0 {
            bail!("{}: layer_norm_eps is below 0", dir.join("config.json").display());
        }
        let weight_files = weight_files(dir)?;
        // Safety: the mapping is only read; a file changed under a running program is not defended against.
        let weights = unsafe { MmapedSafetensors::multi(&weight_files) }.with_context(|| {
            format!("the weights in {} are not safetensors, or are cut short: fetch them again", dir.display())
        })?;
        Ok(Checkpoint { dir: dir.to_owned(), config, weight_files, weights })
    }

    /// Name, hash and place of the checkpoint. Reads all weights once.
    pub fn id(&self) -> Result<ModelId> {
        let path = self.dir.canonicalize().with_context(|| format!("cannot resolve {}", self.dir.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let config = crate::hash_lines([format!("{:?}", self.config)]);
        Ok(ModelId { name, sha256: crate::hash_files(&self.weight_files)?, config, path })
    }

    /// How images are prepared for this checkpoint.
    pub fn preprocess(&self) -> Result<Preprocess> {
        let path = self.dir.join("preprocessor_config.json");
        let preprocess = Preprocess::from_config(&read_json(&self.dir, "preprocessor_config.json")?)
            .with_context(|| path.display().to_string())?;
        let image_size = self.config.vision_config.image_size;
        if preprocess.crop != image_size {
            bail!("{} crops to {}, but config.json has an image size of {image_size}", path.display(), preprocess.crop);
        }
        Ok(preprocess)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = require(&self.dir, "tokenizer.json")?;
        Tokenizer::open(&path, &self.config.text_config)
    }

    /// SHA-256 of tokenizer.json.
    pub fn tokenizer_sha256(&self) -> Result<String> {
        crate::hash_files(&[require(&self.dir, "tokenizer.json")?])
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
        Weights { checkpoint: self, device, dtype, prefix: String::new() }
    }
}

/// The weights of a checkpoint below a prefix.
pub(in crate::clip) struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    dtype: DType,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// The weights below `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Weights<'a> {
        Weights { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// An error if there are more than the `layers` layers of the configuration.
    pub fn require_no_more(&self, layers: usize) -> Result<()> {
        let prefix = format!("{}{layers}.", self.prefix);
        if self.checkpoint.weights.tensors().iter().any(|(name, _)| name.starts_with(&prefix)) {
            bail!(
                "the weights in {} have {prefix}…, but config.json says {layers} layers",
                self.checkpoint.dir.display()
            );
        }
        Ok(())
    }

    /// As [`Weights::get`], flat, in float32.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.get(name, shape)?.flatten_all()?.to_vec1()?)
    }

    /// A weight, which must have the shape that the configuration gives it.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        let dir = self.checkpoint.dir.display();
        let tensor = self.checkpoint.weights.load(&name, self.device).map_err(|_| {
            anyhow::anyhow!(
                "the weights in {dir} lack {name:?}, of shape {shape:?} by config.json; is this a whole CLIP?"
            )
        })?;
        if tensor.dims() != shape {
            bail!(
                "the weights in {dir}: {name:?} should have shape {shape:?} by config.json, but has {:?}",
                tensor.dims()
            );
        }
        Ok(tensor.to_dtype(self.dtype)?)
    }
}

fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    if dir.join("model.safetensors.index.json").exists() {
        let index: Index = read_json(dir, "model.safetensors.index.json")?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        return names.iter().map(|name| require(dir, name)).collect();
    }
    Ok(vec![require(dir, "model.safetensors")?])
}

/// The path of a file that the checkpoint must have.
fn require(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "the checkpoint {} has no {name}; it needs config.json, model.safetensors, tokenizer.json and \
             preprocessor_config.json, as transformers' save_pretrained writes them",
            dir.display()
        );
    }
    Ok(path)
}

fn read_json<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = require(dir, name)?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what a CLIP checkpoint has", path.display()))
}
