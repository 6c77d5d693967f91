//! Owner and admission keys, owner proofs, AK certificates and owner-signed documents.
//!
//! An image belongs to an owner: its measured command line carries the [`OwnerFingerprint`].
//! Whoever admits a node shows an [`OwnerProof`] inside the attested channel, and policy and
//! reference values are [`SignedDocument`]s. Everything is Ed25519; no certificate, no date.
//!
//! Trusted: whoever holds the owner key. Not trusted: every byte given to a `verify` or `open`.
#![no_std]

extern crate alloc;

mod ak_certificate;
mod document;
mod keys;
mod proof;

pub use ak_certificate::{AdmittedKey, AkCertificate, AkCertificateError, ExpectedKey};
pub use document::{DocumentError, DocumentKind, SignedDocument};
pub use keys::{
    AdmissionKey, AdmissionKeyCertificate, KeyError, OwnerFingerprint, OwnerKey, OwnerPublicKey,
    Seed,
};
pub use proof::{OwnerProof, OwnerProofError, ProvenOwner};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Whether `signature` over `message` is by the Ed25519 key `public_key` (RFC 8032).
fn is_signed_by(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key)
        .verify(message, signature)
        .is_ok()
}
