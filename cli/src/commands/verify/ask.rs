//! One node: asked twice, believed nothing.

use anyhow::{Context as _, Result};
use api::{
    Malformed, StatedNode, StatementRequest,
    verify::{GetIdentityRequest, verification_service_client::VerificationServiceClient},
};
use appraisal::{
    AppraisalError, Appraiser, AttesterIdentity, CredentialSecret, ErrorClass, FailedCheck,
    Membership, Statement, Verified,
};
use aws_lc_rs::rand;
use endorsements::{Endorsements, Found};
use evidence::{Nonce, Subject};
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
struct Check {
    check: String,
    expected: String,
    got: String,
}

/// Why a node is not verified.
enum Failure {
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
        let outcome = match answer.unwrap_or_else(|_| Err(late())) {
            Ok(proven) => Outcome::Verified(proven),
            Err(Failure::Refused(refused)) => Outcome::Refused(refused),
            Err(Failure::Unavailable(error)) => Outcome::Unavailable { error },
            Err(Failure::Internal(error)) => return Err(error),
        };
        Ok(Finding {
            name,
            address: target.authority,
            outcome,
        })
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
        self.compare(&stated, expected)?;
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
        let found = self.endorsements.as_ref();
        let found = found.map_or_else(Found::default, |endorsements| {
            endorsements.find_for(&self.rules, &evidence, now)
        });
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

    /// Says which name differs, before the evidence says only that one does.
    fn compare(&self, stated: &StatedNode, expected: &NodeName) -> Result<(), Failure> {
        let mut checks = Vec::new();
        let mut want = |check: &str, expected: String, got: String| {
            if expected != got {
                let check = check.to_owned();
                checks.push(Check {
                    check,
                    expected,
                    got,
                });
            }
        };
        let cluster = (self.cluster.to_string(), stated.cluster.to_string());
        want("stated cluster", cluster.0, cluster.1);
        let node = (expected.to_string(), stated.name.to_string());
        want("stated node name", node.0, node.1);
        if checks.is_empty() {
            return Ok(());
        }
        Err(Failure::Refused(Refused {
            error: "the node states to be another one".to_owned(),
            checks,
            explanation: Vec::new(),
        }))
    }
}

/// A node that took the name of another has evidence of its own machine.
fn compare_machine(
    got: &AttesterIdentity,
    expected: Option<&AttesterIdentity>,
) -> Result<(), Failure> {
    match expected {
        Some(expected) if got != expected => Err(Failure::Refused(Refused {
            error: "another machine than the node record's".to_owned(),
            checks: vec![Check {
                check: "machine".to_owned(),
                expected: expected.to_string(),
                got: got.to_string(),
            }],
            explanation: Vec::new(),
        })),
        _ => Ok(()),
    }
}

impl Proven {
    fn of(verified: &Verified, target: &Target) -> Self {
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
            name_expected,
            lists: super::checked::Lists::of(verified, target),
        }
    }
}

impl Finding {
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
    pub(super) fn row(&self) -> [String; 7] {
        let name = self.name.as_ref().map_or_else(unknown, ToString::to_string);
        let (result, facts) = match &self.outcome {
            Outcome::Verified(proven) => {
                let roles: Vec<_> = proven.roles.iter().map(ToString::to_string).collect();
                let facts = [
                    proven.image.clone(),
                    roles.join(","),
                    proven.evidence.to_owned(),
                    proven.cluster.to_owned(),
                ];
                ("verified", facts)
            }
            Outcome::Refused(_) => ("REFUSED", [(); 4].map(|()| unknown())),
            Outcome::Unavailable { .. } => ("unavailable", [(); 4].map(|()| unknown())),
        };
        let [image, roles, evidence, cluster] = facts;
        let address = self.address.clone();
        [
            name,
            address,
            result.to_owned(),
            image,
            roles,
            evidence,
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
        Self::Refused(Refused {
            error: format!("malformed answer: {}", chain(&error)),
            checks: Vec::new(),
            explanation: Vec::new(),
        })
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

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
