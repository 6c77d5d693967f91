//! Appraises the one node that is recovered, and signs for the owner.

use api::Class;
use appraisal::{AppraisalError, Appraised, Appraiser, ChallengedAk, CredentialSecret, ErrorClass};
use attested_tls::{
    AdmitterTerms, AppraisalRequest, ChallengeRequest, FailedCheck, OwnerProofRequest, Refusal,
};
use aws_lc_rs::rand;
use evidence::{Evidence, TpmChallenge};
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
    type Challenged = ChallengedAk;

    fn terms(&self) -> AdmitterTerms {
        AdmitterTerms {
            pcrs: self.rules.policy().tpm_pcrs().to_vec(),
        }
    }

    fn challenge(
        &self,
        request: ChallengeRequest,
    ) -> Result<(TpmChallenge, ChallengedAk), Refusal> {
        let ek = self
            .rules
            .authenticate_ek(&request.identity)
            .map_err(|error| refusal(&error))?;
        let secret = CredentialSecret::try_fill(|secret| rand::fill(secret))
            .map_err(|_| Refusal::of(Class::Internal))?;
        let (challenged, challenge) = ek.challenge(secret).map_err(|error| refusal(&error))?;
        Ok((challenge, challenged))
    }

    fn appraise(
        &self,
        challenged: ChallengedAk,
        request: AppraisalRequest,
    ) -> Result<Appraised, Refusal> {
        let Evidence::Tpm(evidence) = &request.evidence else {
            return Err(Refusal::of(Class::Malformed));
        };
        let activated = request.activated.expose_secret();
        self.rules
            .appraise(challenged, activated, evidence, &request.binding)
            .map_err(|error| refusal(&error))
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        self.owner.prove(request.side, &request.binding)
    }
}

/// What the operator is shown; the channel tells the node the class alone.
fn refusal(error: &AppraisalError) -> Refusal {
    let class = match error.class() {
        ErrorClass::Internal => Class::Internal,
        ErrorClass::Malformed => Class::Malformed,
        ErrorClass::Refused => Class::Refused,
    };
    let checks = error.checks().into_iter().map(|check| FailedCheck {
        check: check.check,
        expected: check.expected,
        got: check.got,
    });
    Refusal {
        class,
        checks: checks.collect(),
    }
}
