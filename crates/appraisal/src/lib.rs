//! Appraisal of evidence against policy and reference values.
//!
//! Pure: evidence, policy and reference values come in, [`Appraised`] or an [`AppraisalError`]
//! comes out. Each step leaves a type behind that only this crate makes:
//!
//! 1. [`Appraiser::challenge`]: the claim is of a kind that the policy accepts. For a TPM: the
//!    endorsement key is one that the policy trusts, the attestation key has the attributes of one,
//!    and a secret goes out that only the TPM of that endorsement key can recover, and only if it
//!    holds that attestation key: [`Challenged`];
//! 2. [`Appraiser::appraise`]: the evidence is signed by a key that something trusted vouches for,
//!    bound to this channel, keeps every rule of the policy, and one image's reference values fit.
//!
//! A node that runs already is asked what it is now, and proves it with [`Appraiser::verify`] in
//! place of step 2: [`Verified`], for which nobody gets a key. One that cannot be challenged shows the
//! certificate that its admission gave to the same key: [`Appraiser::verify_certified`].
//!
//! A relying party takes `&Appraised`; there is no flag, no other constructor and no switch that
//! skips a step. The crate trusts the policy, the reference values (their owner's signature is the
//! caller's to check, in crate `owner`) and its caller for a fresh secret and the true binding.
#![no_std]

extern crate alloc;

mod appraised;
mod appraiser;
mod asked;
mod certificate;
pub mod document;
mod ek;
mod error;
mod policy;
mod quote;
mod reference_values;
mod report;
mod running;
mod saved;
mod wanted;

pub use appraised::{Appraised, AttesterIdentity, Claims, MalformedIdentity, SnpClaims, TpmClaims};
pub use appraiser::{Answer, Appraiser, Challenged, Endorsements};
pub use certificate::CertificateError;
pub use ek::CredentialSecret;
pub use error::{
    AppraisalError, ErrorClass, FailedCheck, LaunchMismatch, LoadError, PcrMismatch, ReportError,
};
pub use policy::{Policy, REQUIRED_PCRS};
pub use reference_values::{Image, ReferenceValues};
pub use running::{KeyProof, Membership, Stated, Statement, Verified};
pub use saved::{Judged, SavedReport};
pub use wanted::Wanted;

/// PCR 15, the latch: extended before any code of the real root runs, so zero means that no key
/// was released in this boot yet (docs/protocol.md, "The node").
pub const LATCH_PCR: u32 = 15;
