//! By what evidence is judged: the owner's two documents, and certificates of report keys.

use anyhow::{Context as _, Result};
use appraisal::{Appraiser, Policy, ReferenceValues};
use clap::Args;
use endorsements::{AuthoritySet, Config, Endorsements, system_clock};
use owner::{DocumentKind, OwnerFingerprint};
use std::path::{Path, PathBuf};

use crate::{documents, files};

/// The most certificates in the operator's folder: a chip's is about 1.5 KiB.
const MAX_FILES: usize = 65_536;

/// Where the rules are.
#[derive(Args, Debug)]
pub(crate) struct RulesArgs {
    /// The signed policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The signed reference values
    #[arg(long, value_name = "FILE")]
    reference_values: PathBuf,
    /// Folder with the certificates of report keys, as `constellation snp import-certs` fills it; for
    /// SEV-SNP nodes whose host hands none out
    #[arg(long, value_name = "FOLDER")]
    endorsements: Option<PathBuf>,
}

impl RulesArgs {
    /// The rules that `owner` signed, and the folder's certificates. None is fetched: the operator does that
    /// before, where there is a network.
    pub(crate) fn open(
        &self,
        owner: &OwnerFingerprint,
    ) -> Result<(Appraiser, Option<Endorsements>)> {
        let policy = documents::open(&self.policy, DocumentKind::Policy, owner)?;
        let values = documents::open(&self.reference_values, DocumentKind::ReferenceValues, owner)?;
        let policy = Policy::parse(policy.as_bytes()).context("policy")?;
        let values = ReferenceValues::parse(values.as_bytes()).context("reference values")?;
        let rules = Appraiser::new(policy, values)?;
        let folder = self.endorsements.as_deref();
        let endorsements = folder
            .map(|folder| open_endorsements(folder, &rules))
            .transpose()?;
        Ok((rules, endorsements))
    }

    /// The file of the signed reference values.
    pub(crate) fn reference_values(&self) -> &Path {
        &self.reference_values
    }

    /// Policy and reference values as the owner signed them.
    pub(crate) fn signed(&self) -> Result<[String; 2]> {
        Ok([
            files::read_text(&self.policy)?,
            files::read_text(&self.reference_values)?,
        ])
    }
}

/// The operator's folder of certificates, which is never filled from here.
fn open_endorsements(folder: &Path, rules: &Appraiser) -> Result<Endorsements> {
    Endorsements::open(Config {
        folder: folder.to_owned(),
        max_files: MAX_FILES,
        authorities: AuthoritySet::amd_and(rules.policy()).context("pinned authorities")?,
        kds: None,
        clock: system_clock(),
    })
    .with_context(|| format!("open `{}`", folder.display()))
}
