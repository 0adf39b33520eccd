//! What a shell and `man` know of the program.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::{Cli, terminal};

#[derive(Args)]
pub struct Completions {
    /// Shell to complete for; its own documentation says where the file goes
    shell: Shell,
}

#[derive(Args)]
pub struct Man {
    /// Directory that gets cgil.1 and a page per command that `--help` lists
    dir: PathBuf,
}

pub fn completions(options: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "cgil", &mut script);
    terminal::print(script)
}

pub fn man(options: &Man) -> Result<()> {
    fs::create_dir_all(&options.dir)
        .and_then(|()| clap_mangen::generate_to(whole(Cli::command()), &options.dir))
        .with_context(|| format!("cannot write man pages into {}", options.dir.display()))
}

/// A command whose pages have all options: clap_mangen leaves the help out of those that `-h` leaves
/// out.
fn whole(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_short_help(false)).mut_subcommands(whole)
}
