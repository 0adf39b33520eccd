//! Prints a class order as JSON.

use std::path::PathBuf;

use anyhow::Result;
use cgil::{
    table::embeddings::Embeddings,
    task::{Convention, Curriculum, OrderOptions, TaskOptions},
};
use clap::Args;

use crate::terminal;

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long)]
    run: PathBuf,
    #[command(flatten)]
    order: OrderOptions,
    /// What the printed numbers are to be
    #[arg(long = "as", value_enum)]
    printed: Convention,
}

pub fn run(options: &Options) -> Result<()> {
    let dataset = Embeddings::open(&options.run)?.manifest.classes;
    let one_task = TaskOptions { tasks: Some(1), per_task: None, first_task: None };
    let curriculum = Curriculum::new(&dataset, &one_task, &options.order)?;
    terminal::print(serde_json::to_string(&curriculum.list(&dataset, options.printed))? + "\n")
}
