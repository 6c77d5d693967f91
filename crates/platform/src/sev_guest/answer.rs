//! What came of one call, and what to do next.

use super::{SevGuestError, abi::RESPONSE_LEN};
use evidence::SnpEvidence;
use std::io;

/// `ATTESTATION_REPORT` (SEV-SNP firmware ABI 1.58, table 23).
pub const REPORT_LEN: usize = 1184;

/// The longest certificate table that is asked for.
pub const MAX_CERTIFICATES: usize = 32 * 1024;

/// Lengths of certificates are in pages.
const PAGE: usize = 4096;

/// Offsets in `MSG_REPORT_RSP` (SEV-SNP firmware ABI 1.58, table 25).
const STATUS: usize = 0;
const REPORT_SIZE: usize = 4;
const REPORT: usize = 0x20;

/// `SNP_GUEST_VMM_ERR_INVALID_LEN` and `SNP_GUEST_VMM_ERR_BUSY` (Linux `sev-guest.h`).
const VMM_INVALID_LEN: u32 = 1;
const VMM_BUSY: u32 = 2;

/// An answer that the driver does not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedAnswer {
    /// The length of the certificates is not one of whole pages within their room.
    #[error("certs_len: expected whole pages, at most {room} bytes, got {got}")]
    CertificatesLength {
        /// The room.
        room: usize,
        /// What it says.
        got: u32,
    },
    /// The report is not as long as reports are.
    #[error("report_size: expected {REPORT_LEN}, got {got}")]
    ReportSize {
        /// What it says.
        got: u32,
    },
    /// The host wants room that it had, more than is given, or no whole pages.
    #[error(
        "certs_len: expected whole pages, more than {room} and at most {MAX_CERTIFICATES} bytes, got {got}"
    )]
    Room {
        /// The room that it had.
        room: usize,
        /// The room that it wants.
        got: u32,
    },
    /// The host got the room that it wanted and wants other room.
    #[error("certs_len: asked for {first} bytes, then for {then}")]
    RoomAgain {
        /// What it got.
        first: usize,
        /// What it wants.
        then: usize,
    },
}

/// One call's outcome, as the child wrote it.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) errno: i32,
    pub(super) certs_len: u32,
    pub(super) exitinfo2: u64,
    pub(super) response: Vec<u8>,
    /// As long as the room for certificates was.
    pub(super) certificates: Vec<u8>,
}

/// What an answer asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Busy,
    Done(SnpEvidence),
    NeedsRoom(usize),
}

impl Answer {
    /// A whole frame: head, response, and certificates in all of the room that they had.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let (errno, rest) = frame.split_first_chunk()?;
        let (certs_len, rest) = rest.split_first_chunk()?;
        let (exitinfo2, rest) = rest.split_first_chunk()?;
        let (response, certificates) = rest.split_at_checked(RESPONSE_LEN)?;
        Some(Self {
            errno: i32::from_ne_bytes(*errno),
            certs_len: u32::from_ne_bytes(*certs_len),
            exitinfo2: u64::from_ne_bytes(*exitinfo2),
            response: response.to_vec(),
            certificates: certificates.to_vec(),
        })
    }

    /// What is to be done next. Only error codes and lengths decide it.
    pub(super) fn step(self) -> Result<Step, SevGuestError> {
        if (self.errno, self.exitinfo2) == (0, 0) {
            return self.evidence().map(Step::Done);
        }
        let [firmware, vmm] = [self.exitinfo2, self.exitinfo2 >> 32].map(low_half);
        match (vmm, self.errno) {
            (VMM_INVALID_LEN, _) => Ok(Step::NeedsRoom(self.needed_room()?)),
            // The driver asks a busy host for a minute by itself before it says this, and then it has
            // no key any more (`SNP_REQ_MAX_RETRY_DURATION`).
            (VMM_BUSY, libc::ETIMEDOUT) => Err(SevGuestError::Throttled),
            (VMM_BUSY, _) => Ok(Step::Busy),
            (0, libc::EAGAIN | libc::EBUSY | libc::EINTR) if firmware == 0 => Ok(Step::Busy),
            _ => Err(SevGuestError::Request {
                firmware,
                vmm,
                source: io::Error::from_raw_os_error(self.errno),
            }),
        }
    }

    fn evidence(&self) -> Result<SnpEvidence, SevGuestError> {
        let malformed = |got| MalformedAnswer::ReportSize { got };
        match self.word(STATUS) {
            0 => {}
            got => return Err(SevGuestError::Firmware { got }),
        }
        let got = self.word(REPORT_SIZE);
        if usize::try_from(got) != Ok(REPORT_LEN) {
            return Err(malformed(got).into());
        }
        let report = self.response.get(REPORT..REPORT + REPORT_LEN);
        Ok(SnpEvidence {
            report: report.ok_or_else(|| malformed(got))?.to_vec(),
            certificates: self.table()?.to_vec(),
        })
    }

    /// The host's table, cut to the length that it says. All zero is how the driver says that there is
    /// none.
    fn table(&self) -> Result<&[u8], MalformedAnswer> {
        let whole = pages(self.certs_len).and_then(|len| self.certificates.get(..len));
        let table = whole.ok_or(MalformedAnswer::CertificatesLength {
            room: self.certificates.len(),
            got: self.certs_len,
        })?;
        Ok(match table.iter().all(|byte| *byte == 0) {
            true => &[],
            false => table,
        })
    }

    /// The room that the host wants in place of what it had.
    fn needed_room(&self) -> Result<usize, MalformedAnswer> {
        let room = self.certificates.len();
        pages(self.certs_len)
            .filter(|needed| *needed > room && *needed <= MAX_CERTIFICATES)
            .ok_or(MalformedAnswer::Room {
                room,
                got: self.certs_len,
            })
    }

    /// A little-endian word of the response.
    fn word(&self, offset: usize) -> u32 {
        let bytes = self.response.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// A length in whole pages.
fn pages(len: u32) -> Option<usize> {
    usize::try_from(len)
        .ok()
        .filter(|len| len.is_multiple_of(PAGE))
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}
