//! The key service: releases data keys to authenticated callers.
//!
//! It holds the key-encryption keys of a cluster and derives data keys from them. Callers are other
//! services, authenticated by mutual TLS; a table says which classes of keys each may ask for. A key
//! leaves only after an audit record of its release is durable; refusals are recorded as well.
//!
//! It does not know nodes, disks or attestation: the join service, its caller, does. It trusts its
//! configuration, the certificate authority named there, and the secret it was started with.

mod callers;
mod config;
mod release;
mod service;

pub use callers::{Callers, ClassName, DuplicateCaller};
pub use config::{CallerConfig, Config, KeyConfig, LimitConfig};
pub use release::{KeyRelease, ReleaseError};
pub use service::{KeyService, StartError};
