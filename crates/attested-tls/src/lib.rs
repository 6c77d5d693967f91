//! Attested TLS, version 1: evidence, owner proof and verdicts inside a TLS 1.3 channel, before any
//! application byte (docs/protocol.md, "Attested TLS").
//!
//! One side attests, the other admits; the [`AdmissionPath`](evidence::AdmissionPath) says which.
//! [`AttesterSession`] and [`AdmitterSession`] are pure state machines: bytes go in and out through
//! `read_tls` and `write_tls`, decisions come in through `supply_*`, time comes in as a value. They
//! own no socket and no thread, so that the agent can drive several of them from one `poll(2)` loop.
//! A session that ran to its end becomes a [`Channel`], whose peer type says what was proven:
//! [`AcceptedAttester`] or [`ProvenAdmitter`].
//!
//! The certificates of the TLS handshake are ephemeral and prove nothing but possession of their
//! key; trust comes from the evidence and the owner proof, which are bound to both keys, both hellos
//! and the session by the [`Binding`](evidence::Binding).
//!
//! Trusted: rustls and aws-lc-rs, the driver's answers. Not trusted: every byte that is read.
//!
//! What this crate is not: an appraisal. The admitter's driver brings that and gets a [`Channel`]
//! that carries its result.

mod admitter;
mod attester;
#[cfg(feature = "tokio")]
mod bridge;
mod channel;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod frame;
mod hello;
mod refusal;
#[cfg(feature = "ureq")]
mod rpc;
mod sealing;
mod session;
#[cfg(feature = "tokio")]
mod stream;
mod tls;
mod wire;

pub use admitter::{
    AdmitterProgress, AdmitterSession, AdmitterTerms, AppraisalRequest, ChallengeRequest,
    OwnerProofRequest,
};
pub use attester::{
    Attestation, AttesterProgress, AttesterSession, AttesterTerms, EvidenceRequest,
};
pub use channel::{AcceptedAttester, Channel, ProvenAdmitter};
#[cfg(feature = "tokio")]
pub use driver::{Admitter, Appraiser, HandshakeError};
pub use error::SessionError;
pub use frame::{FrameError, MAX_FRAME};
pub use refusal::{FailedCheck, Refusal};
#[cfg(feature = "ureq")]
pub use rpc::{RpcClient, RpcError, TimedStream};
pub use sealing::{SealError, SealingKey, SealingPublicKey};
#[cfg(feature = "tokio")]
pub use stream::AttestedStream;
pub use tls::{ALPN, SetupError, TlsEnd};
pub use wire::{MAX_RECEIVED, Start};

secret::secret! {
    /// What `TPM2_ActivateCredential` returned: shows that the attestation key lives in the TPM of
    /// the endorsement key.
    pub struct ActivatedSecret(32);
}

#[cfg(test)]
mod tests;
