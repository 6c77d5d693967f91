//! The admission core: who gets which disk key, on all four paths, as pure state machines.
//!
//! Two sides, neither with a socket, a clock or randomness of its own. The *admitting* side
//! ([`decide`], [`operate`]) looks at a [`Snapshot`] of a store and says what to read, what to write
//! and, only once the store holds every claim, what to release. The *node* side ([`node::Node`]) takes
//! events and says what to do next. docs/protocol.md, "Admission", has the diagrams, the message
//! tables and the crash table; the names there are the names here.
//!
//! Invariants, each checked by name after every event of the simulator in `tests/`:
//! - a release follows only from an appraised [`Peer`], durable claims and a durable audit line, in
//!   this order ([`Plan`] -> [`Persisted`] -> [`Ticket`] -> [`Release`]);
//! - one node name and one attester have at most one live disk, and each generation of a
//!   disk is committed by one boot;
//! - a tombstoned disk id is never released again, a recorded generation never decreases;
//! - a power cut after any step heals without an operator.
//!
//! Trusted: the store does what it acknowledged. Not trusted: the node, beyond what was appraised;
//! its disk, at all.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

pub mod node;
mod plan;
mod record;
mod refusal;
mod request;
mod serial;
mod server;
mod settle;
mod store;

pub use plan::{ForeignAppraisal, Grant, Persisted, Plan, Release, Ticket};
pub use record::{BootId, NodeRecord, RecordState, SealingKeyHash, Timestamp, TombstoneCause};
pub use refusal::{Refusal, RefusalClass};
pub use request::{Adoption, Context, OperatorAction, Peer, Request};
pub use serial::{SerialRefusal, Version};
pub use server::{Step, decide, operate};
pub use settle::{Objects, Rounds, Unsettled, settle};
pub use store::{
    BootClaim, Claim, ControlPlaneEntry, InitEntry, Key, Snapshot, Value, Write, WriteOutcome,
};
