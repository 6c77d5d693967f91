//! The audit log: a hash chain with signed checkpoints.
