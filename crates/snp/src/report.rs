//! The attestation report.

mod fields;
mod info;

pub use fields::{ChipId, FirmwareVersion, ReportFields};
pub use info::{GuestPolicy, KeyKind, PlatformInfo};

use crate::{
    EcdsaError, Product, ReservedTcb, Tcb,
    bytes::{Raw, u32_at},
    layout,
};
use core::ops::Deref;

/// Why bytes are not a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A Turin chip's id is longer than 8 bytes.
    #[error("chip id has more bytes than {0} has")]
    ChipId(Product),
    /// The report has another length, trailing bytes included.
    #[error("report is {got} bytes long, not {}", layout::REPORT_LEN)]
    Length {
        /// How long it is.
        got: usize,
    },
    /// The guest policy breaks the rules of its reserved bits.
    #[error("guest policy {0:#x} has a wrong reserved bit")]
    Policy(u64),
    /// The platform information has a bit whose meaning is unknown.
    #[error("platform information {0:#x} has an unknown bit")]
    PlatformInfo(u64),
    /// A field that must be zero is not.
    #[error("reserved bytes at {0:#x} are not zero")]
    Reserved(usize),
    /// The signature is malformed.
    #[error("signature of the report")]
    Signature(#[source] EcdsaError),
    /// The signature algorithm is not ECDSA over P-384 with SHA-384.
    #[error("signature algorithm is {0}, not ECDSA over P-384 with SHA-384")]
    SignatureAlgorithm(u32),
    /// The kind of the signing key is unknown.
    #[error("unknown kind of signing key {0}")]
    SigningKey(u32),
    /// A TCB version does not fit the product line.
    #[error("TCB version at {offset:#x}")]
    Tcb {
        /// Where it is in the report.
        offset: usize,
        /// What is wrong.
        #[source]
        source: ReservedTcb,
    },
    /// The processor is of no product line known here.
    #[error("unknown product: processor family {family:#x}, model {model:#x}")]
    UnknownProduct {
        /// Its family.
        family: u8,
        /// Its model.
        model: u8,
    },
    /// The report's version is none of 2, 3 and 5.
    #[error("report version is {0}, not 2, 3 or 5")]
    Version(u32),
    /// The privilege level does not exist.
    #[error("VMPL is {0}, not 0 to 3")]
    Vmpl(u32),
}

/// A parsed report of version 2, 3 or 5, and its bytes as received. Nobody vouches for it yet:
/// [`crate::AuthenticatedLeaf::verify`] does.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    raw: RawReport<'a>,
    fields: ReportFields<'a>,
}

impl<'a> Report<'a> {
    /// Parses a report, nothing after it. The version is looked at before anything else, even the
    /// length: what a report of another version says there is nobody's guess.
    ///
    /// # Errors
    /// The first rule of the report's version that is broken.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let length = ReportError::Length { got: bytes.len() };
        let version = u32_at(bytes, layout::VERSION).ok_or(length)?;
        if !matches!(version, 2 | 3 | 5) {
            return Err(ReportError::Version(version));
        }
        let raw = Raw::new(bytes).ok_or(length)?;
        check_reserved(raw, version)?;
        let fields = ReportFields::parse(raw, version)?;
        let report = Self { raw, fields };
        report.check_product()?;
        Ok(report)
    }

    /// The report as received.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8; layout::REPORT_LEN] {
        self.raw.0
    }

    /// The bytes that the signature is over.
    #[must_use]
    pub fn signed(&self) -> &'a [u8] {
        self.raw.0.split_at(layout::SIGNATURE).0
    }

    /// What a report that names its product says must fit that product.
    fn check_product(&self) -> Result<(), ReportError> {
        let Some(product) = self.product else {
            return Ok(());
        };
        if !self.chip_id.fits(product) {
            return Err(ReportError::ChipId(product));
        }
        self.tcbs(product).map(|_| ())
    }

    /// The four TCB versions of the report, by the layout of `product`.
    pub(crate) fn tcbs(&self, product: Product) -> Result<Tcbs, ReportError> {
        let decode = |offset, raw: crate::RawTcb| {
            raw.decode(product)
                .map_err(|source| ReportError::Tcb { offset, source })
        };
        Ok(Tcbs {
            current: decode(layout::CURRENT_TCB, self.current_tcb)?,
            reported: decode(layout::REPORTED_TCB, self.reported_tcb)?,
            committed: decode(layout::COMMITTED_TCB, self.committed_tcb)?,
            launch: decode(layout::LAUNCH_TCB, self.launch_tcb)?,
        })
    }
}

impl<'a> Deref for Report<'a> {
    type Target = ReportFields<'a>;

    fn deref(&self) -> &Self::Target {
        &self.fields
    }
}

/// The TCB versions of a report, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcbs {
    /// What runs now.
    pub current: Tcb,
    /// What the report answers for, and what the signing key was derived from. The operator of the
    /// machine may set it lower than [`Tcbs::current`]; the appraisal policy is compared with it.
    pub reported: Tcb,
    /// What cannot be rolled back any more.
    pub committed: Tcb,
    /// What ran when the guest was launched, or imported.
    pub launch: Tcb,
}

/// The bytes of a report.
type RawReport<'a> = Raw<'a, { layout::REPORT_LEN }>;

/// Bytes that must be zero (table `ATTESTATION_REPORT`; a field of a later version is reserved in an
/// earlier one).
fn check_reserved(raw: RawReport<'_>, version: u32) -> Result<(), ReportError> {
    let before = |since, field, rest| if version < since { field } else { rest };
    let cpuid = before(3, layout::CPUID, layout::RESERVED_18B);
    let mit_vectors = before(5, layout::LAUNCH_MIT_VECTOR, layout::RESERVED_208);
    let used = raw.first_used(&[
        (layout::RESERVED_4C, layout::REPORT_DATA),
        (cpuid, layout::CHIP_ID),
        (layout::RESERVED_1EB, layout::COMMITTED_VERSION),
        (layout::RESERVED_1EF, layout::LAUNCH_TCB),
        (mit_vectors, layout::SIGNATURE),
    ]);
    used.map_or(Ok(()), |start| Err(ReportError::Reserved(start)))
}
