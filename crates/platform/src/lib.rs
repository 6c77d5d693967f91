//! Synchronous Linux edges: block devices, device-mapper, mounts, the TPM and SNP devices, network set-up.
//!
//! One function a step and one error variant a step, so that a boot that ends says where. What is
//! read from a device is the host's and is parsed by ring 0; what is decided is decided elsewhere.
//! This is the one crate with `unsafe`.
//!
//! * [`find`] names the disks, [`block`] reads and writes them, [`integrity`] is the state disk.
//! * [`attester`] makes evidence of the kind that the machine has, from [`tpm`] and [`sev_guest`].
//! * [`verity`] maps the verified root, [`mkfs`] runs its `mke2fs`, [`switch_root`] hands over.
#![allow(
    unsafe_code,
    reason = "the one crate that talks to the kernel where no safe crate does; each block says why it is sound"
)]

pub mod find;

pub mod gpt;

pub mod block;

pub mod dm;

pub mod keyring;

pub mod integrity;

pub mod verity;

pub mod chroot;

pub mod mkfs;

pub mod modules;

pub mod mount;

pub mod switch_root;

pub mod power;

pub mod random;

pub mod net;

pub mod tpm;

pub mod sev_guest;

pub mod attester;
