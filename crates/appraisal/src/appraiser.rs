//! Policy and reference values that fit each other, and the two steps that use them.

use crate::{
    appraised::{Appraised, AttesterIdentity},
    ek::{AuthenticatedEk, ChallengedAk, CredentialSecret},
    error::{AppraisalError, LoadError},
    evidence_tpm as tpm,
    policy::Policy,
    reference_values::ReferenceValues,
};
use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use evidence::{AttesterClaim, Binding, Evidence, EvidenceKind, Requirement, TpmChallenge};

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
    /// If an image lacks a PCR of the policy, or two images cannot be told apart by its PCRs.
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
        match claim {
            AttesterClaim::Tpm(claimed) => {
                let ek = AuthenticatedEk::authenticate(claimed, &self.policy)?;
                let (challenged, challenge) = ek.challenge(secret)?;
                Ok((Challenged(Claimed::Tpm(challenged)), Some(challenge)))
            }
            AttesterClaim::AzureSevSnp
            | AttesterClaim::SevSnp
            | AttesterClaim::SevSnpVtpm { .. } => Err(AppraisalError::Kind {
                expected: self.accepted_kinds(),
                got: claim.kind(),
            }),
        }
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
        let kind = challenged.kind();
        match (challenged.0, answer.evidence) {
            (Claimed::Tpm(ak), Evidence::Tpm(evidence)) => {
                let proven = ak.activate(answer.activated.unwrap_or_default())?;
                tpm::Authenticated::authenticate(proven, evidence, answer.binding, &self.policy)?
                    .appraise(&self.reference_values)
            }
            (_, evidence) => Err(AppraisalError::Kind {
                expected: kind.to_string(),
                got: evidence.kind(),
            }),
        }
    }

    fn accept_kind(&self, kind: EvidenceKind) -> Result<(), AppraisalError> {
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
    Tpm(ChallengedAk),
}

impl Challenged {
    /// The kind of evidence that must follow.
    #[must_use]
    pub const fn kind(&self) -> EvidenceKind {
        match &self.0 {
            Claimed::Tpm(_) => EvidenceKind::Tpm,
        }
    }

    /// Who is claimed to attest. Nothing on this connection has proven it yet.
    #[must_use]
    pub const fn claimed_identity(&self) -> AttesterIdentity {
        match &self.0 {
            Claimed::Tpm(ak) => ak.claimed_identity(),
        }
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
