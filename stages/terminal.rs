//! What a person sees: the progress of long work, and what a command answers.

use std::{
    io::{self, Write},
    time::Instant,
};

use anyhow::Result;
use candle_core::Device;
use cgil::{
    dense::moments::mean,
    device::DeviceChoice,
    metrics::{History, Metric, MetricName},
    stream::Stream,
};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// Zero-shot accuracy below so many times that of a guess is told.
const NEAR_CHANCE: f64 = 1.5;

/// A bar over `length` units, called `what`. Draws nothing where standard error is not a terminal.
pub fn bar(what: &'static str, length: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} {eta} left")
        .expect("the template is part of the program");
    ProgressBar::new(length as u64).with_style(style).with_prefix(what)
}

/// An epoch of a task (from 0) of `epochs` is done. Tasks before it that were there already count
/// as done.
pub fn tick(bar: &ProgressBar, task: usize, tasks: usize, epochs: usize, loss: f64) {
    bar.set_message(format!("task {} of {tasks}, loss {loss:.3}", task + 1));
    let start = (task * epochs) as u64;
    if bar.position() < start {
        bar.set_position(start);
    }
    bar.inc(1);
}

/// Writes a line to standard error; a closed one is no reason to panic.
pub fn note(line: &str) {
    writeln!(io::stderr(), "{line}").ok();
}

/// Says so where a program built for CUDA found none, unless it was told what to compute on.
pub fn note_device(choice: &DeviceChoice, device: &Device) {
    if cfg!(feature = "cuda") && *choice == DeviceChoice::Auto && device.is_cpu() {
        note("note: no CUDA device, computing on the CPU");
    }
}

/// Prints where the time since `start` went, if that was asked for.
pub fn profile(asked: bool, start: Instant) -> Result<()> {
    if asked { print(cgil::profile::report(start.elapsed())) } else { Ok(()) }
}

/// Prints to standard output; a reader that stops early, such as `head`, is no error.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
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
    for k in 0..tasks {
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
