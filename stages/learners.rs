//! What learners keep of a run's classes, by which name, and zero-shot text beside it.

use anyhow::Result;
use cgil::{
    baseline::{Discriminant, Evidence, Incremental, Shrinkage, text},
    clip::Checkpoint,
    method::Statistics,
    run::Run,
    states::{Learner, States},
    stream::Stream,
    task::Class,
    texts::{self, TextModel},
};
use serde_json::{Value, json};

/// What is learned by nearest class means.
pub const CLASS_MEANS: &str = "class-means";

/// What is learned by linear discriminant analysis, whatever is made of it.
pub const CLASS_STATISTICS: &str = "class-statistics";

/// The counts, means and scatter of a stream's classes, in `statistics` or what is made of them.
pub fn class_statistics<'a, C: Incremental>(run: &'a Run, stream: &'a Stream, statistics: C) -> States<'a, C> {
    States::new(run, stream, plain(CLASS_STATISTICS), statistics)
}

/// Linear discriminant analysis that counts `weight` beside prompts; none where it does not count.
pub fn discriminant<'a>(run: &'a Run, stream: &'a Stream, dim: usize, weight: f64) -> Option<Statistics<'a>> {
    let states = || class_statistics(run, stream, Discriminant::new(dim, Shrinkage::Oas));
    (weight > 0.0).then(|| Statistics::Discriminant { states: Box::new(states()), weight })
}

/// Raised by every change of what evidence chooses or keeps.
const EVIDENCE_RULE: u32 = 8;

/// The rules before it, the newest first, whose states evidence goes on from where the rows that they
/// were learned from are forgotten.
const EARLIER_RULES: [u32; 1] = [7];

/// Those that learn a class once: what they keep of it has no count.
const LEARN_ONCE: [&str; 3] = [CLASS_MEANS, "class-cache", "linear"];

/// Whether what a learner's manifest has as options is of one that can learn the tasks of a stream:
/// not what keeps something else by now, and not what learns a class once, where there is more of one.
pub fn can_learn(stream: &Stream, options: &Value) -> bool {
    let name = options["learner"].as_str().unwrap_or_default();
    let has_more = (0..stream.tasks()).any(|t| stream.more(t).next().is_some());
    let is_old = name == "evidence" && options["options"]["rule"] != json!(EVIDENCE_RULE);
    !(is_old || has_more && LEARN_ONCE.contains(&name))
}

/// A learner without options, whatever classes are to come.
pub fn plain(name: &'static str) -> Learner {
    Learner { name, options: Value::Null, looks_ahead: false, earlier: Vec::new() }
}

/// Zero-shot text features of classes.
pub struct Text {
    pub clip: TextModel,
    template: String,
    /// Values per feature, P.
    pub dim: usize,
    /// (C, P), not normalised.
    pub features: Vec<f32>,
    /// (C, P), of length 1.
    pub unit: Vec<f32>,
    pub logit_scale: f32,
}

impl Text {
    pub fn new(classes: &[Class], checkpoint: &Checkpoint, clip: TextModel, template: &str) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let features = texts::features(checkpoint, &tokenizer, classes, &[template.to_owned()])?; // (C, P)
        let classes = classes.len();
        let dim = features.len() / classes;
        let unit = text::zero_shot(&features, classes, dim)?;
        let logit_scale = checkpoint.text_encoder(&tokenizer)?.logit_scale;
        Ok(Text { clip, template: template.to_owned(), dim, features, unit, logit_scale })
    }

    /// What it is of.
    pub fn options(&self) -> Value {
        json!({"clip": self.clip, "template": self.template})
    }

    /// The evidence beside it, and how its states are called.
    pub fn evidence(&self) -> (Learner, Evidence) {
        let of = |rule: u32| {
            let mut options = self.options();
            options["rule"] = rule.into();
            options
        };
        let earlier = EARLIER_RULES.map(of).to_vec();
        let learner = Learner { name: "evidence", options: of(EVIDENCE_RULE), looks_ahead: true, earlier };
        let text = self.unit.iter().map(|&x| f64::from(x)).collect();
        (learner, Evidence::new(text, self.dim, f64::from(self.logit_scale)))
    }
}
