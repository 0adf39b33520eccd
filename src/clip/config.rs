//! What config.json says: which model a checkpoint is, and the sizes of its two encoders.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::hash::{canonical, hash_lines};

/// What config.json says of the two encoders. Defaults are those of transformers' CLIPConfig.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Which model it is.
    #[serde(skip_deserializing, skip_serializing_if = "is_default")]
    pub family: Family,
    /// The text encoder.
    pub text_config: TextConfig,
    /// The image encoder.
    pub vision_config: VisionConfig,
    /// Dimension of the space that both encoders project into.
    #[serde(default = "default_512")]
    pub projection_dim: usize,
}

/// The models that are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// CLIP: a class token, a causal text encoder, projections into the common space.
    #[default]
    Clip,
    /// SigLIP, and SigLIP 2 of fixed resolution: images pooled by attention, a text encoder that
    /// sees all positions, padding too.
    Siglip,
}

impl Family {
    /// What config.json calls the model, its text and its image encoder.
    fn model_types(self) -> [&'static str; 3] {
        match self {
            Family::Clip => ["clip", "clip_text_model", "clip_vision_model"],
            Family::Siglip => ["siglip", "siglip_text_model", "siglip_vision_model"],
        }
    }
}

/// The text encoder's part of config.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Tokens that have an embedding, V.
    #[serde(default = "default_49408")]
    pub vocab_size: usize,
    /// Width of the transformer, W.
    #[serde(default = "default_512")]
    pub hidden_size: usize,
    /// Width of the feed-forward layers, F.
    #[serde(default = "default_2048")]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[serde(default = "default_12")]
    pub num_hidden_layers: usize,
    /// Heads of the attention; they divide the width.
    #[serde(default = "default_8")]
    pub num_attention_heads: usize,
    /// Most tokens of a text, start and end included.
    #[serde(default = "default_77")]
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Added to the variance in every layer norm.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
    /// The end-of-text token, whose state is the text's.
    #[serde(default = "default_49407")]
    pub eos_token_id: u32,
    /// Whose state is the text's; config.json does not say.
    #[serde(skip_deserializing, skip_serializing_if = "is_default")]
    pub pooling: Pooling,
}

/// The image encoder's part of config.json.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionConfig {
    /// Width of the transformer, W.
    #[serde(default = "default_768")]
    pub hidden_size: usize,
    /// Width of the feed-forward layers, F.
    #[serde(default = "default_3072")]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[serde(default = "default_12")]
    pub num_hidden_layers: usize,
    /// Heads of the attention; they divide the width.
    #[serde(default = "default_12")]
    pub num_attention_heads: usize,
    /// Colours of a pixel: 3.
    #[serde(default = "default_3")]
    pub num_channels: usize,
    /// Side of an image in pixels, S.
    #[serde(default = "default_224")]
    pub image_size: usize,
    /// Side of a patch in pixels. What is left of a side after whole patches is not seen.
    #[serde(default = "default_32")]
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Added to the variance in every layer norm.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
}

/// The token whose state is the text's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first end of text, or, where that is said to be the token 2, the first of the tokens
    /// with the highest number: early configurations of CLIP say 2 whatever the tokenizer's is.
    #[default]
    Clip,
    /// The first end of text.
    EndOfText,
    /// The last of all positions, whatever stands there.
    Last,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The activation between a block's two feed-forward layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·σ(1.702 x), as in OpenAI's models.
    #[default]
    QuickGelu,
    /// x·Φ(x), as in most OpenCLIP models.
    Gelu,
    /// Gelu with a hyperbolic tangent for Φ.
    GeluPytorchTanh,
}

/// Shape of a transformer.
pub(crate) struct Size {
    /// W.
    pub width: usize,
    /// Width of the feed-forward layers, F.
    pub intermediate: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads of the attention; they divide the width.
    pub heads: usize,
    /// Activation of the feed-forward layers.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub eps: f64,
}

macro_rules! size {
    ($config:ident) => {
        impl $config {
            /// The shape of the transformer.
            pub(crate) fn size(&self) -> Size {
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

impl Config {
    /// Reads config.json. Refuses what is another model than CLIP, or a CLIP that would be computed
    /// wrongly.
    pub fn from_json(json: &Value) -> Result<Self> {
        let whole = json.as_object().context("expected a JSON object")?;
        let family = family(whole)?;
        let (text, vision) = (part(whole, "text_config")?, part(whole, "vision_config")?);
        let [_, text_type, vision_type] = family.model_types();
        if family == Family::Siglip {
            return siglip(text, vision);
        }
        let config = Config {
            family,
            text_config: sizes(text, "text_config", text_type)?,
            vision_config: sizes(vision, "vision_config", vision_type)?,
            projection_dim: match whole.get("projection_dim") {
                Some(dim) => {
                    dim.as_u64().filter(|&dim| dim > 0).context("projection_dim should be a number above 0")? as usize
                }
                None => default_512(),
            },
        };
        config.check()?;
        Ok(config)
    }

    /// An error unless the sizes go together.
    pub(crate) fn check(&self) -> Result<()> {
        let (t, v) = (&self.text_config, &self.vision_config);
        for (part, size) in [("text_config", t.size()), ("vision_config", v.size())] {
            let Size { width, intermediate, layers, heads, eps, .. } = size;
            if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
                bail!("{part}: {heads} heads do not divide a width of {width}");
            }
            ensure!(layers > 0 && intermediate > 0, "{part}: num_hidden_layers or intermediate_size is 0");
            ensure!(eps >= 0.0, "{part}: layer_norm_eps is {eps}, below 0");
        }
        ensure!(t.vocab_size > 0 && t.max_position_embeddings > 1, "text_config: no vocabulary, or no positions");
        if v.patch_size == 0 || v.image_size < v.patch_size || v.num_channels != 3 {
            bail!(
                "vision_config: images of {}x{}, {} channels, cannot be cut into patches of {}; \
                 expected 3 channels and patches no larger than the images",
                v.image_size,
                v.image_size,
                v.num_channels,
                v.patch_size
            );
        }
        Ok(())
    }

    /// Hash of everything that config.json says and that the encoders follow.
    pub fn identity(&self) -> Result<String> {
        Ok(hash_lines([canonical(&serde_json::to_value(self)?)]))
    }
}

/// The model that config.json names; CLIP where it names none.
fn family(whole: &Map<String, Value>) -> Result<Family> {
    let Some(found) = whole.get("model_type").filter(|name| !name.is_null()) else { return Ok(Family::Clip) };
    let of_name = |family: &Family| found == family.model_types()[0];
    if let Some(family) = [Family::Clip, Family::Siglip].into_iter().find(of_name) {
        return Ok(family);
    }
    let meaning = if found == "siglip2" { " (NaFlex: images of any shape)" } else { "" };
    bail!(
        "model_type is {found}{meaning}, which is computed in another way; those that are known here are \"clip\", a \
         whole CLIP, text and image encoder, as CLIPModel has it, and \"siglip\", SigLIP and the SigLIP 2 of fixed \
         resolution, as SiglipModel has it"
    )
}

/// What config.json says of a SigLIP. Defaults are those of transformers' SiglipConfig.
fn siglip(text: &Map<String, Value>, vision: &Map<String, Value>) -> Result<Config> {
    let own = |part: &Map<String, Value>, more: Value| {
        let mut whole = json!({
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        });
        let whole = whole.as_object_mut().expect("an object");
        whole.extend(more.as_object().cloned().unwrap_or_default());
        whole.extend(part.clone());
        whole.remove("eos_token_id"); // the tokenizer knows it: nothing is pooled there
        whole.clone()
    };
    let [_, text_type, vision_type] = Family::Siglip.model_types();
    if let Some(head) = vision.get("vision_use_head").filter(|head| **head != true) {
        bail!("vision_config: vision_use_head is {head}; only SigLIPs that pool by attention are known here");
    }
    let projection = text.get("projection_size").filter(|size| !size.is_null());
    let text: TextConfig =
        sizes(&own(text, json!({"vocab_size": 32000, "max_position_embeddings": 64})), "text_config", text_type)?;
    let vision: VisionConfig = sizes(&own(vision, json!({"patch_size": 16})), "vision_config", vision_type)?;
    let projection_dim = match projection {
        Some(size) => size.as_u64().context("text_config: projection_size should be a number")? as usize,
        None => text.hidden_size,
    };
    ensure!(
        projection_dim == vision.hidden_size,
        "texts become {projection_dim} values by text_config, and images {} by vision_config: they cannot be compared",
        vision.hidden_size
    );
    let text_config = TextConfig { pooling: Pooling::Last, ..text };
    let config = Config { family: Family::Siglip, text_config, vision_config: vision, projection_dim };
    config.check()?;
    Ok(config)
}

/// Whether config.json says which model it is. Where it does not, the weights have to.
pub(crate) fn names_its_model(json: &Value) -> bool {
    json.get("model_type").is_some_and(|name| !name.is_null())
}

/// An encoder's part of config.json. Where early copies have it twice, `text_config_dict` is what
/// transformers follows.
fn part<'a>(whole: &'a Map<String, Value>, name: &str) -> Result<&'a Map<String, Value>> {
    let older = whole.get(&format!("{name}_dict")).filter(|value| !value.is_null());
    let value = older.or(whole.get(name)).with_context(|| format!("{name} is missing; is this a whole CLIP?"))?;
    value.as_object().with_context(|| format!("{name} should be an object, but is {value}"))
}

/// The sizes of an encoder, whose model_type, where it is given, has to be `expected`.
fn sizes<T: DeserializeOwned>(part: &Map<String, Value>, name: &str, expected: &str) -> Result<T> {
    require_type(part, expected).context(name.to_owned())?;
    require_activation(part).context(name.to_owned())?;
    for (key, value) in part {
        // every field has a default, so an error is this one's
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        serde_json::from_value::<T>(Value::Object(alone)).with_context(|| format!("{name}: {key} is {value}"))?;
    }
    serde_json::from_value(Value::Object(part.clone())).context(name.to_owned())
}

fn require_type(part: &Map<String, Value>, expected: &str) -> Result<()> {
    match part.get("model_type").filter(|found| !found.is_null()) {
        Some(found) if found != expected => {
            bail!("model_type is {found}, which is computed in another way; the one of this model is {expected:?}")
        }
        _ => Ok(()),
    }
}

fn require_activation(part: &Map<String, Value>) -> Result<()> {
    match part.get("hidden_act") {
        Some(name) if Activation::deserialize(name).is_err() => {
            bail!(
                "hidden_act is {name}; those that are known here are \"quick_gelu\", \"gelu\" and \"gelu_pytorch_tanh\""
            )
        }
        _ => Ok(()),
    }
}
