//! Refusals: what one side keeps, and the less that it tells.

use api::{Class, Malformed, atls};

/// The longest text of a failed check that is taken from a peer, in bytes.
const MAX_TEXT: usize = 256;

/// The most failed checks that are taken from a peer.
const MAX_CHECKS: usize = 32;

/// One check that failed, for the log and for an authenticated owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCheck {
    /// What was checked, such as `pcr 11`.
    pub check: String,
    /// The value that policy or reference values want.
    pub expected: String,
    /// The value in the evidence.
    pub got: String,
}

/// A verdict against a peer. The checks stay on this side, unless the peer proved to be the owner's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the peer may act upon.
    pub class: Class,
    /// What failed; may be empty.
    pub checks: Vec<FailedCheck>,
}

impl Refusal {
    /// A refusal without details.
    #[must_use]
    pub const fn of(class: Class) -> Self {
        Self {
            class,
            checks: Vec::new(),
        }
    }

    /// A refusal by policy for one failed check.
    #[must_use]
    pub fn for_check(check: &str, expected: impl ToString, got: impl ToString) -> Self {
        Self {
            class: Class::Refused,
            checks: vec![FailedCheck {
                check: check.to_owned(),
                expected: expected.to_string(),
                got: got.to_string(),
            }],
        }
    }

    /// For a peer that proved nothing: the class alone.
    pub(crate) fn class_only(&self) -> atls::Refusal {
        atls::Refusal {
            class: atls::RefusalClass::from(self.class).into(),
            checks: Vec::new(),
        }
    }

    /// For a peer that proved to act for our owner.
    pub(crate) fn with_checks(&self) -> atls::Refusal {
        let message = |check: &FailedCheck| atls::FailedCheck {
            check: bounded(&check.check),
            expected: bounded(&check.expected),
            got: bounded(&check.got),
        };
        atls::Refusal {
            checks: self.checks.iter().take(MAX_CHECKS).map(message).collect(),
            ..self.class_only()
        }
    }
}

#[cfg(feature = "tokio")]
impl From<appraisal::AppraisalError> for Refusal {
    fn from(error: appraisal::AppraisalError) -> Self {
        Self::from(&error)
    }
}

#[cfg(feature = "tokio")]
impl From<&appraisal::AppraisalError> for Refusal {
    fn from(error: &appraisal::AppraisalError) -> Self {
        use appraisal::ErrorClass;
        let check = |check: appraisal::FailedCheck| FailedCheck {
            check: check.check,
            expected: check.expected,
            got: check.got,
        };
        Self {
            class: match error.class() {
                ErrorClass::Internal => Class::Internal,
                ErrorClass::Malformed => Class::Malformed,
                ErrorClass::Refused => Class::Refused,
                ErrorClass::Unavailable => Class::Unavailable,
            },
            checks: error.checks().into_iter().map(check).collect(),
        }
    }
}

impl TryFrom<atls::Refusal> for Refusal {
    type Error = Malformed;

    /// Takes a refusal from a peer; its texts are bounded and made printable, because they end up on
    /// a console.
    fn try_from(message: atls::Refusal) -> Result<Self, Malformed> {
        let class =
            atls::RefusalClass::try_from(message.class).map_err(|_| Malformed::Unknown {
                field: "refusal.class",
                got: message.class,
            })?;
        let check = |check: atls::FailedCheck| FailedCheck {
            check: bounded(&check.check),
            expected: bounded(&check.expected),
            got: bounded(&check.got),
        };
        Ok(Self {
            class: class.try_into()?,
            checks: message
                .checks
                .into_iter()
                .take(MAX_CHECKS)
                .map(check)
                .collect(),
        })
    }
}

/// A verdict message with this refusal or, without one, with an acceptance.
pub(crate) fn verdict(refusal: Option<atls::Refusal>) -> atls::Verdict {
    atls::Verdict {
        verdict: Some(match refusal {
            None => atls::verdict::Verdict::Accepted(atls::Accepted {}),
            Some(refusal) => atls::verdict::Verdict::Refusal(refusal),
        }),
    }
}

/// Reads a verdict: the refusal in it, if it is one. An absent verdict is malformed.
pub(crate) fn parse_verdict(message: Option<atls::Verdict>) -> Result<Option<Refusal>, Malformed> {
    match message.and_then(|message| message.verdict) {
        None => Err(Malformed::Missing { field: "verdict" }),
        Some(atls::verdict::Verdict::Accepted(_)) => Ok(None),
        Some(atls::verdict::Verdict::Refusal(refusal)) => refusal.try_into().map(Some),
    }
}

fn bounded(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let mut bounded = String::new();
    for c in text.chars().map(printable) {
        if bounded.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        bounded.push(c);
    }
    bounded
}
