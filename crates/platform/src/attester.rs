//! The attester of this machine, of the one kind that its measured command line names.
//!
//! [`Attester`] is the only way from a device to evidence that the agent and the verification service
//! have. It signs for a [`Bound`], a channel's binding or a statement's, and for nothing else.

use crate::{
    sev_guest::{self, SevGuest, SevGuestError},
    tpm::{HclAttester, TpmAttester, TpmDevice, TpmError, VtpmAttester},
};
use evidence::{AttesterClaim, Bound, Evidence, EvidenceKind, SnpVtpmEvidence, TpmChallenge};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// PCR of the latch: not resettable, zero until the disk is unlocked.
const LATCH: u32 = 15;

/// Where the devices are.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The TPM, for the kinds that have one.
    pub tpm: TpmDevice,
    /// The SNP firmware's device, for the kinds that ask it.
    pub sev_guest: PathBuf,
}

impl Default for Devices {
    /// Where the kernel puts them.
    fn default() -> Self {
        Self {
            tpm: TpmDevice::default(),
            sev_guest: sev_guest::DEVICE_PATH.into(),
        }
    }
}

/// An attester with its devices open.
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

/// What the devices made.
#[derive(Debug)]
pub struct Attested {
    /// The secret of the challenge, where there was one.
    pub activated: Option<Zeroizing<[u8; 32]>>,
    /// The evidence.
    pub evidence: Evidence,
}

/// A device does not open. There is no other that stands in for it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The SNP firmware's device.
    #[error(transparent)]
    SevGuest(#[from] SevGuestError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

/// No evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The challenge does not activate: it was made for another TPM or key.
    #[error("activate the peer's challenge")]
    Activate(#[source] TpmError),
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
    /// The kind takes no challenge, and there is one.
    #[error("evidence of kind `{0}` takes no challenge")]
    Unchallenged(EvidenceKind),
}

impl Attester {
    /// Opens the devices of `kind`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(kind: EvidenceKind, devices: &Devices) -> Result<Self, OpenError> {
        let guest = || SevGuest::open(&devices.sev_guest);
        Ok(match kind {
            EvidenceKind::AzureSevSnp => Self::AzureSevSnp(HclAttester::open(&devices.tpm)?),
            EvidenceKind::SevSnp => Self::SevSnp(guest()?),
            EvidenceKind::SevSnpVtpm => {
                Self::SevSnpVtpm(guest()?, VtpmAttester::open(&devices.tpm)?)
            }
            EvidenceKind::Tpm => Self::Tpm(TpmAttester::open(&devices.tpm)?),
        })
    }

    /// The same with the attestation key that another process of this boot made with `unique`, where the
    /// kind makes one that anybody certifies.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn resume(
        kind: EvidenceKind,
        devices: &Devices,
        unique: &[u8; 32],
    ) -> Result<Self, OpenError> {
        match kind {
            EvidenceKind::Tpm => Ok(Self::Tpm(TpmAttester::resume(&devices.tpm, unique)?)),
            _ => Self::open(kind, devices),
        }
    }

    /// The kind of evidence that it makes.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match self {
            Self::AzureSevSnp(_) => EvidenceKind::AzureSevSnp,
            Self::SevSnp(_) => EvidenceKind::SevSnp,
            Self::SevSnpVtpm(..) => EvidenceKind::SevSnpVtpm,
            Self::Tpm(_) => EvidenceKind::Tpm,
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

    /// Public area and `unique` of the attestation key, where it is one that an admitter sees activated
    /// and may certify.
    #[must_use]
    pub fn certifiable_key(&self) -> Option<(&[u8], &[u8; 32])> {
        match self {
            Self::Tpm(tpm) => Some((&tpm.identity().ak_public, tpm.unique())),
            Self::AzureSevSnp(_) | Self::SevSnp(_) | Self::SevSnpVtpm(..) => None,
        }
    }

    /// Evidence for `bound`, with a quote of the SHA-256 PCRs `pcrs` where the kind has one; activates
    /// the challenge before, where there is one.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn evidence(
        &mut self,
        bound: &impl Bound,
        pcrs: &[u32],
        challenge: Option<&TpmChallenge>,
    ) -> Result<Attested, EvidenceError> {
        let kind = self.kind();
        let qualifying_data = bound.qualifying_data();
        let mut activated = None;
        let evidence = match (self, challenge) {
            (Self::Tpm(tpm), challenge) => {
                let activate = |challenge| tpm.activate(challenge);
                activated = challenge
                    .map(activate)
                    .transpose()
                    .map_err(EvidenceError::Activate)?;
                let quote = tpm.quote(&qualifying_data, pcrs);
                Evidence::Tpm(quote.map_err(EvidenceError::Quote)?)
            }
            (_, Some(_)) => return Err(EvidenceError::Unchallenged(kind)),
            (Self::AzureSevSnp(hcl), None) => {
                let evidence = hcl.attest(&qualifying_data, pcrs);
                Evidence::AzureSevSnp(evidence.map_err(EvidenceError::Quote)?)
            }
            (Self::SevSnp(guest), None) => Evidence::SevSnp(guest.report(bound)?),
            (Self::SevSnpVtpm(guest, vtpm), None) => Evidence::SevSnpVtpm(SnpVtpmEvidence {
                snp: guest.report(bound)?,
                quote: vtpm
                    .quote(&qualifying_data, pcrs)
                    .map_err(EvidenceError::Quote)?,
            }),
        };
        Ok(Attested {
            activated,
            evidence,
        })
    }

    /// Extends the latch, where there is one: from here on no key is released to this boot.
    ///
    /// # Errors
    /// If the TPM does not do it.
    pub fn latch(&mut self, digest: &[u8; 32]) -> Result<Latch, TpmError> {
        match self {
            Self::AzureSevSnp(hcl) => hcl.extend(LATCH, digest)?,
            Self::SevSnp(_) | Self::SevSnpVtpm(..) => return Ok(Latch::Server),
            Self::Tpm(tpm) => tpm.extend(LATCH, digest)?,
        }
        Ok(Latch::Extended)
    }
}
