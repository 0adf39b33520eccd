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

/// Name of evidence among learners.
const EVIDENCE: &str = "evidence";

/// Raised by every change of what evidence chooses or keeps.
const EVIDENCE_RULE: u32 = 8;

/// The rules before it, the newest first, whose states evidence goes on from where rows are forgotten.
const EARLIER_RULES: [u32; 1] = [7];

/// Those that learn a class once: what they keep of it has no count.
const LEARN_ONCE: [&str; 3] = [CLASS_MEANS, "class-cache", "linear"];

/// Who goes on from a stream's states whose manifest has these options; nobody where it learns a class
/// once and there is more of one.
pub fn learner_of(stream: &Stream, made: &Value) -> Option<Learner> {
    let name = made["learner"].as_str().unwrap_or_default();
    let has_more = (0..stream.tasks()).any(|t| stream.more(t).next().is_some());
    if has_more && LEARN_ONCE.contains(&name) {
        return None;
    }
    let options = made["options"].clone();
    Some(if name == EVIDENCE { evidence(&options) } else { Learner { options, ..plain(name) } })
}

/// Evidence beside some text, whatever rule the options are of.
fn evidence(options: &Value) -> Learner {
    let by = |rule: u32| {
        let mut options = options.clone();
        options["rule"] = rule.into();
        options
    };
    let earlier = EARLIER_RULES.map(by).to_vec();
    Learner { name: EVIDENCE.to_owned(), options: by(EVIDENCE_RULE), looks_ahead: true, earlier }
}

/// A learner without options, whatever classes are to come.
pub fn plain(name: &str) -> Learner {
    Learner { name: name.to_owned(), options: Value::Null, looks_ahead: false, earlier: Vec::new() }
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
        (evidence(&self.options()), self.evidence_of(self.unit.len() / self.dim))
    }

    /// The evidence beside the text of the first `classes` alone.
    pub fn evidence_of(&self, classes: usize) -> Evidence {
        let text = self.unit[..classes * self.dim].iter().map(|&x| f64::from(x)).collect();
        Evidence::new(text, self.dim, f64::from(self.logit_scale))
    }
}
