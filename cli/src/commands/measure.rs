//! `constellation measure`: what a boot of an image leaves in the PCRs, or in a launch measurement.

use anyhow::{Context as _, Result, anyhow, bail};
use appraisal::document::{ByPcr, EventDocument, LaunchDigest, PcrValue, SnpImageDocument};
use clap::Args;
use evidence::EvidenceKind;
use measure::cmdline::Cmdline;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

mod launch;
mod pcrs;

use launch::{Launch, LaunchArgs};

use crate::{
    files,
    output::{OutputFormat, WithHint as _},
};

/// Key of the word that says what an image attests with (docs/agent.md).
const EVIDENCE: &str = "constellation.evidence";

/// Compute what an image's boot measures: PCR values, or SEV-SNP launch measurements.
///
/// PCR 4, 9, 11, 12, 13 and 15 follow from the unified kernel image. PCR 0, 2, 3 and 7 are the
/// firmware's: give the TCG event log of one boot on that firmware that you trust.
///
/// A SEV-SNP launch measurement (`--sev-snp`) follows from the firmware, from kernel, initramfs and
/// command line (those of the image, as `image unpack` writes them, or files of their own), and from
/// number, type and features of the virtual CPUs: there is one for each combination.
#[derive(Args, Debug)]
pub(crate) struct Measure {
    /// The unified kernel image
    #[arg(required_unless_present = "kernel")]
    uki: Option<PathBuf>,
    /// TCG event log of a trusted boot on the same firmware, as in
    /// `/sys/kernel/security/tpm0/binary_bios_measurements`; may be repeated
    #[arg(long, value_name = "FILE")]
    event_log: Vec<PathBuf>,
    #[command(flatten)]
    launch: LaunchArgs,
}

impl Measure {
    pub(crate) fn run(self, output: OutputFormat) -> Result<()> {
        if self.launch.is_enabled() {
            let launches = self.launch.measure(self.uki.as_ref())?;
            return output.print(&Measurements::of_launches(launches));
        }
        let path = self.uki.context("no image")?;
        let measurements = pcrs::measure(&files::read(&path)?, &self.event_log)
            .with_context(|| format!("measure `{}`", path.display()))?;
        output.print(&measurements)
    }
}

/// Refuses values that would let an image pass as another kind than its command line says. What keeps
/// root on a node from a second key is that kind's only: PCR 15 is not extended where a claim on the
/// report does it, and no report is claimed where PCR 15 does it.
fn check_kind(cmdline: &Cmdline, compared: impl Fn(EvidenceKind) -> bool) -> Result<()> {
    // Without a kind no agent goes on, so that nobody is root there.
    let Some(text) = cmdline.value(EVIDENCE) else {
        return Ok(());
    };
    let kind: EvidenceKind = text
        .parse()
        .with_context(|| format!("command line: `{EVIDENCE}={text}`"))?;
    if compared(kind) {
        return Ok(());
    }
    Err(anyhow!(
        "the image attests with `{kind}`, of which this is not compared"
    ))
    .hint("`--sev-snp` is for `sev-snp` and `sev-snp-vtpm`; PCRs are for `tpm` and `azure-sev-snp`")
}

/// What `reference-values add` reads.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measurements {
    /// PCR index to the values it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pcrs: Option<ByPcr<Vec<PcrValue>>>,
    /// PCR index to the events that lead to its value; absent in values that somebody read from a
    /// TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<ByPcr<Vec<EventDocument>>>,
    /// Launch measurements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sev_snp: Option<SnpImageDocument>,
    /// Which launch has which of them, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    launches: Vec<Launch>,
}

impl Measurements {
    fn of_launches(launches: Vec<Launch>) -> Self {
        let measurements = launches.iter().map(|it| it.measurement).collect();
        Self {
            sev_snp: Some(SnpImageDocument {
                measurements: Some(each_once(measurements)),
                id_block: None,
            }),
            launches,
            ..Self::default()
        }
    }

    /// Adds those of another file, such as launch measurements with another firmware.
    pub(crate) fn merge(&mut self, other: Self) -> Result<()> {
        if self.pcrs.is_some() && other.pcrs.is_some() {
            return Err(anyhow!("two files have PCRs"))
                .hint("`measure` takes `--event-log` of several firmware versions");
        }
        self.pcrs = self.pcrs.take().or(other.pcrs);
        self.events = self.events.take().or(other.events);
        self.sev_snp = match (self.sev_snp.take(), other.sev_snp) {
            (Some(one), Some(other)) => Some(one_of(one, other)?),
            (one, other) => one.or(other),
        };
        Ok(())
    }
}

/// What a launch must be that fits one of two.
fn one_of(one: SnpImageDocument, other: SnpImageDocument) -> Result<SnpImageDocument> {
    if one.id_block.is_some() && other.id_block.is_some() {
        bail!("two files have an ID block");
    }
    let measurements = [one.measurements, other.measurements];
    let all = measurements.into_iter().flatten().flatten().collect();
    Ok(SnpImageDocument {
        measurements: Some(each_once(all)).filter(|all| !all.is_empty()),
        id_block: one.id_block.or(other.id_block),
    })
}

fn each_once(mut measurements: Vec<LaunchDigest>) -> Vec<LaunchDigest> {
    measurements.sort_unstable();
    measurements.dedup();
    measurements
}

impl fmt::Display for Measurements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(values) = &self.pcrs {
            pcrs::display(&values.0, f)?;
        }
        if !self.launches.is_empty() {
            writeln!(f, "CPUs  type            launch measurement")?;
        }
        self.launches
            .iter()
            .try_for_each(|launch| writeln!(f, "{launch}"))
    }
}
