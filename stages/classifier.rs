//! The classifier that a run has learned, and the same with more classes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use cgil::{
    artefact::{self, Manifest},
    baseline::{Incremental, OpenClassifier},
    clip::Checkpoint,
    results::{CLASSIFIER, Results},
    run::Run,
    states::States,
    storage,
    stream::Stream,
    task::Class,
    texts::{self, TextModel},
};
use clap::Args;
use serde_json::Value;

use crate::{learners::Text, options::StreamOption};

/// Which classifier of a run is meant.
#[derive(Args)]
pub struct ClassifierOptions {
    #[command(flatten)]
    pub stream: StreamOption,
    /// The method that classifies, as tables call it, where several have a classifier
    #[arg(long, value_name = "METHOD", hide_short_help = true)]
    pub method: Option<String>,
}

/// A classifier, and what it is of.
pub struct Learned {
    pub stream: Stream,
    /// Of which method, as tables call it.
    pub method: String,
    /// Text of a class that is not learned.
    pub template: String,
    /// SHA-256 of the weights of the CLIP that encoded texts.
    pub clip_sha256: String,
    pub classifier: OpenClassifier,
    /// In the order of its logits; the first `seen` are learned.
    pub classes: Vec<Class>,
}

impl ClassifierOptions {
    /// The classifier after the last task.
    pub fn open(&self, run: &Run) -> Result<Learned> {
        let none = || format!("{} has learned nothing yet: run `cgil add` first", run.dir().display());
        let stream = self.stream.find(run)?.with_context(none)?;
        let dir = step(run, &stream, self.method.as_deref())?;
        let made = Manifest::read(&dir, &artefact::RESULTS)?;
        made.check_file(&dir, CLASSIFIER)?;
        let (classifier, classes) = OpenClassifier::read(&dir.join(CLASSIFIER))?;
        let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
        Ok(Learned {
            stream,
            method: text(&made.options["method"], ""),
            template: text(&made.options["made"]["template"], texts::TEMPLATE),
            clip_sha256: text(&made.options["made"]["clip"]["model_sha256"], ""),
            classifier,
            classes,
        })
    }
}

impl Learned {
    /// With more classes that are not learned, by name, which are known by their texts.
    pub fn with(mut self, run: &Run, names: &[String], checkpoint: &Checkpoint, clip: TextModel) -> Result<Self> {
        if names.is_empty() {
            return Ok(self);
        }
        let also = also(names, &self.classes, &self.stream.classes)?;
        self.classes.extend(also.iter().cloned());
        let all = [&self.stream.classes[..], &also].concat();
        let text = Text::new(&all, checkpoint, clip, &self.template)?;
        let (learner, mut evidence) = text.evidence();
        // what was learned knows the stream's classes alone
        let learned = text.evidence_of(self.stream.classes.len());
        let mut states = States::new(run, &self.stream, learner, learned);
        evidence.restore(states.after(self.stream.tasks())?.state())?;
        ensure!(evidence.stored().per_class > 0, "nothing was learned");
        let classifier = evidence.classifier(None).context("nothing was learned")?;
        let removed: Vec<usize> = self.stream.removed(self.stream.tasks()).collect();
        self.classifier = classifier.without(&removed).with_prompts(self.classifier.prompts().as_deref());
        Ok(self)
    }
}

/// The last step of the method whose classifier is asked for, or of the only one that has a
/// classifier; of several, of the one with default options.
fn step(run: &Run, stream: &Stream, method: Option<&str>) -> Result<PathBuf> {
    let has =
        |method: &str| storage::is_file(&Results::new(run, stream, method).step_dir(stream.tasks()).join(CLASSIFIER));
    let ready: Vec<String> = run.methods(&stream.name).into_iter().filter(|method| has(method)).collect();
    let chosen = match (method, &ready[..]) {
        (Some(method), _) if has(method) => method,
        (Some(method), _) => {
            bail!("{method} has no classifier after the last task; those that have: {}", ready.join(", "))
        }
        (None, [only]) => only,
        (None, []) => bail!(
            "{} has no classifier after the last task: run `cgil add` or `cgil prompt-tune`, which make one",
            run.dir().display()
        ),
        (None, _) if has("cgil") => "cgil",
        (None, _) => bail!("several methods have a classifier ({}): choose one by --method", ready.join(", ")),
    };
    Ok(Results::new(run, stream, chosen).step_dir(stream.tasks()))
}

/// Classes by name that are no `candidates`; with labels that none of `all` has.
fn also(names: &[String], candidates: &[Class], all: &[Class]) -> Result<Vec<Class>> {
    let next = all.iter().map(|class| class.label).max().map_or(0, |label| label + 1);
    let class = |(label, name): (i64, &String)| {
        let name = name.trim();
        ensure!(!name.is_empty(), "--also has a name without letters");
        ensure!(candidates.iter().all(|class| class.name != name), "--also names {name:?}, which the run knows");
        Ok(Class { label, name: name.to_owned() })
    };
    (next..).zip(names).map(class).collect()
}
