//! Certificates of the keys that sign SEV-SNP reports: from the configured folder, and fetched
//! behind the join. No appraisal waits for them.

use appraisal::{Appraiser, Policy};
use endorsements::{
    AuthoritySet, Config, Endorsements, FetchConfig, Found, OpenError, system_clock,
};
use evidence::Evidence;
use serde::Deserialize;
use service_runtime::config::count;
use std::{num::NonZeroU32, path::PathBuf};

/// Where certificates are kept and fetched from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndorsementConfig {
    /// The folder. It is created when it is absent.
    pub folder: PathBuf,
    /// The most files in it.
    #[serde(default = "files")]
    pub files: NonZeroU32,
    /// Base URL of AMD's key distribution service; absent: nothing is fetched.
    #[serde(default)]
    pub kds: Option<String>,
}

const fn files() -> NonZeroU32 {
    count(4096)
}

/// Finds what vouches for the key of a report beside what the node brings itself.
#[derive(Debug, Default)]
pub struct Endorsers(Option<Endorsements>);

impl Endorsers {
    /// Opens the folder, if one is configured. Kept are certificates of AMD, and of the development
    /// roots that `policy` names now.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: Option<&EndorsementConfig>, policy: &Policy) -> Result<Self, OpenError> {
        let Some(config) = config else {
            return Ok(Self(None));
        };
        let fetching = |url: &String| (url.clone(), FetchConfig::default());
        let endorsements = Endorsements::open(Config {
            folder: config.folder.clone(),
            max_files: usize::try_from(config.files.get()).unwrap_or(usize::MAX),
            authorities: AuthoritySet::amd_and(policy).map_err(OpenError::Authorities)?,
            kds: config.kds.as_ref().map(fetching),
            clock: system_clock(),
        })?;
        Ok(Self(Some(endorsements)))
    }

    /// What is here for this evidence. What is missing is fetched for the node's next attempt, if a
    /// certificate could make `rules` accept it.
    #[must_use]
    pub fn find(&self, rules: &Appraiser, evidence: &Evidence, now: u64) -> Found {
        let endorsements = self.0.as_ref();
        endorsements.map_or_else(Found::default, |endorsements| {
            endorsements.find_for(rules, evidence, now)
        })
    }
}
