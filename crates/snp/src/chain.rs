//! A report, the key that signed it, and who vouches for that key.

use crate::{ChipId, KeyKind, Leaf, Origin, Period, Product, Report, ReportError, Tcb, Tcbs};
use alloc::boxed::Box;

/// Why a report is not one of a signing key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The report is of another chip than the VCEK.
    #[error("report is of chip {got}, certificate of chip {expected}")]
    ChipId {
        /// The certificate's.
        expected: Box<ChipId>,
        /// The report's.
        got: Box<ChipId>,
    },
    /// The report names no chip, so that it cannot be compared with the VCEK's.
    #[error("report masks the chip id, certificate is of chip {0}")]
    ChipIdMasked(ChipId),
    /// The report says another key signed it.
    #[error("report is signed by a {got}, certificate is of a {expected}")]
    KeyKind {
        /// The certificate's.
        expected: KeyKind,
        /// The report's.
        got: KeyKind,
    },
    /// The report says that the chip's key may not be used, and that it signed.
    #[error("report is signed by a VCEK that it says is masked")]
    MaskedKey,
    /// The report is of another product line.
    #[error("report is of {got}, certificate is of {expected}")]
    Product {
        /// The certificate's.
        expected: Product,
        /// The report's.
        got: Product,
    },
    /// The report does not fit the product line of the certificate.
    #[error("report does not fit the product line of its certificate")]
    Report(#[source] ReportError),
    /// The signature is not one by the key.
    #[error("signature of the report is not by the key of the certificate")]
    Signature,
    /// The key was derived from another TCB than the report answers for.
    #[error("report answers for TCB {got}, certificate for {expected}")]
    Tcb {
        /// The certificate's.
        expected: Tcb,
        /// The report's, as reported.
        got: Tcb,
    },
    /// The report is not signed.
    #[error("report is not signed")]
    Unsigned,
}

/// A signing key that its authority vouches for.
#[derive(Clone, Debug)]
#[must_use]
pub struct AuthenticatedLeaf {
    leaf: Leaf,
    origin: Origin,
}

impl AuthenticatedLeaf {
    /// Only [`crate::Authorities::authenticate_leaf`] makes one.
    pub(crate) fn new(leaf: Leaf, origin: Origin) -> Self {
        Self { leaf, origin }
    }

    /// What the certificate says.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// When the certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Period {
        self.leaf.validity()
    }

    /// Accepts a report as signed by this key, in the bytes that were received: same kind of key,
    /// product line and chip, and exactly the TCB that the report answers for. A current TCB above
    /// the reported one is legal.
    ///
    /// # Errors
    /// The first check that fails. A report that masks its chip id is refused with a VCEK.
    pub fn verify<'r>(&self, report: Report<'r>) -> Result<AuthenticatedReport<'r>, VerifyError> {
        let tcbs = self.check(&report)?;
        let signature = report.signature.ok_or(VerifyError::Unsigned)?;
        if !signature.is_of(report.signed(), &self.leaf.key) {
            return Err(VerifyError::Signature);
        }
        Ok(AuthenticatedReport {
            report,
            tcbs,
            product: self.leaf.product(),
            signing_key: self.leaf.kind(),
            origin: self.origin,
        })
    }

    /// What the report says must be what the certificate says.
    fn check(&self, report: &Report<'_>) -> Result<Tcbs, VerifyError> {
        let (kind, expected) = (self.leaf.kind(), self.leaf.product());
        let got = report.signing_key.ok_or(VerifyError::Unsigned)?;
        if got != kind {
            return Err(VerifyError::KeyKind {
                expected: kind,
                got,
            });
        }
        if let Some(got) = report.product.filter(|got| *got != expected) {
            return Err(VerifyError::Product { expected, got });
        }
        self.check_chip(report)?;
        let tcbs = report.tcbs(expected).map_err(VerifyError::Report)?;
        if tcbs.reported != self.leaf.tcb() {
            return Err(VerifyError::Tcb {
                expected: self.leaf.tcb(),
                got: tcbs.reported,
            });
        }
        Ok(tcbs)
    }

    /// A VCEK is one chip's. A VLEK is not, whatever the report says of the chip.
    fn check_chip(&self, report: &Report<'_>) -> Result<(), VerifyError> {
        let Some(expected) = self.leaf.chip_id() else {
            return Ok(());
        };
        // AMD 56860, section 7.3: with MaskChipKey the firmware writes zeros and does not sign.
        if report.mask_chip_key {
            return Err(VerifyError::MaskedKey);
        }
        let got = report.chip_id;
        if got.is_masked() {
            return Err(VerifyError::ChipIdMasked(expected));
        }
        if got != expected {
            let (expected, got) = (Box::new(expected), Box::new(got));
            return Err(VerifyError::ChipId { expected, got });
        }
        Ok(())
    }
}

/// A report that a key signed which its authority vouches for.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct AuthenticatedReport<'a> {
    report: Report<'a>,
    tcbs: Tcbs,
    product: Product,
    signing_key: KeyKind,
    origin: Origin,
}

impl<'a> AuthenticatedReport<'a> {
    /// The report.
    #[must_use]
    pub fn report(&self) -> &Report<'a> {
        &self.report
    }

    /// Its TCB versions.
    #[must_use]
    pub fn tcbs(&self) -> &Tcbs {
        &self.tcbs
    }

    /// The product line: the report's own from version 3 on, the certificate's in any case.
    #[must_use]
    pub fn product(&self) -> Product {
        self.product
    }

    /// The kind of key that signed it.
    #[must_use]
    pub fn signing_key(&self) -> KeyKind {
        self.signing_key
    }

    /// Whose authorities vouch for it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The chip; `None` if a report by a VLEK masks it.
    #[must_use]
    pub fn chip_id(&self) -> Option<ChipId> {
        let chip = self.report.chip_id;
        (!chip.is_masked()).then_some(chip)
    }
}
