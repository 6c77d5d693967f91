//! Appraises the one node that is admitted, and signs for the owner.

use anyhow::{Context as _, Result};
use api::Class;
use appraisal::{
    Answer, Appraised, Appraiser, Challenged, CredentialSecret, Policy, ReferenceValues,
};
use attested_tls::{AdmitterTerms, AppraisalRequest, ChallengeRequest, OwnerProofRequest, Refusal};
use aws_lc_rs::rand;
use clap::Args;
use endorsements::{AuthoritySet, Config, Endorsements, Found, system_clock};
use evidence::{Evidence, TpmChallenge};
use owner::{DocumentKind, OwnerKey, OwnerProof};
use std::path::{Path, PathBuf};

use crate::{
    documents, files,
    secrets::{PassphraseArgs, owner_key},
};

/// The most certificates in the operator's folder: a chip's is about 1.5 KiB.
const MAX_FILES: usize = 65_536;

/// What a node is judged by, and in whose name.
#[derive(Args, Debug)]
pub(crate) struct DeskArgs {
    /// The owner key
    #[arg(long, value_name = "FILE")]
    owner_key: PathBuf,
    /// The signed policy
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The signed reference values
    #[arg(long, value_name = "FILE")]
    reference_values: PathBuf,
    /// Folder with the certificates of report keys, as `constellation snp import-certs` fills it; for
    /// SEV-SNP nodes whose host hands none out
    #[arg(long, value_name = "FOLDER")]
    endorsements: Option<PathBuf>,
}

impl DeskArgs {
    /// The owner key.
    pub(crate) fn owner(&self, passphrase: &PassphraseArgs) -> Result<OwnerKey> {
        owner_key(&self.owner_key, passphrase)
    }

    /// A desk that looks into the folder for the certificates of report keys. It fetches none: the
    /// operator does that before, where there is a network.
    pub(crate) fn desk(&self, owner: OwnerKey) -> Result<Desk> {
        let by = owner.public_key().fingerprint();
        let policy = documents::open(&self.policy, DocumentKind::Policy, &by)?;
        let values = documents::open(&self.reference_values, DocumentKind::ReferenceValues, &by)?;
        let policy = Policy::parse(policy.as_bytes()).context("policy")?;
        let values = ReferenceValues::parse(values.as_bytes()).context("reference values")?;
        let rules = Appraiser::new(policy, values)?;
        let folder = self.endorsements.as_deref();
        let endorsements = folder
            .map(|folder| open_endorsements(folder, &rules))
            .transpose()?;
        Ok(Desk {
            rules,
            owner,
            endorsements,
        })
    }

    /// Policy and reference values as the owner signed them.
    pub(crate) fn signed(&self) -> Result<[String; 2]> {
        Ok([
            files::read_text(&self.policy)?,
            files::read_text(&self.reference_values)?,
        ])
    }
}

/// The operator's verifier: the documents the owner signed, and the owner key itself.
#[derive(Debug)]
pub(crate) struct Desk {
    rules: Appraiser,
    owner: OwnerKey,
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

/// The operator's folder of certificates, which is never filled from here.
pub(crate) fn open_endorsements(folder: &Path, rules: &Appraiser) -> Result<Endorsements> {
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
        let now = super::now().0;
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
