//! The key service: releases data keys to authenticated callers.
//!
//! It holds the key-encryption keys of a cluster and derives data keys from them. Callers are other
//! services, authenticated by mutual TLS; a table says which classes of keys each may ask for. A key
//! leaves only after an audit record of its release is durable; refusals are recorded as well.
//!
//! In a cluster it also looks itself, before each release, whether the disk has a live record; it gives
//! out what makes a control-plane node; and it certifies its callers, by an authority that follows
//! from the master secret. Alone it does not know nodes and disks: the join service, its caller, does.
//!
//! It knows no attestation. It trusts its configuration, the secret it was started with, the
//! certificate authority named there, and in a cluster the API server's word about records.

mod callers;
mod cluster;
mod config;
mod release;
mod service;

pub use callers::{Callers, ClassName, DuplicateCaller};
pub use cluster::{AuthorityError, ClaimError, ClusterError, FilesError, MasterSecretError};
pub use config::{CallerConfig, ClientConfig, ClusterConfig, Config, KeyConfig, LimitConfig};
pub use release::{KeyRelease, ReleaseError};
pub use service::{KeyService, StartError};
