//! The classifier that a run has learned, and the same with more classes.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use cgil::{
    artefact::{self, MANIFEST, Manifest, slug},
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

use crate::{
    known::{nearly, spelled},
    learners::Text,
    options::StreamOption,
    terminal,
};

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
    /// As the classifier knows it.
    pub stream: Stream,
    /// How many of its tasks the classifier has learned.
    pub tasks: usize,
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
    /// The classifier after the last task, or, where that is not learned yet, after the last that is.
    pub fn open(&self, run: &Run) -> Result<Learned> {
        let none = || format!("{} has learned nothing yet: run `cgil add` first", run.dir().display());
        let mut stream = self.stream.find(run)?.with_context(none)?;
        let (tasks, dir) = step(run, &stream, self.method.as_deref())?;
        if tasks < stream.tasks() {
            terminal::note(&format!(
                "note: this is the classifier after task {tasks} of {}: the next is not learned, or is being learned; \
                 where nothing runs, run the command that began it again",
                stream.tasks()
            ));
        }
        let made = Manifest::read(&dir, &artefact::RESULTS)?;
        made.check_file(&dir, CLASSIFIER)?;
        let (classifier, classes) = OpenClassifier::read(&dir.join(CLASSIFIER))?;
        let first = stream.first_tasks(tasks)?;
        if classes.len() + first.removed(tasks).count() == first.classes.len() {
            stream = first; // as far as it was known then
        }
        let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
        Ok(Learned {
            stream,
            tasks,
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
        evidence.restore(states.after(self.tasks)?.state())?;
        ensure!(evidence.stored().per_class > 0, "nothing was learned");
        let classifier = evidence.classifier(None).context("nothing was learned")?;
        let removed: Vec<usize> = self.stream.removed(self.tasks).collect();
        self.classifier = classifier.without(&removed).with_prompts(self.classifier.prompts().as_deref());
        Ok(self)
    }
}

/// The last step that has a classifier, how many tasks it is after and where it lies: of the method that is
/// asked for, of the only one that has any, of the only one of CGIL or of that with default options.
fn step(run: &Run, stream: &Stream, method: Option<&str>) -> Result<(usize, PathBuf)> {
    let dir = |method: &str, tasks: usize| Results::new(run, stream, method).step_dir(tasks);
    // in a store the manifest comes last
    let is_whole = |dir: PathBuf| storage::is_file(&dir.join(CLASSIFIER)) && storage::is_file(&dir.join(MANIFEST));
    let last = |method: &String| (1..=stream.tasks()).rev().find(|&tasks| is_whole(dir(method, tasks)));
    let methods = run.methods(&stream.name);
    let ready: Vec<(&str, usize)> =
        methods.iter().filter_map(|method| Some((method.as_str(), last(method)?))).collect();
    let names = || ready.iter().map(|(method, _)| *method).collect::<Vec<_>>().join(", ");
    let of_cgil: Vec<_> = ready.iter().copied().filter(|(method, _)| method.starts_with("cgil")).collect();
    let called = |name: &str| ready.iter().find(|(method, _)| *method == slug(name)); // as their directories are
    let &(method, tasks) = match (method, &ready[..], &of_cgil[..]) {
        (_, [], _) => {
            bail!("{} has no classifier yet: run `cgil add` or `cgil prompt-tune`, which make one", run.dir().display())
        }
        (Some(name), ..) => {
            called(name).with_context(|| format!("{name} has no classifier; those that have: {}", names()))?
        }
        (None, [only], _) | (None, _, [only]) => only,
        (None, ..) => called("cgil")
            .with_context(|| format!("several methods have a classifier ({}): choose one by --method", names()))?,
    };
    Ok((tasks, dir(method, tasks)))
}

/// Classes by name that are no `candidates`; with labels that none of `all` has.
fn also(names: &[String], candidates: &[Class], all: &[Class]) -> Result<Vec<Class>> {
    let next = all.iter().map(|class| class.label).max().map_or(0, |label| label + 1);
    let class = |(label, name): (i64, &String)| {
        let name = name.trim();
        ensure!(!name.is_empty(), "--also has a name without letters");
        if let Some(known) = nearly(candidates, name) {
            bail!("--also names {name:?}, which the run knows as {known:?}");
        }
        ensure!(
            names.iter().filter(|other| spelled(other) == spelled(name)).count() == 1,
            "--also names {name:?} twice"
        );
        Ok(Class { label, name: name.to_owned() })
    };
    (next..).zip(names).map(class).collect()
}
