//! The report of Azure's paravisor (HCL), which a guest reads from its vTPM (NV index 0x01400001).
//!
//! The paravisor asked the firmware for a report, with the hash of its own claims as `REPORT_DATA`;
//! among the claims is the attestation key of the vTPM that it runs. So the hardware vouches for the
//! paravisor, and the paravisor for the key. Layout as in Microsoft's paravisor
//! (`openhcl_attestation_protocol::igvm_attest`): header, hardware report, header of the claims,
//! claims in JSON, zeros. Nobody vouches for the two headers.

mod claims;

pub use claims::{ClaimsError, RsaKey, RuntimeClaims};

use crate::{
    AuthenticatedReport,
    bytes::{array, is_zero, slice_at, u32_at},
    layout::REPORT_LEN,
};
use aws_lc_rs::digest::{SHA256, digest};
use core::fmt;

/// The largest report parsed, in bytes; the NV index has 2,600.
pub const MAX_HCL_REPORT: usize = 8 * 1024;

/// The four bytes it starts with.
pub const MAGIC: [u8; 4] = *b"HCLA";
/// Where its version is, 4 bytes: 1 or 2.
pub const VERSION: usize = 0x04;
/// Where its length is, 4 bytes, all parts included.
pub const SIZE: usize = 0x08;
/// Where the hardware report is, 1,184 bytes.
pub const HARDWARE_REPORT: usize = 0x20;
/// Where the length of the claims is, 4 bytes, their header included.
pub const CLAIMS_SIZE: usize = 0x4c0;
/// Where the kind of the hardware report is, 4 bytes.
pub const HARDWARE: usize = 0x4c8;
/// Where the algorithm of the claims' hash is, 4 bytes.
pub const HASH: usize = 0x4cc;
/// Where the length of the claims' JSON is, 4 bytes.
pub const JSON_SIZE: usize = 0x4d0;
/// Where the claims' JSON is.
pub const JSON: usize = 0x4d4;

/// [`HARDWARE`]: SEV-SNP.
const SNP: u32 = 2;
/// [`HASH`]: SHA-256.
const SHA_256: u32 = 1;

/// Why bytes are not a report of the paravisor, or not one that the hardware report vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HclError {
    /// The claims are not what they must be.
    #[error("runtime claims")]
    Claims(#[source] ClaimsError),
    /// The claims are hashed by another algorithm than SHA-256.
    #[error("runtime claims are hashed by algorithm {0}, not by SHA-256 ({SHA_256})")]
    Hash(u32),
    /// The hardware report is not one of SEV-SNP.
    #[error("hardware report is of {0}, not of SEV-SNP")]
    Hardware(OtherHardware),
    /// The lengths in the headers do not fit each other, or the bytes.
    #[error("length field at {0:#x} does not fit")]
    Length(usize),
    /// It does not start as it must.
    #[error("does not start with `HCLA`")]
    Magic,
    /// It is longer than any that is parsed.
    #[error("{0} bytes are more than {MAX_HCL_REPORT}")]
    TooLong(usize),
    /// Something follows the claims.
    #[error("bytes after the runtime claims are not zero")]
    Trailing,
    /// It ends before the claims.
    #[error("{0} bytes are too short")]
    TooShort(usize),
    /// The hardware report was made for other claims.
    #[error("report data is not the SHA-256 of the runtime claims, then zeros")]
    Unbound,
    /// Its version is unknown.
    #[error("version is {0}, not 1 or 2")]
    Version(u32),
}

/// What else the paravisor runs on, by the number it gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherHardware(u32);

impl fmt::Display for OtherHardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            3 => f.write_str("a VM without hardware protection"),
            4 => f.write_str("Intel TDX"),
            other => write!(f, "unknown kind {other}"),
        }
    }
}

/// A parsed report of the paravisor. Nobody vouches for its claims yet.
#[derive(Clone, Copy, Debug)]
pub struct HclReport<'a> {
    hardware_report: &'a [u8; REPORT_LEN],
    json: &'a [u8],
}

impl<'a> HclReport<'a> {
    /// Parses a report of the paravisor over SEV-SNP.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HclError> {
        if bytes.len() > MAX_HCL_REPORT {
            return Err(HclError::TooLong(bytes.len()));
        }
        let field = |offset| u32_at(bytes, offset).ok_or(HclError::TooShort(bytes.len()));
        if bytes.get(..MAGIC.len()) != Some(&MAGIC) {
            return Err(HclError::Magic);
        }
        match field(VERSION)? {
            1 | 2 => {}
            other => return Err(HclError::Version(other)),
        }
        match field(HARDWARE)? {
            SNP => {}
            other => return Err(HclError::Hardware(OtherHardware(other))),
        }
        match field(HASH)? {
            SHA_256 => {}
            other => return Err(HclError::Hash(other)),
        }
        let short = HclError::TooShort(bytes.len());
        Ok(Self {
            hardware_report: array(bytes, HARDWARE_REPORT).ok_or(short)?,
            json: parse_json(bytes)?,
        })
    }

    /// The hardware report, to be parsed by [`crate::Report::parse`].
    #[must_use]
    pub fn hardware_report(&self) -> &'a [u8; REPORT_LEN] {
        self.hardware_report
    }

    /// Accepts the claims as those that `report` was made for.
    ///
    /// # Errors
    /// `report` is of other claims, or they do not name one attestation key.
    pub fn authenticate(
        &self,
        report: &AuthenticatedReport<'_>,
    ) -> Result<RuntimeClaims, HclError> {
        let (hash, rest) = report.report().report_data.split_at(32);
        if digest(&SHA256, self.json).as_ref() != hash || rest.iter().any(|byte| *byte != 0) {
            return Err(HclError::Unbound);
        }
        RuntimeClaims::parse(self.json).map_err(HclError::Claims)
    }
}

/// The claims' JSON: three lengths must agree on its end, and zeros follow.
fn parse_json(bytes: &[u8]) -> Result<&[u8], HclError> {
    let field = |offset| u32_at(bytes, offset).ok_or(HclError::TooShort(bytes.len()));
    let length = field(JSON_SIZE)?;
    let json = u32::try_from(JSON).ok();
    let json = json.and_then(|start| slice_at(bytes, start, length));
    let json = json.ok_or(HclError::Length(JSON_SIZE))?;
    let end = JSON.saturating_add(json.len());
    for (offset, start) in [(SIZE, 0), (CLAIMS_SIZE, CLAIMS_SIZE)] {
        if usize::try_from(field(offset)?).ok() != end.checked_sub(start) {
            return Err(HclError::Length(offset));
        }
    }
    if !is_zero(bytes, end, bytes.len()) {
        return Err(HclError::Trailing);
    }
    Ok(json)
}
