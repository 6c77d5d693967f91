//! The verification service: fresh evidence of a running node, for anybody who asks.
//!
//! It runs on every node, has the node's attestation device, and answers a nonce with a statement:
//! evidence bound to the nonce, the cluster id and the node name (docs/verify.md). Over gRPC it also
//! answers the challenge that proves a TPM's attestation key; `GET /?nonce=` is one question and one
//! answer, for tools without gRPC, and cannot.
//!
//! It holds no secret, gives out none, and judges nothing: whoever asks does. It trusts its
//! configuration; every caller is hostile, so that one thread has the device, behind a short queue and
//! limits for each address and for all. Without a device there are no statements, never others.

mod config;
mod desk;
mod grpc;
mod http_get;
mod node;
mod service;
mod worker;

pub use config::{Config, DeviceConfig, LimitConfig, NodeConfig};
pub use node::NodeError;
pub use service::{StartError, VerificationService};
