//! What a person sees: the progress of long work, and what a command answers.

mod progress;

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
    sync::{LazyLock, OnceLock},
    time::Instant,
};

use anyhow::Result;
use candle_core::Device;
use cgil::{
    dense::moments::mean,
    device::DeviceChoice,
    metrics::{History, Metric, MetricName},
    storage,
    stream::Stream,
    words::counted,
};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
pub use progress::Progress;
use serde_json::{Value, json};

/// Zero-shot accuracy below so many times that of a guess is told.
const NEAR_CHANCE: f64 = 1.5;

/// What is said beside the answer, on standard error.
#[derive(Args, Clone, Copy)]
pub struct LogOptions {
    /// Say nothing beside the answer but errors
    #[arg(short, long, global = true, display_order = 900, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what computes, on what, and for how long
    #[arg(short, long, global = true, display_order = 900)]
    verbose: bool,
    /// Standard error as text, or as json, an object per line
    #[arg(long, global = true, display_order = 901, value_name = "FORMAT", value_enum, default_value_t = Log::Text)]
    #[arg(hide_possible_values = true)]
    log: Log,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Log {
    /// Lines, and a bar on a terminal
    Text,
    /// A JSON object per line
    Json,
}

static OPTIONS: OnceLock<LogOptions> = OnceLock::new();
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Keeps what is to be said, and how; the first thing that the program does.
pub fn set_up(options: LogOptions) {
    LazyLock::force(&START);
    OPTIONS.set(options).ok();
}

fn options() -> LogOptions {
    *OPTIONS.get().unwrap_or(&LogOptions { quiet: false, verbose: false, log: Log::Text })
}

/// Writes a line to standard error, in JSON an object with these fields; a closed one is no reason
/// to panic.
fn say(event: &str, line: &str, fields: Value) {
    let line = match options().log {
        Log::Text => line.to_owned(),
        Log::Json => {
            let mut object = json!({"event": event, "seconds": START.elapsed().as_millis() as f64 / 1e3});
            if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
                object.extend(fields);
            }
            object.to_string()
        }
    };
    writeln!(io::stderr(), "{line}").ok();
}

/// Tells what a person should know.
pub fn note(line: &str) {
    if !options().quiet {
        say("note", line, json!({"message": line.trim_start_matches("note: ")}));
    }
}

/// Tells what is only of interest to who asked for more.
pub fn detail(line: &str) {
    if options().verbose {
        say("detail", line, json!({"message": line}));
    }
}

/// Tells why a command failed.
pub fn error(message: &str) {
    say("error", &format!("error: {message}"), json!({"message": message}));
}

/// Tells that a command is done.
pub fn done() {
    let LogOptions { quiet, verbose, log } = options();
    if verbose || (log == Log::Json && !quiet) {
        say("done", &format!("done in {:.1} s", START.elapsed().as_secs_f64()), json!({}));
    }
}

/// Tells what is wrong with the words that the program was called with, or prints the help that
/// they ask for.
pub fn refuse(usage: &clap::Error) -> ExitCode {
    let words: Vec<String> = env::args().collect();
    let is_json = words.windows(2).any(|pair| pair == ["--log", "json"]) || words.iter().any(|w| w == "--log=json");
    if is_json && usage.use_stderr() {
        set_up(LogOptions { quiet: false, verbose: false, log: Log::Json });
        error(usage.to_string().trim_start_matches("error: ").trim());
    } else {
        usage.print().ok();
    }
    ExitCode::from(usage.exit_code() as u8)
}

/// Says what computes, and where a program built for CUDA found none, unless it was told what to
/// compute on.
pub fn note_device(choice: &DeviceChoice, device: &Device) {
    match device {
        Device::Cpu if cfg!(feature = "cuda") && *choice == DeviceChoice::Auto => {
            note("note: no CUDA device, computing on the CPU");
        }
        Device::Cpu => {
            detail(&format!("computing on the CPU, with {}", counted(rayon::current_num_threads(), "thread")))
        }
        other => detail(&format!("computing on {:?}", other.location())),
    }
}

/// Prints where the time since `start` went, if that was asked for.
pub fn profile(asked: bool, start: Instant) -> Result<()> {
    if asked { print(cgil::profile::report(start.elapsed())) } else { Ok(()) }
}

/// Prints to standard output; a reader that stops early, such as `head`, is no error. Nothing where an
/// object store did not answer, on which the text may rest.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    storage::reached()?;
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Tells where zero-shot accuracy is hardly better than a guess, which is often a fault of the
/// class names.
pub fn warn_near_chance(history: &History, stream: &Stream) {
    let Some(zero_shot) = &history.zero_shot else { return };
    let known = zero_shot.iter().copied().filter(|accuracy| accuracy.is_finite());
    let (accuracy, chance) = (mean(known), 100.0 / stream.classes.len() as f64);
    if stream.classes.len() > 2 && accuracy < NEAR_CHANCE * chance {
        let names: Vec<&str> = stream.classes.iter().take(3).map(|class| class.name.as_str()).collect();
        note(&format!(
            "note: zero-shot accuracy is {accuracy:.1} %, near the {chance:.1} % of a guess: are the class names words that the \
             CLIP knows ({}, …)? `extract --class-names FILE` gives others; of embeddings that were imported, change \
             class_name in the table and import it into another run",
            names.join(", ")
        ));
    }
}

/// The table that a run of a method ends with.
pub fn scores(history: &History, stream: &Stream) -> String {
    if history.images.iter().all(|&images| images == 0) {
        return "no test images, so nothing is scored\n".into();
    }
    let (matrix, tasks) = (history.matrix(), stream.tasks());
    let columns = [
        ("zero-shot", history.zero_shot.clone()),
        ("once learned", Some((0..tasks).map(|k| matrix[k][k]).collect())),
        ("in the end", matrix.last().cloned()),
    ];
    let columns: Vec<(&str, Vec<f64>)> = columns.into_iter().filter_map(|(title, of)| Some((title, of?))).collect();
    let header = ["task", "classes", "images"].into_iter().chain(columns.iter().map(|(title, _)| *title));
    let row = |head: [String; 3], accuracy: &dyn Fn(&[f64]) -> f64| {
        head.into_iter().chain(columns.iter().map(|(_, of)| shown(accuracy(of)))).collect::<Vec<_>>()
    };
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for k in (0..tasks).filter(|&k| !stream.task(k).is_empty()) {
        let names: Vec<&str> = stream.classes_of(k).iter().map(|class| class.name.as_str()).collect();
        let head = [(k + 1).to_string(), shorten(&names.join(", "), 60), history.images[k].to_string()];
        table.add_row(row(head, &|of| of[k]));
    }
    let head = [String::new(), "mean over tasks".into(), String::new()];
    table.add_row(row(head, &|of| mean(of.iter().copied().filter(|x| x.is_finite()))));
    for column in 2..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let metrics = history.metrics();
    let value = |name: MetricName| {
        let metric = |m: &&Metric| m.on_task.is_none() && m.name == name;
        metrics.iter().find(metric).map(|m| format!("{} {:.1}", name.title(), m.value))
    };
    let told = [
        MetricName::Faa,
        MetricName::Caa,
        MetricName::Forgetting,
        MetricName::CiTransfer,
        MetricName::MeanOpenAccuracy,
        MetricName::Harmonic,
    ];
    let told: Vec<String> = told.into_iter().filter_map(value).collect();
    format!("accuracy in %\n{}\n\n{}\n", table.trim_fmt(), told.join("   "))
}

/// A percentage; a dash where there is none.
fn shown(accuracy: f64) -> String {
    if accuracy.is_finite() { format!("{accuracy:.1}") } else { "–".into() }
}

/// The first `width` characters of a text.
pub fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// A time in words, of one figure or two.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", s.ceil()),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
