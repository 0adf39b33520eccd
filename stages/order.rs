//! Prints a class order as JSON.

use std::path::PathBuf;

use anyhow::Result;
use cgil::{
    embeddings::{Embeddings, FIRST_SOURCE},
    run::Run,
    task::Convention,
};
use clap::Args;

use crate::{
    options::{OrderOptions, choice},
    terminal,
};

#[derive(Args)]
pub struct Options {
    /// Directory of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    #[command(flatten)]
    order: OrderOptions,
    /// What the printed numbers are to be
    #[arg(long = "as", value_parser = choice::<Convention>())]
    printed: Convention,
}

pub fn run(options: &Options) -> Result<()> {
    let run = Run::open(&options.run, terminal::note)?;
    let classes = Embeddings::open(&run, FIRST_SOURCE)?.plan.classes.len();
    terminal::print(serde_json::to_string(&options.order.order().list(classes, options.printed)?)? + "\n")
}
