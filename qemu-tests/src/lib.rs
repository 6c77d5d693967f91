//! The harness of the whole-system tests: virtual machines with a software TPM, their
//! consoles, and the real programs around them.
//!
//! It is not a mock of anything: QEMU runs the real firmware, kernel and image, swtpm is a real
//! TPM 2.0 with an endorsement key certificate under a local CA, and the services and the CLI are
//! the binaries that users run, as child processes. Nothing here is linked into a product.
//!
//! A scenario makes a [`Workspace`] (one log folder), manufactures a [`Swtpm`], describes a
//! [`Machine`] by a [`MachineConfig`], starts it and reads its [`Console`]. Everything that was
//! started ends with the value that stands for it, and with the test process at the latest.
//!
//! Nothing here has an SEV-SNP processor. A [`SnpScenario`] boots the released agent behind a test
//! init that provides its `/dev/sev-guest` (crate `snp-device`), with reports under a root of its
//! own ([`Chip`]); kernel, agent and services cannot tell.

mod agent_line;
mod changed;
mod cli;
mod console;
mod disk_guest;
mod golden;
mod gpt;
mod image;
mod lan;
mod lent;
mod machine;
mod metadata;
mod mini;
mod name_server;
mod nbd;
mod node;
mod relay;
mod root_program;
mod scenario;
mod service;
mod silent;
mod site;
mod snp;
mod swtpm;
mod timeline;
mod workspace;

use child_process as process;
pub use child_process::{Process, contained, run};

pub use agent_line::{AgentExit, AgentStep};
pub use changed::ChangedUki;
pub use cli::{Adoption, Cli, Documents, Launch};
pub use console::{Console, Line};
pub use disk_guest::{DiskGuest, DiskReport, agent_of};
pub use golden::{direct_boot_pcrs, firmware_event_log};
pub use gpt::partitioned_state;
pub use image::Image;
pub use lan::Lan;
pub use machine::{
    Boot, GUEST_JOIN_SERVICE, GUEST_NETWORK, Machine, MachineConfig, PUSH_PORT, accelerator, qemu,
    tool,
};
pub use metadata::Metadata;
pub use mini::Mini;
pub use name_server::NameServer;
pub use nbd::{Lie, LyingDisk};
pub use node::Node;
pub use relay::{Pace, Relay};
pub use scenario::{Scenario, exit};
pub use service::Service;
pub use silent::SilentServer;
pub use site::Site;
pub use snp::{
    Chip, Collected, Collection, MINIMUM, SnpGuest, SnpScenario, TCB, development_root, fw_cfg,
    owned, policy, vouch,
};
pub use swtpm::PoweredTpm;
pub use timeline::{Chronicle, Timeline};
pub use vm::{Accelerator, Disk, DiskFormat, Qmp, Swtpm, TpmAuthority};
pub use workspace::{Workspace, free_port, program};
