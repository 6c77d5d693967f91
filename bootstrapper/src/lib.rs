//! The bootstrapper: makes a Kubernetes node of an admitted machine.
//!
//! It runs on every node after the agent switched to the verified root. From the hand-off it knows how this boot
//! was admitted; it runs the [`phase`]s of that node, each of them idempotent, and then keeps the [`routes`] to
//! the pods of other nodes and, on control-plane nodes, the members of [`etcd`]. While a first node is made, the CLI that initialises it follows the [`progress`].
//!
//! It trusts its configuration and programs, which are part of the verified root, the hand-off, which the
//! agent wrote, and the state disk. It decides nothing about who may join: the join service does.

mod bootstrapper;
pub mod config;
pub mod node;
pub mod phase;
pub mod state;

pub mod certificates;
pub mod clients;
pub mod containers;
pub mod control_plane;
pub mod etcd;
pub mod folders;
pub mod kubelet;
pub mod mount_state;
pub mod network;
pub mod progress;
pub mod routes;
pub mod rules;
pub mod services;

pub mod error;
pub mod file;
pub mod program;
pub mod templates;
pub mod version;

pub use bootstrapper::{BootstrapError, Bootstrapper};
