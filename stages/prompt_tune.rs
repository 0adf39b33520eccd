//! Stage 3: prompts learned task after task from real and generated embeddings, and what they are worth.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use cgil::{
    clip::Checkpoint,
    device::Choice,
    generator::{Generator, LatentStore},
    metrics::{History, Scores, mean},
    profile::{Phase, time},
    prompt::{
        Current, EmbeddingStream, Evaluation, Learner, PromptConfig, PromptStore,
        align::align,
        cpu::normalise,
        evaluate::{TestSet, evaluate},
        learner,
        store::PromptManifest,
    },
    table::embeddings::{Embeddings, ModelId},
    task::{Class, Curriculum},
};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    /// Directory of the CLIP checkpoint; needed where the embeddings were imported, else the run knows it
    #[arg(long)]
    model: Option<PathBuf>,
    /// Class order and draws, as fitted with the same --seed; without it the dataset's order, and seed 0
    #[arg(long)]
    seed: Option<u32>,
    #[command(flatten)]
    config: PromptConfig,
    /// What computes: auto, cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: Choice,
    /// Print where the time went
    #[arg(long)]
    profile: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let embeddings = Embeddings::open_complete(&options.run)?;
    let latents = LatentStore::open(&options.run, options.seed)?;
    latents.require_embeddings(&embeddings.manifest)?;
    let curriculum = Curriculum::new(&embeddings.manifest.classes, latents.manifest.tasks, options.seed)?;
    let (checkpoint, model) = time(Phase::Load, || open_checkpoint(options, &embeddings))?;
    let test = time(Phase::Read, || test_set(&embeddings, &curriculum))?;

    let seed = u64::from(options.seed.unwrap_or(0));
    let device = options.device.open_one()?;
    terminal::note_device(&options.device, &device);
    let load = || learner::new(&checkpoint, &curriculum.classes, &options.config, seed, &device);
    let mut learner = time(Phase::Load, load)?;
    let learner = learner.as_mut();
    let manifest = PromptManifest {
        config: options.config.clone(),
        model_sha256: model.sha256,
        model_config: model.config,
        tokenizer_sha256: checkpoint.tokenizer_sha256()?,
        latents: latents.manifest.clone(),
    };
    let store = PromptStore::create(&options.run, &manifest)?;

    let mut history = History { images: images_per_task(&test, &curriculum), ..History::default() };
    let mut generators = Vec::new();
    for learned in store.resume(learner, &mut history)?..=curriculum.tasks() {
        if learned > 0 {
            for task in 0..learned {
                if generators.len() < curriculum.seen(task) {
                    generators.extend(latents.read_task(task, &curriculum)?);
                }
            }
            learn(learner, &generators, learned - 1, options, &embeddings, &curriculum)?;
        }
        let evaluation = time(Phase::Evaluate, || {
            score(learner, &curriculum, &test, learned, options.config.legacy_ci, &mut history)
        })?;
        time(Phase::Write, || store.write(learned, learner, &curriculum, &test, &evaluation, &history))?;
    }
    terminal::print(report(&history, &curriculum) + "\n")?;
    terminal::profile(options.profile, start)
}

/// The CLIP that made the embeddings, and its identity.
fn open_checkpoint(options: &Options, embeddings: &Embeddings) -> Result<(Checkpoint, ModelId)> {
    let (run, recorded) = (options.run.display(), &embeddings.manifest.model);
    let dir = match (&options.model, recorded) {
        (Some(dir), _) => dir,
        (None, Some(model)) if model.path.is_dir() => &model.path,
        (None, Some(model)) => {
            bail!("the checkpoint of {run}, {}, is not there any more: give --model DIR", model.path.display())
        }
        (None, None) => {
            bail!("the embeddings in {run} were imported, so it does not know their CLIP: give --model DIR")
        }
    };
    let checkpoint = Checkpoint::open(dir)?;
    let (dim, projection) = (embeddings.manifest.dim, checkpoint.config.projection_dim);
    if dim != projection {
        bail!(
            "the embeddings in {run} have {dim} values, but the CLIP in {} projects to {projection}: give the one that made them",
            dir.display()
        );
    }
    let id = checkpoint.id()?;
    if let Some(model) = recorded.as_ref().filter(|model| model.sha256 != id.sha256) {
        bail!(
            "the embeddings in {run} were made by {} (sha256 {:.12}…), but --model is {} (sha256 {:.12}…): \
             give the one that made them, or use another --run",
            model.name,
            model.sha256,
            id.name,
            id.sha256
        );
    }
    if recorded.as_ref().is_some_and(|model| model.config != id.config) {
        bail!("{}/config.json says otherwise than when the embeddings in {run} were made: restore it", dir.display());
    }
    Ok((checkpoint, id))
}

/// The test images; every task needs some.
fn test_set(embeddings: &Embeddings, curriculum: &Curriculum) -> Result<TestSet> {
    let rows = embeddings.read("test", |_| true)?;
    let position: BTreeMap<i64, usize> =
        curriculum.classes.iter().enumerate().map(|(i, class)| (class.label, i)).collect();
    let class = |label: &i64| position.get(label).copied().with_context(|| format!("no class has the label {label}"));
    let classes = rows.labels.iter().map(class).collect::<Result<_>>()?;
    let mut vectors = rows.embeddings; // (N, P)
    normalise(&mut vectors, embeddings.manifest.dim);
    let test = TestSet { sample_ids: rows.sample_ids, classes, embeddings: vectors };
    if let Some(task) = images_per_task(&test, curriculum).iter().position(|&n| n == 0) {
        let names: Vec<&str> = curriculum.classes[curriculum.task(task)].iter().map(|c| c.name.as_str()).collect();
        bail!(
            "task {} has no test images to be scored on: add some of {}, or use fewer tasks",
            task + 1,
            names.join(", ")
        );
    }
    Ok(test)
}

fn images_per_task(test: &TestSet, curriculum: &Curriculum) -> Vec<usize> {
    let mut images = vec![0; curriculum.tasks()];
    for &class in &test.classes {
        images[curriculum.task_of(class)] += 1;
    }
    images
}

/// Trains the prompts of all classes seen after `task` (from 0).
fn learn(
    learner: &mut dyn Learner,
    generators: &[Generator],
    task: usize,
    options: &Options,
    embeddings: &Embeddings,
    curriculum: &Curriculum,
) -> Result<()> {
    let config = &options.config;
    let current: Vec<&Class> = match config.current {
        Current::Generated => Vec::new(),
        Current::Real | Current::Both => curriculum.classes[curriculum.task(task)].iter().collect(),
    };
    let stream = EmbeddingStream {
        labels: curriculum.classes[..curriculum.seen(task)].iter().map(|class| class.label).collect(),
        generators,
        real: embeddings.by_class("train", &current)?,
        task,
        dim: embeddings.manifest.dim,
        samples: config.samples,
        current: config.current,
        seed: u64::from(options.seed.unwrap_or(0)),
    };
    let progress = terminal::bar("prompt-tune", config.epochs);
    align(learner, &stream, config, |loss| {
        progress.set_message(format!("task {} of {}, loss {loss:.3}", task + 1, curriculum.tasks()));
        progress.inc(1);
    })?;
    progress.finish_and_clear();
    Ok(())
}

/// Scores the classifier after `learned` tasks, and adds it to the history.
fn score(
    learner: &mut dyn Learner,
    curriculum: &Curriculum,
    test: &TestSet,
    learned: usize,
    legacy: bool,
    history: &mut History,
) -> Result<Evaluation> {
    let seen = if learned > 0 { curriculum.seen(learned - 1) } else { 0 };
    let evaluation = evaluate(learner, curriculum, test, seen, false)?;
    if learned == 0 {
        history.zero_shot = evaluation.accuracy.clone();
        return Ok(evaluation);
    }
    history.matrix.push(evaluation.accuracy.clone());
    if legacy {
        history.legacy.push(evaluate(learner, curriculum, test, seen, true)?.accuracy);
    }
    Ok(evaluation)
}

/// The table that a run ends with.
fn report(history: &History, curriculum: &Curriculum) -> String {
    let (scores, last) = (Scores::new(&history.matrix), curriculum.tasks() - 1);
    let percent = |x: f64| format!("{x:.1}");
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "task",
        "classes",
        "images",
        "zero-shot",
        "once learned",
        "in the end",
    ]);
    for k in 0..=last {
        let names: Vec<&str> = curriculum.classes[curriculum.task(k)].iter().map(|class| class.name.as_str()).collect();
        table.add_row([
            (k + 1).to_string(),
            shorten(&names.join(", "), 60),
            history.images[k].to_string(),
            percent(history.zero_shot[k]),
            percent(history.matrix[k][k]),
            percent(history.matrix[last][k]),
        ]);
    }
    let once = mean((0..=last).map(|k| history.matrix[k][k]));
    table.add_row([
        String::new(),
        "mean over tasks".into(),
        String::new(),
        percent(mean(history.zero_shot.iter().copied())),
        percent(once),
        percent(scores.faa),
    ]);
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let optional = |name: &str, value: Option<f64>| value.map_or(String::new(), |x| format!("   {name} {x:.1}"));
    format!(
        "accuracy in %\n{}\n\nFAA {:.1}   CAA {:.1}{}{}",
        table.trim_fmt(),
        scores.faa,
        scores.caa,
        optional("forgetting", scores.forgetting),
        optional("CI-Transfer", scores.ci_transfer)
    )
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}
