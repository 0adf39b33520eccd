//! What a class is called in a text, and the CLIP that encodes it.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    clip::{Checkpoint, ModelId, Tokenizer},
    task::Class,
};

/// Where a template takes the class's name.
const NAME: &str = "{}";

/// What the zero-shot text of a class is, unless another template is given.
pub const TEMPLATE: &str = "a photo of a {}";

/// The CLIP whose text encoder is used, as artefacts record it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextModel {
    /// SHA-256 of its weights.
    pub model_sha256: String,
    /// Hash of what its config.json says.
    pub model_config: String,
    /// SHA-256 of its tokenizer's files.
    pub tokenizer_sha256: String,
}

impl TextModel {
    /// Of a checkpoint whose id is `model`. Reads the tokenizer's file once.
    pub fn new(checkpoint: &Checkpoint, model: &ModelId) -> Result<Self> {
        let tokenizer_sha256 = checkpoint.tokenizer_sha256()?;
        Ok(TextModel { model_sha256: model.sha256.clone(), model_config: model.config.clone(), tokenizer_sha256 })
    }
}

/// What a text calls a class: its name, with blanks for underscores.
///
/// ```
/// let class = cgil::task::Class { label: 0, name: "red_fox".into() };
/// assert_eq!(cgil::texts::spoken(&class), "red fox");
/// assert_eq!(cgil::texts::fill("a photo of a {}", &class), "a photo of a red fox");
/// ```
pub fn spoken(class: &Class) -> String {
    class.name.replace('_', " ")
}

/// A template with a class's name in it.
pub fn fill(template: &str, class: &Class) -> String {
    template.replace(NAME, &spoken(class))
}

/// An error in words unless a template takes the class's name once.
pub fn check_template(text: &str) -> std::result::Result<(), String> {
    match text.matches(NAME).count() {
        1 => Ok(()),
        n => Err(format!("expected {NAME} once, where the class's name goes, found it {n} times")),
    }
}

/// Text features (T, C, P), not normalised, of `classes` in T templates.
pub fn features(
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
    classes: &[Class],
    templates: &[String],
) -> Result<Vec<f32>> {
    let encoder = checkpoint.text_encoder(tokenizer)?;
    let of_template = |template: &String| {
        encoder.features(tokenizer, &classes.iter().map(|class| fill(template, class)).collect::<Vec<_>>())
    };
    Ok(templates.iter().map(of_template).collect::<Result<Vec<_>>>()?.concat())
}
