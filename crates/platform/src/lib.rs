//! Synchronous Linux edges: TPM device, block devices, device-mapper, mounts, network set-up.
#![allow(
    unsafe_code,
    reason = "the one crate that talks to the kernel where no safe crate does; each block says why it is sound"
)]

pub mod net;

pub mod tpm;
