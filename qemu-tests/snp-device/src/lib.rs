//! `/dev/sev-guest` for test images, where no SEV-SNP is.
//!
//! One program with two roles. As PID 1 of a test boot it starts itself as the device, waits for
//! the node, undoes what it mounted and becomes the agent of the image, byte for byte the released
//! one ([`init`]). As the device it answers the driver's real ioctls through CUSE ([`cuse`],
//! [`guest_request`]) with reports under a development root, or misbehaves as its [`Behaviour`]
//! says. The host gives that through `fw_cfg`.
//!
//! Production crates know nothing of it: they open `/dev/sev-guest` and cannot tell.

pub mod behaviour;
pub mod cuse;
pub mod guest_request;
pub mod init;

pub use behaviour::{Answer, Behaviour, FW_CFG_NAME};
