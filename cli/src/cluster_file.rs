//! `cluster.json`: what belongs to a master secret and is no secret (docs/formats.md).

use anyhow::{Context as _, Result};
use identity::{ClusterId, KeyVersion};
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::files;

/// The public parameters of a cluster's keys.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterFile {
    cluster_id: ClusterId,
    key_version: KeyVersion,
    salt: String,
    measurement_salt: String,
}

impl ClusterFile {
    /// The parameters of a new cluster.
    pub(crate) fn new(cluster_id: ClusterId, salt: [u8; 32], measurement_salt: [u8; 32]) -> Self {
        Self {
            cluster_id,
            key_version: KeyVersion::FIRST,
            salt: hex::encode(salt),
            measurement_salt: hex::encode(measurement_salt),
        }
    }

    /// Writes the file, which must not exist.
    pub(crate) fn create(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).context("encode cluster parameters")?;
        text.push('\n');
        files::create(path, text.as_bytes())
    }
}
