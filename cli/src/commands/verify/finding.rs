//! What was found about a node, and how it is told.

use anyhow::Result;
use api::Malformed;
use appraisal::{AppraisalError, ErrorClass, FailedCheck, KeyProof, Membership, Verified};
use identity::{NodeName, Role};
use serde::Serialize;
use std::{error::Error, fmt};
use tonic::{Code, Status};

use super::{checked::Lists, target::Target};

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
    pub(super) lists: Lists,
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
    pub(super) check: String,
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

impl Refused {
    pub(super) fn by(error: &str, checks: Vec<Check>) -> Self {
        Self {
            error: error.to_owned(),
            checks,
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

    pub(super) fn differs(&self) -> bool {
        self.expected != self.got
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
            lists: Lists::of(verified, target),
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

fn unknown() -> String {
    "-".to_owned()
}

/// An error with its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}

/// What a node wrote, without what a terminal would take for more than text.
pub(super) fn printable(text: &str) -> String {
    let text = text.chars().take(500);
    text.filter(|c| !c.is_control()).collect()
}
