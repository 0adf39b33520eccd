//! Stage 1: every image through CLIP's image encoder, once, into the table `embeddings`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Error, Result, bail};
use arrow::{array::BooleanArray, compute::filter_record_batch};
use cgil::{
    clip::{Checkpoint, ImageEncoder, Preprocess},
    device::{DeviceChoice, Precision, class_of},
    embed::embed,
    embeddings::{self, Embeddings, FIRST_SOURCE, Shard, ShardRows, SourcePlan, kept_line},
    partition::Partition,
    profile::{Phase, time},
    rows::{Split, Test, Train},
    run::Run,
    source::{Format, Keep, Listings, Source, SourceOptions, is_of_data},
    stop::{self, Stopped},
    storage,
    words::counted,
};
use clap::Args;

use crate::{
    hub, jobs,
    options::{at_least, choice, fraction},
    terminal::{self, Progress},
};

#[derive(Args)]
pub struct Options {
    /// The CLIP or SigLIP checkpoint: its directory, or its name on the Hugging Face hub
    ///
    /// A directory in the Hugging Face layout (config.json, model.safetensors and
    /// preprocessor_config.json or processor_config.json) or in OpenCLIP's (open_clip_config.json
    /// and open_clip_model.safetensors); the tokenizer's files are needed for prompts, not here. On
    /// the hub it is OWNER/NAME[@REVISION].
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Make every N-th shard alone, from shard I on
    ///
    /// Partition I of N, from 0/N to N-1/N, has the shards k with k mod N = I. Partitions may run
    /// anywhere that the run's directory is, at once, in any order and again; the last to find all
    /// shards there closes the table.
    #[arg(long, value_name = "I/N", hide_short_help = true)]
    partition: Option<Partition>,
    /// Images that a CUDA device encodes at a time [default: 256]
    ///
    /// Halved when the device's memory runs out. The CPU takes what its cache holds.
    // of another id than that of generators, which `plan` has beside this stage's options
    #[arg(long = "batch-size", value_name = "N", hide_short_help = true, value_parser = at_least::<1>)]
    images_at_a_time: Option<usize>,
    /// Print where the time went
    #[arg(long, hide_short_help = true)]
    profile: bool,
}

/// The images, and how they are encoded.
#[derive(Args)]
pub struct DataOptions {
    /// The images: a folder, Parquet, Arrow, WebDataset tars or a manifest
    ///
    /// A folder is SPLIT/CLASS/… or CLASS/…, or has a metadata.csv; Parquet and Arrow files are
    /// Hugging Face's; tars are a directory of them or "{000..099}.tar"; a manifest is a CSV, JSONL
    /// or Parquet file of paths and labels. On the hub it is
    /// hf://datasets/OWNER/NAME[@REVISION][/CONFIG], in an object store s3://, gs:// or
    /// az://BUCKET/KEY, where a run may lie, too.
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// What --data is, where it is not what it looks like
    #[arg(long, hide_short_help = true, value_parser = choice::<Format>())]
    format: Option<Format>,
    /// Share of the images to test on, where the data has no test split
    ///
    /// Above 0 and below 1. A hash of an image's id decides, so that none moves when others are
    /// added; without, nothing is scored.
    #[arg(long, value_name = "SHARE", value_parser = fraction)]
    holdout: Option<f64>,
    /// What classes are called in prompts: CSV lines KEY,NAME, or JSON
    ///
    /// A CSV file of lines KEY,NAME, or a JSON file {"KEY": "NAME"}. The keys are the class
    /// directories (of Parquet shards the names there), or all of them labels, counted from 0;
    /// each class needs one.
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// Column of the images, or of their paths, where several fit
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    image_column: Option<String>,
    /// Column of the labels, or their key in the .json of a WebDataset
    ///
    /// Needed where several could be meant.
    #[arg(long, value_name = "NAME", visible_alias = "label-key")]
    label_column: Option<String>,
    /// A column of the data that the table keeps, or all; may be given again
    #[arg(long, value_name = "COLUMN")]
    keep: Vec<String>,
    /// Take what lies before the damage of a cut archive, and leave out files that cannot be opened
    ///
    /// Instead of refusing the data. What is lost is said; when the file is whole again the data is
    /// another source.
    #[arg(long, hide_short_help = true)]
    skip_damaged: bool,
    /// Rows per file of embeddings
    ///
    /// An interrupted run loses one file's rows at most; of 768 values, 4096 rows are 12 MB.
    #[arg(long, value_name = "N", hide_short_help = true, default_value_t = 4096, value_parser = at_least::<1>)]
    pub shard_rows: usize,
    /// Turn images as their EXIF orientation says; the original CLIP does not
    #[arg(long, hide_short_help = true)]
    exif: bool,
    /// auto (CUDA if there), cpu, cuda, or cuda:0,1
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Number type of the encoder's products [default: bfloat16 on CUDA, float32 on the CPU]
    ///
    /// On the CPU bfloat16 takes AMX or AVX512-BF16, which cgil doctor looks for. The table records
    /// the type; rows of two types are never mixed.
    #[arg(long, value_name = "TYPE", value_parser = choice::<Precision>())]
    dtype: Option<Precision>,
}

pub fn run(options: &Options) -> Result<()> {
    run_checked(options, |_, _| Ok(()))
}

/// As [`run`], unless `check` has something against what is to be encoded.
pub fn run_checked(options: &Options, check: impl FnOnce(&Source, &Checkpoint) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    let run = Run::open(&options.run, terminal::note)?;
    jobs::recorded(&run, &run.place(&embeddings::dir(&run, FIRST_SOURCE)), options.partition, || {
        let checkpoint = Checkpoint::open(&hub::model(&options.model)?)?;
        let source = open_source(&options.data, &run, FIRST_SOURCE, options.partition)?;
        check(&source, &checkpoint)?;
        let encoding = Encoding::open(&checkpoint, &options.data, options.images_at_a_time)?; // so that nothing is written if it has an error
        encode_part(&run, FIRST_SOURCE, &checkpoint, &source, &options.data, &encoding, options.partition)
    })?;
    terminal::profile(options.profile, start)
}

/// Encodes what is missing of a source into the run, under a name.
pub fn encode(run: &Run, name: &str, checkpoint: &Checkpoint, source: &Source, options: &DataOptions) -> Result<()> {
    encode_part(run, name, checkpoint, source, options, &Encoding::open(checkpoint, options, None)?, None)
}

/// As [`encode`], of one partition alone, beside processes that encode others.
fn encode_part(
    run: &Run,
    name: &str,
    checkpoint: &Checkpoint,
    source: &Source,
    options: &DataOptions,
    encoding: &Encoding,
    partition: Option<Partition>,
) -> Result<()> {
    let plan = encoding.plan(options, checkpoint, source)?;
    let mut embeddings = match partition {
        None => Embeddings::create(run, name, plan)?,
        Some(_) => Embeddings::join(run, name, plan)?,
    };

    let own = partition.unwrap_or(Partition::WHOLE);
    stop::watch();
    embeddings.remove_changed(source, own)?;
    let missing = embeddings.missing_of(own);
    let images: usize = missing.iter().map(|shard| shard.rows.len()).sum();
    let progress = Progress::new("extract", images);
    let (mut encoded, mut unread) = (0, Unread::default());
    embed(
        source,
        &missing,
        &encoding.preprocess,
        &encoding.at_work(),
        |images| progress.inc(images as u64),
        |shard, rows| {
            let shard = &missing[shard];
            let rows = rows.and_then(|mut rows| add_kept(source, shard, &mut rows).map(|()| rows));
            match rows {
                Ok(rows) => {
                    encoded += rows.labels.len();
                    embeddings.write_shard(shard, rows)
                }
                Err(error) => unread.push(shard, error),
            }
        },
    )?;
    progress.finish();
    encoding.note_halved();
    unread.or_error()?;
    if !embeddings.missing_of(own).is_empty() {
        return Err(Stopped.into());
    }
    let others = embeddings.missing().len();
    if let (Some(own), 1..) = (partition, others) {
        return terminal::print(format!(
            "partition {own} of {}: its shards are there, {encoded} images encoded now; other partitions lack {others} \
             of {}\n",
            run.dir().display(),
            counted(embeddings.shards().len(), "shard")
        ));
    }
    embeddings.seal()?;
    note_lost_classes(source, &embeddings)?;
    summarise(run, &embeddings, encoded)
}

/// Shards that could not be made, since their source cannot be read.
#[derive(Default)]
struct Unread {
    shards: Vec<String>,
    /// Why the first of them.
    first: Option<Error>,
}

impl Unread {
    /// Goes on without a shard.
    fn push(&mut self, shard: &Shard, error: Error) -> Result<()> {
        let name = format!("{} {}", shard.split, shard.number);
        terminal::note(&format!("note: shard {name} cannot be made: {error:#}"));
        self.shards.push(name);
        self.first.get_or_insert(error);
        Ok(())
    }

    fn or_error(self) -> Result<()> {
        let Some(first) = self.first else { return Ok(()) };
        let what = match &self.shards[..] {
            [one] => format!("the shard {one} cannot be made, the others are there"),
            several => {
                format!("{} shards cannot be made ({}), the others are there", several.len(), several.join(", "))
            }
        };
        Err(first.context(what))
    }
}

impl DataOptions {
    /// Where the images are.
    pub fn place(&self) -> Result<PathBuf> {
        hub::data(&self.data)
    }
}

/// The images of a source that the run calls so, without what lies in its directory, where listings of
/// archives are kept. Says what was found.
pub fn open_source(options: &DataOptions, run: &Run, name: &str, partition: Option<Partition>) -> Result<Source> {
    open_source_at(&options.place()?, options, run, name, partition)
}

/// As [`open_source`], where it is known by now where the images are.
pub fn open_source_at(
    data: &Path,
    options: &DataOptions,
    run: &Run,
    name: &str,
    partition: Option<Partition>,
) -> Result<Source> {
    let partition = partition.unwrap_or(Partition::WHOLE);
    let source_options = SourceOptions {
        format: options.format,
        holdout: options.holdout,
        leave_out: Some(run.dir().to_owned()),
        class_names: options.class_names.clone(),
        image_column: options.image_column.clone(),
        label_column: options.label_column.clone(),
        keep: match &options.keep[..] {
            [] => Keep::None,
            names if names.iter().any(|name| name == "all") => Keep::All,
            names => Keep::Columns(names.to_vec()),
        },
        skip_damaged: options.skip_damaged,
        listings: embeddings::listings(run, name).map(|dir| Listings { dir, partition }),
    };
    // in a store there are no directories, and what lies above may not be asked for
    let is_absent = |dir: &&Path| !storage::is_remote(dir) && !dir.as_os_str().is_empty() && !dir.exists();
    let absent: Vec<&Path> = run.dir().ancestors().take_while(is_absent).collect();
    let source = Source::open(data, &source_options).inspect_err(|error| {
        // data that is refused begins no run; where a disk or a store failed, the next try has the listings
        if !absent.is_empty() && is_of_data(data, error.as_ref()) {
            embeddings::remove_listings(run, name, false).ok();
            absent.iter().for_each(|dir| drop(fs::remove_dir(dir)));
        }
    })?;
    terminal::note(&source.summary);
    for note in &source.notes {
        terminal::note(&format!("note: {note}"));
    }
    Ok(source)
}

/// What images are encoded by.
pub struct Encoding {
    pub preprocess: Preprocess,
    precision: Precision,
    /// Class of the devices.
    device: &'static str,
    encoders: Vec<ImageEncoder>,
    /// Images at a time, before any work.
    batch: usize,
}

impl Encoding {
    /// An encoder for the CPU, or two for each CUDA device: one copies while the other computes. A device
    /// takes so many images at a time, where that is said.
    pub fn open(checkpoint: &Checkpoint, options: &DataOptions, batch_size: Option<usize>) -> Result<Self> {
        let mut preprocess = checkpoint.preprocess()?;
        preprocess.exif = options.exif;
        let devices = options.device.open(2)?;
        terminal::note_device(&options.device, &devices[0]);
        let precision = options.dtype.unwrap_or_else(|| Precision::usual(&devices[0]));
        precision.prepare(&devices)?;
        let open = |device| checkpoint.image_encoder(device, precision.dtype());
        let mut encoders = time(Phase::Load, || devices.iter().map(open).collect::<Result<Vec<_>>>())?;
        if let Some(images) = batch_size {
            encoders.iter_mut().for_each(|encoder| encoder.set_batch(images));
        }
        let batch = encoders[0].batch();
        Ok(Encoding { preprocess, precision, device: class_of(&devices[0]), encoders, batch })
    }

    /// The encoders that work side by side: the CPU's on every thread.
    pub fn at_work(&self) -> Vec<&ImageEncoder> {
        match &self.encoders[..] {
            [encoder @ ImageEncoder::Cpu(_)] => vec![encoder; rayon::current_num_threads()],
            several => several.iter().collect(),
        }
    }

    /// Says so where a device's memory ran out.
    fn note_halved(&self) {
        let least = self.encoders.iter().map(ImageEncoder::batch).min().unwrap_or(self.batch);
        if least < self.batch {
            terminal::note(&format!(
                "note: the device's memory ran out with {} images at a time, so they came down to {least}: \
                 --batch-size {least} begins there",
                self.batch
            ));
        }
    }

    fn plan(&self, options: &DataOptions, checkpoint: &Checkpoint, source: &Source) -> Result<SourcePlan> {
        let plan = SourcePlan {
            source: source.id.clone(),
            model: Some(checkpoint.id()?),
            preprocessing: Some(self.preprocess.id()),
            compute_dtype: self.precision.to_string(),
            device: Some(self.device.to_owned()),
            dim: checkpoint.config.projection_dim,
            classes: source.classes.clone(),
            rows: source.rows.clone(),
            shard_rows: options.shard_rows,
            kept: source.kept.clone(),
        };
        plan.checked()
    }
}

/// Adds the kept columns of a shard's rows, without those in its quarantine.
fn add_kept(source: &Source, shard: &Shard, rows: &mut ShardRows) -> Result<()> {
    let Some(kept) = source.kept(shard.split, shard.rows.clone())? else { return Ok(()) };
    let mut is_there = vec![true; kept.num_rows()];
    rows.quarantine.iter().for_each(|q| is_there[q.row - shard.rows.start] = false);
    rows.contents.extend(kept_line(Some(&kept))?);
    rows.kept = Some(filter_record_batch(&kept, &BooleanArray::from(is_there))?);
    Ok(())
}

/// Names the classes all of whose images of a split are in the quarantine.
fn note_lost_classes(source: &Source, embeddings: &Embeddings) -> Result<()> {
    for (split, count) in [
        (Train::NAME, Embeddings::count::<Train> as fn(&Embeddings, i64) -> Result<usize>),
        (Test::NAME, Embeddings::count::<Test>),
    ] {
        let mut lost = Vec::new();
        for (class, &had) in source.classes.iter().zip(&source.counts[split]) {
            if had > 0 && count(embeddings, class.label)? == 0 {
                lost.push(format!("{:?} ({had})", class.name));
            }
        }
        if !lost.is_empty() {
            let lost = lost.join(", ");
            terminal::note(&format!("note: all {split} images of these classes are in the quarantine: {lost}"));
        }
    }
    Ok(())
}

fn summarise(run: &Run, embeddings: &Embeddings, encoded: usize) -> Result<()> {
    let rows: usize = embeddings.plan.rows.values().sum();
    let (quarantined, run) = (embeddings.quarantined()?, run.dir().display());
    if quarantined == rows {
        bail!(
            "none of the {} could be used: cgil query --run {run} \"SELECT * FROM quarantine\" says why",
            counted(rows, "image")
        );
    }
    let mut text = format!(
        "{} in {run}, {encoded} encoded now: {} of {}, {quarantined} quarantined\n",
        counted(rows, "image"),
        counted(rows - quarantined, "embedding"),
        counted(embeddings.plan.dim, "value")
    );
    if quarantined > 0 {
        text += &format!("cgil query --run {run} \"SELECT * FROM quarantine\" says why\n");
    }
    terminal::print(text)
}
