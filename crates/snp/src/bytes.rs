//! Fields at fixed places of hostile bytes.

/// The `N` bytes at `offset`; `None` if `bytes` ends before.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<&[u8; N]> {
    bytes.get(offset..)?.first_chunk()
}

/// The little-endian integer of 4 bytes at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).copied().map(u32::from_le_bytes)
}

/// The little-endian integer of 8 bytes at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).copied().map(u64::from_le_bytes)
}

/// The `length` bytes at `offset`, both as a foreign table gives them.
pub(crate) fn slice_at(bytes: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    bytes.get(start..end)
}

/// Whether all bytes from `start` to before `end` are zero; `false` if there are none.
pub(crate) fn is_zero(bytes: &[u8], start: usize, end: usize) -> bool {
    bytes
        .get(start..end)
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}
