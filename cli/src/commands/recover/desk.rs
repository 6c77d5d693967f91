//! Appraises the one node that is recovered, and signs for the owner.

use anyhow::{Context as _, Result};
use api::Class;
use appraisal::{Answer, Appraised, Appraiser, Challenged, CredentialSecret};
use attested_tls::{AdmitterTerms, AppraisalRequest, ChallengeRequest, OwnerProofRequest, Refusal};
use aws_lc_rs::rand;
use endorsements::{AuthoritySet, Config, Endorsements, Found, system_clock};
use evidence::{Evidence, TpmChallenge};
use owner::{OwnerKey, OwnerProof};
use std::path::Path;

/// The most certificates in the operator's folder: a chip's is about 1.5 KiB.
const MAX_FILES: usize = 65_536;

/// The operator's verifier: the documents the owner signed, and the owner key itself.
#[derive(Debug)]
pub(super) struct Desk {
    rules: Appraiser,
    owner: OwnerKey,
    endorsements: Option<Endorsements>,
}

impl Desk {
    /// A desk that looks into `folder` for the certificates of report keys. It fetches none: the
    /// operator does that before, where there is a network.
    pub(super) fn new(rules: Appraiser, owner: OwnerKey, folder: Option<&Path>) -> Result<Self> {
        let endorsements = folder.map(|folder| open(folder, &rules)).transpose()?;
        Ok(Self {
            rules,
            owner,
            endorsements,
        })
    }

    fn find(&self, evidence: &Evidence, now: u64) -> Found {
        let endorsements = self.endorsements.as_ref();
        endorsements.map_or_else(Found::default, |endorsements| {
            endorsements.find_for(&self.rules, evidence, now)
        })
    }
}

fn open(folder: &Path, rules: &Appraiser) -> Result<Endorsements> {
    Endorsements::open(Config {
        folder: folder.to_owned(),
        max_files: MAX_FILES,
        authorities: AuthoritySet::amd_and(rules.policy()).context("pinned authorities")?,
        kds: None,
        clock: system_clock(),
    })
    .with_context(|| format!("open `{}`", folder.display()))
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
        let now = super::tickets::now().0;
        let found = self.find(&request.evidence, now);
        let answer = Answer {
            activated: request
                .activated
                .as_ref()
                .map(|secret| &secret.expose_secret()[..]),
            evidence: &request.evidence,
            binding: &request.binding,
            endorsements: found.endorsements(),
            now,
        };
        Ok(self.rules.appraise(challenged, &answer)?)
    }

    fn prove(&self, request: &OwnerProofRequest) -> OwnerProof {
        self.owner.prove(request.side, &request.binding)
    }
}
