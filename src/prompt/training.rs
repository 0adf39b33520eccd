//! The prompts of a stream, task after task: `prompts/STREAM/PROMPTS/task-NN`. Those after a task
//! are made from those after the one before, the generators, and what the current task's rows are
//! used for.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Current, EmbeddingStream, Learner, Learning, Parameters, PromptConfig, align::align};
use crate::{
    artefact::{self, Input, Manifest, Plan, slug},
    baseline::ClassStatistics,
    generator::{Generator, Kind, LatentStore, Noise, Variation},
    profile::{Phase, time},
    rows::{Rows, TaskRows, Train},
    run::{PROMPTS, Run, names, step_name},
    states::States,
    stream::{Change, Stream},
    table::{contract, file},
    tensors,
    texts::TextModel,
};

const TENSORS: &str = "prompts.safetensors";
const LOSSES: &str = "losses.parquet";

/// What the class statistics that noise is made of are called in a manifest.
const NOISE: &str = "statistics";

const ADVICE: &str =
    "use the same options, another --run, or, if no images are forgotten, remove it and the tasks after it";

/// What prompts are trained on.
pub enum Replay<'a> {
    /// CGIL: past classes from their generators, the current task's as `current` says.
    Generated {
        /// The generators.
        latents: &'a LatentStore<'a>,
        /// What the current task's classes are trained on.
        current: Current,
        /// How real embeddings vary within classes: what generated ones lack of it is added to
        /// them as noise, where these are given.
        noise: Option<Box<States<'a, ClassStatistics>>>,
    },
    /// The current task's real embeddings, nothing of past classes: what forgets.
    Nothing,
    /// The real embeddings of all classes seen, as if they had been kept.
    Real,
}

/// The prompts of a stream that are trained in one way.
pub struct Training<'a> {
    run: &'a Run,
    stream: &'a Stream,
    /// What tables call them.
    pub name: String,
    config: PromptConfig,
    clip: TextModel,
    replay: Replay<'a>,
    /// Class of the device that computes.
    device: &'static str,
    dir: PathBuf,
    /// The artefacts that are known, of the first tasks.
    known: RefCell<Vec<Input>>,
    /// Read so far, of the first tasks.
    generators: Vec<Generator>,
    /// Of how many tasks they are.
    read: usize,
    /// How what the first of them give varies.
    variation: Option<Variation>,
    /// Bytes that are kept of each task's embeddings, of the first tasks.
    replayed: RefCell<Vec<usize>>,
    /// What the learner began with.
    initial: Option<Parameters>,
    /// How many tasks the learner has learned.
    at: usize,
}

impl<'a> Training<'a> {
    /// Of the prompts `name` on a stream. Reads and trains nothing yet.
    pub fn new(
        run: &'a Run,
        stream: &'a Stream,
        name: &str,
        config: &PromptConfig,
        clip: TextModel,
        replay: Replay<'a>,
        device: &'static str,
    ) -> Self {
        Training {
            run,
            stream,
            name: name.to_owned(),
            config: config.clone(),
            clip,
            replay,
            device,
            dir: run.dir().join(PROMPTS).join(&stream.name).join(slug(name)),
            known: RefCell::default(),
            generators: Vec::new(),
            read: 0,
            variation: None,
            replayed: RefCell::default(),
            initial: None,
            at: 0,
        }
    }

    /// How they are made and trained.
    pub fn config(&self) -> &PromptConfig {
        &self.config
    }

    /// The CLIP whose text encoder is prompted.
    pub fn clip(&self) -> &TextModel {
        &self.clip
    }

    /// Class of the device that computes.
    pub fn device(&self) -> &'static str {
        self.device
    }

    fn step_dir(&self, learned: usize) -> PathBuf {
        self.dir.join(step_name(learned))
    }

    fn plan(&self, learned: usize) -> Result<Plan> {
        let (replay, current) = match &self.replay {
            Replay::Generated { current, .. } => ("generated", Some(current)),
            Replay::Nothing => ("nothing", None),
            Replay::Real => ("real", None),
        };
        let seed = self.stream.draws();
        let options = json!({
            "config": self.config, "clip": self.clip, "replay": replay, "current": current, "seed": seed,
        });
        let mut plan = Plan::new(&artefact::PROMPTS, options).on(self.device);
        plan = plan.with("stream", self.stream.input(learned - 1));
        if let Replay::Generated { latents, noise, .. } = &self.replay {
            plan = plan.with("generators", latents.input(learned - 1)?);
            if let Some(states) = noise {
                plan = plan.with(NOISE, states.input(learned)?);
            }
        }
        Ok(if learned == 1 { plan } else { plan.with("before", self.input(learned - 1)?) })
    }

    /// The prompts after `learned` tasks, 1 or more, as the input of another artefact, whether they
    /// are there yet or not. An error where others are there.
    pub fn input(&self, learned: usize) -> Result<Input> {
        let known = self.known.borrow().len();
        for step in known + 1..=learned {
            let (plan, dir) = (self.plan(step)?, self.step_dir(step));
            let found = plan.find(&dir, ADVICE)?;
            let identity = found.map_or_else(|| plan.identity(), |manifest| manifest.identity);
            self.known.borrow_mut().push(Input::new(self.run.dir(), &dir, identity));
        }
        let known = self.known.borrow();
        learned
            .checked_sub(1)
            .and_then(|place| known.get(place))
            .cloned()
            .context("there are no prompts before the first task")
    }

    /// Whether all tasks have been learned.
    pub fn is_complete(&self) -> Result<bool> {
        Ok(self.find(self.stream.tasks())?.is_some())
    }

    fn find(&self, learned: usize) -> Result<Option<Manifest>> {
        self.plan(learned)?.find(&self.step_dir(learned), ADVICE)
    }

    /// The numbers of tasks, up to `learned`, after which the prompts have to be trained yet.
    pub fn missing(&self, learned: usize) -> Result<std::ops::RangeInclusive<usize>> {
        let mut start = learned;
        while start > 0 && self.find(start)?.is_none() {
            start -= 1;
        }
        Ok(start + 1..=learned)
    }

    /// Forgets the learner that it was given, for another one of the same prompts.
    pub fn forget_learner(&mut self) {
        (self.initial, self.at) = (None, 0);
    }

    /// Sets `learner`, whose classes are called as after `learned` tasks, to what it is then. Trains what is missing; `tick` is called
    /// after each epoch with the task (from 0) and the mean loss.
    pub fn after(&mut self, learned: usize, learner: &mut dyn Learner, tick: &dyn Fn(usize, f64)) -> Result<()> {
        if self.initial.is_none() {
            self.initial = Some(learner.parameters()?);
        }
        if self.at == learned {
            return Ok(());
        }
        let start = self.missing(learned)?.start() - 1;
        if start != self.at {
            self.restore(start, learner)?;
        }
        for step in start + 1..=learned {
            self.train(step, learner, tick)?;
        }
        Ok(())
    }

    /// Sets `learner` to what it was after `learned` tasks, which are there.
    fn restore(&mut self, learned: usize, learner: &mut dyn Learner) -> Result<()> {
        let mut parameters = self.initial.clone().context("a learner begins with something")?;
        self.known.borrow_mut().truncate(learned.saturating_sub(1)); // another process may have made it, on another device
        if learned > 0 {
            let dir = self.step_dir(learned);
            let manifest = Manifest::read(&dir, &artefact::PROMPTS)?;
            manifest.check_file(&dir, TENSORS)?;
            let (stored, _) = tensors::read::<f32, Value>(&dir.join(TENSORS))?;
            let seen = self.stream.seen(learned);
            parameters
                .load(stored, seen)
                .with_context(|| format!("{} does not fit this run; remove it", dir.display()))?;
        }
        learner.set_parameters(parameters)?;
        self.at = learned;
        Ok(())
    }

    /// Trains the prompts of the classes seen after `learned` tasks, and keeps them.
    fn train(&mut self, learned: usize, learner: &mut dyn Learner, tick: &dyn Fn(usize, f64)) -> Result<()> {
        let _lock = self.run.lock(&self.dir)?;
        if self.find(learned)?.is_some() {
            return self.restore(learned, learner); // another process was faster
        }
        let task = learned - 1;
        let rows = |t: usize| time(Phase::Read, || self.stream.task_rows(self.run, t));
        let own = self.stream.task(task);
        let seen = self.stream.seen(learned);
        let Some(mut learning) = self.learning(learned) else {
            self.at = learned;
            return self.write(learned, learner, &[]);
        };
        let new = |mut rows: TaskRows| {
            // a known class's generator knows those that came before, too
            rows.classes.truncate(own.len());
            rows
        };
        let (first, current, real) = match &self.replay {
            Replay::Generated { current: Current::Generated, .. } => (0, Current::Generated, Vec::new()),
            Replay::Generated { current, .. } => (0, *current, vec![new(rows(task)?)]),
            Replay::Nothing => (own.start, Current::Real, vec![new(rows(task)?)]),
            Replay::Real => (0, Current::Real, (0..=task).map(rows).collect::<Result<_>>()?),
        };
        self.read_generators(learned)?;
        let (names, noise) = (self.stream.classes_after(learned), self.noise(learned)?);
        learning.removed = self.stream.removed(learned).collect();
        let drawn: Vec<usize> = (first..seen).filter(|class| !learning.removed.contains(class)).collect();
        let stream = EmbeddingStream {
            seen: &names[..seen],
            drawn: &drawn,
            generators: &self.generators,
            noise: noise.as_ref(),
            real: real_rows(real),
            task,
            dim: learner.zero_shot().len() / self.stream.classes.len(),
            samples: self.config.samples,
            current,
            seed: self.stream.draws(),
        };
        let losses = align(learner, &stream, &learning, &self.config, |loss| tick(task, loss))?;
        self.at = learned;
        time(Phase::Write, || self.write(learned, learner, &losses))
    }

    /// What learns in the task after which `learned` are known; none where nothing does: a class is
    /// taken out, or gets a name and has no vectors of its own, or there are no rows.
    fn learning(&self, learned: usize) -> Option<Learning> {
        let own = self.stream.task(learned - 1);
        let past = Learning::after(own.start);
        let has_rows = !matches!(self.replay, Replay::Nothing);
        match self.stream.changes(learned - 1) {
            None => (has_rows || !own.is_empty()).then_some(past),
            Some((_, Change::Remove)) => None,
            Some((class, Change::Rename(_))) => {
                let has_own = self.config.learned() > 0 && !self.config.context.is_shared();
                (has_rows && has_own).then_some(Learning { alone: Some(class), ..past })
            }
        }
    }

    /// Reads the generators of the first `learned` tasks, where there are any.
    fn read_generators(&mut self, learned: usize) -> Result<()> {
        let Replay::Generated { latents, .. } = self.replay else { return Ok(()) };
        if self.read > learned {
            (self.generators, self.variation, self.read) = (Vec::new(), None, 0);
        }
        for t in self.read..learned {
            let fitted = time(Phase::Read, || latents.read_task(t))?;
            let is_plain = self.stream.more(t).next().is_none() && self.stream.changes(t).is_none();
            if !is_plain {
                self.variation = None; // a generator is another one, or its draws have another key
            }
            for (class, generator) in self.stream.learns(t).into_iter().zip(fitted) {
                match self.generators.get_mut(class) {
                    Some(known) => *known = generator,
                    None => self.generators.push(generator),
                }
            }
        }
        self.read = learned;
        Ok(())
    }

    /// The noise on what the generators of the first `learned` tasks give, where there is any.
    fn noise(&mut self, learned: usize) -> Result<Option<Noise>> {
        let Replay::Generated { noise: Some(states), .. } = &mut self.replay else { return Ok(None) };
        let real = states.after(learned)?;
        time(Phase::Sample, || {
            let variation = self.variation.get_or_insert_with(|| Variation::new(real.dim()));
            let known = variation.classes();
            for (class, generator) in self.stream.classes_after(learned).iter().zip(&self.generators).skip(known) {
                variation.add(generator, class.key(), self.stream.draws());
            }
            variation.noise(real).map(Some)
        })
    }

    fn write(&self, learned: usize, learner: &dyn Learner, losses: &[f64]) -> Result<()> {
        let n = losses.len();
        let mut columns = self.stream.keys(n);
        columns.extend([
            Arc::new(StringArray::from(vec![self.name.as_str(); n])) as ArrayRef,
            Arc::new(Int64Array::from(vec![learned as i64; n])),
            Arc::new(Int64Array::from_iter_values(1..=n as i64)),
            Arc::new(Float64Array::from_iter_values(losses.iter().copied())),
        ]);
        let losses = file::rows(contract::prompt_losses(), 0, columns)?;
        let parameters = learner.parameters()?.tensors(self.stream.seen(learned));
        let dir = self.step_dir(learned);
        self.plan(learned)?.make(&dir, self.run.place(&dir), json!({"prompts": self.name}), |dir| {
            tensors::write(&dir.join(TENSORS), &parameters, &json!({}))?;
            file::write(&dir.join(LOSSES), contract::prompt_losses(), &losses, &vec![])
        })?;
        Ok(())
    }

    /// Whether the class statistics that a linear discriminant is made of are kept for the noise.
    pub fn keeps_statistics(&self) -> bool {
        matches!(self.replay, Replay::Generated { noise: Some(_), .. })
    }

    /// Bytes that have to be kept after `learned` tasks to learn further ones: prompts, and
    /// generators with what their noise is made of, or embeddings themselves.
    pub fn stored(&self, learned: usize, learner: &dyn Learner) -> Result<usize> {
        if learned == 0 {
            return Ok(0);
        }
        let mut of_task = self.replayed.borrow_mut();
        for t in of_task.len()..learned {
            of_task.push(self.replayed_bytes(t)?);
        }
        let (seen, classes) = (self.stream.seen(learned), self.stream.classes.len());
        let statistics = match &self.replay {
            Replay::Generated { noise: Some(states), .. } => states.stored().total(seen),
            _ => 0,
        };
        let prompts = learner.parameters()?.bytes(seen, classes, &self.config);
        Ok(of_task[..learned].iter().sum::<usize>() + statistics + prompts)
    }

    /// Bytes that are kept of a task's (from 0) embeddings to be replayed.
    fn replayed_bytes(&self, t: usize) -> Result<usize> {
        Ok(match &self.replay {
            Replay::Generated { latents, .. } => latents.stored(t)?,
            Replay::Nothing => 0,
            Replay::Real if self.stream.source(t).is_none() => 0,
            Replay::Real => {
                let embeddings = self.stream.embeddings(self.run, t)?;
                let labels = self.stream.source_labels(t);
                let rows = labels.into_iter().map(|label| self.stream.count_rows(&embeddings, label));
                rows.sum::<Result<usize>>()? * embeddings.plan.dim * size_of::<f32>()
            }
        })
    }
}

/// Real rows by their classes' labels.
fn real_rows(tasks: Vec<TaskRows>) -> BTreeMap<i64, Rows<Train>> {
    let of_task = |task: TaskRows| task.classes.into_iter().map(|class| class.label).zip(task.rows);
    let mut all: BTreeMap<i64, Rows<Train>> = BTreeMap::new();
    for (label, rows) in tasks.into_iter().flat_map(of_task) {
        let rows = match all.remove(&label) {
            Some(known) => Rows::new(rows.dim(), [known.into_values(), rows.into_values()].concat()),
            None => rows,
        };
        all.insert(label, rows);
    }
    all
}

/// How prompts that are there were trained.
#[derive(Debug)]
pub struct Described {
    /// How they are made and trained.
    pub config: PromptConfig,
    /// How past classes were generated, where they were.
    pub generated: Option<Generated>,
    /// Whether all seen classes' real embeddings were used, where none were generated.
    pub is_joint: bool,
}

/// How past classes were generated.
#[derive(Clone, Copy, Debug)]
pub struct Generated {
    /// The kind of the generators.
    pub kind: Kind,
    /// What the current task's classes were trained on.
    pub current: Current,
    /// Whether noise was added.
    pub has_noise: bool,
}

/// How the prompts `name` of a stream were trained.
pub fn described(run: &Run, stream: &Stream, name: &str) -> Result<Described> {
    #[derive(Deserialize)]
    struct Options {
        config: PromptConfig,
        replay: String,
        current: Option<Current>,
    }
    let all = run.dir().join(PROMPTS).join(&stream.name);
    let first = |name: &str| all.join(name).join(step_name(1));
    let named = |name: String| -> Option<String> {
        let manifest = Manifest::find(&first(&name), &artefact::PROMPTS).ok()??;
        Some(manifest.about["prompts"].as_str()?.to_owned())
    };
    let there: Vec<String> = names(&all).into_iter().filter_map(named).collect();
    let dir = first(&slug(name));
    let Some(manifest) = Manifest::find(&dir, &artefact::PROMPTS)?.filter(|_| there.iter().any(|one| one == name))
    else {
        bail!(
            "{} has no prompts {name:?} of the stream {} (it has: {}): run `cgil prompt-tune` first",
            run.dir().display(),
            stream.name,
            if there.is_empty() { "none".to_owned() } else { there.join("; ") }
        );
    };
    let Options { config, replay, current } = manifest.options(&dir)?;
    let kind = manifest.inputs.get("generators").and_then(|input| input.path.split('/').nth(2)?.parse().ok());
    let has_noise = manifest.inputs.contains_key(NOISE);
    let generated = kind.zip(current).map(|(kind, current)| Generated { kind, current, has_noise });
    Ok(Described { config, generated, is_joint: replay == "real" })
}
