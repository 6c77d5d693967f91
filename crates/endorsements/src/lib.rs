//! Endorsements of SEV-SNP reports: the certificates of signing keys (VCEK, VLEK) and the
//! revocation lists of the roots, where an appraisal needs them.
//!
//! A certificate comes from the report's own certificate table, else from here:
//!
//! 1. [`Store`]: a folder of certificates, each verified before it is kept and again when it is
//!    first read;
//! 2. [`Bundle`]: one file that carries them to where no network is;
//! 3. [`Endorsements`]: the store, and behind it a thread that fetches what is missing from AMD's
//!    key distribution service (KDS). [`Endorsements::request`] never waits: a missing certificate is
//!    scheduled, and whoever asks again later finds it.
//!
//! Nothing here is trusted: an appraisal authenticates the certificate it gets, whatever its source.
//! What is verified here keeps a lying or broken service from filling the store, no more. The
//! service is AMD's, its answers are hostile input: size, time and number of everything are bounded.
//!
//! A report is not proven genuine before its certificate is there, so anybody who reaches the
//! appraisal can ask for certificates of chips that do not exist. What that costs is bounded by
//! [`FetchConfig`]: a queue, a least time between two requests, and answers "there is none" kept for
//! a while. Known chips are served from the store all the while.

mod authorities;
mod backoff;
mod bundle;
mod endorsements;
mod fetcher;
mod id;
mod kds;
mod store;

pub use authorities::{AuthoritySet, Mismatch, RejectedLeaf};
pub use bundle::{Bundle, BundleError, Imported};
pub use endorsements::{Clock, Config, Endorsements, Found, OpenError, system_clock};
pub use fetcher::FetchConfig;
pub use id::EndorsementId;
pub use kds::{FetchError, KDS_URL, Kds, KdsError, with_patience};
pub use store::{Store, StoreError};
