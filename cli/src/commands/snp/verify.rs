//! `constellation snp verify`: the whole appraisal of a saved report, offline.

use anyhow::{Context as _, Result, anyhow, bail};
use appraisal::{
    AppraisalError, Appraiser, FailedCheck, Judged, Policy, ReferenceValues, SavedReport,
};
use clap::Args;
use endorsements::{AuthoritySet, Config, Found};
use evidence::{Evidence, SnpEvidence};
use identity::Role;
use owner::DocumentKind;
use serde::Serialize;
use snp::{Origin, UnixTime};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use super::input;
use crate::{documents, files};

/// Appraise a report offline, by policy and reference values.
///
/// Every rule that a node's report has to keep is applied: who signed, TCB, guest policy, platform,
/// launch measurement, report data. What is missing here and in a running join service alike is
/// never fetched.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The report: its 1184 bytes
    report: PathBuf,
    /// The policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The reference values
    #[arg(long, value_name = "FILE")]
    reference_values: PathBuf,
    /// The owner's public key: policy and reference values are signed. Without it they are drafts
    #[arg(long, value_name = "FILE")]
    owner: Option<PathBuf>,
    /// The report data that the report was asked for with, 128 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    report_data: ReportData,
    /// The host's certificate table that came with the report
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Certificate of the key that signed, DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "folder")]
    certificate: Option<PathBuf>,
    /// AMD's revocation list, DER or PEM
    #[arg(long, value_name = "FILE", conflicts_with = "folder")]
    revocation_list: Option<PathBuf>,
    /// Folder with both, as `snp import-certs` fills it
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Judge as of this moment, such as `2026-01-31T00:00:00Z`; now, if it is not given
    #[arg(long, value_name = "TIME", value_parser = input::parse_time)]
    at: Option<UnixTime>,
}

impl Verify {
    pub(super) fn run(self) -> Result<Verdict> {
        let appraiser = self.appraiser()?;
        let now = self.at.unwrap_or_else(input::now);
        let table = self.table.as_deref().map(files::read).transpose()?;
        let evidence = Evidence::SevSnp(SnpEvidence {
            report: files::read(&self.report)?,
            certificates: table.unwrap_or_default(),
        });
        let found = self.endorsements(&appraiser, &evidence, now)?;
        let Evidence::SevSnp(snp) = &evidence else {
            return Err(anyhow!("not a bare report"));
        };
        let saved = SavedReport {
            evidence: snp,
            report_data: &self.report_data.0,
            endorsements: found.endorsements(),
            now: now.0,
        };
        let judged = appraiser.judge(&saved).map_err(refused);
        let judged = judged.with_context(|| format!("report `{}`", self.report.display()))?;
        Ok(Verdict::of(&judged, self.owner.is_some()))
    }

    fn appraiser(&self) -> Result<Appraiser> {
        let policy = self.document(&self.policy, DocumentKind::Policy)?;
        let values = self.document(&self.reference_values, DocumentKind::ReferenceValues)?;
        let policy = Policy::parse(policy.as_bytes())
            .with_context(|| format!("read `{}`", self.policy.display()))?;
        let values = ReferenceValues::parse(values.as_bytes())
            .with_context(|| format!("read `{}`", self.reference_values.display()))?;
        Appraiser::new(policy, values).context("policy and reference values do not fit each other")
    }

    fn document(&self, path: &Path, kind: DocumentKind) -> Result<String> {
        let Some(owner) = &self.owner else {
            return files::read_text(path);
        };
        let owner = documents::owner_public_key(owner)?.fingerprint();
        documents::open(path, kind, &owner)
    }

    /// What the operator gave beside the report.
    fn endorsements(
        &self,
        appraiser: &Appraiser,
        evidence: &Evidence,
        now: UnixTime,
    ) -> Result<Found> {
        let Some(folder) = &self.folder else {
            let read = |path: &Option<PathBuf>| path.as_deref().map(input::der).transpose();
            return Ok(Found {
                leaf: read(&self.certificate)?,
                revocation_list: read(&self.revocation_list)?,
            });
        };
        if !folder.is_dir() {
            bail!("there is no folder `{}`", folder.display());
        }
        let authorities = appraiser.policy().authorities().cloned();
        let endorsements = endorsements::Endorsements::open(Config {
            folder: folder.clone(),
            max_files: usize::MAX,
            authorities: AuthoritySet::new(authorities.collect()),
            kds: None,
            clock: Arc::new(move || now),
        })?;
        Ok(endorsements.find_for(appraiser, evidence, now.0))
    }
}

/// The checks that failed, before what they mean.
fn refused(error: AppraisalError) -> anyhow::Error {
    let describe = |failed: &FailedCheck| {
        let (check, expected, got) = (&failed.check, &failed.expected, &failed.got);
        format!("{check}: expected {expected}, got {got}")
    };
    let checks: Vec<_> = error.checks().iter().map(describe).collect();
    let error = anyhow!(error);
    if checks.is_empty() {
        return error;
    }
    error.context(checks.join("; "))
}

/// `REPORT_DATA`.
#[derive(Clone, Debug)]
struct ReportData([u8; 64]);

impl FromStr for ReportData {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut data = [0; 64];
        let decoded = hex::decode_to_slice(text, &mut data);
        decoded.map_err(|_| "expected 128 hexadecimal digits")?;
        Ok(Self(data))
    }
}

/// A report that keeps every rule.
#[derive(Serialize)]
pub(super) struct Verdict {
    accepted: bool,
    image: String,
    roles: Vec<Role>,
    product: String,
    chip_id: Option<String>,
    reported_tcb: String,
    /// Whether a development root stands in AMD's place.
    development_root: bool,
    /// Whether policy and reference values are the owner's, or drafts.
    documents_signed: bool,
    /// What an announced minimum would refuse.
    below_announced_tcb: Vec<String>,
}

impl Verdict {
    fn of(judged: &Judged<'_>, documents_signed: bool) -> Self {
        let (image, claims) = (judged.image(), judged.claims());
        let below = claims.below_announced_tcb.iter().map(|failed| {
            let (check, expected, got) = (&failed.check, &failed.expected, &failed.got);
            format!("{check}: expected {expected}, got {got}")
        });
        Self {
            accepted: true,
            image: image.name().to_owned(),
            roles: image.roles().to_vec(),
            product: claims.product.to_string(),
            chip_id: claims.chip_id.map(|chip| chip.to_string()),
            reported_tcb: claims.reported_tcb.to_string(),
            development_root: claims.origin == Origin::Development,
            documents_signed,
            below_announced_tcb: below.collect(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<_> = self.roles.iter().map(ToString::to_string).collect();
        writeln!(
            f,
            "Accepted: image `{}`, roles {}",
            self.image,
            roles.join(", ")
        )?;
        let chip = self.chip_id.as_deref().unwrap_or("masked");
        writeln!(f, "{} chip {chip}", self.product)?;
        writeln!(f, "Reported TCB {}", self.reported_tcb)?;
        for line in &self.below_announced_tcb {
            writeln!(f, "The announced minimum would refuse it: {line}")?;
        }
        if self.development_root {
            writeln!(f, "By a development root: no processor vouches for it")?;
        }
        if !self.documents_signed {
            writeln!(
                f,
                "By drafts of policy and reference values: give `--owner`"
            )?;
        }
        Ok(())
    }
}
