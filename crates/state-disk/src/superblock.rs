//! The superblock that dm-integrity keeps in clear at the start of its data area.
//!
//! The kernel takes the geometry of a disk from there, so the host could choose it. The superblock
//! that the kernel wrote when the disk was formatted is therefore part of the sealed header, and
//! the one on the disk is compared with it before each activation.
//!
//! Layout: `struct superblock` in Linux `drivers/md/dm-integrity.c`. In journal mode without
//! recalculation the kernel changes no byte of it after formatting, so no field is volatile and
//! all of the block is compared.

use crate::{
    cursor::{Cursor, is_zero},
    mapping::{DmParameters, TAG_SIZE},
};

/// The part of the superblock that has fields; the rest of its 4096-byte block is zero.
pub const SUPERBLOCK_LEN: usize = 64;

/// Length of the block that the superblock is read and written as (`SB_SECTORS`).
const BLOCK_LEN: usize = 4096;

/// `SB_MAGIC`.
const MAGIC: [u8; 8] = *b"integrt\0";

/// `SB_FLAG_FIXED_PADDING`, the only flag of our tables. The others would make the kernel
/// recalculate tags, trust a bitmap or expect another journal format.
const FLAG_FIXED_PADDING: u32 = 0x8;

/// log2 of the 8 sectors of a 4096-byte block.
const LOG2_SECTORS_PER_BLOCK: u8 = 3;

/// A dm-integrity superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegritySuperblock([u8; SUPERBLOCK_LEN]);

struct Fields {
    log2_interleave: u8,
    tag_size: u16,
    provided_sectors: u64,
    flags: u32,
    log2_sectors_per_block: u8,
}

impl IntegritySuperblock {
    /// Parses the block that the kernel has just formatted.
    ///
    /// # Errors
    /// A zeroed block, another magic, or a byte after the fields that is not zero.
    pub fn parse(block: &[u8; BLOCK_LEN]) -> Result<Self, SuperblockError> {
        if is_zero(block) {
            return Err(SuperblockError::Blank);
        }
        let (fields, rest) = block.split_first_chunk().ok_or(SuperblockError::Magic)?;
        if !is_zero(rest) {
            return Err(SuperblockError::Trailing);
        }
        Self::parse_known(fields)
    }

    /// Parses the 64 bytes of a sealed header.
    pub(crate) fn parse_known(fields: &[u8; SUPERBLOCK_LEN]) -> Result<Self, SuperblockError> {
        if fields.first_chunk() != Some(&MAGIC) {
            return Err(SuperblockError::Magic);
        }
        Ok(Self(*fields))
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SUPERBLOCK_LEN] {
        &self.0
    }

    /// Sectors of 512 bytes that the formatted device provides.
    #[must_use]
    pub fn provided_sectors(&self) -> u64 {
        self.fields().map_or(0, |fields| fields.provided_sectors)
    }

    /// Compares the block on the disk with this one; call it before each activation.
    ///
    /// # Errors
    /// The disk's superblock is zeroed, or the first byte that differs.
    pub fn compare(&self, on_disk: &[u8; BLOCK_LEN]) -> Result<(), SuperblockError> {
        if is_zero(on_disk) {
            return Err(SuperblockError::Blank);
        }
        let expected = self.0.iter().copied().chain(core::iter::repeat(0));
        match on_disk
            .iter()
            .zip(expected)
            .position(|(got, want)| *got != want)
        {
            Some(offset) => Err(SuperblockError::Differs { offset }),
            None => Ok(()),
        }
    }

    /// Checks that this superblock is what dm-integrity writes for `parameters`.
    ///
    /// # Errors
    /// The first field that another table, or another format, would have given.
    pub fn check_against(&self, parameters: &DmParameters) -> Result<(), SuperblockError> {
        let fields = self.fields().ok_or(SuperblockError::Magic)?;
        let checks = [
            ("flags", fields.flags == FLAG_FIXED_PADDING),
            ("tag size", u32::from(fields.tag_size) == TAG_SIZE),
            (
                "block size",
                fields.log2_sectors_per_block == LOG2_SECTORS_PER_BLOCK,
            ),
            (
                "interleave sectors",
                1_u32.checked_shl(fields.log2_interleave.into())
                    == Some(parameters.interleave_sectors()),
            ),
            (
                "provided sectors",
                fields.provided_sectors == parameters.data_sectors(),
            ),
        ];
        match checks.into_iter().find(|(_, agrees)| !agrees) {
            Some((field, _)) => Err(SuperblockError::Field { field }),
            None => Ok(()),
        }
    }

    fn fields(&self) -> Option<Fields> {
        let mut cursor = Cursor::new(&self.0);
        let (_magic, _version) = (cursor.u64()?, cursor.u8()?);
        let log2_interleave = cursor.u8()?;
        let tag_size = cursor.u16()?;
        let _journal_sections = cursor.u32()?;
        Some(Fields {
            log2_interleave,
            tag_size,
            provided_sectors: cursor.u64()?,
            flags: cursor.u32()?,
            log2_sectors_per_block: cursor.u8()?,
        })
    }
}

/// Why a dm-integrity superblock is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// The superblock is zero: activating it would make the kernel format the disk.
    #[error("dm-integrity superblock is zeroed")]
    Blank,
    /// The disk's superblock is not the sealed one.
    #[error("dm-integrity superblock differs from the sealed one at byte {offset}")]
    Differs {
        /// Offset of the first byte that differs.
        offset: usize,
    },
    /// A field that the table does not give.
    #[error("dm-integrity superblock does not belong to the table: {field}")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// Not a dm-integrity superblock.
    #[error("dm-integrity superblock has another magic")]
    Magic,
    /// Bytes after the fields are not zero.
    #[error("dm-integrity superblock is followed by bytes that are not zero")]
    Trailing,
}
