//! Real Kubernetes on this machine, for tests, measurements and demonstrations.
//!
//! [`ControlPlane`] is etcd, an API server, a controller manager and, if wanted, a scheduler as plain
//! processes on loopback: what a service that talks to Kubernetes is tested against. Nothing is a
//! mock; the programs are those that [`Kubernetes::find`] finds. Everything that was started ends with
//! the value that stands for it, and with the program that started it at the latest.
//!
//! No product depends on this crate.

mod access;
mod certificates;
mod control_plane;
mod folder;
mod relay;

pub use access::Access;
pub use control_plane::{ControlPlane, Options};
pub use kubernetes_binaries::{Kubernetes, Version};
