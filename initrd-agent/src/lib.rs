//! The initramfs agent: verified root, network, admission, unlocked state disk, hand-off.
//!
//! It runs as PID 1, synchronous, in one thread, with nothing beside it. The host is the adversary:
//! disks, network, hints and clock are hostile input; the measured command line says whose image
//! this is. A failure ends in an [`ExitReason`] on the console, then power-off or reboot; there is
//! no shell. `docs/agent.md` is the operator's page.

pub mod cmdline;
pub mod console;
pub mod endpoints;
pub mod exit;
pub mod hints;

pub use exit::{ExitReason, Failure};
