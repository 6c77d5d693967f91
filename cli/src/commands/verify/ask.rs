//! One node: asked twice, believed nothing.

use anyhow::{Context as _, Result};
use api::{
    Malformed, StatedNode, StatementRequest,
    verify::{GetIdentityRequest, verification_service_client::VerificationServiceClient},
};
use appraisal::{
    AppraisalError, Appraiser, AttesterIdentity, CredentialSecret, ErrorClass, FailedCheck,
    KeyProof, Membership, Statement, Verified,
};
use aws_lc_rs::rand;
use endorsements::{Endorsements, Found};
use evidence::{Evidence, Nonce, Subject};
use identity::{ClusterId, NodeName, Role};
use serde::Serialize;
use std::{
    error::Error,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Endpoint};

use super::target::Target;

/// The longest answer: an event log of 64 KiB, a certificate table of 32, and some keys.
const MAX_ANSWER: usize = 512 * 1024;

/// The operator's verifier.
#[derive(Debug)]
pub(in crate::commands) struct Verifier {
    pub(in crate::commands) rules: Appraiser,
    pub(in crate::commands) endorsements: Option<Endorsements>,
    pub(in crate::commands) cluster: ClusterId,
}

/// What was found about one node.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Finding {
    /// The name that was asked for, or that the node states.
    name: Option<NodeName>,
    address: String,
    #[serde(flatten)]
    pub(in crate::commands) outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(in crate::commands) enum Outcome {
    /// All of it fits.
    Verified(Proven),
    /// Something does not.
    Refused(Refused),
    /// Nobody knows.
    Unavailable { error: String },
}

/// What is proven of a node.
#[derive(Debug, Serialize)]
pub(in crate::commands) struct Proven {
    pub(in crate::commands) image: String,
    roles: Vec<Role>,
    pub(super) evidence: &'static str,
    /// The machine, where the evidence names one.
    identity: String,
    /// `latched`: by PCR 15. `stated`: by the node's word alone.
    cluster: &'static str,
    /// How the key that signed is known to be the machine's.
    attestation_key: &'static str,
    /// The name was asked for; else it is the one that the node states.
    name_expected: bool,
    #[serde(flatten)]
    pub(super) lists: super::checked::Lists,
}

#[derive(Debug, Serialize)]
pub(in crate::commands) struct Refused {
    error: String,
    checks: Vec<Check>,
    /// What the node's event log, an untrusted text, says about it.
    explanation: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Check {
    check: String,
    expected: String,
    got: String,
}

/// Why a node is not verified.
pub(super) enum Failure {
    Refused(Refused),
    Unavailable(String),
    /// This side failed.
    Internal(anyhow::Error),
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
    let differ = checks.into_iter().filter(|c| c.expected != c.got);
    let checks: Vec<_> = differ.collect();
    if checks.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(Refused {
        error: "the node states to be another one".to_owned(),
        checks,
        explanation: Vec::new(),
    }))
}

/// A node that took the name of another has evidence of its own machine.
fn compare_machine(
    got: &AttesterIdentity,
    expected: Option<&AttesterIdentity>,
) -> Result<(), Failure> {
    match expected {
        Some(expected) if got != expected => Err(Failure::Refused(Refused::by(
            "another machine than the node record's",
            Check::new("machine", &expected.to_string(), &got.to_string()),
        ))),
        _ => Ok(()),
    }
}

impl Refused {
    pub(super) fn by(error: &str, check: Check) -> Self {
        Self {
            error: error.to_owned(),
            checks: vec![check],
            explanation: Vec::new(),
        }
    }
}

impl Check {
    pub(super) fn new(check: &str, expected: &str, got: &str) -> Self {
        Self {
            check: check.to_owned(),
            expected: expected.to_owned(),
            got: printable(got),
        }
    }
}

impl Proven {
    pub(super) fn of(verified: &Verified, target: &Target) -> Self {
        let name_expected = target.name.is_some();
        Self {
            image: verified.image().to_owned(),
            roles: verified.roles().to_vec(),
            evidence: verified.evidence_kind().as_str(),
            identity: verified.identity().to_string(),
            cluster: match verified.membership() {
                Membership::Latched => "latched",
                Membership::Stated => "stated",
            },
            attestation_key: match verified.key_proof() {
                KeyProof::Activated => "activated",
                KeyProof::Certified => "certified-at-admission",
                KeyProof::Report => "vouched-for-by-report",
                KeyProof::Processor => "none",
            },
            name_expected,
            lists: super::checked::Lists::of(verified, target),
        }
    }
}

impl Finding {
    /// What became of one node.
    ///
    /// # Errors
    /// When this side failed.
    pub(super) fn of(target: Target, judged: Result<Proven, Failure>) -> Result<Self> {
        let outcome = match judged {
            Ok(proven) => Outcome::Verified(proven),
            Err(Failure::Refused(refused)) => Outcome::Refused(refused),
            Err(Failure::Unavailable(error)) => Outcome::Unavailable { error },
            Err(Failure::Internal(error)) => return Err(error),
        };
        Ok(Self {
            name: target.name,
            address: target.authority,
            outcome,
        })
    }

    /// A node that the API server knows, and no join service of ours admitted.
    pub(super) fn without_record(name: &str, address: Option<String>) -> Self {
        Self {
            name: name.parse().ok(),
            address: address.unwrap_or_else(unknown),
            outcome: Outcome::Refused(Refused {
                error: format!("node `{}` has no node record", printable(name)),
                checks: Vec::new(),
                explanation: Vec::new(),
            }),
        }
    }

    /// A node that was admitted, and that the API server has no address of.
    pub(super) fn without_address(name: NodeName) -> Self {
        Self {
            address: unknown(),
            outcome: Outcome::Unavailable {
                error: format!("node `{name}`: the API server knows no address of it"),
            },
            name: Some(name),
        }
    }

    /// Its row of the table.
    pub(super) fn row(&self) -> [String; 8] {
        let name = self.name.as_ref().map_or_else(unknown, ToString::to_string);
        let (result, facts) = match &self.outcome {
            Outcome::Verified(proven) => {
                let roles: Vec<_> = proven.roles.iter().map(ToString::to_string).collect();
                let facts = [
                    proven.image.clone(),
                    roles.join(","),
                    proven.evidence.to_owned(),
                    proven.attestation_key.to_owned(),
                    proven.cluster.to_owned(),
                ];
                ("verified", facts)
            }
            Outcome::Refused(_) => ("REFUSED", [(); 5].map(|()| unknown())),
            Outcome::Unavailable { .. } => ("unavailable", [(); 5].map(|()| unknown())),
        };
        let [image, roles, evidence, key, cluster] = facts;
        let address = self.address.clone();
        [
            name,
            address,
            result.to_owned(),
            image,
            roles,
            evidence,
            key,
            cluster,
        ]
    }

    /// Why it is not verified.
    pub(in crate::commands) fn explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Verified(_) => Ok(()),
            Outcome::Unavailable { error } => writeln!(f, "\n{}: {error}", self.address),
            Outcome::Refused(refused) => {
                writeln!(f, "\n{} is refused: {}", self.address, refused.error)?;
                for Check {
                    check,
                    expected,
                    got,
                } in &refused.checks
                {
                    writeln!(f, "  {check}: expected {expected}, got {got}")?;
                }
                let mut untrusted = refused.explanation.iter();
                untrusted.try_for_each(|line| writeln!(f, "  {line}"))
            }
        }
    }
}

impl From<AppraisalError> for Failure {
    fn from(error: AppraisalError) -> Self {
        match error.class() {
            ErrorClass::Unavailable => Self::Unavailable(chain(&error)),
            ErrorClass::Internal => Self::Internal(error.into()),
            _ => Self::Refused(Refused {
                error: chain(&error),
                checks: error.checks().into_iter().map(Into::into).collect(),
                explanation: error
                    .explanation()
                    .iter()
                    .map(|line| printable(line))
                    .collect(),
            }),
        }
    }
}

impl From<FailedCheck> for Check {
    fn from(failed: FailedCheck) -> Self {
        Self {
            check: failed.check,
            expected: failed.expected,
            got: printable(&failed.got),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::malformed("answer", &error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let hint = match status.code() {
            Code::Unavailable => "; is the attestation device of that node in order?",
            _ => "",
        };
        let message = printable(status.message());
        Self::Unavailable(format!("{:?}: {message}{hint}", status.code()))
    }
}

impl Failure {
    /// What came is nothing that a node of ours sends.
    pub(super) fn malformed(what: &str, error: &dyn Error) -> Self {
        Self::Refused(Refused {
            error: format!("malformed {what}: {}", printable(&chain(error))),
            checks: Vec::new(),
            explanation: Vec::new(),
        })
    }
}

fn unreachable(error: &dyn Error) -> Failure {
    Failure::Unavailable(format!("not reached: {}", printable(&chain(error))))
}

fn unknown() -> String {
    "-".to_owned()
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

/// What a node wrote, without what a terminal would take for more than text.
fn printable(text: &str) -> String {
    let text = text.chars().take(500);
    text.filter(|c| !c.is_control()).collect()
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
