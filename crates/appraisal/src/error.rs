//! Why something was refused: which check, what was expected, what came.

mod report;

pub use report::ReportError;

use crate::{
    LATCH_PCR,
    appraised::AttesterIdentity,
    certificate::CertificateError,
    document::{LaunchDigest, PcrValue},
};
use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::fmt;
use evidence::EvidenceKind;
use owner::AkCertificateError;
use tpm::{CredentialError, KeyError, QuoteError};

/// Who is to blame; retry logic and what a peer is told depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Our own fault.
    Internal,
    /// The peer sent what no honest peer sends.
    Malformed,
    /// The peer is well-formed and not acceptable.
    Refused,
    /// Nobody's fault: what is needed to judge is not there now.
    Unavailable,
}

/// A policy or reference values that do not load. The ones loaded before stay in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A root in the policy is unusable.
    #[error("{field}: unusable root")]
    Authorities {
        /// The field of the policy.
        field: String,
        /// The cause.
        #[source]
        source: snp::AuthorityError,
    },
    /// A certificate in the policy is unusable.
    #[error("{field} {index}: unusable certificate")]
    Certificate {
        /// The field of the policy.
        field: &'static str,
        /// Position in the list, from 0.
        index: usize,
        /// The cause.
        #[source]
        source: CertificateError,
    },
    /// The document is not JSON of its format.
    #[error("{document}: not valid JSON of this format")]
    Json {
        /// `policy` or `reference values`.
        document: &'static str,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A rule about the content is broken.
    #[error("{field}: expected {expected}, got {got}")]
    Rule {
        /// The field.
        field: String,
        /// What the rule wants.
        expected: String,
        /// What it says.
        got: String,
    },
}

pub(crate) fn rule(
    field: impl Into<String>,
    expected: impl Into<String>,
    got: impl Into<String>,
) -> LoadError {
    LoadError::Rule {
        field: field.into(),
        expected: expected.into(),
        got: got.into(),
    }
}

/// One PCR that has none of its allowed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrMismatch {
    /// The PCR.
    pub pcr: u32,
    /// Values of the image's reference values.
    pub expected: Vec<PcrValue>,
    /// The quoted value.
    pub got: PcrValue,
}

/// A launch that is none of an image's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchMismatch {
    /// The measurements of the image; empty where its anchor is an ID block.
    pub expected: Vec<LaunchDigest>,
    /// `MEASUREMENT` of the report.
    pub got: LaunchDigest,
    /// Fields of the ID block that differ, where the image has one.
    pub id_block: Vec<FailedCheck>,
}

/// Why an attester was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppraisalError {
    /// The credential did not come back: the attestation key is not beside the endorsement key.
    #[error(
        "activated credential secret differs: the attestation key is not in the TPM of the endorsement key"
    )]
    Activation,
    /// The certificate of an admission does not vouch for the attestation key.
    #[error("AK certificate refused")]
    AkCertificate(#[source] AkCertificateError),
    /// The reference values of two images fit.
    #[error("{images} both fit this evidence")]
    Ambiguous {
        /// Their names.
        images: String,
    },
    /// The attestation key is not one.
    #[error("attestation key refused")]
    AttestationKey(#[source] KeyError),
    /// The quote was made for another channel.
    #[error("quote qualifying data: expected {expected}, got {got}")]
    Binding {
        /// `SHA-256(binding)` of this channel, hex.
        expected: String,
        /// `extraData`, hex.
        got: String,
    },
    /// The endorsement key's certificate is not acceptable.
    #[error("endorsement key certificate refused")]
    Certificate(#[source] CertificateError),
    /// The credential could not be made.
    #[error("no credential could be made for the attestation key")]
    Credential(#[source] CredentialError),
    /// The endorsement key is not of a TCG template.
    #[error("endorsement key refused")]
    EndorsementKey(#[source] KeyError),
    /// Evidence of a kind that is not accepted.
    #[error("evidence kind: expected {expected}, got {got}")]
    Kind {
        /// The accepted kinds.
        expected: String,
        /// The kind offered.
        got: EvidenceKind,
    },
    /// The node runs, and in this boot no disk of this cluster was unlocked, or something extended the
    /// latch beside.
    #[error(
        "PCR {LATCH_PCR}: expected {expected} (a disk of this cluster unlocked in this boot), got {got}"
    )]
    Latch {
        /// PCR 15 of a node of this cluster.
        expected: PcrValue,
        /// PCR 15.
        got: PcrValue,
    },
    /// A key was released in this boot already, or the image extends the latch itself.
    #[error("PCR {LATCH_PCR}: expected zero (no key released in this boot), got {got}")]
    Latched {
        /// PCR 15.
        got: PcrValue,
    },
    /// No image's reference values fit. Carries the image that is nearest.
    #[error("no image fits; nearest is `{image}`, where {} values differ", pcrs.len().saturating_add(usize::from(launch.is_some())))]
    ImageMismatch {
        /// The image with the fewest differing values.
        image: String,
        /// The launch, where it differs.
        launch: Option<Box<LaunchMismatch>>,
        /// Every differing PCR.
        pcrs: Vec<PcrMismatch>,
        /// What the attester's event log, an untrusted text, says about them; for people.
        explanation: Vec<String>,
    },
    /// No image has reference values for this kind of evidence.
    #[error("no image has reference values for this kind of evidence")]
    NoImage,
    /// The PCR values beside the quote are not the quoted ones.
    #[error("quoted PCR digest: expected {expected} (of the sent PCR values), got {got}")]
    PcrDigest {
        /// Digest of the PCR values that were sent, hex.
        expected: String,
        /// `pcrDigest`, hex.
        got: String,
    },
    /// The PCR values beside the quote are not of the policy's PCRs.
    #[error("sent PCR values: expected PCRs {expected}, got {got}")]
    PcrValues {
        /// The policy's PCRs.
        expected: String,
        /// Indices that were sent.
        got: String,
    },
    /// The quote does not verify or is no quote.
    #[error("quote refused")]
    Quote(#[source] QuoteError),
    /// The SEV-SNP report is refused.
    #[error("SEV-SNP evidence")]
    Report(#[from] ReportError),
    /// The quote is over other PCRs or another bank.
    #[error("quoted PCR selection: expected {expected}, got {got}")]
    Selection {
        /// The policy's selection.
        expected: String,
        /// The quote's selection.
        got: String,
    },
    /// The endorsement key is not listed and no authority is configured.
    #[error("endorsement key {got} is not in the policy's list")]
    UnknownEndorsementKey {
        /// The attester.
        got: AttesterIdentity,
    },
}

/// A failed check as a peer that proved itself, or an operator, is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCheck {
    /// What was checked.
    pub check: String,
    /// What would have passed.
    pub expected: String,
    /// What came.
    pub got: String,
}

impl FailedCheck {
    pub(crate) fn new(check: &str, expected: &dyn fmt::Display, got: &dyn fmt::Display) -> Self {
        Self {
            check: text(check),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

impl AppraisalError {
    /// Who is to blame.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::AkCertificate(
                AkCertificateError::Hex(_)
                | AkCertificateError::Json(_)
                | AkCertificateError::TooLong { .. },
            )
            | Self::AttestationKey(KeyError::Malformed(_))
            | Self::Certificate(CertificateError::Malformed(_))
            | Self::EndorsementKey(KeyError::Malformed(_))
            | Self::PcrValues { .. }
            | Self::Quote(QuoteError::Malformed(_)) => ErrorClass::Malformed,
            Self::Credential(CredentialError::Internal | CredentialError::SecretLength { .. }) => {
                ErrorClass::Internal
            }
            Self::Report(report) => report.class(),
            _ => ErrorClass::Refused,
        }
    }

    /// Whether the refused attester is who it claims to be: its attestation key is proven and signed
    /// for this channel. Before that anybody may have sent the public parts of a TPM, or an answer
    /// that the TPM gave on another channel.
    #[must_use]
    pub const fn is_by_proven_attester(&self) -> bool {
        matches!(
            self,
            Self::Ambiguous { .. }
                | Self::ImageMismatch { .. }
                | Self::Latch { .. }
                | Self::Latched { .. }
                | Self::NoImage
                | Self::PcrDigest { .. }
                | Self::PcrValues { .. }
                | Self::Selection { .. }
        )
    }

    /// The failed checks, each with expected and got: for a PCR mismatch one for each PCR.
    #[must_use]
    pub fn checks(&self) -> Vec<FailedCheck> {
        let check = |check: &str, expected: String, got: String| FailedCheck {
            check: check.to_string(),
            expected,
            got,
        };
        let one = match self {
            Self::ImageMismatch {
                image,
                pcrs,
                launch,
                ..
            } => {
                let pcrs = pcrs.iter().map(|pcr| pcr.failed_check(image));
                let launch = launch.iter().flat_map(|launch| launch.failed_checks(image));
                return pcrs.chain(launch).collect();
            }
            Self::Report(report) => return report.checks(),
            Self::Ambiguous { images } => check("image", text("one that fits"), images.clone()),
            Self::NoImage => check("image", text("one that fits"), text("none for this kind")),
            Self::Activation => check("credential activation", text("the secret"), text("another")),
            Self::AkCertificate(error) => ak_certificate_check(error),
            Self::AttestationKey(error) => key_check("attestation key", error),
            Self::EndorsementKey(error) => key_check("endorsement key", error),
            Self::Certificate(error) => check(
                "endorsement key certificate",
                text("a chain to the policy's authorities"),
                error.to_string(),
            ),
            Self::Credential(error) => check(
                "credential",
                text("a usable endorsement key"),
                error.to_string(),
            ),
            Self::Kind { expected, got } => {
                check("evidence kind", expected.clone(), got.to_string())
            }
            Self::Latch { expected, got } => check(
                "PCR 15",
                format!("{expected} (a disk of this cluster unlocked in this boot)"),
                latch(*got),
            ),
            Self::Latched { got } => check("PCR 15", PcrValue::ZERO.to_string(), got.to_string()),
            Self::Quote(error) => check(
                "quote",
                text("a quote signed by the attestation key"),
                error.to_string(),
            ),
            Self::UnknownEndorsementKey { got } => check(
                "endorsement key",
                text("one of the policy's list"),
                got.to_string(),
            ),
            Self::Binding { expected, got } => {
                check("quote qualifying data", expected.clone(), got.clone())
            }
            Self::PcrDigest { expected, got } => {
                check("quoted PCR digest", expected.clone(), got.clone())
            }
            Self::PcrValues { expected, got } => {
                check("sent PCR values", expected.clone(), got.clone())
            }
            Self::Selection { expected, got } => {
                check("quoted PCR selection", expected.clone(), got.clone())
            }
        };
        vec![one]
    }

    /// What the attester's event log says about a PCR mismatch; untrusted text for the operator.
    #[must_use]
    pub fn explanation(&self) -> &[String] {
        match self {
            Self::ImageMismatch { explanation, .. } => explanation,
            _ => &[],
        }
    }
}

impl LaunchMismatch {
    fn failed_checks(&self, image: &str) -> Vec<FailedCheck> {
        let expected: Vec<String> = self.expected.iter().map(ToString::to_string).collect();
        let measurement = (!expected.is_empty()).then(|| FailedCheck {
            check: format!("launch measurement of image `{image}`"),
            expected: expected.join(" or "),
            got: self.got.to_string(),
        });
        measurement
            .into_iter()
            .chain(self.id_block.clone())
            .collect()
    }
}

impl PcrMismatch {
    fn failed_check(&self, image: &str) -> FailedCheck {
        let expected: Vec<String> = self.expected.iter().map(ToString::to_string).collect();
        FailedCheck {
            check: format!("PCR {} of image `{image}`", self.pcr),
            expected: expected.join(" or "),
            got: self.got.to_string(),
        }
    }
}

fn ak_certificate_check(error: &AkCertificateError) -> FailedCheck {
    match error {
        AkCertificateError::Differs {
            what,
            expected,
            got,
        } => FailedCheck {
            check: format!("AK certificate, {what}"),
            expected: expected.clone(),
            got: got.clone(),
        },
        AkCertificateError::ForeignOwner { expected, got } => {
            FailedCheck::new("AK certificate, owner", expected, got)
        }
        error => FailedCheck {
            check: text("AK certificate"),
            expected: text("one that the owner or an admission key of the owner signed"),
            got: error.to_string(),
        },
    }
}

fn key_check(key: &str, error: &KeyError) -> FailedCheck {
    match error {
        KeyError::Refused {
            property,
            expected,
            got,
            ..
        } => FailedCheck {
            check: format!("{key} {property}"),
            expected: expected.clone(),
            got: got.clone(),
        },
        malformed => FailedCheck {
            check: text(key),
            expected: text("a TPMT_PUBLIC"),
            got: malformed.to_string(),
        },
    }
}

/// The value of a latch that is not the cluster's, and what it means where that is known.
fn latch(got: PcrValue) -> String {
    if got == PcrValue::ZERO {
        return format!("{got} (no disk unlocked in this boot)");
    }
    format!("{got} (a disk of another cluster, or extended by something else)")
}

fn text(text: &str) -> String {
    text.to_string()
}
