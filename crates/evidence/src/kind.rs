//! Kinds of evidence, and what an admitter requires of each.

use alloc::vec::Vec;
use core::{fmt, str::FromStr};

/// What kind of hardware vouches for a node. Fixed by the measured command line, never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvidenceKind {
    /// An SEV-SNP report that vouches for the attestation key of the paravisor's vTPM, and a quote.
    AzureSevSnp,
    /// An AMD SEV-SNP attestation report.
    SevSnp,
    /// An SEV-SNP report, and a quote of a vTPM that nothing vouches for.
    SevSnpVtpm,
    /// A TPM 2.0 quote by an attestation key proven to live beside the endorsement key.
    Tpm,
}

impl EvidenceKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::AzureSevSnp, Self::SevSnp, Self::SevSnpVtpm, Self::Tpm];

    /// The name on the measured command line, in documents and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AzureSevSnp => "azure-sev-snp",
            Self::SevSnp => "sev-snp",
            Self::SevSnpVtpm => "sev-snp-vtpm",
            Self::Tpm => "tpm",
        }
    }

    /// Whether evidence of this kind has a quote, so that an admitter must say which PCRs it is over.
    #[must_use]
    pub const fn has_quote(self) -> bool {
        match self {
            Self::AzureSevSnp | Self::SevSnpVtpm | Self::Tpm => true,
            Self::SevSnp => false,
        }
    }

    /// Whether evidence of this kind has an SEV-SNP report.
    #[must_use]
    pub const fn has_report(self) -> bool {
        match self {
            Self::AzureSevSnp | Self::SevSnp | Self::SevSnpVtpm => true,
            Self::Tpm => false,
        }
    }

    /// Whether PCR 15 of this kind is a latch that the host cannot reset within a boot: a TPM that
    /// is trusted, or one that the report vouches for. Without it, the server gives one release to
    /// one boot.
    #[must_use]
    pub const fn has_latch(self) -> bool {
        match self {
            Self::AzureSevSnp | Self::Tpm => true,
            Self::SevSnp | Self::SevSnpVtpm => false,
        }
    }

    /// Whether the attester's key must be challenged (TPM2_MakeCredential) before it counts.
    #[must_use]
    pub const fn needs_challenge(self) -> bool {
        matches!(self, Self::Tpm)
    }
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownKind;

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown kind of evidence: expected one of")?;
        EvidenceKind::ALL
            .iter()
            .try_for_each(|kind| write!(f, " `{kind}`"))
    }
}

impl core::error::Error for UnknownKind {}

impl FromStr for EvidenceKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(UnknownKind)
    }
}

/// Evidence that an admitter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The kind.
    pub kind: EvidenceKind,
    /// The SHA-256 PCRs to quote, ascending, each below 24; exactly for a kind with a quote.
    pub pcrs: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_unique_and_strict() {
        for kind in EvidenceKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for bad in ["", "TPM", "tpm ", "sev", "sev-snp,tpm", "none"] {
            assert_eq!(bad.parse::<EvidenceKind>(), Err(UnknownKind), "{bad}");
        }
    }

    #[test]
    fn a_latch_counts_only_where_something_vouches_for_its_tpm() {
        let latched = EvidenceKind::ALL
            .into_iter()
            .filter(|kind| kind.has_latch());
        assert!(latched.eq([EvidenceKind::AzureSevSnp, EvidenceKind::Tpm]));
    }
}
