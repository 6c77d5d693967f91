//! Policy and reference values that fit each other, and the two steps that use them.

use crate::{
    appraised::Appraised,
    ek::{AuthenticatedEk, ChallengedAk},
    error::{AppraisalError, LoadError},
    evidence_tpm::Authenticated,
    policy::Policy,
    reference_values::ReferenceValues,
};
use evidence::{Binding, TpmEvidence, TpmIdentity};

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

    /// Step 1, on the attester's hello: is this an endorsement key that the policy trusts, and is
    /// the attestation key one?
    ///
    /// # Errors
    /// If either is malformed or refused.
    pub fn authenticate_ek(
        &self,
        claimed: &TpmIdentity,
    ) -> Result<AuthenticatedEk, AppraisalError> {
        AuthenticatedEk::authenticate(claimed, &self.policy)
    }

    /// Step 3, on the attester's evidence. `binding` must be computed by the caller from its own
    /// view of the channel, never received.
    ///
    /// # Errors
    /// If the credential was not activated, or any check of the quote or its PCRs fails.
    pub fn appraise(
        &self,
        challenged: ChallengedAk,
        activated: &[u8],
        evidence: &TpmEvidence,
        binding: &Binding,
    ) -> Result<Appraised, AppraisalError> {
        let proven = challenged.activate(activated)?;
        Authenticated::authenticate(proven, evidence, binding, &self.policy)?
            .appraise(&self.reference_values)
    }
}
