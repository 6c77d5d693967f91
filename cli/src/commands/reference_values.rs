//! `constellation reference-values`: what the images of a cluster measure.

use anyhow::{Context as _, Result, bail};
use appraisal::{
    ReferenceValues,
    document::{ImageDocument, LaunchDigest, ReferenceValuesDocument, SnpImageDocument, VERSION},
};
use clap::{Args, Subcommand};
use identity::Role;
use owner::DocumentKind;
use serde::Serialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{measure::Measurements, upgrade::InCluster};
use crate::{
    documents::{self, Sign},
    output::{OutputFormat, WithHint as _},
};

/// Say which images may boot, and in which roles.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Add an image's measurements; makes the file when there is none
    Add(Add),
    /// List the images
    List(List),
    /// Remove an image: its nodes are refused at their next boot
    Remove(Remove),
    /// Check reference values and sign them with the owner key
    Sign(Sign),
}

impl Command {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        match self {
            Self::Add(add) => output.print(&add.run()?),
            Self::List(list) => output.print(&list.run()?),
            Self::Remove(remove) => output.print(&remove.run()?),
            Self::Sign(sign) => output.print(&sign.run(DocumentKind::ReferenceValues, |text| {
                Ok(ReferenceValues::parse(text.as_bytes())?.serial())
            })?),
        }
    }
}

/// Add an image's measurements.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// The reference values
    file: PathBuf,
    /// Name for the image, unique in the file; logs and records carry it
    #[arg(long, value_name = "NAME")]
    image: String,
    #[command(flatten)]
    measured: Measured,
}

/// What an image may do and measures.
#[derive(Args, Debug)]
pub(super) struct Measured {
    /// Role its nodes may take; may be repeated
    #[arg(long = "role", required = true, value_name = "ROLE")]
    roles: Vec<Role>,
    /// What `constellation measure --output json` printed; may be repeated, for launches with several
    /// firmware versions
    #[arg(long, required = true, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// For an image that attests as `azure-sev-snp`: launch measurement of the paravisor that it may
    /// run in, as `snp show` prints it of a report that you trust; may be repeated
    #[arg(long, value_name = "HEX", value_parser = documents::parse_text::<LaunchDigest>)]
    paravisor: Vec<LaunchDigest>,
}

impl Add {
    fn run(self) -> Result<Listing> {
        let mut document = if self.file.exists() {
            documents::read(&self.file)?
        } else {
            ReferenceValuesDocument {
                version: VERSION,
                serial: 0,
                images: Vec::new(),
            }
        };
        if document.images.iter().any(|image| image.name == self.image) {
            return Err(anyhow::anyhow!("image `{}` is there already", self.image))
                .hint("give another `--image`, or remove the old one first");
        }
        document.images.push(self.measured.image(self.image)?);
        save(&self.file, document)
    }
}

impl Measured {
    /// The image of this name.
    pub(super) fn image(self, name: String) -> Result<ImageDocument> {
        let mut measurements = Measurements::default();
        for path in &self.measurements {
            let added = measurements.merge(documents::read(path)?);
            added.with_context(|| format!("read `{}`", path.display()))?;
        }
        Ok(ImageDocument {
            name,
            roles: self.roles,
            pcrs: measurements.pcrs,
            sev_snp: measurements.sev_snp,
            azure_sev_snp: (!self.paravisor.is_empty()).then_some(SnpImageDocument {
                measurements: Some(self.paravisor),
                id_block: None,
            }),
            events: measurements.events,
        })
    }
}

/// List the images.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// The reference values, not signed
    #[arg(required_unless_present = "kubeconfig", conflicts_with = "kubeconfig")]
    file: Option<PathBuf>,
    #[command(flatten)]
    held: InCluster,
}

impl List {
    fn run(self) -> Result<Listing> {
        let document = match (self.held.read(DocumentKind::ReferenceValues)?, self.file) {
            (Some(text), _) => serde_json::from_str(&text)?,
            (None, Some(file)) => documents::read(&file)?,
            (None, None) => bail!("neither a file nor a cluster is given"),
        };
        Ok(Listing::of(document))
    }
}

/// Remove an image.
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// The reference values
    file: PathBuf,
    /// The image's name
    #[arg(long, value_name = "NAME")]
    image: String,
}

impl Remove {
    fn run(self) -> Result<Listing> {
        let mut document: ReferenceValuesDocument = documents::read(&self.file)?;
        let before = document.images.len();
        document.images.retain(|image| image.name != self.image);
        if document.images.len() == before {
            bail!(
                "there is no image `{}` in `{}`",
                self.image,
                self.file.display()
            );
        }
        save(&self.file, document)
    }
}

/// Raises the serial, so that the change supersedes every document signed before.
fn save(path: &Path, mut document: ReferenceValuesDocument) -> Result<Listing> {
    document.serial = document
        .serial
        .checked_add(1)
        .context("the serial cannot grow")?;
    if !document.images.is_empty() {
        ReferenceValues::parse(&serde_json::to_vec(&document)?)
            .context("the change would not load")?;
    }
    documents::replace(path, &document)?;
    Ok(Listing::of(document))
}

#[derive(Serialize)]
struct Listing {
    serial: u64,
    images: Vec<ImageLine>,
}

#[derive(Serialize)]
struct ImageLine {
    name: String,
    roles: Vec<Role>,
    pcrs: Vec<u32>,
    launch_measurements: usize,
    id_block: bool,
    paravisor: bool,
}

impl Listing {
    fn of(document: ReferenceValuesDocument) -> Self {
        let images = document.images.into_iter().map(ImageLine::of);
        Self {
            serial: document.serial,
            images: images.collect(),
        }
    }
}

impl ImageLine {
    fn of(image: ImageDocument) -> Self {
        let pcrs = image.pcrs.map(|pcrs| pcrs.0.into_keys().collect());
        let launch = image.sev_snp;
        let measurements = launch.as_ref().and_then(|it| it.measurements.as_ref());
        Self {
            name: image.name,
            roles: image.roles,
            pcrs: pcrs.unwrap_or_default(),
            launch_measurements: measurements.map_or(0, Vec::len),
            id_block: launch.is_some_and(|launch| launch.id_block.is_some()),
            paravisor: image.azure_sev_snp.is_some(),
        }
    }

    /// What its nodes are compared with.
    fn anchors(&self) -> String {
        let mut anchors = Vec::new();
        if !self.pcrs.is_empty() {
            let pcrs: Vec<_> = self.pcrs.iter().map(ToString::to_string).collect();
            anchors.push(format!("PCR {}", pcrs.join(", ")));
        }
        match self.launch_measurements {
            0 => {}
            1 => anchors.push("1 launch measurement".to_owned()),
            count => anchors.push(format!("{count} launch measurements")),
        }
        if self.id_block {
            anchors.push("ID block".to_owned());
        }
        if self.paravisor {
            anchors.push("paravisor".to_owned());
        }
        anchors.join("; ")
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Serial {}", self.serial)?;
        for image in &self.images {
            let roles: Vec<_> = image.roles.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "{}  {}  {}",
                image.name,
                roles.join(", "),
                image.anchors()
            )?;
        }
        Ok(())
    }
}
