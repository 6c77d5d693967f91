//! A whole cluster on one machine, at native speed: nodes in namespaces, each with a TPM of its own.
//!
//! Everything is made by the programs that users run: `constellation init` admits the first node, the
//! join service in the cluster admits the others, the bootstrapper of each node does the rest. Two
//! things are not as on a whole machine: [`native_agent`] has a folder for a state disk, and what a boot
//! measures is extended into the TPM by [`Tpm`], in the place of firmware and kernel.

mod balancer;
mod cluster;
mod expiry;
mod images;
mod node;
mod owner;
mod tpm;

pub use cluster::Cluster;
pub use expiry::{Authorities, expire};
pub use node::Node;
pub use owner::Owner;
pub use tpm::{IMAGE, Tpm, TpmAuthority};
