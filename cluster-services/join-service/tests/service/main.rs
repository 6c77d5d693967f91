//! The join service over real sockets, real attested TLS, real redb and a real key service.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

mod admission;
mod appraisal_refused;
mod endorsements;
#[path = "../../../../crates/endorsements/tests/support/kds.rs"]
mod kds;
mod lifecycle;
mod node;
mod operator;
mod setup;
