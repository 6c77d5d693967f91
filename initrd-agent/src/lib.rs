//! The initramfs agent: verified root, network, admission, unlocked state disk, hand-off.
//!
//! It runs as PID 1, synchronous, in one thread, with nothing beside it. The host is the adversary:
//! disks, network, hints and clock are hostile input; the measured command line says whose image
//! this is. A failure ends in an [`ExitReason`] on the console, then power-off or reboot; there is
//! no shell. `docs/agent.md` is the operator's page.

pub mod boot;
pub mod probe;

pub mod unlock;

pub mod network;

pub mod peers;

pub mod targets;

pub mod attest;

pub mod calls;

pub mod kubelet;

pub mod cmdline;

pub mod hints;

pub mod endpoints;

pub mod console;

pub mod exit;

pub use exit::{ExitReason, Failure};
