//! Data keys, derived from the master secret (docs/formats.md, "Cluster file").
//!
//! `DEK(id) = HKDF-SHA256(master secret, salt, "key-" + id, length)`, the derivation that volumes
//! of earlier clusters were encrypted with, so that they stay readable. A [`DataKeyId`] is parsed
//! into its class before anything is derived, and no id of one class can spell an id of another:
//! whoever may ask for volume keys cannot obtain a state-disk key by naming a volume cleverly.
//!
//! What it is not: a key service. It knows no callers and releases nothing; the key service decides
//! who may ask for which [`KeyClass`] and audits before it derives.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod data_key_id;
mod hierarchy;
mod hkdf;

pub use data_key_id::{ClusterKey, DataKeyId, KeyClass, MalformedDataKeyId, VolumeId};
pub use hierarchy::{
    DeriveError, DerivedKey, KeyEncryptionKey, KeyHierarchy, KeySalt, MeasurementSalt,
    MeasurementSecret, ServiceKey, ServiceSeed,
};
