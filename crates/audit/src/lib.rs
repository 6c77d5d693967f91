//! The audit log: one hash chain for each start of a service, with signed checkpoints.
//!
//! A log is JSON lines. Each line carries its chain's id, a sequence number, the hash of the line
//! before it, one [`Entry`], and the SHA-256 of all that as written. [`Chain`] makes lines,
//! [`verify()`] reads them as hostile input. This crate opens no file and knows no clock: the time is
//! part of a [`Record`], the signature comes from a closure.
//!
//! What a log shows: nobody without the audit key changed, removed or moved a line before the last
//! checkpoint. What it does not show alone: that nothing was cut off after it, or that a whole chain
//! is not missing. For that the operator keeps [`Head`]s elsewhere and gives them to [`verify()`].
//!
//! # Contract of the writer
//!
//! - One appended line is durable (`fdatasync`) before whatever it records happens.
//! - A file is preallocated when it is created (`fallocate` with `FALLOC_FL_KEEP_SIZE`, so that its
//!   length still is the length of the log), and the next file as soon as this one is begun. When
//!   the file system has no room for the next one, the operator sees it in metrics and health,
//!   while this one still takes lines: a full disk does not stop every boot at once.
//! - When this one takes no more either, nothing is released: no line, no key. The service says
//!   "unavailable", which nodes retry.
//! - At start the writer reads the last complete line with [`last_head`] and passes it to
//!   [`Chain::start`], so that chains of one file hang together. A torn last line, without line
//!   feed, was never acknowledged: it is cut off before anything is appended.
//! - [`Chain::rotate`] makes the first line of the next file; the chain goes on.
#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;

mod chain;
mod line;
mod record;
mod verify;

pub use chain::{AppendError, Chain, ChainId, Checkpoint, Head};
pub use line::{Entry, MAX_LINE};
pub use record::{Action, Check, Outcome, Record, RecordEvent, Text};
pub use verify::{ChainReport, Fault, Flaw, Report, last_head, verify};
