//! How good the generators are: what each gives, beside held-out embeddings of its class. The table
//! is made anew each time.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Result, bail};
use cgil::{
    baseline::ClassStatistics,
    dense::cosine::normalise,
    dense::moments::mean,
    generator::{Generator, Kind, LatentStore, Noise, Variation},
    quality::{self, Accuracy, Quality, Sets, accuracies},
    rng::{Draw, Rng},
    rows::{Rows, Test, Train},
    run::Run,
    stream::Stream,
    task::Class,
};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use rayon::prelude::*;

use crate::{
    learners::class_statistics,
    options::{OrderOptions, TaskOptions, at_least, choice},
    terminal::{self, Progress},
};

/// Classes that are printed.
const WORST: usize = 10;

type Measured<'a> = (&'a Quality, &'a Accuracy);
type Measure = fn(&Quality, &Accuracy) -> Option<f64>;

/// A column that is printed.
struct Column {
    heading: &'static str,
    decimals: usize,
    generated: Measure,
    /// Of training rows in the place of generated ones.
    real: Option<Measure>,
}

const COLUMNS: [Column; 7] = [
    Column {
        heading: "Fréchet distance",
        decimals: 3,
        generated: |quality, _| quality.generated.frechet,
        real: Some(|quality, _| quality.real.frechet),
    },
    Column {
        heading: "precision",
        decimals: 1,
        generated: |quality, _| quality.generated.precision,
        real: Some(|quality, _| quality.real.precision),
    },
    Column {
        heading: "recall",
        decimals: 1,
        generated: |quality, _| quality.generated.recall,
        real: Some(|quality, _| quality.real.recall),
    },
    Column { heading: "recall with noise", decimals: 1, generated: |quality, _| quality.replayed.recall, real: None },
    Column {
        heading: "generated to real",
        decimals: 1,
        generated: |_, accuracy| accuracy.generated_to_real,
        real: Some(|_, accuracy| accuracy.real_to_real),
    },
    Column {
        heading: "real to generated",
        decimals: 1,
        generated: |_, accuracy| accuracy.real_to_generated,
        real: None,
    },
    Column { heading: "neighbours", decimals: 2, generated: |quality, _| quality.neighbour_distance, real: None },
];

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Kind of generator, as fitted with the same --generator
    #[arg(long, value_name = "KIND", value_parser = choice::<Kind>(), default_value_t = Kind::Vae)]
    generator: Kind,
    /// Rows generated per class
    ///
    /// At most as many as it has training rows, which are measured beside them. As many as
    /// prompt-tune draws per epoch.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least::<1>)]
    samples: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let stream = Stream::find(&run, &options.order.order(), options.tasks.cut(), options.tasks.shots)?;
    let latents = LatentStore::open(&run, &stream, options.generator)?;
    let dim = stream.embeddings(&run, 0)?.plan.dim;
    let mut statistics = class_statistics(&run, &stream, ClassStatistics::new(dim));
    let plan = quality::plan(&latents, statistics.input(stream.tasks())?, options.samples)?;
    let _lock = run.lock(latents.dir())?;
    let noise = noise(&latents, statistics.after(stream.tasks())?)?;

    let progress = Progress::new("quality", 2 * stream.classes.len());
    let mut measured = BTreeMap::new(); // of each class its last generator, on the embeddings that came with it
    for task in (0..stream.tasks()).filter(|&task| stream.source(task).is_some()) {
        let generators = latents.read_task(task)?;
        for own in
            measure(options.samples, &run, &stream, task, &generators, &noise)?.into_iter().zip(stream.learns(task))
        {
            if measured.insert(own.1, own.0).is_none() {
                progress.inc(1);
            }
        }
    }
    let (sets, qualities): (Vec<Sets>, Vec<Quality>) = measured.into_values().unzip();
    let accuracies = accuracies(&sets, dim, || progress.inc(1));
    progress.finish();
    quality::write(&plan, &latents, &qualities, &accuracies)?;
    terminal::print(report(&stream, &qualities, &accuracies))
}

/// The noise that prompts of all classes are trained with.
pub fn noise(latents: &LatentStore, statistics: &ClassStatistics) -> Result<Noise> {
    let stream = latents.stream();
    let mut variation = Variation::new(statistics.dim());
    for (class, generator) in stream.classes.iter().zip(latents.generators(stream.tasks())?) {
        variation.add(&generator, class.key(), stream.draws());
    }
    variation.noise(statistics)
}

/// Measures the classes that a task (from 0) learned, each by itself, on its embeddings.
pub fn measure(
    samples: usize,
    run: &Run,
    stream: &Stream,
    task: usize,
    generators: &[Generator],
    noise: &Noise,
) -> Result<Vec<(Sets, Quality)>> {
    let (embeddings, labels) = (stream.embeddings(run, task)?, stream.source_labels(task));
    let (train, test) = (stream.train_rows(&embeddings, &labels)?, embeddings.class_rows::<Test>(&labels)?);
    let dim = embeddings.plan.dim;
    type Task<'a> = ((&'a Class, &'a Generator), (Rows<Train>, Rows<Test>));
    let of_class = |((class, generator), (train, test)): Task| {
        let train: Vec<f32> = unit(train.into_values(), dim, class, "training embedding")?;
        let test = unit(test.into_values(), dim, class, "test embedding")?;
        let samples = samples.min(train.len() / dim);
        let stream = |draw| Rng::new(stream.draws(), draw, &[class.key()]);
        let generated = generator.sample(samples, &mut stream(Draw::QualityGenerated)); // (samples, D)
        let mut replayed = generated.clone();
        noise.add(&mut replayed, dim, &mut stream(Draw::QualityNoise));
        let [generated, replayed] = [generated, replayed].map(|rows| unit(rows, dim, class, "generated embedding"));
        let chosen = stream(Draw::QualityReal).permutation(train.len() / dim);
        let real = chosen[..samples].iter().flat_map(|&i| &train[i * dim..][..dim]).copied().collect(); // (samples, D)
        let sets = Sets { generated: generated?, replayed: replayed?, real, test };
        let quality = Quality::new(&sets, &train, dim);
        Ok((sets, quality))
    };
    let rows: Vec<_> = train.into_iter().zip(test).collect();
    let classes: Vec<&Class> = stream.learns(task).into_iter().map(|class| &stream.classes[class]).collect();
    classes.into_par_iter().zip(generators).zip(rows).map(of_class).collect()
}

/// Rows (N, D), each called `what`, brought to length 1, as the classifier sees them.
fn unit(mut rows: Vec<f32>, dim: usize, class: &Class, what: &str) -> Result<Vec<f32>> {
    normalise(&mut rows, dim);
    if let Some(i) = rows.iter().position(|x| !x.is_finite()) {
        bail!(
            "{what} {} of class {:?} cannot be brought to length 1: it is not finite; run the stage that made it again",
            i / dim + 1,
            class.name
        );
    }
    Ok(rows)
}

/// The classes whose generators are worst, and the means over all classes.
fn report(stream: &Stream, qualities: &[Quality], accuracies: &[Accuracy]) -> String {
    let measured: Vec<Measured> = qualities.iter().zip(accuracies).collect();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(std::iter::once("class").chain(COLUMNS.iter().map(|column| column.heading)));
    for &class in worst(qualities).iter().take(WORST) {
        let name = terminal::shorten(&stream.classes[class].name, 40);
        table.add_row(std::iter::once(name).chain(cells(&measured[class..=class])));
    }
    let mean_of = format!("mean of {} classes", measured.len());
    table.add_row(std::iter::once(mean_of).chain(cells(&measured)));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!(
        "in brackets: training embeddings in place of generated ones; \
         the {} worst of {} classes by the difference in Fréchet distance\n{}\n",
        measured.len().min(WORST),
        measured.len(),
        table.trim_fmt()
    )
}

/// Classes by how much farther than training rows generated ones are from held-out ones, by the
/// Fréchet distance.
fn worst(qualities: &[Quality]) -> Vec<usize> {
    let excess = |class: usize| {
        let Quality { generated, real, .. } = &qualities[class];
        generated.frechet.zip(real.frechet).map_or(f64::NEG_INFINITY, |(generated, real)| generated - real)
    };
    let mut classes: Vec<usize> = (0..qualities.len()).collect();
    classes.sort_by(|&a, &b| excess(b).total_cmp(&excess(a)));
    classes
}

/// The columns of some classes: means over those that have a value.
fn cells(classes: &[Measured]) -> impl Iterator<Item = String> {
    COLUMNS.iter().map(|column| {
        let show = |measure: Measure| {
            let values: Vec<f64> =
                classes.iter().filter_map(|&(quality, accuracy)| measure(quality, accuracy)).collect();
            if values.is_empty() { "-".into() } else { format!("{:.*}", column.decimals, mean(values)) }
        };
        let real = column.real.map_or(String::new(), |real| format!(" ({})", show(real)));
        show(column.generated) + &real
    })
}
