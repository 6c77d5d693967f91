//! A development root for SEV-SNP: what AMD's key distribution service and a processor's firmware
//! do, under keys of our own. For tests only.
//!
//! Everything has AMD's names and encodings, so nothing but the pinned certificates tells it from
//! AMD's. Production crates may name this crate under `dev-dependencies` and nowhere else.
//!
//! * [`DevelopmentRoot`] holds the keys of ARK, ASK and ASVK and their certificates for each
//!   [`Product`]; it issues VCEKs and VLEKs ([`Leaf`]) and revocation lists ([`CrlFields`]).
//! * [`ReportFields`] is a report with every field settable; a [`Leaf`] signs it.
//! * [`paravisor`] writes what Azure leaves in a vTPM.
//! * [`table`] encodes certificate tables, good ones and hostile ones.

mod certificate;
mod crl;
mod der;
mod keys;
mod leaf;
mod pem;
mod product;
mod report;
mod root;

pub mod paravisor;
pub mod table;

pub use crl::CrlFields;
pub use leaf::{Leaf, LeafFields, LeafKind};
pub use pem::pem;
pub use product::{Product, Tcb};
pub use report::ReportFields;
pub use root::{Chain, DevelopmentRoot};

/// An object identifier and the content of its extension, as they are.
pub use certificate::Extension;
