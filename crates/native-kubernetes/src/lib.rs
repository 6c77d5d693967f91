//! Real Kubernetes on this machine, for tests, measurements and demonstrations.
//!
//! [`ControlPlane`] is etcd, an API server, a controller manager and, if wanted, a scheduler as plain
//! processes on loopback: what a service that talks to Kubernetes is tested against. Nothing is a
//! mock; the programs are those that [`Kubernetes::find`] finds. Everything that was started ends with
//! the value that stands for it, and with the program that started it at the latest.
//!
//! An [`IsolatedNode`] is a machine of its own in namespaces of this one, with containerd, on a
//! [`Network`] of its own; it needs root. [`init`] and [`join`] make a cluster of such nodes with plain
//! kubeadm: what ours is measured against. An [`Image`] is written without a registry.
//!
//! No product depends on this crate.

mod access;
mod certificates;
mod cgroups;
mod control_plane;
mod folder;
mod kubeadm;
mod network;
mod node;
mod relay;

pub use access::Access;
pub use container_images::{Image, is_control_plane, kubernetes_images};
pub use control_plane::{ControlPlane, Options};
pub use kubeadm::{Join, init, join, kubectl};
pub use kubernetes_binaries::{Kubernetes, Version};
pub use network::Network;
pub use node::{IsolatedNode, may_isolate};
