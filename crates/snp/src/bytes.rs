//! Fields at fixed places of hostile bytes.

/// Bytes of a known length, whose fields the compiler checks to be inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw<'a, const LEN: usize>(pub(crate) &'a [u8; LEN]);

impl<'a, const LEN: usize> Raw<'a, LEN> {
    /// `bytes`, if they are exactly as long.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The `N` bytes at `OFFSET`.
    pub(crate) fn array<const OFFSET: usize, const N: usize>(self) -> &'a [u8; N] {
        const { assert!(OFFSET <= LEN && N <= LEN - OFFSET) };
        // The assertion, made by the compiler, is why there is always something to return.
        array(self.0, OFFSET).unwrap_or(&[0; N])
    }

    /// The little-endian integer of 4 bytes at `OFFSET`.
    pub(crate) fn u32<const OFFSET: usize>(self) -> u32 {
        u32::from_le_bytes(*self.array::<OFFSET, 4>())
    }

    /// The little-endian integer of 8 bytes at `OFFSET`.
    pub(crate) fn u64<const OFFSET: usize>(self) -> u64 {
        u64::from_le_bytes(*self.array::<OFFSET, 8>())
    }

    /// Where the first of `ranges` starts that is not all zero.
    pub(crate) fn first_used(self, ranges: &[(usize, usize)]) -> Option<usize> {
        let used = |(start, end): &&(usize, usize)| !is_zero(self.0, *start, *end);
        ranges.iter().find(used).map(|(start, _)| *start)
    }
}

/// The `N` bytes at `offset`; `None` if `bytes` ends before.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// The little-endian integer of 4 bytes at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).copied().map(u32::from_le_bytes)
}

/// The `length` bytes at `offset`, both as a foreign table gives them.
pub(crate) fn slice_at(bytes: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

/// Whether all bytes from `start` to before `end` are zero; `false` if they are not all there.
pub(crate) fn is_zero(bytes: &[u8], start: usize, end: usize) -> bool {
    bytes
        .get(start..end)
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}
