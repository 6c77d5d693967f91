//! Appraises the one node that is recovered, and signs for the owner.

use api::Class;
use appraisal::{Answer, Appraised, Appraiser, Challenged, CredentialSecret, Endorsements};
use attested_tls::{AdmitterTerms, AppraisalRequest, ChallengeRequest, OwnerProofRequest, Refusal};
use aws_lc_rs::rand;
use evidence::TpmChallenge;
use owner::{OwnerKey, OwnerProof};

/// The operator's verifier: the documents the owner signed, and the owner key itself.
#[derive(Debug)]
pub(super) struct Desk {
    rules: Appraiser,
    owner: OwnerKey,
}

impl Desk {
    pub(super) const fn new(rules: Appraiser, owner: OwnerKey) -> Self {
        Self { rules, owner }
    }
}

impl attested_tls::Appraiser for Desk {
    type Appraised = Appraised;
    type Challenged = Challenged;

    fn terms(&self) -> AdmitterTerms {
        AdmitterTerms {
            accepted: self.rules.requirements(),
        }
    }

    fn challenge(
        &self,
        request: ChallengeRequest,
    ) -> Result<(Option<TpmChallenge>, Challenged), Refusal> {
        let secret = CredentialSecret::try_fill(|secret| rand::fill(secret))
            .map_err(|_| Refusal::of(Class::Internal))?;
        let (challenged, challenge) = self.rules.challenge(&request.claim, secret)?;
        Ok((challenge, challenged))
    }

    fn appraise(
        &self,
        challenged: Challenged,
        request: AppraisalRequest,
    ) -> Result<Appraised, Refusal> {
        let answer = Answer {
            activated: request
                .activated
                .as_ref()
                .map(|secret| &secret.expose_secret()[..]),
            evidence: &request.evidence,
            binding: &request.binding,
            endorsements: Endorsements::default(),
            now: super::tickets::now().0,
        };
        Ok(self.rules.appraise(challenged, &answer)?)
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        self.owner.prove(request.side, &request.binding)
    }
}
