//! `constellation completions` and `constellation man`: generated from the commands themselves.

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use std::{io, path::PathBuf};

use super::Cli;
use crate::files;

/// Print a completion script for a shell.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<()> {
        clap_complete::generate(
            self.shell,
            &mut Cli::command(),
            "constellation",
            &mut io::stdout(),
        );
        Ok(())
    }
}

/// Write the manual pages.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Directory for the pages, one a command
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<()> {
        files::create_dir(&self.out)?;
        clap_mangen::generate_to(Cli::command(), &self.out)
            .with_context(|| format!("write manual pages to `{}`", self.out.display()))
    }
}
