//! `constellation image`: from a published image to an owner's.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use measure::uki::Uki;
use serde::Serialize;
use std::{fmt, path::PathBuf};

use crate::{documents, files, output::OutputFormat};

/// Make an owner's image from a published one.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Write the owner's fingerprint onto the measured command line of a UKI
    Own(Own),
    /// Write kernel, initramfs and command line of a UKI to files, for direct boot
    Unpack(Unpack),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Own(own) => output.print(&own.run()?),
            Self::Unpack(unpack) => output.print(&unpack.run()?),
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

/// Write kernel, initramfs and command line of a UKI to files, for direct boot.
///
/// Files that exist are replaced. `measure --sev-snp` on the image measures a launch with them.
#[derive(Args, Debug)]
pub(crate) struct Unpack {
    /// The unified kernel image
    uki: PathBuf,
    /// Directory for `kernel`, `initrd` and `cmdline`
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Unpack {
    fn run(self) -> Result<UnpackedImage> {
        let bytes = files::read(&self.uki)?;
        let uki = Uki::parse(&bytes).with_context(|| format!("read `{}`", self.uki.display()))?;
        files::create_dir(&self.out)?;
        let write = |name: &str, bytes: &[u8]| {
            let path = self.out.join(name);
            files::replace(&path, bytes).map(|()| path)
        };
        Ok(UnpackedImage {
            kernel: write("kernel", uki.section(".linux")?)?,
            initrd: write("initrd", uki.section(".initrd")?)?,
            cmdline: write("cmdline", uki.cmdline().as_str().as_bytes())?,
        })
    }
}

#[derive(Serialize)]
struct UnpackedImage {
    kernel: PathBuf,
    initrd: PathBuf,
    cmdline: PathBuf,
}

impl fmt::Display for UnpackedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Kernel `{}`", self.kernel.display())?;
        writeln!(f, "Initramfs `{}`", self.initrd.display())?;
        write!(f, "Command line `{}`", self.cmdline.display())
    }
}
