//! PCR selections and the digest a quote is over.

use crate::{
    constants::alg,
    reader::{Malformed, Reader},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use aws_lc_rs::digest;
use core::fmt;

/// The most banks in one selection (`HASH_COUNT` of real TPMs is at most 5).
const MAX_BANKS: u32 = 8;
/// The longest bitmap: 32 PCRs.
const MAX_BITMAP: u8 = 4;
/// Bytes of the bitmap this crate writes: PCR 0 to 23, the minimum every TPM takes
/// (`PCR_SELECT_MIN`, PC Client Platform TPM Profile).
const BITMAP: u8 = 3;

/// A set of PCR indices, each below 24.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PcrSet(u32);

impl PcrSet {
    /// The set of `indices`; `None` if one is above 23 or there is none.
    #[must_use]
    pub fn new(indices: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut bits = 0_u32;
        for index in indices {
            if index >= 24 {
                return None;
            }
            bits |= 1_u32.checked_shl(index)?;
        }
        (bits != 0).then_some(Self(bits))
    }

    /// The indices, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..24).filter(move |index| self.contains(*index))
    }

    /// Whether `index` is in the set.
    #[must_use]
    pub fn contains(self, index: u32) -> bool {
        self.0.checked_shr(index).is_some_and(|bits| bits & 1 == 1)
    }

    /// The set as a `TPML_PCR_SELECTION` of the SHA-256 bank, for a command.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::from(1_u32.to_be_bytes());
        out.extend_from_slice(&alg::SHA256.to_be_bytes());
        out.push(BITMAP);
        out.extend(self.0.to_le_bytes().iter().take(usize::from(BITMAP)));
        out
    }
}

impl fmt::Debug for PcrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for PcrSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, index) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { "," };
            write!(f, "{separator}{index}")?;
        }
        Ok(())
    }
}

/// A received `TPML_PCR_SELECTION`: for each bank, in the order of the TPM, its PCRs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrSelection(Vec<(u16, BTreeSet<u32>)>);

impl PcrSelection {
    /// Parses the selection at the reader's position (Part 2, section 10.9.7).
    ///
    /// # Errors
    /// If it has more banks or longer bitmaps than any TPM, or ends early.
    pub fn parse(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let malformed = reader.malformed("pcrSelect.count");
        let count = reader.u32("pcrSelect.count")?;
        if count > MAX_BANKS {
            return Err(malformed);
        }
        let mut banks = Vec::new();
        for _ in 0..count {
            let bank = reader.u16("pcrSelect.hash")?;
            let malformed = reader.malformed("pcrSelect.sizeofSelect");
            let len = reader.u8("pcrSelect.sizeofSelect")?;
            if len > MAX_BITMAP {
                return Err(malformed);
            }
            let bitmap = reader.take("pcrSelect.pcrSelect", usize::from(len))?;
            banks.push((bank, indices(bitmap)));
        }
        Ok(Self(banks))
    }

    /// Whether this is the SHA-256 bank alone with exactly the PCRs of `set`.
    #[must_use]
    pub fn is_exactly(&self, set: PcrSet) -> bool {
        matches!(self.0.as_slice(), [(alg::SHA256, pcrs)] if pcrs.iter().copied().eq(set.iter()))
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (bank, pcrs)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { " + " };
            write!(f, "{separator}bank {bank:#06x} PCRs {pcrs:?}")?;
        }
        Ok(())
    }
}

fn indices(bitmap: &[u8]) -> BTreeSet<u32> {
    (0_u32..)
        .zip(
            bitmap
                .iter()
                .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1)),
        )
        .filter_map(|(index, set)| (set == 1).then_some(index))
        .collect()
}

/// What `pcrDigest` must be for these values: their SHA-256, concatenated by ascending index
/// (Part 1, section 17.6.2).
#[must_use]
pub fn composite_digest(pcrs: &BTreeMap<u32, [u8; 32]>) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for value in pcrs.values() {
        hash.update(value);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}
