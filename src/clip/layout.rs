//! Where a checkpoint keeps what the encoders ask for. They ask by the names that transformers has
//! for CLIP's weights; OpenCLIP has others, keeps queries, keys and values in one tensor and
//! projections transposed, and may have LayerScale, which is a factor of the rows of the affine map
//! before it.

/// OpenCLIP's names for parts of transformers'.
const OPEN_CLIP: [(&str, &str); 16] = [
    ("encoder.layers.", "transformer.resblocks."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("self_attn.q_proj.", "attn.in_proj_"),
    ("self_attn.k_proj.", "attn.in_proj_"),
    ("self_attn.v_proj.", "attn.in_proj_"),
    ("self_attn.out_proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.token_embedding.", "token_embedding."),
    ("pre_layrnorm.", "ln_pre."), // so spelled in every checkpoint
    ("post_layernorm.", "ln_post."),
    ("final_layer_norm.", "ln_final."),
];

/// Maps whose three outputs OpenCLIP keeps one below the other.
const FUSED: [&str; 3] = ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."];

/// The last map of each half of a block, and the LayerScale after it.
const SCALED: [(&str, &str); 2] = [("attn.out_proj.", "ls_1.gamma"), ("mlp.c_proj.", "ls_2.gamma")];

/// Buffers that some checkpoints store beside their weights: the numbers of the positions, and the
/// mask of the attention.
const BUFFERS: [&str; 2] = [".embeddings.position_ids", "attn_mask"];

/// One of the two encoders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tower {
    /// The image encoder.
    Image,
    /// The text encoder.
    Text,
}

/// The names of a checkpoint's tensors.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// Those of transformers.
    Transformers,
    /// Those of OpenCLIP.
    OpenClip {
        /// What stands before the names of the text encoder's: nothing, or `text.`.
        text: &'static str,
        /// Whether the blocks of the image and of the text encoder have LayerScale.
        layer_scale: [bool; 2],
    },
}

/// Where a weight is.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The tensor's name.
    pub name: String,
    /// Which third of its rows, where three weights lie below each other.
    pub third: Option<usize>,
    /// Whether rows and columns are the other way round.
    pub transposed: bool,
    /// The tensor whose values the weight's rows are multiplied with.
    pub scale: Option<String>,
}

impl Layout {
    /// The place of the weight that transformers has under `name`.
    pub fn place(&self, name: &str) -> Place {
        let whole = |name: String| Place { name, third: None, transposed: false, scale: None };
        let Layout::OpenClip { text, layer_scale } = self else { return whole(name.to_owned()) };
        match name {
            "visual_projection.weight" => Place { transposed: true, ..whole("visual.proj".into()) },
            "text_projection.weight" => Place { transposed: true, ..whole(format!("{text}text_projection")) },
            _ => {
                let stored = self.stored(name);
                let is_scaled = layer_scale[usize::from(!name.starts_with("vision_model."))];
                let scale = SCALED.iter().filter(|_| is_scaled).find_map(|(map, scale)| {
                    let (block, _) = stored.split_once(map)?;
                    Some(format!("{block}{scale}"))
                });
                let third = FUSED.iter().position(|part| name.contains(part));
                Place { third, scale, ..whole(stored) }
            }
        }
    }

    /// The name, or the beginning of names, that stands for transformers'.
    pub fn stored(&self, name: &str) -> String {
        let Layout::OpenClip { text, .. } = self else { return name.to_owned() };
        let (tower, part) = match (name.strip_prefix("vision_model."), name.strip_prefix("text_model.")) {
            (Some(part), _) => ("visual.", part),
            (_, Some(part)) => (*text, part),
            _ => ("", name),
        };
        let part = OPEN_CLIP.iter().fold(part.to_owned(), |part, (theirs, own)| part.replace(theirs, own));
        format!("{tower}{part}")
    }

    /// Whether a tensor is a weight of an encoder.
    pub fn is_weight_of(&self, name: &str, tower: Tower) -> bool {
        if BUFFERS.iter().any(|buffer| name.ends_with(buffer)) {
            return false;
        }
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        match (self, tower) {
            (Layout::Transformers, Tower::Image) => begins(&["vision_model.", "visual_projection."]),
            (Layout::Transformers, Tower::Text) => begins(&["text_model.", "text_projection.", "logit_"]),
            (Layout::OpenClip { .. }, Tower::Image) => begins(&["visual."]),
            // a bias that all logits share is nothing to the softmax over classes
            (Layout::OpenClip { .. }, Tower::Text) => !begins(&["visual."]) && name != "logit_bias",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_clips_names_stand_for_transformers() {
        let plain = Layout::OpenClip { text: "", layer_scale: [false, false] };
        let custom = Layout::OpenClip { text: "text.", layer_scale: [true, false] };
        for (asked, plainly, customly) in [
            ("logit_scale", "logit_scale", "logit_scale"),
            ("visual_projection.weight", "visual.proj", "visual.proj"),
            ("text_projection.weight", "text_projection", "text.text_projection"),
            ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias", "visual.ln_pre.bias"),
            ("text_model.embeddings.position_embedding.weight", "positional_embedding", "text.positional_embedding"),
            (
                "text_model.encoder.layers.10.self_attn.k_proj.bias",
                "transformer.resblocks.10.attn.in_proj_bias",
                "text.transformer.resblocks.10.attn.in_proj_bias",
            ),
            (
                "vision_model.encoder.layers.2.mlp.fc2.weight",
                "visual.transformer.resblocks.2.mlp.c_proj.weight",
                "visual.transformer.resblocks.2.mlp.c_proj.weight",
            ),
        ] {
            assert_eq!(plain.place(asked).name, plainly);
            assert_eq!(custom.place(asked).name, customly);
            assert_eq!(Layout::Transformers.place(asked).name, asked);
        }
        let place = custom.place("vision_model.encoder.layers.2.mlp.fc2.weight");
        assert_eq!(place.scale.as_deref(), Some("visual.transformer.resblocks.2.ls_2.gamma"));
        let place = custom.place("text_model.encoder.layers.2.self_attn.v_proj.weight");
        assert_eq!((place.third, place.scale), (Some(2), None));
    }
}
