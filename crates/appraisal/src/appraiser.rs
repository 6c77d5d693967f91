//! Policy and reference values that fit each other, and the two steps that use them.

use crate::{
    appraised::{Appraised, AttesterIdentity, Claims, Facts},
    asked::Asked,
    ek::{AuthenticatedEk, ChallengedAk, CredentialSecret},
    error::{AppraisalError, LoadError, ReportError},
    policy::Policy,
    quote::AuthenticatedQuote,
    reference_values::{Booted, Image, Mismatches, ReferenceValues},
    report::AcceptedReport,
    saved::SavedReport,
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};
use evidence::{
    AttesterClaim, AzureSnpEvidence, Binding, Evidence, EvidenceKind, Requirement, SnpEvidence,
    SnpVtpmEvidence, TpmChallenge, TpmEvidence,
};
use snp::{
    AuthenticatedReport,
    hcl::{HclReport, RsaKey},
};
use tpm::{AttestationKey, SigningKey};

/// A verifier's rules. Replaced as a whole when a document changes, so that no appraisal ever sees
/// a policy with reference values that were not checked against it.
#[derive(Clone, Debug)]
pub struct Appraiser {
    policy: Policy,
    reference_values: ReferenceValues,
}

impl Appraiser {
    /// Puts both documents together.
    ///
    /// # Errors
    /// If an image has values for no kind that the policy accepts, or lacks a PCR that it judges, or two
    /// images cannot be told apart.
    pub fn new(policy: Policy, reference_values: ReferenceValues) -> Result<Self, LoadError> {
        reference_values.check_against(&policy)?;
        Ok(Self {
            policy,
            reference_values,
        })
    }

    /// The policy.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The reference values.
    #[must_use]
    pub const fn reference_values(&self) -> &ReferenceValues {
        &self.reference_values
    }

    /// What the policy accepts, for the admitter's hello.
    #[must_use]
    pub fn requirements(&self) -> Vec<Requirement> {
        self.policy.requirements()
    }

    /// Step 1, on the attester's hello: a claim of a kind that the policy accepts; for a TPM, an
    /// endorsement key that the policy trusts, and the challenge for the attestation key. `secret`
    /// must be random and used for nothing else.
    ///
    /// # Errors
    /// If the claim is malformed or refused.
    pub fn challenge(
        &self,
        claim: &AttesterClaim,
        secret: CredentialSecret,
    ) -> Result<(Challenged, Option<TpmChallenge>), AppraisalError> {
        self.accept_kind(claim.kind())?;
        let claimed = match claim {
            AttesterClaim::AzureSevSnp => Claimed::AzureSevSnp,
            AttesterClaim::SevSnp => Claimed::SevSnp,
            AttesterClaim::SevSnpVtpm { ak_public } => Claimed::SevSnpVtpm(
                AttestationKey::parse(ak_public).map_err(AppraisalError::AttestationKey)?,
            ),
            AttesterClaim::Tpm(claimed) => {
                let policy = self.rules(self.policy.tpm.as_ref(), EvidenceKind::Tpm)?;
                let ek = AuthenticatedEk::authenticate(claimed, policy)?;
                let (challenged, challenge) = ek.challenge(secret)?;
                return Ok((Challenged(Claimed::Tpm(challenged)), Some(challenge)));
            }
        };
        Ok((Challenged(claimed), None))
    }

    /// Step 2, on the attester's evidence. `answer.binding` must be computed by the caller from its
    /// own view of the channel, never received.
    ///
    /// # Errors
    /// If the evidence does not prove what the policy and the reference values ask for.
    pub fn appraise(
        &self,
        challenged: Challenged,
        answer: &Answer<'_>,
    ) -> Result<Appraised, AppraisalError> {
        let signer = challenged.prove(answer.activated)?;
        self.judge_claim(&signer, &Asked::on_channel(answer))
            .map(Appraised)
    }

    /// Judges evidence by the rules of the kind that was claimed.
    pub(crate) fn judge_claim(
        &self,
        signer: &Signer,
        asked: &Asked<'_>,
    ) -> Result<Facts, AppraisalError> {
        let kind = signer.kind();
        // Again, because the claim may have been accepted by the rules that these replaced.
        self.accept_kind(kind)?;
        match (signer, asked.evidence) {
            (Signer::AzureSevSnp, Evidence::AzureSevSnp(evidence)) => self.azure(evidence, asked),
            (Signer::SevSnp, Evidence::SevSnp(evidence)) => self.sev_snp(kind, evidence, asked),
            (Signer::SevSnpVtpm(ak), Evidence::SevSnpVtpm(evidence)) => {
                self.sev_snp_vtpm(ak, evidence, asked)
            }
            (Signer::Tpm(ak, identity), Evidence::Tpm(evidence)) => {
                self.tpm((ak, *identity), evidence, asked)
            }
            (_, evidence) => Err(AppraisalError::Kind {
                expected: kind.to_string(),
                got: evidence.kind(),
            }),
        }
    }

    fn tpm(
        &self,
        (ak, identity): (&AttestationKey, AttesterIdentity),
        evidence: &TpmEvidence,
        asked: &Asked<'_>,
    ) -> Result<Facts, AppraisalError> {
        let kind = EvidenceKind::Tpm;
        let quote = self.quote(kind, ak.signing_key(), evidence, asked)?;
        quote.check_latch(asked.stage)?;
        let image = self.image(kind, None, Some(&quote))?;
        let claims = Claims {
            tpm: Some(quote.into_claims()),
            sev_snp: None,
        };
        Ok(Facts {
            attestation_key: Some(ak.name().digest()),
            ..facts(kind, identity, image, claims)
        })
    }

    /// A bare report: made for what was asked, and the only thing that counts.
    fn sev_snp(
        &self,
        kind: EvidenceKind,
        evidence: &SnpEvidence,
        asked: &Asked<'_>,
    ) -> Result<Facts, AppraisalError> {
        let (image, accepted) = self.bare_report(
            kind,
            &SavedReport {
                evidence,
                report_data: asked.report_data,
                endorsements: asked.endorsements,
                now: asked.now,
            },
        )?;
        let report_id = *accepted.report.report().report_id;
        let claims = Claims {
            tpm: None,
            sev_snp: Some(accepted.into_claims()),
        };
        Ok(Facts {
            report_id: Some(report_id),
            ..facts(kind, AttesterIdentity::SevSnp, image, claims)
        })
    }

    /// Every rule about a bare report.
    pub(crate) fn bare_report<'a>(
        &self,
        kind: EvidenceKind,
        saved: &SavedReport<'a>,
    ) -> Result<(&Image, AcceptedReport<'a>), AppraisalError> {
        let policy = self.rules(self.policy.sev_snp.as_ref(), kind)?;
        let SnpEvidence {
            report,
            certificates,
        } = saved.evidence;
        let (endorsements, now) = (saved.endorsements, saved.now);
        let accepted = AcceptedReport::accept(report, certificates, policy, endorsements, now)?;
        accepted.check_report_data(saved.report_data)?;
        let image = self.image(kind, Some(&accepted.report), None)?;
        Ok((image, accepted))
    }

    /// A bare report, and PCRs of a vTPM that the host runs: they must be what its key signed for
    /// this channel, and are shown to the operator. They decide nothing.
    fn sev_snp_vtpm(
        &self,
        ak: &AttestationKey,
        evidence: &SnpVtpmEvidence,
        asked: &Asked<'_>,
    ) -> Result<Facts, AppraisalError> {
        let kind = EvidenceKind::SevSnpVtpm;
        let mut facts = self.sev_snp(kind, &evidence.snp, asked)?;
        let quote = self.quote(kind, ak.signing_key(), &evidence.quote, asked)?;
        facts.claims.tpm = Some(quote.into_claims());
        Ok(facts)
    }

    /// The report, as old as the boot, vouches for the attestation key; the key's quote is fresh. The
    /// report's measurement is the paravisor's, the PCRs are the image's.
    fn azure(
        &self,
        evidence: &AzureSnpEvidence,
        asked: &Asked<'_>,
    ) -> Result<Facts, AppraisalError> {
        let kind = EvidenceKind::AzureSevSnp;
        let policy = self.rules(self.policy.sev_snp.as_ref(), kind)?;
        let hcl = HclReport::parse(&evidence.hcl_report).map_err(ReportError::Hcl)?;
        let (endorsements, now) = (asked.endorsements, asked.now);
        let report = hcl.hardware_report();
        let accepted = AcceptedReport::accept(report, &[], policy, endorsements, now)?;
        let vouched = hcl
            .authenticate(&accepted.report)
            .map_err(ReportError::Hcl)?;
        let RsaKey { modulus, exponent } = vouched.attestation_key;
        let identity = AttesterIdentity::of_vouched_key(&modulus, exponent);
        let key = SigningKey::rsassa(modulus, exponent);
        let quote = self.quote(kind, &key, &evidence.quote, asked)?;
        quote.check_latch(asked.stage)?;
        let image = self.image(kind, Some(&accepted.report), Some(&quote))?;
        let claims = Claims {
            tpm: Some(quote.into_claims()),
            sev_snp: Some(accepted.into_claims()),
        };
        Ok(facts(kind, identity, image, claims))
    }

    fn quote<'e>(
        &self,
        kind: EvidenceKind,
        key: &SigningKey,
        evidence: &'e TpmEvidence,
        asked: &Asked<'_>,
    ) -> Result<AuthenticatedQuote<'e>, AppraisalError> {
        let policy = self.rules(self.policy.quote(kind), kind)?;
        AuthenticatedQuote::authenticate(key, evidence, asked, policy)
    }

    /// The one image whose reference values fit all that counts.
    fn image(
        &self,
        kind: EvidenceKind,
        report: Option<&AuthenticatedReport<'_>>,
        quote: Option<&AuthenticatedQuote<'_>>,
    ) -> Result<&Image, AppraisalError> {
        let booted = Booted {
            kind,
            pcrs: quote.map(AuthenticatedQuote::judged),
            report,
        };
        let mut compared: Vec<(&Image, Mismatches)> = self
            .reference_values
            .images()
            .iter()
            .filter_map(|image| Some((image, image.mismatches(booted)?)))
            .collect();
        compared.sort_by_key(|(_, mismatches)| mismatches.count());
        let mut fitting = compared.iter().filter(|(_, differs)| differs.count() == 0);
        match (fitting.next(), fitting.next()) {
            (Some((image, _)), None) => return Ok(image),
            (Some((one, _)), Some((other, _))) => {
                return Err(AppraisalError::Ambiguous {
                    images: format!("`{}` and `{}`", one.name(), other.name()),
                });
            }
            (None, _) => {}
        }
        let nearest = compared.into_iter().next();
        let (image, Mismatches { pcrs, launch }) = nearest.ok_or(AppraisalError::NoImage)?;
        Err(AppraisalError::ImageMismatch {
            image: image.name().to_string(),
            explanation: quote.map_or_else(Vec::new, |quote| quote.explain(image, &pcrs)),
            pcrs,
            launch: launch.map(Box::new),
        })
    }

    /// A section of the policy, which is there for every accepted kind.
    pub(crate) fn rules<'p, T>(
        &self,
        section: Option<&'p T>,
        kind: EvidenceKind,
    ) -> Result<&'p T, AppraisalError> {
        section.ok_or_else(|| AppraisalError::Kind {
            expected: self.accepted_kinds(),
            got: kind,
        })
    }

    pub(crate) fn accept_kind(&self, kind: EvidenceKind) -> Result<(), AppraisalError> {
        if self.policy.kinds().contains(&kind) {
            return Ok(());
        }
        Err(AppraisalError::Kind {
            expected: self.accepted_kinds(),
            got: kind,
        })
    }

    fn accepted_kinds(&self) -> String {
        let kinds: Vec<&str> = self
            .policy
            .kinds()
            .iter()
            .map(|kind| kind.as_str())
            .collect();
        kinds.join(" or ")
    }
}

/// An attester whose claim was accepted; nothing of it is proven yet. One session's: the appraisal
/// uses it up.
#[must_use]
#[derive(Debug)]
pub struct Challenged(Claimed);

#[derive(Debug)]
enum Claimed {
    AzureSevSnp,
    SevSnp,
    SevSnpVtpm(AttestationKey),
    Tpm(ChallengedAk),
}

impl Challenged {
    /// The kind of evidence that must follow.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match &self.0 {
            Claimed::AzureSevSnp => EvidenceKind::AzureSevSnp,
            Claimed::SevSnp => EvidenceKind::SevSnp,
            Claimed::SevSnpVtpm(_) => EvidenceKind::SevSnpVtpm,
            Claimed::Tpm(_) => EvidenceKind::Tpm,
        }
    }

    /// Who is claimed to attest, where the claim says so. Nothing on this connection has proven it yet.
    #[must_use]
    pub const fn claimed_identity(&self) -> Option<AttesterIdentity> {
        match &self.0 {
            Claimed::AzureSevSnp => None,
            Claimed::SevSnp | Claimed::SevSnpVtpm(_) => Some(AttesterIdentity::SevSnp),
            Claimed::Tpm(ak) => Some(ak.claimed_identity()),
        }
    }
}

impl Challenged {
    /// Takes what the TPM made of the challenge, where there was one.
    pub(crate) fn prove(self, activated: Option<&[u8]>) -> Result<Signer, AppraisalError> {
        self.attested_by(|ak| ak.activate(activated.unwrap_or_default()))
    }

    /// Goes without an answer; the result is nobody's proof.
    pub(crate) fn unproven(self) -> Signer {
        let signer = self.attested_by(|ak| Ok::<_, core::convert::Infallible>(ak.unproven()));
        match signer {
            Ok(signer) => signer,
            Err(never) => match never {},
        }
    }

    fn attested_by<E>(
        self,
        key: impl FnOnce(ChallengedAk) -> Result<(AttestationKey, AttesterIdentity), E>,
    ) -> Result<Signer, E> {
        Ok(match self.0 {
            Claimed::AzureSevSnp => Signer::AzureSevSnp,
            Claimed::SevSnp => Signer::SevSnp,
            Claimed::SevSnpVtpm(ak) => Signer::SevSnpVtpm(ak),
            Claimed::Tpm(ak) => {
                let (ak, identity) = key(ak)?;
                Signer::Tpm(ak, identity)
            }
        })
    }
}

/// Who must have signed the evidence. Whether a TPM's key is proven is known to the maker.
#[derive(Debug)]
pub(crate) enum Signer {
    AzureSevSnp,
    SevSnp,
    SevSnpVtpm(AttestationKey),
    Tpm(AttestationKey, AttesterIdentity),
}

impl Signer {
    const fn kind(&self) -> EvidenceKind {
        match self {
            Self::AzureSevSnp => EvidenceKind::AzureSevSnp,
            Self::SevSnp => EvidenceKind::SevSnp,
            Self::SevSnpVtpm(_) => EvidenceKind::SevSnpVtpm,
            Self::Tpm(..) => EvidenceKind::Tpm,
        }
    }
}

/// The facts; their maker made every check of `kind`.
fn facts(kind: EvidenceKind, identity: AttesterIdentity, image: &Image, claims: Claims) -> Facts {
    Facts {
        identity,
        image: image.name().to_string(),
        roles: image.roles().to_vec(),
        kind,
        report_id: None,
        attestation_key: None,
        claims,
    }
}

/// What came back, and what it is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What the TPM made of the challenge, where there was one.
    pub activated: Option<&'a [u8]>,
    /// The evidence.
    pub evidence: &'a Evidence,
    /// The channel's binding, by the caller's own view of it.
    pub binding: &'a Binding,
    /// What vouches for the evidence beside what it brings itself.
    pub endorsements: Endorsements<'a>,
    /// Seconds since 1970 by the verifier's clock.
    pub now: u64,
}

/// Endorsements that the verifier has of its own: untrusted bytes, from a cache or a bundle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endorsements<'a> {
    /// VCEK or VLEK certificate of the reporting processor, X.509 DER.
    pub leaf: Option<&'a [u8]>,
    /// The product's revocation list, DER. Without one, none is consulted, unless the policy wants one.
    pub revocations: Option<&'a [u8]>,
}
