//! Lying agents against the real services: a hostile client over real software TPMs, without a VM.
//!
//! Every test runs both services as processes, attacks them, and shows three things: the liar gets no
//! more than the class of its refusal, the operator reads which check failed, and the key service has
//! recorded no release.

mod attestation_keys;
mod frames;
mod identity;
mod installation;
mod quotes;
mod raw;
mod relay;
mod session;
