//! X.509 certificates as a verifier needs them: parsed once, with the bytes that were signed.
//!
//! Pure: no keys, no signature check, no clock. What an attestation kind demands of a certificate
//! (which signature algorithm, which extensions, which authority, whether dates count) is decided
//! by its own crate; this one only knows what all of them share (RFC 5280).
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod certificate;
mod signed;

pub use certificate::{Certificate, Malformed, UnknownExtension};
pub use signed::signed_part;
/// The crate whose types the fields of a [`Certificate`] have.
pub use x509_cert;
