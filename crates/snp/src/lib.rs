//! AMD SEV-SNP evidence as a verifier needs it, below policy.
//!
//! Pure: no I/O, no clock; endorsements and the time come in as values. Every parser takes hostile
//! bytes, has fixed bounds and refuses trailing bytes. Signatures are verified over the bytes as
//! received. Each step leaves a type behind:
//!
//! 1. [`Report::parse`]: the bytes are a report of a known version, field by field;
//! 2. [`Authorities`]: a root and its intermediates, AMD's pinned ones or a development set;
//! 3. [`Authorities::authenticate_leaf`]: the certificate of a signing key, of the kind that the
//!    policy asks for, is theirs: [`AuthenticatedLeaf`];
//! 4. [`AuthenticatedLeaf::verify`]: that key signed the report: [`AuthenticatedReport`].
//!
//! Whether what the report says is acceptable (debug, VMPL, TCB, measurement) is `appraisal`'s to
//! decide; who talks to the firmware is `platform`; who fetches certificates, `endorsements`.
//!
//! "AMD 56860" is the SEV-SNP Firmware ABI Specification, "AMD 57230" the VCEK Certificate and KDS
//! Interface Specification.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod authorities;
mod bytes;
pub mod certificate_table;
mod chain;
pub mod hcl;
pub mod id_block;
pub mod layout;
mod leaf;
mod product;
mod pss;
mod report;
mod revocation;
pub mod signature;
mod tcb;
mod time;

pub use authorities::{Authorities, AuthorityCertificates, AuthorityError, Origin};
pub use certificate_table::{CertificateTable, CertificateTableError};
pub use chain::{AuthenticatedLeaf, AuthenticatedReport, VerifyError};
pub use hcl::{HclError, HclReport, RuntimeClaims};
pub use id_block::{IdAuthentication, IdBlock, IdBlockError, IdKeys};
pub use leaf::{ExtensionFault, Leaf, LeafError};
pub use product::Product;
pub use report::{
    ChipId, FirmwareVersion, GuestPolicy, KeyKind, PlatformInfo, Report, ReportError, ReportFields,
    Tcbs,
};
pub use revocation::{MAX_REVOCATION_LIST, RevocationError, RevocationList};
pub use signature::{EcdsaError, Signature};
pub use tcb::{Component, RawTcb, ReservedTcb, Tcb};
pub use time::{OutOfDate, Period, UnixTime};
