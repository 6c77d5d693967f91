//! Evidence messages to and from `evidence`.

use evidence::{AdmissionPath, Evidence, EvidenceKind, TpmChallenge, TpmEvidence, TpmIdentity};
use std::collections::BTreeMap;

use crate::{
    Malformed, atls,
    malformed::{filled, fixed, required},
};

/// PCRs of a PC Client TPM are 0 to 23 (TCG PC Client Platform TPM Profile, section 4.6).
const PCRS: u32 = 24;

impl From<EvidenceKind> for atls::EvidenceKind {
    fn from(kind: EvidenceKind) -> Self {
        match kind {
            EvidenceKind::SevSnp => Self::SevSnp,
            EvidenceKind::Tpm => Self::Tpm,
        }
    }
}

impl TryFrom<atls::EvidenceKind> for EvidenceKind {
    type Error = Malformed;

    fn try_from(kind: atls::EvidenceKind) -> Result<Self, Malformed> {
        match kind {
            atls::EvidenceKind::Unspecified => Err(Malformed::Missing {
                field: "hello.evidence_kind",
            }),
            atls::EvidenceKind::Tpm => Ok(Self::Tpm),
            atls::EvidenceKind::SevSnp => Ok(Self::SevSnp),
        }
    }
}

impl From<AdmissionPath> for atls::AdmissionPath {
    fn from(path: AdmissionPath) -> Self {
        match path {
            AdmissionPath::Init => Self::Init,
            AdmissionPath::Join => Self::Join,
            AdmissionPath::Rejoin => Self::Rejoin,
            AdmissionPath::Recover => Self::Recover,
        }
    }
}

impl TryFrom<atls::AdmissionPath> for AdmissionPath {
    type Error = Malformed;

    fn try_from(path: atls::AdmissionPath) -> Result<Self, Malformed> {
        match path {
            atls::AdmissionPath::Unspecified => Err(Malformed::Missing {
                field: "hello.path",
            }),
            atls::AdmissionPath::Init => Ok(Self::Init),
            atls::AdmissionPath::Join => Ok(Self::Join),
            atls::AdmissionPath::Rejoin => Ok(Self::Rejoin),
            atls::AdmissionPath::Recover => Ok(Self::Recover),
        }
    }
}

impl From<TpmIdentity> for atls::TpmIdentity {
    fn from(identity: TpmIdentity) -> Self {
        Self {
            ek_certificate: identity.ek_certificate,
            ek_public: identity.ek_public,
            ak_public: identity.ak_public,
        }
    }
}

impl TryFrom<atls::TpmIdentity> for TpmIdentity {
    type Error = Malformed;

    fn try_from(message: atls::TpmIdentity) -> Result<Self, Malformed> {
        Ok(Self {
            // Empty where the TPM stores none; a policy may list the key itself.
            ek_certificate: message.ek_certificate,
            ek_public: filled("tpm_identity.ek_public", message.ek_public)?,
            ak_public: filled("tpm_identity.ak_public", message.ak_public)?,
        })
    }
}

impl From<TpmChallenge> for atls::TpmChallenge {
    fn from(challenge: TpmChallenge) -> Self {
        Self {
            credential_blob: challenge.credential_blob,
            encrypted_secret: challenge.encrypted_secret,
        }
    }
}

impl TryFrom<atls::TpmChallenge> for TpmChallenge {
    type Error = Malformed;

    fn try_from(message: atls::TpmChallenge) -> Result<Self, Malformed> {
        Ok(Self {
            credential_blob: filled("tpm_challenge.credential_blob", message.credential_blob)?,
            encrypted_secret: filled("tpm_challenge.encrypted_secret", message.encrypted_secret)?,
        })
    }
}

impl TryFrom<Evidence> for atls::evidence::Kind {
    type Error = Malformed;

    fn try_from(evidence: Evidence) -> Result<Self, Malformed> {
        match evidence {
            Evidence::Tpm(tpm) => Ok(Self::Tpm(tpm.into())),
            _ => Err(Malformed::Missing {
                field: "evidence.kind",
            }),
        }
    }
}

impl TryFrom<atls::evidence::Kind> for Evidence {
    type Error = Malformed;

    fn try_from(message: atls::evidence::Kind) -> Result<Self, Malformed> {
        match message {
            atls::evidence::Kind::Tpm(tpm) => tpm.try_into().map(Self::Tpm),
        }
    }
}

impl From<TpmEvidence> for atls::TpmEvidence {
    fn from(evidence: TpmEvidence) -> Self {
        let pcr = |(index, digest): (u32, [u8; 32])| atls::Pcr {
            index,
            digest: digest.to_vec(),
        };
        Self {
            attestation: evidence.attestation,
            signature: evidence.signature,
            pcrs: evidence.pcrs.into_iter().map(pcr).collect(),
            event_log: evidence.event_log,
        }
    }
}

impl TryFrom<atls::TpmEvidence> for TpmEvidence {
    type Error = Malformed;

    fn try_from(message: atls::TpmEvidence) -> Result<Self, Malformed> {
        const FIELD: &str = "tpm_evidence.pcrs";
        ascending(FIELD, message.pcrs.iter().map(|pcr| pcr.index))?;
        let pcrs = message
            .pcrs
            .iter()
            .map(|pcr| Ok((pcr.index, fixed(FIELD, &pcr.digest)?)))
            .collect::<Result<BTreeMap<u32, [u8; 32]>, Malformed>>()?;
        Ok(Self {
            attestation: filled("tpm_evidence.attestation", message.attestation)?,
            signature: filled("tpm_evidence.signature", message.signature)?,
            pcrs,
            event_log: message.event_log,
        })
    }
}

impl atls::Admitter {
    /// The PCRs to quote: at least one, ascending, each below 24.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse_pcrs(&self) -> Result<Vec<u32>, Malformed> {
        const FIELD: &str = "hello.pcrs";
        required(FIELD, self.pcrs.first())?;
        ascending(FIELD, self.pcrs.iter().copied())?;
        Ok(self.pcrs.clone())
    }
}

/// Strictly ascending, so that a set has one encoding and no index comes twice.
fn ascending(field: &'static str, indices: impl IntoIterator<Item = u32>) -> Result<(), Malformed> {
    let mut lowest = 0;
    for index in indices {
        if index < lowest || index >= PCRS {
            return Err(Malformed::Pcr { field, got: index });
        }
        lowest = index.saturating_add(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tpm() -> TpmEvidence {
        TpmEvidence {
            attestation: vec![1],
            signature: vec![2],
            pcrs: BTreeMap::from([(0, [3; 32]), (15, [0; 32])]),
            event_log: vec![],
        }
    }

    #[test]
    fn every_domain_value_survives_the_round_trip() {
        let evidence = Evidence::Tpm(tpm());
        let message = atls::evidence::Kind::try_from(evidence.clone()).unwrap();
        assert_eq!(Evidence::try_from(message), Ok(evidence));
        let identity = TpmIdentity {
            ek_certificate: vec![1],
            ek_public: vec![2],
            ak_public: vec![3],
        };
        let message = atls::TpmIdentity::from(identity.clone());
        assert_eq!(TpmIdentity::try_from(message), Ok(identity));
        let challenge = TpmChallenge {
            credential_blob: vec![1],
            encrypted_secret: vec![2],
        };
        let message = atls::TpmChallenge::from(challenge.clone());
        assert_eq!(TpmChallenge::try_from(message), Ok(challenge));
        for kind in [EvidenceKind::SevSnp, EvidenceKind::Tpm] {
            assert_eq!(
                EvidenceKind::try_from(atls::EvidenceKind::from(kind)),
                Ok(kind)
            );
        }
        for path in [
            AdmissionPath::Init,
            AdmissionPath::Join,
            AdmissionPath::Rejoin,
            AdmissionPath::Recover,
        ] {
            assert_eq!(
                AdmissionPath::try_from(atls::AdmissionPath::from(path)),
                Ok(path)
            );
        }
    }

    #[test]
    fn malformed_pcr_lists_are_refused() {
        let pcr = |index, len| atls::Pcr {
            index,
            digest: vec![0; len],
        };
        for pcrs in [
            vec![pcr(24, 32)],
            vec![pcr(u32::MAX, 32)],
            vec![pcr(1, 32), pcr(0, 32)],
            vec![pcr(1, 32), pcr(1, 32)],
            vec![pcr(1, 31)],
            vec![pcr(1, 33)],
            vec![pcr(1, 20)],
        ] {
            let message = atls::TpmEvidence {
                pcrs,
                ..tpm().into()
            };
            assert!(
                TpmEvidence::try_from(message.clone()).is_err(),
                "{message:?}"
            );
        }
        for pcrs in [vec![], vec![4, 4], vec![24], vec![4, 2]] {
            let admitter = atls::Admitter {
                pcrs,
                ..Default::default()
            };
            assert!(admitter.parse_pcrs().is_err(), "{admitter:?}");
        }
    }

    #[test]
    fn a_tpm_without_a_certificate_can_say_so() {
        let identity = TpmIdentity {
            ek_certificate: vec![],
            ek_public: vec![2],
            ak_public: vec![3],
        };
        let message = atls::TpmIdentity::from(identity.clone());
        assert_eq!(TpmIdentity::try_from(message), Ok(identity));
    }

    #[test]
    fn absent_parts_are_named() {
        let message = atls::TpmEvidence {
            signature: vec![],
            ..tpm().into()
        };
        assert_eq!(
            TpmEvidence::try_from(message),
            Err(Malformed::Missing {
                field: "tpm_evidence.signature"
            })
        );
        assert!(TpmIdentity::try_from(atls::TpmIdentity::default()).is_err());
        assert!(TpmChallenge::try_from(atls::TpmChallenge::default()).is_err());
        assert!(EvidenceKind::try_from(atls::EvidenceKind::Unspecified).is_err());
        assert!(AdmissionPath::try_from(atls::AdmissionPath::Unspecified).is_err());
    }
}
