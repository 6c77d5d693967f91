//! The whole service over its sockets, with a real software TPM on a socket of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod answers;
mod limits;
mod setup;
