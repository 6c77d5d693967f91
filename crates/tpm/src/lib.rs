//! TPM 2.0 structures as a verifier needs them: quotes, public areas, credentials, event logs.
//!
//! Pure: no I/O, no clock. Every parser takes hostile bytes, has fixed bounds and refuses trailing
//! bytes. Signatures are verified over the bytes as received, nothing is ever re-encoded. What
//! the values *mean* (which PCRs, which EK) is decided in `appraisal`; who talks to a device is
//! `platform::tpm`.
//!
//! "Part 1" to "Part 3" cite the TPM 2.0 Library specification, revision 1.59.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod ak;
pub mod constants;
mod credential;
mod ek;
mod event_log;
mod pcr;
mod public;
mod quote;
mod reader;
mod signature;

pub use ak::{AttestationKey, SigningKey};
pub use credential::{Credential, CredentialError, make_credential};
pub use ek::{EkKind, EndorsementKey};
pub use event_log::{Difference, Event, EventLog, ExpectedEvent, MAX_EVENT_LOG};
pub use pcr::{PcrSelection, PcrSet, composite_digest};
pub use public::{Curve, KeyError, Name, Public, PublicKey, Scheme};
pub use quote::{ClockInfo, Quote, QuoteError};
pub use reader::{Malformed, Reader};
pub use signature::Signature;
