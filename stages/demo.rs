//! The three stages on a CLIP and pictures that are part of the program, so that it can be tried
//! where there is nothing else.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::PathBuf,
};

use anyhow::{Context, Result};
use cgil::atomic;
use clap::{Args, Parser};

use crate::{Cli, terminal};

/// Tasks that the demo's 20 classes are cut into.
const TASKS: &str = "5";

/// A file of data/demo, by its place there.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../data/demo/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = files![
    "clip/config.json",
    "clip/model.safetensors",
    "clip/preprocessor_config.json",
    "clip/tokenizer.json",
    "pictures/test-00000-of-00001.parquet",
    "pictures/train-00000-of-00001.parquet",
];

#[derive(Args)]
pub struct Options {
    /// Directory that gets the CLIP (`clip`), the pictures (`pictures`) and the run (`run`)
    #[arg(default_value = "cgil-demo")]
    dir: PathBuf,
}

pub fn run(options: &Options) -> Result<()> {
    let of = |name: &str| options.dir.join(name).into_os_string();
    for (name, bytes) in FILES {
        let path = options.dir.join(name);
        // where a run goes on they are there already
        if !fs::read(&path).is_ok_and(|found| found == *bytes) {
            atomic::write_file(&path, |file| Ok(file.write_all(bytes)?)).context("give another directory")?;
        }
    }
    let [clip, pictures, run] = ["clip", "pictures", "run"].map(of);
    for command in [
        vec!["extract".into(), "--model".into(), clip, "--data".into(), pictures, "--run".into(), run.clone()],
        vec!["fit-vae".into(), "--run".into(), run.clone(), "--tasks".into(), TASKS.into()],
        vec!["prompt-tune".into(), "--run".into(), run],
    ] {
        terminal::print(format!("$ cgil {}\n", command.join(OsStr::new(" ")).display()))?;
        Cli::try_parse_from([OsString::from("cgil")].into_iter().chain(command))?.stage.run()?;
    }
    Ok(())
}
