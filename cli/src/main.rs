//! `constellation`: what an operator types.
//!
//! Results go to standard output (human text, or JSON with `--output json`), everything else to
//! standard error. Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused, 4 unavailable (docs/formats.md).

use clap::Parser;
use std::process::ExitCode;

mod admit;
mod cluster_file;
mod commands;
mod documents;
mod files;
mod kubernetes;
mod output;
mod records;
mod rules;
mod secrets;

fn main() -> ExitCode {
    let cli = commands::Cli::parse();
    if let Err(error) = secret_file::forbid_core_dumps() {
        eprintln!("error: cannot forbid core dumps: {error}");
        return ExitCode::FAILURE;
    }
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref() {
            Some(output::Status(status)) => ExitCode::from(*status),
            None => ExitCode::from(output::print_error(&error)),
        },
    }
}
