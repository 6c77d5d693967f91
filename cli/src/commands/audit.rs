//! `constellation audit`: whether an audit log is still what the service wrote.

use anyhow::{Context as _, Result, bail};
use audit::{Head, Report};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    files,
    output::{OutputFormat, WithHint as _},
};

/// Check audit logs.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Check a log's hash chains and signed checkpoints
    Verify(Verify),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Verify(verify) => verify.run(output),
        }
    }
}

/// Check a log's hash chains and signed checkpoints.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The log's files, oldest first
    #[arg(required = true, value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// File with the service's audit public key (64 hex digits); may be repeated
    #[arg(long = "key", required = true, value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Heads seen by an earlier check: they must still be there, so that a cut or replaced log is
    /// noticed. Written anew when the check succeeds
    #[arg(long, value_name = "FILE")]
    heads: Option<PathBuf>,
}

impl Verify {
    fn run(self, output: OutputFormat) -> Result<()> {
        let keys = self.keys.iter().map(read_key).collect::<Result<Vec<_>>>()?;
        let known = self.known_heads()?;
        let mut text = String::new();
        for log in &self.logs {
            text.push_str(&files::read_text(log)?);
        }
        let report = audit::verify(text.lines(), &keys, &known);
        if let Some(fault) = &report.fault {
            return Err(anyhow::anyhow!("{fault}")).hint(
                "keep the file as evidence; lines before the one named are as they were written",
            );
        }
        if let Some(path) = &self.heads {
            let heads: Vec<&Head> = report.chains.iter().map(|chain| &chain.head).collect();
            files::replace(path, serde_json::to_string_pretty(&heads)?.as_bytes())?;
        }
        output.print(&Verified::new(&report))
    }

    fn known_heads(&self) -> Result<Vec<Head>> {
        let Some(path) = self.heads.as_ref().filter(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&files::read(path)?)
            .with_context(|| format!("read heads from `{}`", path.display()))
    }
}

fn read_key(path: impl AsRef<Path>) -> Result<[u8; 32]> {
    let path = path.as_ref();
    let mut key = [0; 32];
    if hex::decode_to_slice(files::read_text(path)?.trim_end(), &mut key).is_err() {
        bail!(
            "read `{}`: expected an audit public key of 64 hex digits",
            path.display()
        );
    }
    Ok(key)
}

#[derive(Serialize)]
struct Verified {
    chains: usize,
    records: u64,
    /// Lines behind the last checkpoint of their chain, which whoever writes the file could cut.
    unsigned: u64,
}

impl Verified {
    fn new(report: &Report) -> Self {
        Self {
            chains: report.chains.len(),
            records: report.chains.iter().map(|chain| chain.records).sum(),
            unsigned: report.chains.iter().map(|chain| chain.unsigned).sum(),
        }
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Log is whole: {} records in {} chains, {} lines not yet under a signed checkpoint",
            self.records, self.chains, self.unsigned
        )
    }
}
