//! Images: building and owning unified kernel images, and predicting what a boot measures.
//!
//! Pure functions over bytes. A UKI is one PE file that carries the systemd stub, the kernel, the
//! initramfs and the kernel command line. [`uki::build`] makes one, [`uki::own`] makes an owner's
//! copy of a published one, [`predict`] says which PCR values the boot of one leaves behind.
//! [`sev_snp`] says what the launch of a SEV-SNP guest measures that is started by direct boot.
//!
//! Nothing here decides whether a measurement is good: that is `appraisal`, with the reference
//! values that this crate computes. Input files are the operator's own, yet parsed with fixed
//! bounds and refused when anything in them is not understood, because a value predicted from a
//! misread image would be wrong on every later boot.
#![no_std]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;

pub mod cmdline;
pub mod pcr;
pub mod pe;
pub mod predict;
pub mod sev_snp;
pub mod uki;
