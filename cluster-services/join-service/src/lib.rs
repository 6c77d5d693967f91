//! The join service: appraises nodes and issues join and rejoin tickets.
//!
//! A node connects with attested TLS. The [`handshake`] judges its claim, appraises its evidence
//! and proves to it whom this service acts for; only then a request is read. [`tickets`] puts each
//! request through the admission core in the [`records`], durably, records the
//! outcome in the audit log, and only then asks the key service for a key and seals it to the node.
//! The [`operator`] has a Unix socket of its own. In a cluster the store is the API server, and [`kubernetes`]
//! is what else the service has of it.
//!
//! What it decides is decided in `appraisal` and `admission`; this crate moves bytes, files and time
//! to them. It trusts its configuration, the documents its owner signed, and its store's file. It
//! does not trust nodes beyond what was appraised, nor anybody who connects.

pub mod config;
pub mod documents;
pub mod endorse;
pub mod failure;
pub mod handshake;
pub mod keys;
pub mod kubernetes;
pub mod operator;
pub mod records;
pub mod service;
pub mod store;
pub mod tickets;

pub use config::Config;
pub use service::{JoinService, StartError};
