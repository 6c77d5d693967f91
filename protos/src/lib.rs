//! Protobuf messages between nodes, services and operators, and their way into domain types.
//!
//! The modules [`admin`], [`atls`], [`bootstrap`], [`join`], [`key`] and [`verify`] are generated from
//! `protos/proto` by `xtask protos` and checked in. A message is untrusted bytes in a struct; the conversions in this crate are
//! the one place where its fields become domain values, with an error that names the field.
//! [`grpc_web`] frames one unary call for a client without an HTTP/2 stack.
//!
//! What this crate is not: a check of anything. Well-formed is all that a conversion promises.

pub mod grpc_web;

mod class;
#[cfg(feature = "tonic")]
mod codec;
mod evidence_messages;
mod generated;
mod malformed;
mod owner_messages;
mod secret_messages;
mod statements;
mod tickets;

pub use class::Class;
pub use generated::{admin, atls, bootstrap, join, key, verify};
pub use malformed::Malformed;
pub use statements::{StatedNode, StatementRequest};
pub use tickets::{
    CertificateRequests, CommitRequest, InitTicket, InitTicketRequest, JoinTicket,
    JoinTicketRequest, RejoinTicket, RejoinTicketRequest, SealedSecret,
};
