//! The join service in a cluster: real API server and signers, real attested TLS, and the rights that
//! the manifests give its ServiceAccount and no others.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]
#![allow(dead_code, reason = "the set-up is shared with `tests/service`")]

mod control_plane_files;
mod loss;
mod nodes;
mod refusals;
mod rights;
mod site;
mod tickets;

#[path = "../service/node.rs"]
mod node;
#[path = "../service/setup.rs"]
mod setup;
