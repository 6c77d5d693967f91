//! `constellation image`: from a published image to an owner's.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::{fmt, path::PathBuf};

use crate::{documents, files, output::OutputFormat};

/// Make an owner's image from a published one.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Write the owner's fingerprint onto the measured command line of a UKI
    Own(Own),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Own(own) => output.print(&own.run()?),
        }
    }
}

/// Write the owner's fingerprint onto the measured command line of a UKI.
#[derive(Args, Debug)]
pub(crate) struct Own {
    /// The published unified kernel image
    uki: PathBuf,
    /// The owner's public key, `owner.pub`
    #[arg(long, value_name = "FILE")]
    owner: PathBuf,
    /// The owner's image, replaced if it exists
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Own {
    fn run(self) -> Result<OwnedImage> {
        let owner = documents::owner_public_key(&self.owner)?;
        let uki = files::read(&self.uki)?;
        let owned = measure::uki::own(&uki, owner.fingerprint().as_bytes())
            .with_context(|| format!("own `{}`", self.uki.display()))?;
        files::replace(&self.out, &owned)?;
        Ok(OwnedImage {
            image: self.out,
            owner: owner.fingerprint().to_string(),
        })
    }
}

#[derive(Serialize)]
struct OwnedImage {
    image: PathBuf,
    owner: String,
}

impl fmt::Display for OwnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Image `{}`, owner {}", self.image.display(), self.owner)?;
        write!(f, "Next: `constellation measure {}`", self.image.display())
    }
}
