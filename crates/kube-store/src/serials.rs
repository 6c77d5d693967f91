//! The serials of the owner's documents: one object, so that several are raised as one.

use crate::{
    error::{SerialError, StoreError},
    objects::Kind,
    store::{KubeStore, TRIES},
};
use admission::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The object's name.
const NAME: &str = "documents";

/// The highest serials seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    documents: BTreeMap<String, Serial>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Serial {
    serial: u64,
    /// SHA-256 of what had it.
    #[serde(with = "hex::serde")]
    digest: [u8; 32],
}

impl KubeStore {
    /// Stores the serials of documents that are about to come into force, all or none.
    ///
    /// # Errors
    /// [`SerialError`] when one of them is below the stored one, or the same for another content; the
    /// documents must not come into force then.
    pub async fn raise_serials(&self, versions: &[Version]) -> Result<(), SerialError> {
        for _ in 0..TRIES {
            let stored = self.stored::<Spec>(Kind::Claim, NAME).await;
            let stored = stored.map_err(SerialError::Store)?;
            let before = stored.as_ref().map(|stored| stored.content.clone());
            let before = before.unwrap_or_default();
            let after = before.raised(versions)?;
            if after == before {
                return Ok(());
            }
            let resource = stored.map(|stored| stored.resource);
            let put = self.put(Kind::Claim, NAME, resource, &after).await;
            if put.map_err(SerialError::Store)? {
                return Ok(());
            }
        }
        Err(SerialError::Store(StoreError::Timeout {
            verb: "update",
            object: NAME.into(),
        }))
    }
}

impl KubeStore {
    /// Whether documents may come into force, by the serials that replicas stored.
    ///
    /// # Errors
    /// As [`Self::raise_serials`], which decides when they do.
    pub async fn check_serials(&self, versions: &[Version]) -> Result<(), SerialError> {
        let stored = self.stored::<Spec>(Kind::Claim, NAME).await;
        let stored = stored.map_err(SerialError::Store)?;
        let seen = stored.map(|stored| stored.content).unwrap_or_default();
        seen.raised(versions).map(drop)
    }
}

impl Spec {
    fn raised(&self, versions: &[Version]) -> Result<Self, SerialError> {
        let mut raised = self.clone();
        for version in versions {
            let stored = raised.documents.get(version.document);
            version
                .follows(stored.map(|stored| (stored.serial, stored.digest)))
                .map_err(SerialError::Refused)?;
            let serial = Serial {
                serial: version.serial,
                digest: version.digest,
            };
            raised.documents.insert(version.document.to_owned(), serial);
        }
        Ok(raised)
    }
}
