//! What open_clip_config.json says, in the words of this project's own configuration. What is no
//! vision transformer beside a causal text transformer, or differs from theirs in any way, is
//! refused by name.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::config::{Activation, Config, Family, Pooling, TextConfig, VisionConfig};

/// What is computed here, for whoever has something else.
const SUPPORTED: &str = "supported are OpenCLIP's own vision transformers (ViT-B-32 to ViT-bigG-14) with its own \
                         causal text transformer, and SigLIP as transformers saves it";

/// Settings that change nothing of what is computed, or only what is refused anyway.
const WITHOUT_EFFECT: [&str; 21] = [
    "patch_dropout",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "output_tokens",
    "pos_embed_type",      // learned or not, it is stored
    "final_ln_after_pool", // a norm of each position: the same before the choice of one and after
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "hf_tokenizer_name",
    "pad_id", // what stands after the end of text is not seen
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
    "custom_text",
];

/// What open_clip_config.json says of a model.
pub struct Description {
    /// The sizes of its encoders.
    pub config: Config,
    /// Whether the blocks of the image and of the text encoder have LayerScale.
    pub layer_scale: [bool; 2],
}

/// Settings of a part, of which those that are asked for are ticked off.
struct Settings<'a> {
    values: &'a Map<String, Value>,
    asked: Vec<&'static str>,
}

impl Description {
    /// Reads `model_cfg` of open_clip_config.json.
    pub fn from_json(json: &Value) -> Result<Self> {
        let model = json.get("model_cfg").context("model_cfg is missing")?;
        Self::read(model).context("model_cfg")
    }

    fn read(model: &Value) -> Result<Self> {
        let mut whole = Settings::of(model)?;
        if let Some(decoder) = whole.get("multimodal_cfg") {
            bail!("multimodal_cfg is {decoder}: the model is CoCa; {SUPPORTED}");
        }
        let projection_dim = whole.size("embed_dim", None)?;
        let is_quick = whole.get("quick_gelu").is_some_and(|quick| quick == true);
        let (vision, text) = (whole.part("vision_cfg")?, whole.part("text_cfg")?);
        whole.require_no_more()?;
        let (vision_config, image_scaled) = image_encoder(vision, is_quick).context("vision_cfg")?;
        let (text_config, text_scaled) = text_encoder(text, is_quick).context("text_cfg")?;
        let config = Config { family: Family::Clip, text_config, vision_config, projection_dim };
        config.check()?;
        Ok(Description { config, layer_scale: [image_scaled, text_scaled] })
    }
}

/// The name of the tokenizer that the model was trained with, where it is not CLIP's.
pub fn tokenizer_name(json: &Value) -> Option<&str> {
    json.pointer("/model_cfg/text_cfg/hf_tokenizer_name")?.as_str()
}

fn image_encoder(mut of: Settings, is_quick: bool) -> Result<(VisionConfig, bool)> {
    if let Some(name) = of.get("timm_model_name") {
        bail!("timm_model_name is {name}: the image encoder is timm's; {SUPPORTED}");
    }
    if let Some(layers) = of.get("layers").filter(|layers| layers.is_array()) {
        bail!("layers is {layers}: the image encoder is a ResNet; {SUPPORTED}");
    }
    if of.get("attentional_pool").is_some_and(|pool| pool != false) {
        bail!("attentional_pool is true: the image encoder is CoCa's; {SUPPORTED}");
    }
    of.require_one_of("pool_type", &["tok"])?;
    of.require_one_of("block_type", &["default"])?;
    let width = of.size("width", Some(768))?;
    let config = VisionConfig {
        hidden_size: width,
        intermediate_size: of.intermediate(width)?,
        num_hidden_layers: of.size("layers", Some(12))?,
        num_attention_heads: width / of.size("head_width", Some(64))?,
        num_channels: 3,
        image_size: of.side("image_size", 224)?,
        patch_size: of.side("patch_size", 16)?,
        hidden_act: of.activation(is_quick)?,
        layer_norm_eps: of.eps()?,
    };
    let is_scaled = of.get("ls_init_value").is_some();
    of.require_no_more()?;
    Ok((config, is_scaled))
}

fn text_encoder(mut of: Settings, is_quick: bool) -> Result<(TextConfig, bool)> {
    if let Some(name) = of.get("hf_model_name") {
        bail!("hf_model_name is {name}: the text encoder is transformers'; {SUPPORTED}");
    }
    if of.get("embed_cls").is_some_and(|cls| cls == true) {
        bail!("embed_cls is true: the text encoder is CoCa's; {SUPPORTED}");
    }
    of.require_one_of("proj_type", &["linear"])?;
    of.require_one_of("block_type", &["default"])?;
    of.require_one_of("pool_type", &["argmax", "eos"])?;
    let is_eos = of.get("pool_type").is_some_and(|pool| pool == "eos");
    let eos = of.size("eos_id", Some(2))?;
    let width = of.size("width", Some(512))?;
    let config = TextConfig {
        vocab_size: of.size("vocab_size", Some(49408))?,
        hidden_size: width,
        intermediate_size: of.intermediate(width)?,
        num_hidden_layers: of.size("layers", Some(12))?,
        num_attention_heads: of.size("heads", Some(8))?,
        max_position_embeddings: of.size("context_length", Some(77))?,
        hidden_act: of.activation(is_quick)?,
        layer_norm_eps: of.eps()?,
        // 2 stands for the highest token, as in early configurations of CLIP
        eos_token_id: if is_eos { u32::try_from(eos).context("eos_id")? } else { 2 },
        pooling: if is_eos { Pooling::EndOfText } else { Pooling::Clip },
    };
    let is_scaled = of.get("ls_init_value").is_some();
    of.require_no_more()?;
    Ok((config, is_scaled))
}

impl<'a> Settings<'a> {
    fn of(value: &'a Value) -> Result<Self> {
        let values = value.as_object().with_context(|| format!("expected an object of settings, but found {value}"))?;
        Ok(Settings { values, asked: Vec::new() })
    }

    /// A setting, unless it is missing or null.
    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        self.values.get(key).filter(|value| !value.is_null())
    }

    fn part(&mut self, key: &'static str) -> Result<Settings<'a>> {
        Settings::of(self.get(key).with_context(|| format!("{key} is missing"))?).context(key)
    }

    /// A number above 0.
    fn size(&mut self, key: &'static str, default: Option<usize>) -> Result<usize> {
        let Some(value) = self.get(key) else { return default.with_context(|| format!("{key} is missing")) };
        let size = value.as_u64().filter(|&size| size > 0);
        Ok(size.with_context(|| format!("{key} is {value}; expected a number above 0"))? as usize)
    }

    /// A side of a square: a number, or two that are the same.
    fn side(&mut self, key: &'static str, default: usize) -> Result<usize> {
        match self.get(key) {
            Some(Value::Array(sides)) => {
                let side = sides.first().and_then(Value::as_u64).filter(|side| sides.iter().all(|other| other == side));
                Ok(side.with_context(|| format!("{key} is {sides:?}; only squares are supported"))? as usize)
            }
            _ => self.size(key, Some(default)),
        }
    }

    /// Width of the feed-forward layers, rounded down.
    fn intermediate(&mut self, width: usize) -> Result<usize> {
        let ratio = match self.get("mlp_ratio") {
            Some(ratio) => ratio.as_f64().with_context(|| format!("mlp_ratio is {ratio}; expected a number"))?,
            None => 4.0,
        };
        Ok((width as f64 * ratio) as usize)
    }

    fn activation(&mut self, is_quick: bool) -> Result<Activation> {
        let options = self.get("act_kwargs");
        match options.and_then(Value::as_object).filter(|options| !options.is_empty()) {
            None => Ok(if is_quick { Activation::QuickGelu } else { Activation::Gelu }),
            Some(given) if !is_quick && given.len() == 1 && given.get("approximate") == Some(&"tanh".into()) => {
                Ok(Activation::GeluPytorchTanh)
            }
            Some(given) => bail!("act_kwargs is {given:?}; only approximate tanh is known here"),
        }
    }

    /// What is added to the variance in layer norms.
    fn eps(&mut self) -> Result<f64> {
        let Some(options) = self.get("norm_kwargs") else { return Ok(1e-5) };
        let only = options.as_object().filter(|options| options.len() == 1).and_then(|options| options.get("eps"));
        only.and_then(Value::as_f64).with_context(|| format!("norm_kwargs is {options}; only eps is known here"))
    }

    /// An error unless a setting, where it is given, is one of `known`.
    fn require_one_of(&mut self, key: &'static str, known: &[&str]) -> Result<()> {
        match self.get(key) {
            Some(value) if !known.iter().any(|known| value == known) => {
                bail!("{key} is {value}, which is computed in another way; {SUPPORTED}")
            }
            _ => Ok(()),
        }
    }

    /// An error if there is a setting that nobody asked for and that may have an effect.
    fn require_no_more(&self) -> Result<()> {
        let is_off = |value: &Value| value.is_null() || value == false || value.as_object().is_some_and(Map::is_empty);
        let known = |key: &str| self.asked.contains(&key) || WITHOUT_EFFECT.contains(&key);
        match self.values.iter().find(|(key, value)| !known(key) && !is_off(value)) {
            Some((key, value)) => bail!("{key} is {value}, which is not known here; {SUPPORTED}"),
            None => Ok(()),
        }
    }
}

/// `preprocess_cfg` of open_clip_config.json; empty where it is not there.
pub fn preprocessing(json: &Value) -> Result<Map<String, Value>> {
    match json.get("preprocess_cfg") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(settings)) => Ok(settings.clone()),
        Some(other) => bail!("preprocess_cfg should be an object, but is {other}"),
    }
}
