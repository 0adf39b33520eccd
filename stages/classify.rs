//! Pictures to classes, with what a run has learned: the classes of its stream, and others by name.

use std::{
    io::{self, BufRead},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use cgil::{
    baseline::OpenClassifier,
    clip::{ImageEncoder, Preprocess, image::Workspace},
    device::{DeviceChoice, Precision},
    run::Run,
    source::loose::{Picture, pictures},
    task::Class,
    words::counted,
};
use clap::{Args, ValueEnum};
use rayon::prelude::*;
use serde_json::json;

use crate::{
    checkpoint::{self, ClipOptions},
    classifier::{ClassifierOptions, Learned},
    options::{at_least, fraction},
    sorter::Sorter,
    terminal,
};

/// Batches in hand at a time, for each thread.
const BATCHES_PER_THREAD: usize = 2;

/// Directory of pictures that are refused.
const NONE: &str = "none of these";

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// A line per picture, with its likeliest classes
    Table,
    /// path, rank, class, probability, learned, rejected
    Csv,
    /// An object per picture
    Jsonl,
}

#[derive(Args)]
pub struct Options {
    /// Pictures, directories and tars of them, or - for a list of paths on standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    classifier: ClassifierOptions,
    #[command(flatten)]
    clip: ClipOptions,
    /// Classes that are told of each picture
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = at_least::<1>)]
    top: usize,
    /// More classes, by what they are called, which nobody has learned: "a red fox,a wolf"
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    also: Vec<String>,
    /// Refuse pictures that are of none of the learned classes, and about this share of those that are
    ///
    /// Above 0 and below 1. Which are refused was calibrated on training embeddings, each left out.
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    reject: Option<f64>,
    /// How answers are printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Copy each picture into a directory of its class below this one
    #[arg(long, value_name = "DIR")]
    sort_into: Option<PathBuf>,
    /// With --sort-into, links instead of copies
    #[arg(long, requires = "sort_into")]
    link: bool,
    /// auto (CUDA if there), cpu, cuda, or cuda:1
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

/// What classifies.
struct Ready {
    classifier: OpenClassifier,
    /// In the order of its logits; the first `seen` are learned.
    classes: Vec<Class>,
    preprocess: Preprocess,
    encoder: ImageEncoder,
    /// The confidence below which a picture is of no class.
    least_confidence: Option<f32>,
}

/// A picture, and the classes that it is of with their probabilities, likeliest first, or why it
/// cannot be read.
struct Answer {
    name: String,
    file: Option<PathBuf>,
    classes: Result<Vec<(usize, f32)>, String>,
    /// Whether it is none of the learned classes.
    is_rejected: bool,
}

pub fn run(options: &Options) -> Result<()> {
    let ready = Ready::open(options)?;
    terminal::print(options.head())?;
    let room = BATCHES_PER_THREAD * rayon::current_num_threads() * ready.encoder.batch();
    let mut sorter = options.sort_into.as_deref().map(|dir| Sorter::new(dir, options.link)).transpose()?;
    let (mut waiting, mut count, mut failed) = (Vec::with_capacity(room), 0, 0);
    let mut answer = |waiting: &mut Vec<Picture>| -> Result<()> {
        for answer in ready.answers(std::mem::take(waiting), options.top)? {
            count += 1;
            failed += usize::from(answer.classes.is_err());
            terminal::print(options.line(&answer, &ready)?)?;
            if let Some(sorter) = &mut sorter {
                answer.put(sorter, &ready)?;
            }
        }
        Ok(())
    };
    pictures(&options.paths()?, terminal::note, |picture| {
        waiting.push(picture);
        if waiting.len() == room { answer(&mut waiting) } else { Ok(()) }
    })?;
    answer(&mut waiting)?;
    ensure!(count > 0, "there are no pictures in {}", options.paths[0].display());
    ensure!(failed == 0, "{failed} of {} could not be read", counted(count, "picture"));
    Ok(())
}

impl Answer {
    /// Puts the picture where its class is.
    fn put(&self, sorter: &mut Sorter, ready: &Ready) -> Result<()> {
        let Answer { name, file, classes, is_rejected } = self;
        let Ok(classes) = classes else { return Ok(()) };
        let file = file.as_deref();
        let file = file.with_context(|| format!("{name} lies in a tar: --sort-into takes files; unpack it first"))?;
        let (class, _) = classes.first().context("no class")?;
        sorter.put(file, if *is_rejected { NONE } else { &ready.classes[*class].name })
    }
}

impl Options {
    /// The paths, those of standard input in the place of `-`.
    fn paths(&self) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for path in &self.paths {
            if path.as_os_str() == "-" {
                let lines = io::stdin().lock().lines().collect::<io::Result<Vec<_>>>();
                let lines = lines.context("cannot read standard input")?;
                paths.extend(lines.into_iter().filter(|line| !line.is_empty()).map(PathBuf::from));
            } else {
                paths.push(path.clone());
            }
        }
        Ok(paths)
    }

    /// What stands before the answers.
    fn head(&self) -> &'static str {
        if self.format == Format::Csv { "path,rank,class,probability,learned,rejected\n" } else { "" }
    }

    fn line(&self, Answer { name, classes, is_rejected, .. }: &Answer, ready: &Ready) -> Result<String> {
        let shown = |class: usize| &ready.classes[class].name;
        let is_learned = |class: usize| class < ready.classifier.seen();
        let classes = match classes {
            Ok(classes) => classes,
            Err(error) => {
                terminal::note(&format!("note: {name}: {error}"));
                return Ok(match self.format {
                    Format::Jsonl => format!("{}\n", json!({"path": name, "error": error})),
                    Format::Table | Format::Csv => String::new(),
                });
            }
        };
        Ok(match self.format {
            Format::Table => {
                let cell = |&(class, p): &(usize, f32)| {
                    let new = if is_learned(class) { "" } else { ", not learned" };
                    format!("{} ({:.1} %{new})", shown(class), 100.0 * p)
                };
                let none = if *is_rejected { "none of these; " } else { "" };
                format!("{name}: {none}{}\n", classes.iter().map(cell).collect::<Vec<_>>().join(", "))
            }
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
                for (rank, &(class, p)) in (1..).zip(classes) {
                    let (rank, p, learned) = (rank.to_string(), p.to_string(), is_learned(class).to_string());
                    writer.write_record([name, &rank, shown(class), &p, &learned, &is_rejected.to_string()])?;
                }
                String::from_utf8(writer.into_inner()?)?
            }
            Format::Jsonl => {
                let of = |&(class, p): &(usize, f32)| json!({"class": shown(class), "probability": p, "learned": is_learned(class)});
                format!(
                    "{}\n",
                    json!({"path": name, "classes": classes.iter().map(of).collect::<Vec<_>>(), "rejected": is_rejected})
                )
            }
        })
    }
}

impl Ready {
    fn open(options: &Options) -> Result<Self> {
        let run = Run::open(&options.run, terminal::note)?;
        let learned = options.classifier.open(&run)?;
        let (checkpoint, clip) = checkpoint::open(&run, &learned.stream, &options.clip)?;
        let ready = learned.with(&run, &options.also, &checkpoint, clip)?;
        let Learned { stream, classifier, classes, .. } = ready;
        let least_confidence = options.reject.map(|share| {
            classifier.least_confidence(share).context(
                "the classifier does not know how sure it is of training images, since no class had two of them: leave \
                 --reject out",
            )
        });
        let least_confidence = least_confidence.transpose()?;
        let embeddings = stream.embeddings(&run, 0)?;
        let device = options.device.open_one()?;
        terminal::note_device(&options.device, &device);
        let precision = Precision::usual(&device);
        precision.prepare(std::slice::from_ref(&device))?;
        let encoder = checkpoint.image_encoder(&device, precision.dtype())?;
        Ok(Ready {
            classifier,
            classes,
            preprocess: checkpoint::preprocess(&checkpoint, &embeddings)?,
            encoder,
            least_confidence,
        })
    }

    /// The answers to pictures, in their order.
    fn answers(&self, pictures: Vec<Picture>, top: usize) -> Result<Vec<Answer>> {
        let parts: Vec<&[Picture]> = pictures.chunks(self.encoder.batch()).collect();
        let answers = parts.into_par_iter().with_max_len(1).map(|part| self.batch(part, top));
        Ok(answers.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn batch(&self, pictures: &[Picture], top: usize) -> Result<Vec<Answer>> {
        let decoded: Vec<Result<Vec<u8>, String>> = pictures
            .iter()
            .map(|Picture { bytes, .. }| {
                self.preprocess.pixels(bytes.as_ref().map_err(String::clone)?).map_err(|error| format!("{error:#}"))
            })
            .collect();
        let pixels: Vec<u8> = decoded.iter().flatten().flatten().copied().collect();
        let embeddings = match pixels.is_empty() {
            true => Vec::new(),
            false => self.encoder.encode(&pixels, &self.preprocess.normalisation(), &mut Workspace::default())?,
        };
        let probabilities = self.classifier.probabilities(&embeddings);
        let confidence = self.least_confidence.map(|least| (least, self.classifier.confidence(&embeddings)));
        let mut rows = probabilities.chunks_exact(self.classes.len()).enumerate();
        let ranked = |row: &[f32]| {
            let mut ranked: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
            ranked.truncate(top);
            ranked
        };
        let answer = |(picture, decoded): (&Picture, Result<Vec<u8>, String>)| {
            let row = decoded.and_then(|_| rows.next().ok_or_else(|| "has no embedding".to_owned()));
            let is_below = |row: usize| confidence.as_ref().is_some_and(|(least, confidence)| confidence[row] < *least);
            let is_of_none = |row: usize, best: usize| best < self.classifier.seen() && is_below(row);
            let classes = row.map(|(row, logits)| (row, ranked(logits)));
            Answer {
                name: picture.name.clone(),
                file: picture.file.clone(),
                is_rejected: classes.as_ref().is_ok_and(|(row, classes)| is_of_none(*row, classes[0].0)),
                classes: classes.map(|(_, classes)| classes),
            }
        };
        Ok(pictures.iter().zip(decoded).map(answer).collect())
    }
}
