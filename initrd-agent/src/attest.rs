//! Evidence of the measured kind, for one session at a time.
//!
//! The command line says which kind, and the command line is measured: there is one attester for each
//! kind, none is looked for, and none stands in for another.

use crate::exit::{ExitReason, Failure, exits};
use api::Class;
use attested_tls::{ActivatedSecret, Attestation, EvidenceRequest};
use evidence::EvidenceKind;
use platform::{
    attester::{Devices, EvidenceError},
    sev_guest::SevGuestError,
    tpm::TpmError,
};

pub use platform::attester::{Attester, Latch};

/// What makes evidence when a session asks for it.
pub trait Attest {
    /// Activates the challenge, where there is one, and makes evidence for the binding.
    ///
    /// # Errors
    /// [`AttestError`]; a peer that proved nothing yet is not told.
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError>;
}

/// Opens this machine's devices of `kind`.
///
/// # Errors
/// [`ExitReason::Attester`].
pub fn open(kind: EvidenceKind) -> Result<Attester, Failure> {
    Attester::open(kind, &Devices::default()).map_err(exits(ExitReason::Attester))
}

/// Extends the latch, where there is one: from here on no key is released to this boot.
///
/// # Errors
/// [`ExitReason::Latch`].
pub fn latch(attester: &mut Attester, digest: &[u8; 32]) -> Result<Latch, Failure> {
    attester.latch(digest).map_err(exits(ExitReason::Latch))
}

impl Attest for Attester {
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError> {
        let challenge = request.challenge.as_ref();
        if self.kind().needs_challenge() && challenge.is_none() {
            return Err(AttestError::NoChallenge);
        }
        let attested = self.evidence(&request.binding, &request.pcrs, challenge)?;
        let activated = attested.activated.map(|secret| {
            ActivatedSecret::try_fill(|bytes| {
                bytes.copy_from_slice(secret.as_slice());
                Ok::<_, AttestError>(())
            })
        });
        Ok(Attestation {
            activated: activated.transpose()?,
            evidence: attested.evidence,
        })
    }
}

/// No evidence for this session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The challenge does not activate: it was made for another TPM or key.
    #[error("activate the peer's challenge")]
    Activate(#[source] TpmError),
    /// There is no challenge, and the kind needs one.
    #[error("internal: challenge missing")]
    NoChallenge,
    /// There is a challenge, and the kind takes none.
    #[error("internal: challenge for evidence that takes none")]
    Unchallenged,
    /// The quote failed.
    #[error("quote")]
    Quote(#[source] TpmError),
    /// There is no report.
    #[error("report")]
    Report(
        #[from]
        #[source]
        SevGuestError,
    ),
}

impl From<EvidenceError> for AttestError {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Activate(error) => Self::Activate(error),
            EvidenceError::Quote(error) => Self::Quote(error),
            EvidenceError::Report(error) => Self::Report(error),
            _ => Self::Unchallenged,
        }
    }
}

impl AttestError {
    /// Whose fault it is, as far as the session needs to know.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Activate(TpmError::Refused { .. } | TpmError::Challenge(_)) => Class::Malformed,
            Self::Activate(_)
            | Self::NoChallenge
            | Self::Quote(_)
            | Self::Report(_)
            | Self::Unchallenged => Class::Internal,
        }
    }

    /// The row of the exit table, where this boot gets no evidence any more: after most errors the
    /// kernel has given up its key to the firmware, and no other session would do better.
    #[must_use]
    pub const fn exit_reason(&self) -> Option<ExitReason> {
        match self {
            Self::Activate(_) | Self::NoChallenge | Self::Quote(_) | Self::Unchallenged => None,
            Self::Report(error) => Some(match error {
                SevGuestError::Firmware { .. } | SevGuestError::Request { .. } => {
                    ExitReason::EvidenceRefused
                }
                SevGuestError::Malformed(_) => ExitReason::EvidenceMalformed,
                SevGuestError::Stalled { .. } => ExitReason::EvidenceStalled,
                SevGuestError::Throttled => ExitReason::EvidenceThrottled,
                _ => ExitReason::Attester,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
