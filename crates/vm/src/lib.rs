//! Virtual machines on this host: what QEMU is told, software TPMs, disks, and the network between
//! machines. Used by `constellation mini`, the demo and the whole-system tests.
//!
//! Nothing here is trusted by a node, and nothing here trusts one: it is what any host can do.
//!
//! [`Arguments`] is QEMU's command line, piece by piece; [`Qmp`] its control channel. A [`Daemon`] is
//! a program that stays when whoever started it ends. A [`switch`] carries frames between machines
//! that no privilege connects.

mod accelerator;
mod arguments;
mod daemon;
mod disk;
mod golden;
mod qmp;
pub mod switch;
mod swtpm;

pub use accelerator::Accelerator;
pub use arguments::{Arguments, Board, FIRMWARE, Forward, OVMF, escape, find, on_switch};
pub use daemon::Daemon;
pub use disk::{Disk, DiskFormat};
pub use golden::event_log;
pub use qmp::Qmp;
pub use swtpm::{Swtpm, TpmAuthority};

/// Where a [`Forward`] begins.
pub use child_process::free_port;
