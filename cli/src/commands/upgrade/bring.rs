//! `constellation upgrade reference-values` and `policy`: a signed document comes into force.

use anyhow::Result;
use clap::Args;
use owner::DocumentKind;
use serde::Serialize;
use std::{fmt, path::PathBuf, time::Duration};

use super::{
    REFUSED, UNAVAILABLE, Where,
    changes::{self, Change, LockedOut},
    document::{Document, Held, fit},
    end,
    replicas::{self, Replica},
};
use crate::{documents, kubernetes::Cluster, output::OutputFormat};

/// Bring a signed document into force.
#[derive(Args, Debug)]
pub(crate) struct Bring {
    /// The signed document
    file: PathBuf,
    /// The owner's public key
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    /// Show what would change and who would be refused, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on though nodes would be refused at their next boot, as when an image must not run any longer
    #[arg(long)]
    lock_out: bool,
    #[command(flatten)]
    at: Where,
}

impl Bring {
    pub(super) async fn run(self, kind: DocumentKind, output: OutputFormat) -> Result<()> {
        let owner = documents::owner_public_key(&self.owner)?.fingerprint();
        let document = Document::read(kind, &self.file, &owner)?;
        let cluster = self.at.open().await?;
        let held = Held::of(&cluster, owner).await?;
        let mut report = Report::of(&cluster, &held, &document).await?;
        if self.dry_run {
            report.result = Outcome::DryRun;
        } else if !report.locked_out.is_empty() && !self.lock_out {
            report.result = Outcome::Refused;
        } else {
            report
                .bring(&cluster, &held, &document, self.at.limit())
                .await?;
        }
        report.finish(output)
    }
}

/// What was brought into force, or not.
#[derive(Serialize)]
pub(super) struct Report {
    document: DocumentKind,
    serial_before: u64,
    serial: u64,
    changes: Vec<Change>,
    /// Nodes that are refused at their next boot.
    locked_out: Vec<LockedOut>,
    replicas: Vec<Replica>,
    result: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    DryRun,
    InForce,
    /// Stored, and some join service does not say that it has it.
    Pushed,
    Refused,
}

impl Report {
    /// What `document` would change in a cluster.
    pub(super) async fn of(
        cluster: &Cluster,
        held: &Held<'_>,
        document: &Document,
    ) -> Result<Self> {
        let before = held.read(document.kind()).await?;
        held.may_follow(document, &before).await?;
        let mut locked_out = Vec::new();
        match document.kind() {
            DocumentKind::Policy => {
                let values = held.read(DocumentKind::ReferenceValues).await?;
                fit(document, &values)?;
            }
            DocumentKind::ReferenceValues => {
                fit(&held.read(DocumentKind::Policy).await?, document)?;
                let (old, new) = (before.reference_values()?, document.reference_values()?);
                locked_out = changes::locked_out(&cluster.members().await?, &old, &new);
            }
        }
        let fields = |document: &Document| serde_json::from_str(document.payload());
        Ok(Self {
            document: document.kind(),
            serial_before: before.serial(),
            serial: document.serial(),
            changes: changes::between(&fields(&before)?, &fields(document)?),
            locked_out,
            replicas: Vec::new(),
            result: Outcome::Refused,
        })
    }

    /// Stores `document` and waits until the join services go by it.
    pub(super) async fn bring(
        &mut self,
        cluster: &Cluster,
        held: &Held<'_>,
        document: &Document,
        limit: Duration,
    ) -> Result<()> {
        held.push(document).await?;
        let wanted = (document.kind(), document.serial());
        self.replicas = replicas::wait(cluster, wanted, limit).await?;
        self.result = match replicas::all_have(&self.replicas, document.serial()) {
            true => Outcome::InForce,
            false => Outcome::Pushed,
        };
        Ok(())
    }

    /// Prints it and ends with its exit status.
    pub(super) fn finish(&self, output: OutputFormat) -> Result<()> {
        output.print(self)?;
        end(match self.result {
            Outcome::DryRun | Outcome::InForce => 0,
            Outcome::Pushed => UNAVAILABLE,
            Outcome::Refused => REFUSED,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.document.title();
        writeln!(
            f,
            "{title}: serial {} -> {}",
            self.serial_before, self.serial
        )?;
        for change in &self.changes {
            writeln!(f, "  {change}")?;
        }
        if !self.locked_out.is_empty() {
            writeln!(f, "Refused at their next boot:")?;
        }
        for node in &self.locked_out {
            writeln!(f, "  {node}")?;
        }
        for replica in &self.replicas {
            writeln!(f, "Join service {replica}")?;
        }
        match self.result {
            Outcome::DryRun => writeln!(f, "Nothing was changed"),
            Outcome::InForce => writeln!(f, "In force in every join service"),
            Outcome::Pushed if self.replicas.is_empty() => {
                writeln!(
                    f,
                    "Stored; there is no join service: repeat the command when one runs"
                )
            }
            Outcome::Pushed => writeln!(f, "Stored, not in force everywhere: repeat the command"),
            Outcome::Refused => writeln!(
                f,
                "Nothing was changed: move these nodes first, or give `--lock-out`"
            ),
        }
    }
}
