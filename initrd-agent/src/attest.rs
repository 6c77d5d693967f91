//! Evidence for one session at a time.

use api::Class;
use attested_tls::{ActivatedSecret, EvidenceRequest};
use evidence::Evidence;
use platform::tpm::{TpmAttester, TpmError};

/// What makes evidence when a session asks for it.
pub trait Attest {
    /// Activates the challenge and makes evidence for the binding.
    ///
    /// # Errors
    /// [`AttestError`]; a peer that proved nothing yet is not told.
    fn attest(
        &mut self,
        request: &EvidenceRequest,
    ) -> Result<(ActivatedSecret, Evidence), AttestError>;
}

/// No evidence for this session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The challenge does not activate: it was made for another TPM or key.
    #[error("activate the peer's challenge")]
    Activate(#[source] TpmError),
    /// The quote failed.
    #[error("quote")]
    Quote(#[source] TpmError),
}

impl AttestError {
    /// Whose fault it is, as far as the session needs to know.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Activate(TpmError::Refused { .. }) => Class::Malformed,
            Self::Activate(_) | Self::Quote(_) => Class::Internal,
        }
    }
}

impl Attest for TpmAttester {
    fn attest(
        &mut self,
        request: &EvidenceRequest,
    ) -> Result<(ActivatedSecret, Evidence), AttestError> {
        let secret = self
            .activate(&request.challenge)
            .map_err(AttestError::Activate)?;
        let activated = ActivatedSecret::try_fill(|bytes| {
            bytes.copy_from_slice(secret.as_slice());
            Ok(())
        })?;
        let quote = self
            .quote(&request.binding.qualifying_data(), &request.pcrs)
            .map_err(AttestError::Quote)?;
        Ok((activated, Evidence::Tpm(quote)))
    }
}
