//! Why an SEV-SNP report was refused.

use super::{ErrorClass, FailedCheck, text};
use alloc::{
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::error::Error;
use snp::{CertificateTableError, LeafError, Product, RevocationError, VerifyError, hcl::HclError};

/// Why a report, or what came with it, was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The report was made for another channel.
    #[error("REPORT_DATA: expected {expected}, got {got}")]
    Binding {
        /// The binding of this channel, hex.
        expected: String,
        /// What the report has, hex.
        got: String,
    },
    /// The host's certificate table is malformed.
    #[error("certificate table of the host")]
    CertificateTable(#[source] CertificateTableError),
    /// The paravisor's report is malformed, or was not made for its claims.
    #[error("paravisor's report")]
    Hcl(#[source] HclError),
    /// The certificate of the signing key is not acceptable.
    #[error("certificate of the signing key")]
    Leaf(#[source] LeafError),
    /// The certificate of the signing key is not here. It may be fetched.
    #[error("certificate of {key} is not here")]
    NoEndorsement {
        /// Which one.
        key: String,
    },
    /// The policy asks for a revocation list, and there is none. It may be fetched.
    #[error("revocation list of {0} is not here")]
    NoRevocationList(Product),
    /// The product line is not in the policy.
    #[error("product line: expected {expected}, got {got}")]
    Product {
        /// The policy's.
        expected: String,
        /// The report's.
        got: String,
    },
    /// The report does not parse.
    #[error("report")]
    Report(#[source] snp::ReportError),
    /// The revocation list is not acceptable.
    #[error("revocation list")]
    Revocations(#[source] RevocationError),
    /// Rules of the policy are broken; all of them are named.
    #[error("report breaks {} rules of the policy", .0.len())]
    Rules(Vec<FailedCheck>),
    /// The report is not signed by the key of the certificate.
    #[error("signed report")]
    Verify(#[source] VerifyError),
}

impl ReportError {
    pub(crate) const fn class(&self) -> ErrorClass {
        match self {
            Self::Report(
                snp::ReportError::Version(_) | snp::ReportError::UnknownProduct { .. },
            ) => ErrorClass::Refused,
            Self::CertificateTable(_) | Self::Hcl(_) | Self::Report(_) => ErrorClass::Malformed,
            Self::NoEndorsement { .. } | Self::NoRevocationList(_) => ErrorClass::Unavailable,
            // Dates are compared with the verifier's clock. One that is wrong must not end the boot of
            // every node that comes; one that is right has newer documents to wait for.
            Self::Leaf(
                LeafError::OutOfDate(_) | LeafError::Revoked(RevocationError::OutOfDate(_)),
            )
            | Self::Revocations(RevocationError::OutOfDate(_)) => ErrorClass::Unavailable,
            _ => ErrorClass::Refused,
        }
    }

    pub(super) fn checks(&self) -> Vec<FailedCheck> {
        let one = |check: &str, expected: &str, got: String| {
            vec![FailedCheck {
                check: text(check),
                expected: text(expected),
                got,
            }]
        };
        match self {
            Self::Binding { expected, got } => one("REPORT_DATA", expected, got.clone()),
            Self::CertificateTable(error) => one(
                "certificate table",
                "one that the GHCB specification allows",
                chain(error),
            ),
            Self::Hcl(error) => one(
                "paravisor's report",
                "claims that the hardware report vouches for",
                chain(error),
            ),
            Self::Leaf(error) => one(
                "certificate of the signing key",
                "a chain to the policy's root",
                chain(error),
            ),
            Self::NoEndorsement { key } => one("certificate of the signing key", key, text("none")),
            Self::NoRevocationList(product) => one(
                "revocation list",
                &alloc::format!("one of {product}"),
                text("none"),
            ),
            Self::Product { expected, got } => one("product line", expected, got.clone()),
            Self::Report(error) => one("report", "one of version 2, 3 or 5", chain(error)),
            Self::Revocations(error) => one("revocation list", "one in force", chain(error)),
            Self::Rules(failed) => failed.clone(),
            Self::Verify(error) => one("signed report", "one of this key", chain(error)),
        }
    }
}

/// An error with its causes: a failed check is one line.
fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
