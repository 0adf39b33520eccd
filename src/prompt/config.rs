//! How prompts are made and trained.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::{choice::choices, texts};

/// How prompts are made and trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptConfig {
    /// Epochs per task; the paper's.
    pub epochs: usize,
    /// Learning rate; the authors use 0.01 to 0.05.
    pub lr: f64,
    /// What takes the steps.
    pub optimizer: Optimizer,
    /// Weight decay, in sgd and adam added to the gradients (L2), in adamw apart from them; the
    /// paper has none.
    pub weight_decay: f64,
    /// Where context vectors come from.
    pub context: Context,
    /// Context vectors per prompt, without the generated one of [`Context::Combined`].
    pub n_ctx: usize,
    /// Weight of the penalty of [`orthogonal`](super::orthogonal).
    pub ortho: f64,
    /// Which classes' vectors are trained.
    pub train_prompts: TrainPrompts,
    /// Zero-shot text of a class, with `{}` for its name; context vectors are generated from its
    /// feature.
    pub template: String,
    /// Embeddings drawn per seen class and epoch; the paper's.
    pub samples: usize,
    /// Embeddings per step; the paper's.
    pub batch_size: usize,
    /// Classes whose prompts are encoded in a step, those of its embeddings among them; none is all,
    /// the paper's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes_per_step: Option<usize>,
}

impl Default for PromptConfig {
    fn default() -> Self {
        PromptConfig {
            epochs: 60,
            lr: 0.05,
            optimizer: Optimizer::Adamw,
            weight_decay: 0.0,
            context: Context::Combined,
            n_ctx: 1,
            ortho: 0.0,
            train_prompts: TrainPrompts::All,
            template: texts::TEMPLATE.to_owned(),
            samples: 256,
            batch_size: 128,
            classes_per_step: None,
        }
    }
}

choices! {
    /// The context vectors of a class's prompt. Those of `image` are CoCoOp's (Zhou et al., 2022):
    /// every image has prompts of its own, so a step costs the batch size times as much, and
    /// scoring the number of test images times.
    pub enum Context {
        Class = "class": "The class's own",
        General = "general": "The same for all classes, as in CoOp (Zhou et al., 2022)",
        Generated = "generated": "Generated from the feature of the class's text",
        Image = "image": "The same for all classes, shifted by what a meta-net makes of the image's embedding (CoCoOp); slow",
        Combined = "combined": "The class's own, and one generated from the feature of its text",
    }
}

choices! {
    /// The rule that parameters are changed by.
    pub enum Optimizer {
        Sgd = "sgd": "Stochastic gradient descent with momentum 0.9, as in CoOp, there with --lr 0.002",
        Adam = "adam": "Adam, the weight decay added to the gradients",
        Adamw = "adamw": "Adam, the weight decay apart from the gradients",
    }
}

choices! {
    /// Whose own context vectors are trained.
    pub enum TrainPrompts {
        All = "all": "Those of all classes seen",
        Current = "current": "Those of the current task's classes; past ones stay as their task left them",
    }
}

choices! {
    /// What the classes of the current task are trained on.
    pub enum Current {
        Generated = "generated": "Draws from their generators",
        Real = "real": "Draws from their real embeddings",
        Both = "both": "Half of each",
    }
}

choices! {
    /// What is added to generated embeddings.
    pub enum ReplayNoise {
        On = "on": "Normal noise of the covariance within classes that they lack",
        Off = "off": "Nothing: the paper's",
    }
}

impl PromptConfig {
    /// Learned vectors of a prompt, which come first.
    pub fn learned(&self) -> usize {
        if self.context == Context::Generated { 0 } else { self.n_ctx }
    }

    /// Generated vectors of a prompt, which follow.
    pub fn generated(&self) -> usize {
        match self.context {
            Context::Generated => self.n_ctx,
            Context::Combined => 1,
            Context::Class | Context::General | Context::Image => 0,
        }
    }

    /// All context vectors of a prompt.
    pub fn vectors(&self) -> usize {
        self.learned() + self.generated()
    }

    /// An error for what would do nothing.
    pub fn check(&self) -> Result<()> {
        let has_own = matches!(self.context, Context::Class | Context::Combined);
        if self.train_prompts == TrainPrompts::Current && !has_own {
            bail!("--train-prompts current would do nothing: with this --context no class has vectors of its own");
        }
        if self.classes_per_step.is_some() && self.context == Context::Image {
            bail!("--classes-per-step takes prompts that do not depend on the image: another --context than image");
        }
        Ok(())
    }

    /// An error where training on `classes` classes with embeddings of `dim` values would take more
    /// memory than a machine has.
    pub fn check_size(&self, classes: usize, dim: usize) -> Result<()> {
        const MOST: f64 = 16e9;
        // an epoch's rows, and a step's logits and their gradients
        let rows = classes as f64 * self.samples as f64;
        let candidates = classes.min(self.classes_per_step.map_or(classes, |count| count.max(self.batch_size)));
        let bytes = 4.0 * (rows * dim as f64 + 2.0 * rows.min(self.batch_size as f64) * candidates as f64);
        if bytes > MOST {
            bail!(
                "{} embeddings of {classes} classes, of {dim} values each, and a batch size of {} take {:.0} GB per epoch, and {:.0} GB \
                 are the most: use smaller --samples or --batch-size",
                self.samples,
                self.batch_size,
                bytes / 1e9,
                MOST / 1e9
            );
        }
        Ok(())
    }

    /// How many classes keep their own context vectors in a task before which `past` classes were
    /// learned.
    pub fn frozen(&self, past: usize) -> usize {
        if self.train_prompts == TrainPrompts::Current { past } else { 0 }
    }
}

impl Context {
    /// Whether all classes share the learned vectors.
    pub fn is_shared(self) -> bool {
        matches!(self, Context::General | Context::Image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_no_memory_holds_is_refused() {
        let of = |samples, batch_size| PromptConfig { samples, batch_size, ..Default::default() };
        assert!(of(256, 128).check_size(10_000, 1024).is_ok()); // 10.5 GB
        let error = of(1_000_000, 128).check_size(100, 768).unwrap_err().to_string();
        assert!(error.contains("307 GB") && error.contains("16 GB") && error.contains("--samples"), "{error}");
        assert!(of(20_000, 1_000_000).check_size(2000, 16).is_err()); // the logits: 16 GB
        assert!(of(20_000, 128).check_size(2000, 16).is_ok());
    }
}
