//! How results and errors are shown.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    fmt::{self, Display},
    io::Write as _,
};

use crate::kubernetes::is_unavailable;

/// Form of what a command prints on standard output.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people.
    #[default]
    Human,
    /// One JSON document.
    Json,
}

impl OutputFormat {
    /// Prints a result: its `Display` for people, its fields for programs.
    pub(crate) fn print(self, result: &(impl Display + Serialize)) -> Result<()> {
        let text = match self {
            Self::Human => result.to_string(),
            Self::Json => serde_json::to_string_pretty(result).context("encode the result")?,
        };
        writeln!(std::io::stdout(), "{}", text.trim_end()).context("write to standard output")
    }
}

/// Rows under a header, each column as wide as its widest text.
pub(crate) fn table<const N: usize>(
    header: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Exit statuses beside 0 done and 2 wrong usage (docs/formats.md).
const FAILED: u8 = 1;
/// Somebody judged, and will judge the same again.
pub(crate) const REFUSED: u8 = 3;
/// Nobody answered, or could, or it is not yet so: the same command may succeed later.
pub(crate) const UNAVAILABLE: u8 = 4;

/// Context of an error whose exit status is not [`FAILED`].
#[derive(Debug)]
pub(crate) struct ExitStatus(pub(crate) u8);

impl ExitStatus {
    /// For what a party of the protocol says.
    pub(crate) const fn of(class: api::Class) -> Self {
        Self(match class {
            api::Class::Refused => REFUSED,
            api::Class::Unavailable => UNAVAILABLE,
            api::Class::Malformed | api::Class::Internal => FAILED,
        })
    }
}

impl Display for ExitStatus {
    /// Nothing: it is no cause.
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// An exit status of a command that said on standard output why.
#[derive(Debug)]
pub(crate) struct Status(pub(crate) u8);

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}", self.0)
    }
}

impl std::error::Error for Status {}

/// An error with the next step for the person who sees it.
#[derive(Debug)]
pub(crate) struct Hint(String);

impl Hint {
    /// Attaches a next step to an error; printed on a line of its own.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds a [`Hint`] to a failing result.
pub(crate) trait WithHint<T> {
    /// `hint` is printed after the chain of causes.
    fn hint(self, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(Hint::new(hint)))
    }
}

/// Prints the chain of causes on one line, then the hint on its own, to standard error; gives the exit
/// status.
pub(crate) fn print_error(error: &anyhow::Error) -> u8 {
    let hint = error.downcast_ref::<Hint>().map(|hint| hint.0.as_str());
    let causes: Vec<String> = error
        .chain()
        .map(ToString::to_string)
        .filter(|cause| !cause.is_empty() && Some(cause.as_str()) != hint)
        .collect();
    eprintln!("error: {}", causes.join(": "));
    let no_api_server = is_unavailable(error);
    let repeat = no_api_server.then_some("repeat the command when the API server answers");
    let hint = hint.or(repeat);
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    match error.downcast_ref() {
        Some(ExitStatus(status)) => *status,
        None if no_api_server => UNAVAILABLE,
        None => FAILED,
    }
}
