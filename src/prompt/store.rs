//! What prompt-tune keeps of a step beside its predictions: the prompts, to go on from, and their text features.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, StringArray};
use serde::{Deserialize, Serialize};

use super::{
    Context as ContextKind, Current, Learner, PromptConfig,
    cpu::normalise,
    tune::{Replay, Tuning},
};
use crate::{
    baseline::Discriminant,
    clip::{Checkpoint, ModelId},
    generator::store::StoreManifest,
    results::{self, Results, write_table},
    table::{contract, file},
    task::Curriculum,
    tensors,
};

const PROMPTS: &str = "prompts.safetensors";

/// What the prompts of a run were made with: written before the first step, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptManifest {
    pub config: PromptConfig,
    #[serde(flatten)]
    pub clip: TextModel,
    /// What was trained on; none for a baseline, whose name says it.
    pub current: Option<Current>,
    /// What class statistics count beside the prompts, 0 to 1.
    pub statistics: f64,
    pub latents: Option<StoreManifest>,
    /// What the embeddings are: [`Manifest::identity`].
    pub embeddings: String,
    pub curriculum: Curriculum,
}

/// The CLIP whose text encoder is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextModel {
    /// SHA-256 of its weights.
    pub model_sha256: String,
    /// Hash of what its config.json says.
    pub model_config: String,
    /// SHA-256 of its tokenizer.json.
    pub tokenizer_sha256: String,
}

impl TextModel {
    pub fn new(checkpoint: &Checkpoint, model: ModelId) -> Result<Self> {
        let tokenizer_sha256 = checkpoint.tokenizer_sha256()?;
        Ok(TextModel { model_sha256: model.sha256, model_config: model.config, tokenizer_sha256 })
    }
}

impl PromptManifest {
    pub fn new(tuning: &Tuning, checkpoint: &Checkpoint, model: ModelId) -> Result<Self> {
        let Tuning { embeddings, curriculum, config, statistics, .. } = *tuning;
        let (current, latents) = match tuning.replay {
            Replay::Generated(latents, current) => (Some(current), Some(latents.manifest.clone())),
            Replay::Nothing | Replay::Real => (None, None),
        };
        Ok(PromptManifest {
            config: config.clone(),
            clip: TextModel::new(checkpoint, model)?,
            current,
            statistics,
            latents,
            embeddings: embeddings.manifest.identity(),
            curriculum: curriculum.clone(),
        })
    }
}

/// Sets `learner` to what it was after `learned` tasks.
pub fn resume(results: &Results, learned: usize, learner: &mut dyn Learner) -> Result<()> {
    let path = results.step_dir(learned).join(PROMPTS);
    let (stored, _) = tensors::read::<Option<u32>>(&path)?;
    let mut parameters = learner.parameters()?;
    parameters
        .load(stored)
        .with_context(|| format!("{} does not fit this run; remove {}", path.display(), results.dir().display()))?;
    learner.set_parameters(parameters)
}

/// Writes prompts, text features and the `losses` of the epochs into the directory of the step after `learned` tasks.
pub fn write(
    dir: &Path,
    results: &Results,
    learned: usize,
    learner: &mut dyn Learner,
    losses: &[f64],
    curriculum: &Curriculum,
) -> Result<()> {
    let dim = learner.zero_shot().len() / curriculum.classes.len();
    let features = text_features(learner, curriculum, learned)?;
    let first = curriculum.classes.len() - features.len() / dim; // those before it have none
    let classes = &curriculum.classes[first..];
    let tasks = || (first..curriculum.classes.len()).map(|c| curriculum.task_of(c));
    let mut columns = results.keys(learned, classes.len());
    columns.extend([
        Arc::new(Int64Array::from_iter_values(tasks().map(|t| t as i64 + 1))) as ArrayRef,
        Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
        Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
        Arc::new(StringArray::from_iter_values(tasks().map(|t| if t < learned { "prompt" } else { "zero_shot" }))),
        file::vectors(features, dim),
    ]);
    write_table(dir, contract::text_features(), &file::rows(contract::text_features(), dim, columns)?)?;
    let mut columns = results.keys(learned, losses.len());
    columns.extend([
        Arc::new(Int64Array::from_iter_values(1..=losses.len() as i64)) as ArrayRef,
        Arc::new(Float64Array::from_iter_values(losses.iter().copied())),
    ]);
    write_table(dir, contract::prompt_losses(), &file::rows(contract::prompt_losses(), 0, columns)?)?;
    tensors::write(&dir.join(PROMPTS), &learner.parameters()?.tensors(), &curriculum.seed)
}

/// Writes the linear head that class statistics make into the directory of the step after `learned` tasks.
pub fn write_head(
    dir: &Path,
    results: &Results,
    learned: usize,
    statistics: &Discriminant,
    curriculum: &Curriculum,
) -> Result<()> {
    let (directions, offsets) = statistics.head();
    let classes = &curriculum.classes[..offsets.len()];
    let tasks = (0..classes.len()).map(|c| curriculum.task_of(c) as i64 + 1);
    let mut columns = results.keys(learned, classes.len());
    columns.extend([
        Arc::new(Int64Array::from_iter_values(tasks)) as ArrayRef,
        Arc::new(Int64Array::from_iter_values(classes.iter().map(|c| c.label))),
        Arc::new(StringArray::from_iter_values(classes.iter().map(|c| &c.name))),
        Arc::new(Float32Array::from(offsets)),
        file::vectors(directions.to_vec(), statistics.dim()),
    ]);
    let contract = contract::statistics_head();
    write_table(dir, contract, &file::rows(contract, statistics.dim(), columns)?)
}

/// What the finished prompts of a method were made with, whose text features are to be used.
pub fn manifest_of(run: &Path, curriculum: &Curriculum, method: &str) -> Result<PromptManifest> {
    let last = results::step_dir(run, curriculum, method, curriculum.tasks());
    if method.contains(['/', '\\']) || !last.join(PROMPTS).exists() {
        bail!(
            "{} has no prompts {method:?} learned in {} tasks in the order {}: run `cgil prompt-tune` first",
            run.display(),
            curriculum.tasks(),
            curriculum.order
        );
    }
    let manifest: PromptManifest = serde_json::from_value(results::manifest(run, &curriculum.order, method)?)
        .with_context(|| format!("the manifest of {method}, in the order {}", curriculum.order))?;
    if manifest.curriculum != *curriculum {
        bail!("the prompts {method:?} were learned in other tasks: use the same --tasks, --order and --seed");
    }
    if manifest.config.context == ContextKind::Image {
        bail!("the prompts {method:?} depend on the image (--context image), so no class has a text feature");
    }
    Ok(manifest)
}

/// The text features (C, P), in learning order, that `method` wrote after `learned` tasks; they have `dim` values.
pub fn text_features_of(
    run: &Path,
    curriculum: &Curriculum,
    method: &str,
    learned: usize,
    dim: usize,
) -> Result<Vec<f32>> {
    let path = results::step_dir(run, curriculum, method, learned).join("text_features.parquet");
    let rows = file::read(&path, contract::text_features(), dim)?;
    if !file::int64s(&rows, "label").iter().eq(curriculum.classes.iter().map(|class| &class.label)) {
        bail!("{} has other classes than its manifest says: remove its directory, and make it again", path.display());
    }
    Ok(file::floats(&rows, "embedding").to_vec())
}

/// Normalised text features (C, P) of all classes after `learned` tasks: learned for seen classes, zero-shot for the others.
/// Where prompts depend on the image, those of the others alone.
fn text_features(learner: &mut dyn Learner, curriculum: &Curriculum, learned: usize) -> Result<Vec<f32>> {
    let p = learner.zero_shot().len() / curriculum.classes.len();
    let seen = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
    let mut features = if seen > 0 { learner.keys(seen)? } else { Vec::new() }; // (n, P)
    let learned = features.len();
    features.extend_from_slice(&learner.zero_shot()[seen * p..]);
    normalise(&mut features[learned..], p);
    if features.iter().any(|x| !x.is_finite()) {
        bail!("the text features are not finite: use a smaller --lr, or look whether the checkpoint is whole");
    }
    Ok(features)
}
