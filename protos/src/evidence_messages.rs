//! Evidence messages to and from `evidence`.

use evidence::{
    AdmissionPath, AttesterClaim, AzureSnpEvidence, Evidence, EvidenceKind, Requirement,
    SnpEvidence, SnpVtpmEvidence, TpmChallenge, TpmEvidence, TpmIdentity,
};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Malformed, atls,
    malformed::{filled, fixed, required},
};

/// PCRs of a PC Client TPM are 0 to 23 (TCG PC Client Platform TPM Profile, section 4.6).
const PCRS: u32 = 24;

/// The longest certificate table that is taken: a chain of four certificates is about 7 KiB.
const MAX_CERTIFICATES: usize = 32 * 1024;

impl From<EvidenceKind> for atls::EvidenceKind {
    fn from(kind: EvidenceKind) -> Self {
        match kind {
            EvidenceKind::AzureSevSnp => Self::AzureSevSnp,
            EvidenceKind::SevSnp => Self::SevSnp,
            EvidenceKind::SevSnpVtpm => Self::SevSnpVtpm,
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
            atls::EvidenceKind::AzureSevSnp => Ok(Self::AzureSevSnp),
            atls::EvidenceKind::SevSnpVtpm => Ok(Self::SevSnpVtpm),
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

impl atls::Attester {
    /// The hello of an attester with this claim.
    #[must_use]
    pub fn new(claim: AttesterClaim, sealing_key: &[u8; 32]) -> Self {
        let mut message = Self {
            offered: atls::EvidenceKind::from(claim.kind()).into(),
            sealing_key: sealing_key.to_vec(),
            ..Self::default()
        };
        match claim {
            AttesterClaim::AzureSevSnp | AttesterClaim::SevSnp => {}
            AttesterClaim::SevSnpVtpm { ak_public } => message.vtpm_ak_public = ak_public,
            AttesterClaim::Tpm(identity) => message.tpm = Some(identity.into()),
        }
        message
    }

    /// What the attester claims to be: exactly the fields of its kind.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse_claim(self) -> Result<AttesterClaim, Malformed> {
        parse_claim(self.offered, self.tpm, self.vtpm_ak_public)
    }
}

/// A claim from exactly the fields of its kind.
pub(crate) fn parse_claim(
    kind: i32,
    tpm: Option<atls::TpmIdentity>,
    vtpm_ak_public: Vec<u8>,
) -> Result<AttesterClaim, Malformed> {
    const TPM: &str = "claim.tpm";
    const AK: &str = "claim.vtpm_ak_public";
    let kind = parse_kind("claim.kind", kind)?;
    if kind != EvidenceKind::Tpm {
        absent(TPM, tpm.is_none())?;
    }
    if kind != EvidenceKind::SevSnpVtpm {
        absent(AK, vtpm_ak_public.is_empty())?;
    }
    Ok(match kind {
        EvidenceKind::AzureSevSnp => AttesterClaim::AzureSevSnp,
        EvidenceKind::SevSnp => AttesterClaim::SevSnp,
        EvidenceKind::SevSnpVtpm => AttesterClaim::SevSnpVtpm {
            ak_public: filled(AK, vtpm_ak_public)?,
        },
        EvidenceKind::Tpm => AttesterClaim::Tpm(required(TPM, tpm)?.try_into()?),
    })
}

impl From<Requirement> for atls::Requirement {
    fn from(requirement: Requirement) -> Self {
        Self {
            kind: atls::EvidenceKind::from(requirement.kind).into(),
            pcrs: requirement.pcrs,
        }
    }
}

impl TryFrom<atls::Requirement> for Requirement {
    type Error = Malformed;

    fn try_from(message: atls::Requirement) -> Result<Self, Malformed> {
        const FIELD: &str = "hello.accepted.pcrs";
        let kind = parse_kind("hello.accepted.kind", message.kind)?;
        if kind.has_quote() {
            required(FIELD, message.pcrs.first())?;
            ascending(FIELD, message.pcrs.iter().copied())?;
        } else {
            absent(FIELD, message.pcrs.is_empty())?;
        }
        Ok(Self {
            kind,
            pcrs: message.pcrs,
        })
    }
}

impl atls::Admitter {
    /// The evidence that is accepted, each kind once; nothing says that a refusal follows.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse_accepted(&self) -> Result<Vec<Requirement>, Malformed> {
        let mut kinds = BTreeSet::new();
        self.accepted
            .iter()
            .map(|message| {
                let got = message.kind;
                let requirement = Requirement::try_from(message.clone())?;
                if kinds.insert(requirement.kind) {
                    Ok(requirement)
                } else {
                    Err(Malformed::Duplicate {
                        field: "hello.accepted.kind",
                        got,
                    })
                }
            })
            .collect()
    }
}

fn parse_kind(field: &'static str, got: i32) -> Result<EvidenceKind, Malformed> {
    atls::EvidenceKind::try_from(got)
        .map_err(|_| Malformed::Unknown { field, got })?
        .try_into()
}

fn absent(field: &'static str, absent: bool) -> Result<(), Malformed> {
    if absent {
        Ok(())
    } else {
        Err(Malformed::Unexpected { field })
    }
}

impl From<Evidence> for atls::evidence::Kind {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::AzureSevSnp(azure) => Self::AzureSevSnp(atls::AzureSnpEvidence {
                hcl_report: azure.hcl_report,
                quote: Some(azure.quote.into()),
            }),
            Evidence::SevSnp(snp) => Self::SevSnp(snp.into()),
            Evidence::SevSnpVtpm(both) => Self::SevSnpVtpm(atls::SnpVtpmEvidence {
                snp: Some(both.snp.into()),
                quote: Some(both.quote.into()),
            }),
            Evidence::Tpm(tpm) => Self::Tpm(tpm.into()),
        }
    }
}

impl TryFrom<atls::evidence::Kind> for Evidence {
    type Error = Malformed;

    fn try_from(message: atls::evidence::Kind) -> Result<Self, Malformed> {
        use atls::evidence::Kind;
        Ok(match message {
            Kind::AzureSevSnp(azure) => Self::AzureSevSnp(AzureSnpEvidence {
                hcl_report: filled("azure_sev_snp.hcl_report", azure.hcl_report)?,
                quote: required("azure_sev_snp.quote", azure.quote)?.try_into()?,
            }),
            Kind::SevSnp(snp) => Self::SevSnp(snp.try_into()?),
            Kind::SevSnpVtpm(both) => Self::SevSnpVtpm(SnpVtpmEvidence {
                snp: required("sev_snp_vtpm.snp", both.snp)?.try_into()?,
                quote: required("sev_snp_vtpm.quote", both.quote)?.try_into()?,
            }),
            Kind::Tpm(tpm) => Self::Tpm(tpm.try_into()?),
        })
    }
}

impl From<SnpEvidence> for atls::SnpEvidence {
    fn from(evidence: SnpEvidence) -> Self {
        Self {
            report: evidence.report,
            certificates: evidence.certificates,
        }
    }
}

impl TryFrom<atls::SnpEvidence> for SnpEvidence {
    type Error = Malformed;

    fn try_from(message: atls::SnpEvidence) -> Result<Self, Malformed> {
        let certificates = message.certificates;
        if certificates.len() > MAX_CERTIFICATES {
            return Err(Malformed::TooLong {
                field: "sev_snp.certificates",
                max: MAX_CERTIFICATES,
                got: certificates.len(),
            });
        }
        Ok(Self {
            report: filled("sev_snp.report", message.report)?,
            certificates,
        })
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
        let snp = SnpEvidence {
            report: vec![4; 1184],
            certificates: vec![],
        };
        for evidence in [
            Evidence::AzureSevSnp(AzureSnpEvidence {
                hcl_report: vec![5],
                quote: tpm(),
            }),
            Evidence::SevSnp(snp.clone()),
            Evidence::SevSnpVtpm(SnpVtpmEvidence { snp, quote: tpm() }),
            Evidence::Tpm(tpm()),
        ] {
            let message = atls::evidence::Kind::from(evidence.clone());
            assert_eq!(Evidence::try_from(message), Ok(evidence));
        }
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
        for kind in EvidenceKind::ALL {
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
        for (kind, pcrs) in [
            (EvidenceKind::Tpm, vec![]),
            (EvidenceKind::Tpm, vec![4, 4]),
            (EvidenceKind::AzureSevSnp, vec![24]),
            (EvidenceKind::SevSnpVtpm, vec![4, 2]),
            (EvidenceKind::SevSnp, vec![4]),
        ] {
            let message = atls::Requirement::from(Requirement { kind, pcrs });
            assert!(
                Requirement::try_from(message.clone()).is_err(),
                "{message:?}"
            );
        }
    }

    #[test]
    fn a_kind_is_accepted_once() {
        let accepted = |kinds: &[EvidenceKind]| atls::Admitter {
            accepted: kinds
                .iter()
                .map(|kind| Requirement {
                    kind: *kind,
                    pcrs: if kind.has_quote() { vec![0] } else { vec![] },
                })
                .map(Into::into)
                .collect(),
            ..Default::default()
        };
        let parsed = accepted(&EvidenceKind::ALL).parse_accepted().unwrap();
        assert_eq!(parsed.len(), 4);
        assert_eq!(accepted(&[]).parse_accepted(), Ok(vec![]));
        let twice = [EvidenceKind::SevSnp, EvidenceKind::SevSnp];
        assert!(accepted(&twice).parse_accepted().is_err());
    }

    #[test]
    fn a_claim_has_the_fields_of_its_kind() {
        let tpm = TpmIdentity {
            ek_certificate: vec![],
            ek_public: vec![2],
            ak_public: vec![3],
        };
        let claims = [
            AttesterClaim::AzureSevSnp,
            AttesterClaim::SevSnp,
            AttesterClaim::SevSnpVtpm { ak_public: vec![1] },
            AttesterClaim::Tpm(tpm.clone()),
        ];
        for claim in claims {
            let message = atls::Attester::new(claim.clone(), &[0; 32]);
            assert_eq!(message.clone().parse_claim(), Ok(claim.clone()));
            let mut more = message.clone();
            more.tpm = match more.tpm {
                None => Some(tpm.clone().into()),
                Some(_) => None,
            };
            assert!(more.parse_claim().is_err(), "{claim:?}");
            let mut more = message;
            more.vtpm_ak_public = if more.vtpm_ak_public.is_empty() {
                vec![1]
            } else {
                vec![]
            };
            assert!(more.parse_claim().is_err(), "{claim:?}");
        }
    }

    #[test]
    fn a_certificate_table_has_a_bound() {
        let message = |len| atls::SnpEvidence {
            report: vec![1],
            certificates: vec![0; len],
        };
        assert!(SnpEvidence::try_from(message(MAX_CERTIFICATES)).is_ok());
        assert!(SnpEvidence::try_from(message(MAX_CERTIFICATES + 1)).is_err());
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
