//! Why a request got no answer, and the one place where that becomes a gRPC status.

use crate::{
    keys::KeyError,
    kubernetes::{CertificateError, LookError, RequestError},
    store::{DecisionError, StoreError},
};
use admission::{ForeignAppraisal, Refusal, RefusalClass};
use api::{Class, Malformed};
use attested_tls::SealError;
use audit::Outcome;
use identity::NodeName;
use service_runtime::audit_log::RecordError;
use tonic::{Code, Status};

/// Why a request of an accepted node fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The event cannot be recorded, so it must not happen.
    #[error("no audit record")]
    Audit(#[source] RecordError),
    /// The cluster's signers gave no certificate.
    #[error("no kubelet certificate")]
    Certificate(#[source] CertificateError),
    /// What is asked to be certified is not the node's.
    #[error("certificate requests refused")]
    CertificateRequest(#[source] RequestError),
    /// The ticket was decided for another peer; a bug.
    #[error("the ticket is not this peer's")]
    ForeignAppraisal(#[source] ForeignAppraisal),
    /// The core granted something else than was asked for; a bug.
    #[error("the grant does not fit the request")]
    Grant,
    /// There is no key.
    #[error("no key from the key service")]
    Key(#[source] KeyError),
    /// The cluster's store has no answer.
    #[error("no answer from the cluster's store")]
    KubeStore(#[source] kube_store::StoreError),
    /// The cluster does not say what it knows of the node.
    #[error("no answer about the node")]
    Look(#[source] LookError),
    /// The message makes no sense.
    #[error("malformed request")]
    Malformed(#[source] Malformed),
    /// A Node of the name is there before its node joined. The operator can mend it.
    #[error("a Node {0} exists already: delete the Node first")]
    NodeExists(NodeName),
    /// The request came without the node it is from; a bug.
    #[error("the connection has no node")]
    NoNode,
    /// The system's random generator failed.
    #[error("no randomness")]
    Random,
    /// The admission core refused.
    #[error("refused")]
    Refused(#[source] Refusal),
    /// Policy or reference values changed since the node was appraised: it must come again.
    #[error("appraised by rules that are no longer in force")]
    RulesChanged,
    /// The key cannot be sealed to the peer's sealing key.
    #[error("cannot seal the key")]
    Seal(#[source] SealError),
    /// The store has no answer.
    #[error("no decision from the store")]
    Store(#[source] StoreError),
}

impl Failure {
    /// Who is to blame, which is all that a node learns.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Audit(_)
            | Self::Certificate(_)
            | Self::Look(_)
            | Self::NodeExists(_)
            | Self::RulesChanged
            | Self::Store(StoreError::Behind | StoreError::Failed) => Class::Unavailable,
            Self::CertificateRequest(error) => error.class(),
            Self::Key(error) => error.class(),
            Self::KubeStore(error) if error.is_unavailable() => Class::Unavailable,
            Self::Malformed(_) | Self::Seal(_) => Class::Malformed,
            Self::Refused(refusal) => match refusal.class() {
                RefusalClass::Internal => Class::Internal,
                RefusalClass::Malformed => Class::Malformed,
                RefusalClass::Refused => Class::Refused,
                RefusalClass::Unavailable => Class::Unavailable,
            },
            Self::ForeignAppraisal(_)
            | Self::Grant
            | Self::KubeStore(_)
            | Self::NoNode
            | Self::Random => Class::Internal,
        }
    }

    /// What the node gets. Its console is the host's, so the details stay in our log. One refusal has
    /// a code of its own, because the node heals from it (docs/protocol.md, "Admission").
    #[must_use]
    pub fn status(&self) -> Status {
        let class = self.class();
        let code = match self {
            Self::Refused(refusal) if refusal.starts_over() => Code::Aborted,
            _ => code(class),
        };
        Status::new(code, class.to_string())
    }

    /// The class as the audit log says it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        outcome(self.class())
    }
}

impl From<DecisionError> for Failure {
    fn from(error: DecisionError) -> Self {
        match error {
            DecisionError::Refused(refusal) => Self::Refused(refusal),
            DecisionError::Store(error) => Self::Store(error),
        }
    }
}

impl From<kube_store::DecisionError> for Failure {
    fn from(error: kube_store::DecisionError) -> Self {
        match error {
            kube_store::DecisionError::Refused(refusal) => Self::Refused(refusal),
            kube_store::DecisionError::Store(error) => Self::KubeStore(error),
            // Non-exhaustive: what is added later is a fault until it is sorted.
            _ => Self::Grant,
        }
    }
}

impl From<LookError> for Failure {
    fn from(error: LookError) -> Self {
        Self::Look(error)
    }
}

/// A class as the audit log says it.
pub(crate) const fn outcome(class: Class) -> Outcome {
    match class {
        Class::Internal => Outcome::Internal,
        Class::Malformed => Outcome::Malformed,
        Class::Refused => Outcome::Refused,
        Class::Unavailable => Outcome::Unavailable,
    }
}

/// The gRPC code of a class.
pub(crate) fn code(class: Class) -> Code {
    i32::try_from(class.grpc_code()).map_or(Code::Internal, Code::from)
}
