//! `cluster.json`: what belongs to a master secret and is no secret (docs/formats.md).

use anyhow::{Context as _, Result, bail};
use identity::{ClusterId, KeyVersion};
use key_hierarchy::{KeyEncryptionKey, KeyHierarchy, KeySalt, MeasurementSalt};
use secret::MasterSecret;
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::documents;

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

    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        documents::read(path)
    }

    /// The cluster's id.
    pub(crate) const fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The version of the key-encryption key.
    pub(crate) const fn key_version(&self) -> KeyVersion {
        self.key_version
    }

    /// The salts of data keys and of the cluster id, hexadecimal.
    pub(crate) fn salts(&self) -> [&str; 2] {
        [&self.salt, &self.measurement_salt]
    }

    /// The keys of this cluster, if `secret` is its master secret.
    pub(crate) fn hierarchy(&self, secret: MasterSecret) -> Result<KeyHierarchy> {
        let salt = KeySalt(parse_salt(&self.salt)?);
        let measurement_salt = MeasurementSalt(parse_salt(&self.measurement_salt)?);
        let keys = KeyHierarchy::new(self.key_version, KeyEncryptionKey { secret, salt });
        let derived = keys.derive_cluster_id(&measurement_salt)?;
        if derived != self.cluster_id {
            bail!(
                "the master secret and the cluster file do not belong together: expected cluster {}, got {derived}",
                self.cluster_id
            );
        }
        Ok(keys)
    }

    /// Writes the file, which must not exist.
    pub(crate) fn create(&self, path: &Path) -> Result<()> {
        documents::create(path, self)
    }
}

fn parse_salt(text: &str) -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    hex::decode_to_slice(text, &mut salt)
        .ok()
        .context("salt: expected 64 hex digits")?;
    Ok(salt)
}
