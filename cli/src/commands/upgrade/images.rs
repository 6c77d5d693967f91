//! `constellation upgrade add`: a new image beside those in force.

use anyhow::{Context as _, Result, anyhow};
use appraisal::document::ReferenceValuesDocument;
use clap::Args;
use owner::{DocumentKind, OwnerKey};
use std::path::{Path, PathBuf};

use super::{
    Where,
    bring::Report,
    changes::named,
    document::{Document, Held, newest},
};
use crate::{
    commands::reference_values::Measured,
    files,
    kubernetes::Cluster,
    output::{OutputFormat, WithHint as _},
    secrets::{PassphraseArgs, owner_key},
};

/// Sign an image's values beside those in force, and bring them into force.
///
/// What is signed is the newest of the file's and the cluster's values, with the image added and the serial
/// raised. An image that is there already, with the same values, is not added twice.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// Name for the image, unique; records and logs carry it
    image: String,
    #[command(flatten)]
    measured: Measured,
    /// The signed reference values as you have them; replaced by what is signed
    #[arg(long, value_name = "FILE")]
    reference_values: PathBuf,
    #[command(flatten)]
    signer: Signer,
    #[command(flatten)]
    at: Where,
}

impl Add {
    pub(super) async fn run(self, output: OutputFormat) -> Result<()> {
        let owner = self.signer.open()?;
        let cluster = self.at.open().await?;
        let change = Amendment::begin(&cluster, &owner, &self.reference_values).await?;
        let mut values = change.base.reference_values()?;
        let image = self.measured.image(self.image)?;
        let there = named(&values, &image.name).cloned();
        let document = match there {
            Some(there) if there == image => change.base.clone(),
            Some(there) => {
                let error = anyhow!("image `{}` is there with other values", there.name);
                return Err(error).hint("another image takes another name");
            }
            None => {
                values.images.push(image);
                sign_next(values, &owner)?
            }
        };
        let limit = self.at.limit();
        change.finish(&document, limit).await?.finish(output)
    }
}

/// The owner key.
#[derive(Args, Debug)]
pub(super) struct Signer {
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl Signer {
    pub(super) fn open(&self) -> Result<OwnerKey> {
        owner_key(&self.owner_key, &self.passphrase)
    }
}

/// Signs `values` as the next serial.
pub(super) fn sign_next(mut values: ReferenceValuesDocument, owner: &OwnerKey) -> Result<Document> {
    let next = values.serial.checked_add(1);
    values.serial = next.context("the serial cannot grow")?;
    Document::sign(&values, owner)
}

/// A change of reference values, from the newest that the owner signed.
pub(super) struct Amendment<'a> {
    cluster: &'a Cluster,
    held: Held<'a>,
    file: &'a Path,
    /// What is changed.
    pub(super) base: Document,
}

impl<'a> Amendment<'a> {
    /// Finds what is to be changed. The file keeps a cluster that was set back from having its old values
    /// signed again.
    pub(super) async fn begin(
        cluster: &'a Cluster,
        owner: &OwnerKey,
        file: &'a Path,
    ) -> Result<Self> {
        let owner = owner.public_key().fingerprint();
        let held = Held::of(cluster, owner).await?;
        let kind = DocumentKind::ReferenceValues;
        let in_cluster = held.read(kind).await?;
        let base = newest(Document::read(kind, file, &owner)?, &in_cluster)?;
        Ok(Self {
            cluster,
            held,
            file,
            base,
        })
    }

    /// Brings `document` into force, then into the file: if that is cut short, the cluster has the newer one.
    pub(super) async fn finish(
        &self,
        document: &Document,
        limit: std::time::Duration,
    ) -> Result<Report> {
        let mut report = Report::of(self.cluster, &self.held, document).await?;
        self.held.push(document).await?;
        if files::read_text(self.file)? != document.signed() {
            files::replace(self.file, document.signed().as_bytes())?;
        }
        report
            .bring(self.cluster, &self.held, document, limit)
            .await?;
        Ok(report)
    }
}
