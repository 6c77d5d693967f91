//! `constellation upgrade`: the owner's documents and a new image, onto a running cluster.
//!
//! What was done is read from the cluster, so every verb is continued by saying it again. What the
//! cluster holds counts only with the owner's signature, and what a node runs only by its evidence.

mod bring;
mod changes;
mod document;
mod drain;
mod images;
mod mark;
mod node;
mod refusals;
mod replace;
mod replicas;
mod retire;
mod status;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use owner::DocumentKind;
use std::{path::PathBuf, time::Duration};
use tokio::runtime::Runtime;

use crate::output::{REFUSED, UNAVAILABLE};
use crate::{documents, files, kubernetes::Cluster, output::OutputFormat};
use document::Held;

/// Roll a new image, or new rules, onto a running cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show which images are accepted, which nodes run them, and what is next
    Status(status::Status),
    /// Sign an image's values beside those in force, and bring them into force
    Add(images::Add),
    /// Bring one node onto an image: cordon, drain, replace its root disk, verify, uncordon
    Node(Box<node::Node>),
    /// Sign the values without an image that no node runs any more, and bring them into force
    Retire(Box<retire::Retire>),
    /// Bring signed reference values into force
    ReferenceValues(bring::Bring),
    /// Bring a signed policy into force
    Policy(bring::Bring),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        runtime()?.block_on(async {
            match self {
                Self::Status(status) => status.run(output).await,
                Self::Add(add) => add.run(output).await,
                Self::Node(node) => node.run(output).await,
                Self::Retire(retire) => retire.run(output).await,
                Self::ReferenceValues(bring) => {
                    bring.run(DocumentKind::ReferenceValues, output).await
                }
                Self::Policy(bring) => bring.run(DocumentKind::Policy, output).await,
            }
        })
    }
}

/// The cluster, and how long its services may take.
#[derive(Args, Debug)]
struct Where {
    /// The administrator's kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// How long the join services may take to bring documents into force, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Where {
    async fn open(&self) -> Result<Cluster> {
        Cluster::open(&self.kubeconfig).await
    }

    const fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// A document of a running cluster, in the place of a file.
#[derive(Args, Debug)]
pub(super) struct InCluster {
    /// Read what a cluster holds instead; the administrator's kubeconfig
    #[arg(long, value_name = "FILE", requires = "owner")]
    kubeconfig: Option<PathBuf>,
    /// The owner's public key, whose signature the cluster's document must have
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    owner: Option<PathBuf>,
    /// Write the cluster's document, signed as it is, to this file; replaced if it exists
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    out: Option<PathBuf>,
}

impl InCluster {
    /// The document's text, if a cluster was named.
    pub(super) fn read(&self, kind: DocumentKind) -> Result<Option<String>> {
        let (Some(kubeconfig), Some(owner)) = (&self.kubeconfig, &self.owner) else {
            return Ok(None);
        };
        let owner = documents::owner_public_key(owner)?.fingerprint();
        let document = runtime()?.block_on(async {
            let cluster = Cluster::open(kubeconfig).await?;
            Held::of(&cluster, owner).await?.read(kind).await
        })?;
        if let Some(out) = &self.out {
            files::replace(out, document.signed().as_bytes())?;
        }
        Ok(Some(document.payload().to_owned()))
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
}

/// How a verb ended that said on standard output why.
fn end(status: u8) -> Result<()> {
    match status {
        0 => Ok(()),
        status => Err(crate::output::Status(status).into()),
    }
}

/// Says on standard error what is being done.
fn say(node: &str, what: impl std::fmt::Display) {
    eprintln!("{node}: {what}");
}
