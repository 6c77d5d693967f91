//! `constellation audit`: whether an audit log is still what the service wrote.

use anyhow::{Context as _, Result, anyhow, bail};
use audit::{Head, Report};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Deserializer;
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
    /// Heads seen earlier, by a check or by `constellation node audit-head >> FILE`: they must still
    /// be there, so that a cut or replaced log is noticed. Written anew when the check succeeds
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
            return Err(anyhow!("{fault}")).hint(
                "keep the file as evidence; lines before the one named are as they were written",
            );
        }
        if report.chains.is_empty() {
            return Err(anyhow!("no line: expected at least one chain"))
                .hint("a service begins its log with a chain, so this one was cut off whole");
        }
        if let Some(path) = &self.heads {
            let heads = report.chains.iter().map(|chain| encode_head(&chain.head));
            files::replace(path, heads.collect::<Result<String>>()?.as_bytes())?;
        }
        output.print(&Verified::new(&report))
    }

    fn known_heads(&self) -> Result<Vec<Head>> {
        let Some(path) = self.heads.as_ref().filter(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        Deserializer::from_slice(&files::read(path)?)
            .into_iter()
            .collect::<Result<_, _>>()
            .with_context(|| format!("read heads from `{}`", path.display()))
    }
}

/// A head as a line of a heads file.
fn encode_head(head: &Head) -> Result<String> {
    Ok(serde_json::to_string(head)? + "\n")
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

#[cfg(test)]
mod tests {
    use super::*;
    use audit::{Chain, ChainId};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use std::fs;

    /// A log of two chains, its key file, and a heads file with the line that was appended for each.
    fn log(folder: &Path) -> Verify {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let sign = |message: &[u8]| key.sign(message).as_ref().try_into().ok();
        let chain = |id, previous| {
            Chain::start(ChainId::from_random([id; 16]), "join-0", previous, sign).unwrap()
        };
        let (first, first_lines) = chain(1, None);
        let (second, second_lines) = chain(2, first.head());
        let heads = [first, second].map(|chain| encode_head(&chain.head().unwrap()).unwrap());
        let path = |name: &str| folder.join(name);
        fs::write(path("log"), [first_lines, second_lines].concat().concat()).unwrap();
        fs::write(path("key"), hex::encode(key.public_key())).unwrap();
        fs::write(path("heads"), heads.concat()).unwrap();
        Verify {
            logs: vec![path("log")],
            keys: vec![path("key")],
            heads: Some(path("heads")),
        }
    }

    #[test]
    fn a_chain_that_a_kept_head_names_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path()).run(OutputFormat::Json).unwrap();
        let verify = log(folder.path());
        let whole = fs::read_to_string(&verify.logs[0]).unwrap();
        let first: Vec<&str> = whole.lines().take(2).collect();
        fs::write(&verify.logs[0], first.join("\n") + "\n").unwrap();
        let heads = fs::read(folder.path().join("heads")).unwrap();
        assert!(verify.run(OutputFormat::Json).is_err());
        assert_eq!(fs::read(folder.path().join("heads")).unwrap(), heads);
    }

    #[test]
    fn an_empty_log_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let verify = Verify {
            heads: None,
            ..log(folder.path())
        };
        fs::write(&verify.logs[0], "").unwrap();
        let error = verify.run(OutputFormat::Json).unwrap_err();
        assert!(format!("{error:#}").contains("no line"), "{error:#}");
    }

    #[test]
    fn the_heads_of_a_check_are_read_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        log(folder.path()).run(OutputFormat::Json).unwrap();
        let heads = folder.path().join("heads");
        let written = fs::read_to_string(&heads).unwrap();
        assert_eq!(written.lines().count(), 2, "{written}");
        let verify = || Verify {
            logs: vec![folder.path().join("log")],
            keys: vec![folder.path().join("key")],
            heads: Some(heads.clone()),
        };
        verify().run(OutputFormat::Json).unwrap();
        fs::write(&heads, written + "no head\n").unwrap();
        assert!(verify().run(OutputFormat::Json).is_err());
    }
}
