//! `constellation kubeconfig`: the administrator's way into a cluster.

mod document;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

use crate::{
    files,
    output::{OutputFormat, WithHint as _},
};
use document::Document;

/// Take a cluster into the file that kubectl reads.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Take the cluster of FILE into another kubeconfig, and leave everything else in that as it is
    Merge(Merge),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Merge(merge) => output.print(&merge.run()?),
        }
    }
}

/// Merge a kubeconfig into another one.
#[derive(Args, Debug)]
pub(crate) struct Merge {
    /// The kubeconfig of one cluster, as `constellation init` leaves it in its workspace
    file: PathBuf,
    /// The file to change; made if it is not there [default: `~/.kube/config`]
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Name of context, cluster and user in it
    #[arg(long, value_name = "NAME", default_value = "constellation")]
    context: String,
    /// Replace entries of that name that say something else
    #[arg(long)]
    replace: bool,
    /// Make it the current context, also where there is one
    #[arg(long = "use")]
    make_current: bool,
}

impl Merge {
    fn run(self) -> Result<Merged> {
        let source =
            read(&self.file)?.with_context(|| format!("read `{}`", self.file.display()))?;
        let entry = source
            .only_context(&self.context)
            .with_context(|| format!("read `{}`", self.file.display()))?;
        let into = target(self.into)?;
        let mut document = read(&into)?.unwrap_or_else(Document::empty);
        let taken = document
            .merge(entry, self.replace)
            .with_context(|| format!("merge into `{}`", into.display()));
        taken.hint("give another name with `--context`, or `--replace` it")?;
        let current = document.make_current(&self.context, self.make_current);
        let text = Zeroizing::new(document.encode()?);
        if let Some(folder) = into
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            files::create_dir(folder)?;
        }
        files::replace_secret(&into, text.as_bytes())?;
        Ok(Merged {
            file: into,
            context: self.context,
            current,
        })
    }
}

/// The file that a cluster's first node made for its administrator, written anew from what was checked:
/// the cluster at `endpoint`, certificates and a key, and nothing that kubectl would run, read or ask.
pub(super) fn administrator(text: &str, endpoint: &str) -> Result<Zeroizing<String>> {
    let document = Document::parse(text.as_bytes())?;
    document.check_administrator(endpoint)?;
    document.encode().map(Zeroizing::new)
}

/// The file itself, where a link leads to it: a rename would replace the link.
fn target(given: Option<PathBuf>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path,
        None => env::var_os("HOME")
            .map(|home| Path::new(&home).join(".kube/config"))
            .ok_or_else(|| anyhow!("there is no home directory"))
            .hint("name the file with `--into`")?,
    };
    match path.exists() {
        true => fs::canonicalize(&path).with_context(|| format!("read `{}`", path.display())),
        false => Ok(path),
    }
}

fn read(path: &Path) -> Result<Option<Document>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = Zeroizing::new(files::read(path)?);
    Document::parse(&text)
        .map(Some)
        .with_context(|| format!("read `{}`", path.display()))
}

#[derive(Serialize)]
struct Merged {
    file: PathBuf,
    context: String,
    current: bool,
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, context, .. } = self;
        writeln!(f, "Context `{context}` is in `{}`", file.display())?;
        match self.current {
            true => write!(f, "Next: `kubectl get nodes`"),
            false => write!(f, "Next: `kubectl --context {context} get nodes`"),
        }
    }
}
