//! Appraises the one node that is admitted, and signs for the owner.

use anyhow::Result;
use api::Class;
use appraisal::{Appraised, Appraiser, Challenged, CredentialSecret};
use attested_tls::{AdmitterTerms, AppraisalRequest, ChallengeRequest, OwnerProofRequest, Refusal};
use aws_lc_rs::rand;
use clap::Args;
use endorsements::{Endorsements, Found};
use evidence::{Evidence, TpmChallenge};
use owner::{OwnerKey, OwnerProof};
use secret_file::Passphrase;
use std::{path::PathBuf, sync::Arc};

use crate::{rules::RulesArgs, secrets::decrypt_owner_key};

/// What a node is judged by, and in whose name.
#[derive(Args, Debug)]
pub(crate) struct DeskArgs {
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    #[command(flatten)]
    rules: RulesArgs,
}

impl DeskArgs {
    /// The owner key.
    pub(crate) fn owner(&self, passphrase: &Passphrase) -> Result<Arc<OwnerKey>> {
        decrypt_owner_key(&self.owner_key, passphrase).map(Arc::new)
    }

    /// A desk of this owner.
    pub(crate) fn desk(&self, owner: Arc<OwnerKey>) -> Result<Desk> {
        let (rules, endorsements) = self.rules.open(&owner.public_key().fingerprint())?;
        Ok(Desk {
            rules,
            owner,
            endorsements,
        })
    }

    /// Policy and reference values as the owner signed them.
    pub(crate) fn signed(&self) -> Result<[String; 2]> {
        self.rules.signed()
    }
}

/// The operator's verifier: the documents the owner signed, and the owner key itself.
#[derive(Debug)]
pub(crate) struct Desk {
    rules: Appraiser,
    owner: Arc<OwnerKey>,
    endorsements: Option<Endorsements>,
}

impl Desk {
    fn find(&self, evidence: &Evidence, now: u64) -> Found {
        let endorsements = self.endorsements.as_ref();
        endorsements.map_or_else(Found::default, |endorsements| {
            endorsements.find_for(&self.rules, evidence, now)
        })
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
        let now = super::now().0;
        let found = self.find(&request.evidence, now);
        let answer = request.answer(found.endorsements(), now);
        Ok(self.rules.appraise(challenged, &answer)?)
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        self.owner.prove(request.side, &request.binding)
    }
}
