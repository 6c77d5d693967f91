//! The bytes of a report, and fields whose place in them the compiler checks.

use crate::{bytes, layout::REPORT_LEN};

/// The bytes of a report.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a>(pub(super) &'a [u8; REPORT_LEN]);

impl<'a> Raw<'a> {
    /// The `N` bytes at `OFFSET`.
    pub(super) fn array<const OFFSET: usize, const N: usize>(self) -> &'a [u8; N] {
        const { assert!(OFFSET <= REPORT_LEN && N <= REPORT_LEN - OFFSET) };
        // The assertion, made by the compiler, is why there is always something to return.
        bytes::array(self.0, OFFSET).unwrap_or(&[0; N])
    }

    /// The little-endian integer of 4 bytes at `OFFSET`.
    pub(super) fn u32<const OFFSET: usize>(self) -> u32 {
        u32::from_le_bytes(*self.array::<OFFSET, 4>())
    }

    /// The little-endian integer of 8 bytes at `OFFSET`.
    pub(super) fn u64<const OFFSET: usize>(self) -> u64 {
        u64::from_le_bytes(*self.array::<OFFSET, 8>())
    }

    /// Whether the bytes from `start` to before `end` are zero.
    pub(super) fn is_zero(self, start: usize, end: usize) -> bool {
        bytes::is_zero(self.0, start, end)
    }
}
