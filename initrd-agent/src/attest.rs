//! Evidence of the measured kind, for one session at a time.
//!
//! The command line says which kind, and the command line is measured: there is one attester for each
//! kind, none is looked for, and none stands in for another.

use crate::exit::{ExitReason, Failure, exits};
use api::Class;
use attested_tls::{ActivatedSecret, Attestation, EvidenceRequest};
use evidence::{AttesterClaim, Evidence, EvidenceKind, SnpVtpmEvidence};
use platform::{
    sev_guest::{self, SevGuest, SevGuestError},
    tpm::{self, HclAttester, TpmAttester, TpmError, VtpmAttester},
};
use std::path::Path;

/// PCR of the latch: not resettable, zero until the disk is unlocked.
const LATCH: u32 = 15;

/// What makes evidence when a session asks for it.
pub trait Attest {
    /// Activates the challenge, where there is one, and makes evidence for the binding.
    ///
    /// # Errors
    /// [`AttestError`]; a peer that proved nothing yet is not told.
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError>;
}

/// The attester of this machine.
#[derive(Debug)]
pub enum Attester {
    /// A guest under Azure's paravisor.
    AzureSevSnp(HclAttester),
    /// A bare SEV-SNP guest.
    SevSnp(SevGuest),
    /// A SEV-SNP guest with a vTPM beside it.
    SevSnpVtpm(SevGuest, VtpmAttester),
    /// A machine with a TPM.
    Tpm(TpmAttester),
}

/// Where PCR 15 is what keeps a second key from this boot, and where the server does it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Latch {
    /// PCR 15 is extended.
    Extended,
    /// There is no PCR that a verifier believes; the server gives one release to one boot.
    Server,
}

impl Attester {
    /// Opens the devices of `kind`.
    ///
    /// # Errors
    /// [`ExitReason::Attester`].
    pub fn open(kind: EvidenceKind) -> Result<Self, Failure> {
        match kind {
            EvidenceKind::AzureSevSnp => HclAttester::open(Path::new(tpm::DEVICE_PATH))
                .map(Self::AzureSevSnp)
                .map_err(exits(ExitReason::Attester)),
            EvidenceKind::SevSnp => open_guest().map(Self::SevSnp),
            EvidenceKind::SevSnpVtpm => Ok(Self::SevSnpVtpm(
                open_guest()?,
                VtpmAttester::open(Path::new(tpm::DEVICE_PATH))
                    .map_err(exits(ExitReason::Attester))?,
            )),
            EvidenceKind::Tpm => TpmAttester::open(Path::new(tpm::DEVICE_PATH))
                .map(Self::Tpm)
                .map_err(exits(ExitReason::Attester)),
        }
    }

    /// What this attester claims to be.
    #[must_use]
    pub fn claim(&self) -> AttesterClaim {
        match self {
            Self::AzureSevSnp(_) => AttesterClaim::AzureSevSnp,
            Self::SevSnp(_) => AttesterClaim::SevSnp,
            Self::SevSnpVtpm(_, vtpm) => AttesterClaim::SevSnpVtpm {
                ak_public: vtpm.ak_public().to_vec(),
            },
            Self::Tpm(tpm) => AttesterClaim::Tpm(tpm.identity().clone()),
        }
    }

    /// Extends the latch, where there is one: from here on no key is released to this boot.
    ///
    /// # Errors
    /// [`ExitReason::Latch`].
    pub fn latch(&mut self, digest: &[u8; 32]) -> Result<Latch, Failure> {
        let extended = match self {
            Self::AzureSevSnp(hcl) => hcl.extend(LATCH, digest),
            Self::SevSnp(_) | Self::SevSnpVtpm(..) => return Ok(Latch::Server),
            Self::Tpm(tpm) => tpm.extend(LATCH, digest),
        };
        extended
            .map(|()| Latch::Extended)
            .map_err(exits(ExitReason::Latch))
    }
}

impl Attest for Attester {
    fn attest(&mut self, request: &EvidenceRequest) -> Result<Attestation, AttestError> {
        let qualifying_data = request.binding.qualifying_data();
        let evidence = match self {
            Self::AzureSevSnp(hcl) => Evidence::AzureSevSnp(
                hcl.attest(&qualifying_data, &request.pcrs)
                    .map_err(AttestError::Quote)?,
            ),
            Self::SevSnp(guest) => Evidence::SevSnp(guest.report(&request.binding)?),
            Self::SevSnpVtpm(guest, vtpm) => Evidence::SevSnpVtpm(SnpVtpmEvidence {
                snp: guest.report(&request.binding)?,
                quote: vtpm
                    .quote(&qualifying_data, &request.pcrs)
                    .map_err(AttestError::Quote)?,
            }),
            Self::Tpm(tpm) => return attest_tpm(tpm, request),
        };
        Ok(Attestation {
            activated: None,
            evidence,
        })
    }
}

fn open_guest() -> Result<SevGuest, Failure> {
    SevGuest::open(Path::new(sev_guest::DEVICE_PATH)).map_err(exits(ExitReason::Attester))
}

fn attest_tpm(
    tpm: &mut TpmAttester,
    request: &EvidenceRequest,
) -> Result<Attestation, AttestError> {
    let challenge = request.challenge.as_ref();
    let secret = tpm
        .activate(challenge.ok_or(AttestError::NoChallenge)?)
        .map_err(AttestError::Activate)?;
    let activated = ActivatedSecret::try_fill(|bytes| {
        bytes.copy_from_slice(secret.as_slice());
        Ok::<_, AttestError>(())
    })?;
    let quote = tpm
        .quote(&request.binding.qualifying_data(), &request.pcrs)
        .map_err(AttestError::Quote)?;
    Ok(Attestation {
        activated: Some(activated),
        evidence: Evidence::Tpm(quote),
    })
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

impl AttestError {
    /// Whose fault it is, as far as the session needs to know.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Activate(TpmError::Refused { .. }) => Class::Malformed,
            Self::Activate(_) | Self::NoChallenge | Self::Quote(_) | Self::Report(_) => {
                Class::Internal
            }
        }
    }

    /// The row of the exit table, where this boot gets no evidence any more: after most errors the
    /// kernel has given up its key to the firmware, and no other session would do better.
    #[must_use]
    pub const fn exit_reason(&self) -> Option<ExitReason> {
        match self {
            Self::Activate(_) | Self::NoChallenge | Self::Quote(_) => None,
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
