use crate::objects::Malformation;
use admission::{Refusal, SerialRefusal};
use kube::core::Status;

/// Why an object cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is there, and not one of ours.
    #[error("{object} is not an object of ours")]
    Corrupt {
        /// Its name.
        object: String,
        /// Why.
        source: Malformation,
    },
    /// The API server does not allow it: no such resource, no such namespace, no permission, another
    /// schema. Only whoever set the cluster up can heal that.
    #[error("the API server refuses to {verb} {object}")]
    Refused {
        /// What was to be done.
        verb: &'static str,
        /// The object's name.
        object: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// No answer in time. A write may be done or not.
    #[error("no answer in time to {verb} {object}")]
    Timeout {
        /// What was to be done.
        verb: &'static str,
        /// The object's name.
        object: String,
    },
    /// The API server cannot be reached, or cannot answer now. A write may be done or not.
    #[error("no answer to {verb} {object}")]
    Unavailable {
        /// What was to be done.
        verb: &'static str,
        /// The object's name.
        object: String,
        /// What was said.
        source: Box<kube::Error>,
    },
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// The admission core refused.
    #[error("refused by the admission core")]
    Refused(#[source] Refusal),
    /// The store has no answer.
    #[error("no decision")]
    Store(#[source] StoreError),
}

/// Why documents may not come into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// One of them is not newer.
    #[error("not newer than what was in force")]
    Refused(#[source] SerialRefusal),
    /// The serials cannot be stored.
    #[error("cannot store the serials")]
    Store(#[source] StoreError),
}

impl StoreError {
    /// Whether asking again later may help without anybody's doing.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Unavailable { .. })
    }

    pub(crate) fn of(verb: &'static str, object: String, error: kube::Error) -> Self {
        let source = Box::new(error);
        match is_unavailable(&source) {
            false => Self::Refused {
                verb,
                object,
                source,
            },
            true => Self::Unavailable {
                verb,
                object,
                source,
            },
        }
    }
}

impl From<StoreError> for DecisionError {
    /// One bad object refuses the decision that needs it, as the core itself would.
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { object, source } => {
                tracing::error!(object, error = %source, "not an object of ours");
                Self::Refused(Refusal::StoreCorrupt { key: object })
            }
            error => Self::Store(error),
        }
    }
}

/// Whether asking the API server again later may help without anybody's doing: it cannot be reached, or
/// says so.
#[must_use]
pub fn is_unavailable(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => is_transient(status),
        _ => true,
    }
}

/// Too many requests, or the server's own fault (RFC 9110, section 15.6); an expired list is begun
/// again. Everything else is about the request.
fn is_transient(status: &Status) -> bool {
    matches!(status.code, 0 | 408 | 410 | 429 | 500..)
}
