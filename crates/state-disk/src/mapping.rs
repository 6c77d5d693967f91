//! The device-mapper tables of a state disk: dm-integrity with a journal under dm-crypt.
//!
//! Table syntax: Linux `Documentation/admin-guide/device-mapper/dm-integrity.rst` and `dm-crypt.rst`.
//! The strings are written in the order in which the kernel prints a live table, so that a live
//! table can be compared as text.

use crate::{cursor::Cursor, slots::DATA_OFFSET};
use alloc::{format, string::String, vec::Vec};
use core::fmt;
use identity::DiskId;
use secret::VolumeKeys;

/// Device-mapper counts in sectors of 512 bytes, whatever the device's own sector size.
const SECTOR: u64 = 512;

/// Block size of both targets in bytes, and in device-mapper sectors.
const BLOCK_SIZE: u32 = 4096;
const BLOCK_SECTORS: u64 = 8;

/// HMAC-SHA256 tag; the IV is derived from the sector number and not stored.
pub(crate) const TAG_SIZE: u32 = 32;

/// Body offset 200: journalled dm-integrity with `fix_padding` under
/// `authenc(hmac(sha256),xts(aes))`, the only stack of format version 1.
const STACK: u8 = 1;

/// More sectors than a byte offset of 63 bits can address are no disk.
const MAX_DATA_SECTORS: u64 = 1 << 54;

/// First sector of dm-integrity: [`DATA_OFFSET`].
#[expect(
    clippy::cast_possible_truncation,
    reason = "32768, computed at compile time"
)]
const START_SECTOR: u32 = (DATA_OFFSET / SECTOR) as u32;

/// A block device by number, as device-mapper prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One target that covers a whole mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The target type.
    pub target: &'static str,
    /// Length of the mapping in sectors of 512 bytes.
    pub sectors: u64,
    /// The target's parameters. They name keys and never contain one.
    pub parameters: String,
    /// Whether the mapping refuses writes.
    pub read_only: bool,
}

/// The exact parameters of a disk's tables, kept in its sealed header so that a newer agent with
/// other defaults maps the disk as it was formatted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmParameters {
    data_sectors: u64,
    journal_sectors: u32,
    interleave_sectors: u32,
    buffer_sectors: u32,
    journal_watermark: u32,
    commit_time_ms: u32,
}

impl DmParameters {
    /// The parameters of a disk formatted now. `data_sectors` is what dm-integrity provides after
    /// formatting, in sectors of 512 bytes.
    ///
    /// # Errors
    /// A size that is no whole number of blocks, zero, or beyond any disk.
    pub const fn new(data_sectors: u64) -> Result<Self, ParametersError> {
        let parameters = Self::with_defaults(data_sectors);
        match parameters.out_of_bounds() {
            Some(field) => Err(ParametersError::Bounds { field }),
            None => Ok(parameters),
        }
    }

    /// What `cryptsetup` sets up for the same ciphers: an 8 MiB journal, committed every 10 s.
    const fn with_defaults(data_sectors: u64) -> Self {
        Self {
            data_sectors,
            journal_sectors: 16368,
            interleave_sectors: 32768,
            buffer_sectors: 128,
            journal_watermark: 50,
            commit_time_ms: 10_000,
        }
    }

    /// Sectors of 512 bytes that the mapped disk provides.
    #[must_use]
    pub const fn data_sectors(&self) -> u64 {
        self.data_sectors
    }

    /// The least bytes that the device under these tables has: data, tags and journal behind the
    /// header. The kernel rounds up to whole interleave areas, so a device may be too small for it
    /// and still pass; one below this bound was certainly cut.
    #[must_use]
    pub fn minimum_device_size(&self) -> u64 {
        let tags = (self.data_sectors / BLOCK_SECTORS).saturating_mul(u64::from(TAG_SIZE));
        self.data_sectors
            .saturating_add(u64::from(self.journal_sectors))
            .saturating_mul(SECTOR)
            .saturating_add(tags)
            .saturating_add(DATA_OFFSET)
    }

    pub(crate) const fn interleave_sectors(&self) -> u32 {
        self.interleave_sectors
    }

    /// The table with which the kernel formats dm-integrity on `device`, whose superblock is zero:
    /// one block long, because the size it will provide is not known before.
    #[must_use]
    pub fn formatting_table(device: DeviceNumber) -> Table {
        Self::with_defaults(BLOCK_SECTORS).integrity_table(device)
    }

    /// The dm-integrity table on the disk itself.
    #[must_use]
    pub fn integrity_table(&self, device: DeviceNumber) -> Table {
        let Self {
            data_sectors,
            journal_sectors,
            interleave_sectors,
            buffer_sectors,
            journal_watermark,
            commit_time_ms,
        } = *self;
        Table {
            target: "integrity",
            sectors: data_sectors,
            parameters: format!(
                "{device} {START_SECTOR} {TAG_SIZE} J 7 block_size:{BLOCK_SIZE} \
                 journal_sectors:{journal_sectors} interleave_sectors:{interleave_sectors} \
                 buffer_sectors:{buffer_sectors} journal_watermark:{journal_watermark} \
                 commit_time:{commit_time_ms} fix_padding"
            ),
            read_only: false,
        }
    }

    /// The dm-crypt table on top of dm-integrity's `device`. It refers to the kernel key
    /// [`DmParameters::key_description`], which must be in a keyring of the loading process.
    #[must_use]
    pub fn crypt_table(&self, device: DeviceNumber, disk: &DiskId) -> Table {
        Table {
            target: "crypt",
            sectors: self.data_sectors,
            parameters: format!(
                "capi:authenc(hmac(sha256),xts(aes))-plain64 :{}:logon:{} 0 {device} 0 2 \
                 integrity:{TAG_SIZE}:aead sector_size:{BLOCK_SIZE}",
                VolumeKeys::LEN,
                Self::key_description(disk),
            ),
            read_only: false,
        }
    }

    /// The description of the `logon` key that holds the volume keys while a table is loaded.
    #[must_use]
    pub fn key_description(disk: &DiskId) -> String {
        format!("constellation:state-disk/{disk}")
    }

    pub(crate) fn encode_into(&self, body: &mut Vec<u8>) {
        body.push(STACK);
        body.extend_from_slice(&[0; 7]);
        body.extend_from_slice(&self.data_sectors.to_le_bytes());
        for field in [
            START_SECTOR,
            self.journal_sectors,
            self.interleave_sectors,
            self.buffer_sectors,
            self.journal_watermark,
            self.commit_time_ms,
            BLOCK_SIZE,
            TAG_SIZE,
        ] {
            body.extend_from_slice(&field.to_le_bytes());
        }
        body.extend_from_slice(&[0; 8]);
    }

    /// `None` when bytes are missing or a gap is not zero.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Option<Result<Self, ParametersError>> {
        let stack = cursor.u8()?;
        cursor.zeros::<7>()?;
        let data_sectors = cursor.u64()?;
        let start = cursor.u32()?;
        let parameters = Self {
            data_sectors,
            journal_sectors: cursor.u32()?,
            interleave_sectors: cursor.u32()?,
            buffer_sectors: cursor.u32()?,
            journal_watermark: cursor.u32()?,
            commit_time_ms: cursor.u32()?,
        };
        let fixed = (stack, start, cursor.u32()?, cursor.u32()?);
        cursor.zeros::<8>()?;
        Some(if fixed == (STACK, START_SECTOR, BLOCK_SIZE, TAG_SIZE) {
            match parameters.out_of_bounds() {
                Some(field) => Err(ParametersError::Bounds { field }),
                None => Ok(parameters),
            }
        } else {
            Err(ParametersError::Stack)
        })
    }

    /// The first field outside of what dm-integrity takes and a disk can have.
    const fn out_of_bounds(&self) -> Option<&'static str> {
        if !self.data_sectors.is_multiple_of(BLOCK_SECTORS)
            || self.data_sectors == 0
            || self.data_sectors > MAX_DATA_SECTORS
        {
            return Some("data sectors");
        }
        if self.journal_sectors == 0 || self.journal_sectors > 1 << 20 {
            return Some("journal sectors");
        }
        // dm-integrity keeps both as powers of two and would round anything else.
        if !is_power_in(self.interleave_sectors, 8, 1 << 31) {
            return Some("interleave sectors");
        }
        if !is_power_in(self.buffer_sectors, 8, 1 << 16) {
            return Some("buffer sectors");
        }
        if self.journal_watermark > 100 {
            return Some("journal watermark");
        }
        if self.commit_time_ms == 0 || self.commit_time_ms > 600_000 {
            return Some("commit time");
        }
        None
    }
}

const fn is_power_in(value: u32, low: u32, high: u32) -> bool {
    value.is_power_of_two() && value >= low && value <= high
}

/// Why device-mapper parameters are refused (class internal after authentication).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParametersError {
    /// A field outside of its bounds.
    #[error("device-mapper parameter out of bounds: {field}")]
    Bounds {
        /// The field.
        field: &'static str,
    },
    /// A stack, start, block size or tag size that format version 1 does not have.
    #[error("device-mapper stack is not that of format version 1")]
    Stack,
}
