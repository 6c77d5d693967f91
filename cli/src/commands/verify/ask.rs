//! One node: asked twice, believed nothing.

use anyhow::{Context as _, Result};
use api::{
    StatedNode, StatementRequest,
    verify::{GetIdentityRequest, verification_service_client::VerificationServiceClient},
};
use appraisal::{Appraiser, AttesterIdentity, CredentialSecret, Statement};
use aws_lc_rs::rand;
use endorsements::{Endorsements, Found};
use evidence::{Evidence, Nonce, Subject};
use identity::{ClusterId, NodeName};
use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::timeout;
use tonic::transport::Endpoint;

use super::{
    finding::{Check, Failure, Finding, Proven, Refused, chain, printable},
    target::Target,
};

/// The longest answer: an event log of 64 KiB, a certificate table of 32, and some keys.
const MAX_ANSWER: usize = 512 * 1024;

/// The operator's verifier.
#[derive(Debug)]
pub(in crate::commands) struct Verifier {
    pub(in crate::commands) rules: Appraiser,
    pub(in crate::commands) endorsements: Option<Endorsements>,
    pub(in crate::commands) cluster: ClusterId,
}

impl Verifier {
    /// Asks one node, for as long as `limit`.
    ///
    /// # Errors
    /// When this side fails.
    pub(in crate::commands) async fn ask(
        &self,
        target: Target,
        limit: Duration,
    ) -> Result<Finding> {
        let mut name = target.name.clone();
        let answer = timeout(limit, self.question(&target, &mut name)).await;
        let late = || Failure::Unavailable(format!("no answer within {} s", limit.as_secs()));
        Finding::of(
            Target { name, ..target },
            answer.unwrap_or_else(|_| Err(late())),
        )
    }

    async fn question(
        &self,
        target: &Target,
        name: &mut Option<NodeName>,
    ) -> Result<Proven, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{}", target.authority));
        let endpoint = endpoint.context("address").map_err(Failure::Internal)?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(&error))?;
        let mut client =
            VerificationServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        let identity = client.get_identity(GetIdentityRequest {}).await?;
        let stated = identity.into_inner().parse()?;
        let expected = name.get_or_insert_with(|| stated.name.clone());
        compare(&self.cluster, &stated, expected)?;
        let secret = CredentialSecret::try_fill(|secret| rand::fill(secret));
        let secret = secret.context("random bytes").map_err(Failure::Internal)?;
        let (challenged, challenge) = self.rules.challenge(&stated.claim, secret)?;
        let mut nonce = Nonce([0; 32]);
        rand::fill(&mut nonce.0)
            .context("random bytes")
            .map_err(Failure::Internal)?;
        let request = StatementRequest { nonce, challenge };
        let answer = client
            .get_attestation(tonic::Request::new(request.into()))
            .await?;
        let (node, evidence, activated) = answer.into_inner().parse()?;
        if node != stated {
            let restarted = "its attestation key changed between two calls; try again";
            return Err(Failure::Unavailable(restarted.to_owned()));
        }
        let now = now();
        let found = self.found(&evidence, now);
        let statement = Statement {
            subject: &Subject {
                nonce: &nonce,
                cluster: &self.cluster,
                node: expected,
            },
            evidence: &evidence,
            endorsements: found.endorsements(),
            now,
        };
        let verified = self
            .rules
            .verify(challenged, activated.as_deref(), &statement)?;
        compare_machine(verified.identity(), target.attester.as_ref())?;
        Ok(Proven::of(&verified, target))
    }

    /// Certificates of the operator's folder for this evidence.
    pub(super) fn found(&self, evidence: &Evidence, now: u64) -> Found {
        let endorsements = self.endorsements.as_ref();
        endorsements.map_or_else(Found::default, |endorsements| {
            endorsements.find_for(&self.rules, evidence, now)
        })
    }
}

/// Says which name differs, before the evidence says only that one does.
pub(super) fn compare(
    cluster: &ClusterId,
    stated: &StatedNode,
    expected: &NodeName,
) -> Result<(), Failure> {
    let clusters = (cluster.to_string(), stated.cluster.to_string());
    let names = (expected.to_string(), stated.name.to_string());
    let checks = [
        Check::new("stated cluster", &clusters.0, &clusters.1),
        Check::new("stated node name", &names.0, &names.1),
    ];
    let differ = checks.into_iter().filter(Check::differs);
    let checks: Vec<_> = differ.collect();
    if checks.is_empty() {
        return Ok(());
    }
    let error = "the node states to be another one";
    Err(Failure::Refused(Refused::by(error, checks)))
}

/// A node that took the name of another has evidence of its own machine.
fn compare_machine(
    got: &AttesterIdentity,
    expected: Option<&AttesterIdentity>,
) -> Result<(), Failure> {
    match expected {
        Some(expected) if got != expected => Err(Failure::Refused(Refused::by(
            "another machine than the node record's",
            vec![Check::new(
                "machine",
                &expected.to_string(),
                &got.to_string(),
            )],
        ))),
        _ => Ok(()),
    }
}

fn unreachable(error: &dyn Error) -> Failure {
    Failure::Unavailable(format!("not reached: {}", printable(&chain(error))))
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
