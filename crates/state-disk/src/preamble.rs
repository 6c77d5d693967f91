//! The 64 cleartext bytes of a slot: all that is parsed before the slot authenticates.

use crate::{body::BODY_LEN, cursor::Cursor, header::NONCE_LEN};
use alloc::vec::Vec;
use identity::{DiskId, Generation, KeyVersion};

/// Length of the preamble in bytes; it is the additional data of the body's AEAD.
pub const PREAMBLE_LEN: usize = 64;

/// `docs/state-disk.md`, preamble, offset 0.
pub(crate) const MAGIC: [u8; 8] = *b"CSTLDISK";

/// `docs/state-disk.md`, preamble, offset 8.
const FORMAT_VERSION: u16 = 1;

/// Length of the AES-GCM tag that follows the body.
pub(crate) const TAG_LEN: usize = 16;

/// The only value of the length field in format version 1: the body and its tag.
#[expect(
    clippy::cast_possible_truncation,
    reason = "336, computed at compile time"
)]
const SEALED_LEN: u32 = (BODY_LEN + TAG_LEN) as u32;

/// What a slot claims in clear. Only [`SealedDisk::open`](crate::SealedDisk::open) proves it; until
/// then it names the key to ask for and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The disk the slot claims to belong to.
    pub disk: DiskId,
    /// The generation the slot claims.
    pub generation: Generation,
    /// The key version under which the slot claims to be sealed.
    pub key_version: KeyVersion,
    pub(crate) nonce: [u8; NONCE_LEN],
}

impl Preamble {
    /// Parses the first 64 bytes of a slot that is not blank.
    ///
    /// # Errors
    /// The first field that is not as format version 1 has it.
    pub fn parse(bytes: &[u8; PREAMBLE_LEN]) -> Result<Self, PreambleError> {
        let mut cursor = Cursor::new(bytes);
        Self::read(&mut cursor).unwrap_or(Err(PreambleError::Truncated))
    }

    fn read(cursor: &mut Cursor<'_>) -> Option<Result<Self, PreambleError>> {
        if *cursor.take()? != MAGIC {
            return Some(Err(PreambleError::Magic));
        }
        let version = cursor.u16()?;
        if version != FORMAT_VERSION {
            return Some(Err(PreambleError::FormatVersion { got: version }));
        }
        let flags = cursor.u16()?;
        if flags != 0 {
            return Some(Err(PreambleError::Flags { got: flags }));
        }
        let preamble = Self {
            key_version: KeyVersion(cursor.u32()?),
            disk: DiskId::from_bytes(*cursor.take()?),
            generation: Generation(cursor.u64()?),
            nonce: *cursor.take()?,
        };
        let length = cursor.u32()?;
        let reserved = cursor.take::<8>()?;
        Some(preamble.bounded(length, reserved))
    }

    fn bounded(self, length: u32, reserved: &[u8; 8]) -> Result<Self, PreambleError> {
        if self.key_version < KeyVersion::FIRST {
            return Err(PreambleError::KeyVersion);
        }
        if self.generation < Generation::FIRST {
            return Err(PreambleError::Generation);
        }
        if length != SEALED_LEN {
            return Err(PreambleError::Length { got: length });
        }
        if *reserved != [0; 8] {
            return Err(PreambleError::Reserved);
        }
        Ok(self)
    }

    /// The bytes as written to the disk and authenticated with the body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PREAMBLE_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&0_u16.to_le_bytes());
        bytes.extend_from_slice(&self.key_version.0.to_le_bytes());
        bytes.extend_from_slice(self.disk.as_bytes());
        bytes.extend_from_slice(&self.generation.0.to_le_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&SEALED_LEN.to_le_bytes());
        bytes.resize(PREAMBLE_LEN, 0);
        bytes
    }
}

/// Why 64 bytes are no preamble of format version 1 (class malformed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreambleError {
    /// A bit of the flags is set; version 1 defines none.
    #[error("preamble flags: expected 0, got {got:#06x}")]
    Flags {
        /// The flags found.
        got: u16,
    },
    /// A format this crate does not know.
    #[error("preamble format version: expected 1, got {got}")]
    FormatVersion {
        /// The version found.
        got: u16,
    },
    /// Generations start at 1.
    #[error("preamble generation: expected at least 1, got 0")]
    Generation,
    /// Key versions start at 1.
    #[error("preamble key version: expected at least 1, got 0")]
    KeyVersion,
    /// Version 1 has one body length.
    #[error("preamble length: expected {SEALED_LEN}, got {got}")]
    Length {
        /// The length found.
        got: u32,
    },
    /// Not a state disk.
    #[error("preamble magic is not that of a state disk")]
    Magic,
    /// The last 8 bytes are not zero.
    #[error("preamble reserved bytes are not zero")]
    Reserved,
    /// Fewer than 64 bytes.
    #[error("preamble truncated")]
    Truncated,
}
