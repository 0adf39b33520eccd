//! One HTML page about the methods of a run.

use std::{io::Write, path::PathBuf};

use anyhow::{Context, Result};
use cgil::{
    atomic,
    report::{Request, render},
    run::Run,
};
use clap::Args;

use crate::{
    options::{MetricOption, TaskOptions},
    terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// File that is written [default: report.html in the run's directory]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    tasks: TaskOptions,
    /// Class orders by their seeds; without, all that the run has
    #[arg(long, value_delimiter = ',', conflicts_with = "orders")]
    seeds: Vec<u32>,
    /// A class order, as tables name it; may be given again
    #[arg(long = "class-order", value_name = "ORDER")]
    orders: Vec<String>,
    /// A method, as tables name it; may be given again, the first is what the others are compared
    /// with. Without, all: cgil first
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// A class whose embeddings are drawn; may be given again. Without, those that are confused
    /// most
    #[arg(long = "class", value_name = "NAME")]
    classes: Vec<String>,
    #[command(flatten)]
    metric: MetricOption,
}

pub fn run(options: &Options) -> Result<()> {
    let seeds = options.seeds.iter().map(|seed| format!("seed-{seed}"));
    let orders: Vec<String> = seeds.chain(options.orders.iter().cloned()).collect();
    let run = Run::open(&options.run, terminal::note)?;
    let page = render(&Request {
        run: &run,
        cut: options.tasks.cut(),
        shots: options.tasks.shots,
        orders: &orders,
        methods: &options.methods,
        metric: options.metric.metric,
        classes: &options.classes,
    })?;
    let path = options.out.clone().unwrap_or_else(|| options.run.join("report.html"));
    atomic::write_file(&path, |file| Ok(file.write_all(page.as_bytes())?))
        .with_context(|| format!("cannot write {}: --out says where else to", path.display()))?;
    terminal::print(format!("{}, {} KiB: open it in a browser\n", path.display(), page.len().div_ceil(1024)))
}
