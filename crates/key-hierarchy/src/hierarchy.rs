use crate::{DataKeyId, hkdf};
use alloc::{boxed::Box, collections::BTreeMap, vec};
use core::fmt;
use identity::{ClusterId, DiskId, KeyVersion};
use secret::{DataKey, MasterSecret};
use zeroize::Zeroizing;

secret::secret! {
    /// `DEK("measurementSecret")`: the cluster id is derived from it.
    pub struct MeasurementSecret(32);
}

secret::secret! {
    /// The seed of a key that the cluster has for itself; see [`ServiceKey`].
    pub struct ServiceSeed(32);
}

/// A key that the services of a cluster derive for themselves. It has no
/// [`DataKeyId`], so no caller of a key service can ask for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKey {
    /// Signs the join service's audit log.
    JoinServiceAudit,
    /// Signs the key service's audit log.
    KeyServiceAudit,
    /// The authority that certifies the services towards each other.
    ServiceAuthority,
}

impl ServiceKey {
    /// HKDF's `info`. No volume id can spell it: those that begin with `cluster/` are reserved.
    const fn info(self) -> &'static [u8] {
        match self {
            Self::JoinServiceAudit => b"key-cluster/v1/join-service-audit",
            Self::KeyServiceAudit => b"key-cluster/v1/key-service-audit",
            Self::ServiceAuthority => b"key-cluster/v1/service-ca",
        }
    }
}

/// Every version of the key-encryption key, the newest one last. Old versions stay until the last
/// disk or volume under them is gone.
#[derive(Debug)]
pub struct KeyHierarchy(BTreeMap<KeyVersion, KeyEncryptionKey>);

/// One version of the key-encryption key.
#[derive(Debug)]
pub struct KeyEncryptionKey {
    /// The secret.
    pub secret: MasterSecret,
    /// Its salt, stored beside it.
    pub salt: KeySalt,
}

/// HKDF's salt for data keys. Not a secret, but as durable as the master secret: without it no key
/// can be derived again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySalt(pub [u8; 32]);

/// HKDF's salt for the cluster id, made at init. Not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasurementSalt(pub [u8; 32]);

/// Why no key was derived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeriveError {
    /// Refused: a key of this class does not come in this length.
    #[error("key length: expected {min} to {max} bytes, got {got}")]
    Length {
        /// The shortest.
        min: usize,
        /// The longest.
        max: usize,
        /// What was asked for.
        got: usize,
    },
    /// Internal: the derivation itself failed.
    #[error("key derivation failed")]
    Derivation,
    /// Refused: there is no such key-encryption key.
    #[error("key version {got}: not known, the newest is {newest}")]
    Version {
        /// The newest version there is.
        newest: KeyVersion,
        /// What was asked for.
        got: KeyVersion,
    },
}

/// A derived key of the length that was asked for.
pub struct DerivedKey(Zeroizing<Box<[u8]>>);

impl KeyHierarchy {
    /// A hierarchy with one version.
    #[must_use]
    pub fn new(version: KeyVersion, key: KeyEncryptionKey) -> Self {
        Self(BTreeMap::from([(version, key)]))
    }

    /// Adds a version; gives the key back when the version is taken, a version never changes.
    ///
    /// # Errors
    /// The key, when the version exists.
    pub fn add(
        &mut self,
        version: KeyVersion,
        key: KeyEncryptionKey,
    ) -> Result<(), KeyEncryptionKey> {
        if self.0.contains_key(&version) {
            return Err(key);
        }
        self.0.insert(version, key);
        Ok(())
    }

    /// The newest version, which new records get.
    #[must_use]
    pub fn newest(&self) -> KeyVersion {
        self.0
            .last_key_value()
            .map_or(KeyVersion::FIRST, |(v, _)| *v)
    }

    /// Derives any data key. The caller must already have authorised the requester for the id's
    /// class and written the audit record.
    ///
    /// # Errors
    /// [`DeriveError`]; nothing is derived for a wrong length or version.
    pub fn derive(
        &self,
        version: KeyVersion,
        id: &DataKeyId,
        length: usize,
    ) -> Result<DerivedKey, DeriveError> {
        let lengths = id.lengths();
        if !lengths.contains(&length) {
            return Err(DeriveError::Length {
                min: *lengths.start(),
                max: *lengths.end(),
                got: length,
            });
        }
        let mut key = DerivedKey(Zeroizing::new(vec![0; length].into_boxed_slice()));
        self.fill(version, id, &mut key.0)?;
        Ok(key)
    }

    /// Derives the data key of a state disk, under the same conditions as [`Self::derive`].
    ///
    /// # Errors
    /// [`DeriveError::Version`], or `Derivation`.
    pub fn derive_state_disk(
        &self,
        version: KeyVersion,
        disk: DiskId,
    ) -> Result<DataKey, DeriveError> {
        DataKey::try_fill(|key| self.fill(version, &DataKeyId::StateDisk(disk), key))
    }

    /// The cluster's id: `HKDF-SHA256(DEK("measurementSecret"), measurement salt,
    /// "key-clusterID", 32)`. Fixed by the first key version, or a rotation would move the cluster.
    ///
    /// # Errors
    /// [`DeriveError::Version`] without a first version, or `Derivation`.
    pub fn derive_cluster_id(&self, salt: &MeasurementSalt) -> Result<ClusterId, DeriveError> {
        let id = DataKeyId::Cluster(crate::ClusterKey::MeasurementSecret);
        MeasurementSecret::try_fill(|secret| self.fill(KeyVersion::FIRST, &id, secret))?
            .derive_cluster_id(salt)
    }

    /// The seed of a key that the services have for themselves: `HKDF-SHA256(master secret, salt,
    /// "key-cluster/v1/" + name, 32)`. Fixed by the first key version, as the cluster's id is.
    ///
    /// # Errors
    /// [`DeriveError::Version`] without a first version, or `Derivation`.
    pub fn derive_service_seed(&self, key: ServiceKey) -> Result<ServiceSeed, DeriveError> {
        ServiceSeed::try_fill(|seed| self.expand(KeyVersion::FIRST, key.info(), seed))
    }

    fn fill(&self, version: KeyVersion, id: &DataKeyId, key: &mut [u8]) -> Result<(), DeriveError> {
        self.expand(version, id.info().as_bytes(), key)
    }

    fn expand(&self, version: KeyVersion, info: &[u8], key: &mut [u8]) -> Result<(), DeriveError> {
        let kek = self.0.get(&version).ok_or_else(|| DeriveError::Version {
            newest: self.newest(),
            got: version,
        })?;
        hkdf::fill(kek.secret.expose_secret(), &kek.salt.0, info, key)
            .map_err(|_| DeriveError::Derivation)
    }
}

impl MeasurementSecret {
    /// The cluster's id under this secret.
    ///
    /// # Errors
    /// [`DeriveError::Derivation`].
    pub fn derive_cluster_id(&self, salt: &MeasurementSalt) -> Result<ClusterId, DeriveError> {
        let mut id = [0; 32];
        hkdf::fill(self.expose_secret(), &salt.0, b"key-clusterID", &mut id)
            .map_err(|_| DeriveError::Derivation)?;
        Ok(ClusterId::from_bytes(id))
    }
}

impl DerivedKey {
    /// The secret bytes. Each call is a place where the secret is used.
    #[must_use]
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKey(..)")
    }
}

#[cfg(test)]
mod tests;
