//! Block devices: size, number, aligned direct reads and writes.

use rustix::fs::OFlags;
use state_disk::DeviceNumber;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Alignment and unit of direct I/O: the sector size of dm-crypt, and at least that of any disk.
pub const BLOCK: usize = 4096;

/// Memory that starts at a multiple of [`BLOCK`], as `O_DIRECT` wants it.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// Zeroed memory for `blocks` blocks.
    #[must_use]
    pub fn zeroed(blocks: usize) -> Self {
        let len = blocks * BLOCK;
        let bytes = vec![0; len + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start, len }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// The bytes, to be filled.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// A block device opened for direct reading and writing. Its content is the host's.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
    number: DeviceNumber,
    size: u64,
}

impl BlockDevice {
    /// Opens a device that nothing else uses: no mount, no mapping, no other exclusive opener.
    ///
    /// The exclusive claim is given up again at once, because device-mapper takes its own.
    ///
    /// # Errors
    /// The step that failed; [`BlockError::Claim`] when the device is in use.
    pub fn open(path: &Path) -> Result<Self, BlockError> {
        let step = |step: fn(PathBuf, io::Error) -> BlockError| {
            move |source: io::Error| step(path.to_path_buf(), source)
        };
        // `O_EXCL` without `O_CREAT` claims a block device, open(2).
        let claim = direct(OFlags::EXCL)
            .open(path)
            .map_err(step(|path, source| BlockError::Claim { path, source }))?;
        let file = direct(OFlags::empty())
            .open(path)
            .map_err(step(|path, source| BlockError::Open { path, source }))?;
        drop(claim);
        let metadata = file
            .metadata()
            .map_err(step(|path, source| BlockError::Stat { path, source }))?;
        if !metadata.file_type().is_block_device() {
            return Err(BlockError::NotABlockDevice(path.to_path_buf()));
        }
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
            .map_err(io::Error::from)
            .map_err(step(|path, source| BlockError::Size { path, source }))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            number: device_number(metadata.rdev()),
            size,
        })
    }

    /// The device's number.
    #[must_use]
    pub const fn number(&self) -> DeviceNumber {
        self.number
    }

    /// The device's size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads one block from the device itself, past the page cache.
    ///
    /// # Errors
    /// [`BlockError::Read`] with the offset.
    pub fn read_block(&self, offset: u64) -> Result<[u8; BLOCK], BlockError> {
        let mut buffer = AlignedBuffer::zeroed(1);
        self.file
            .read_exact_at(buffer.as_mut_slice(), offset)
            .map_err(|source| self.io(offset, source, BlockError::read))?;
        let mut block = [0; BLOCK];
        block.copy_from_slice(buffer.as_slice());
        Ok(block)
    }

    /// Writes a buffer at an offset that is a multiple of [`BLOCK`]; not durable before
    /// [`BlockDevice::sync`].
    ///
    /// # Errors
    /// [`BlockError::Write`] with the offset.
    pub fn write(&self, offset: u64, buffer: &[u8]) -> Result<(), BlockError> {
        self.file
            .write_all_at(buffer, offset)
            .map_err(|source| self.io(offset, source, BlockError::write))
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`BlockError::Sync`].
    pub fn sync(&self) -> Result<(), BlockError> {
        self.file.sync_all().map_err(|source| BlockError::Sync {
            path: self.path.clone(),
            source,
        })
    }

    /// Writes one block, makes it durable and reads it back from the device.
    ///
    /// # Errors
    /// The step that failed; [`BlockError::ReadBack`] when the device returns something else.
    pub fn write_block_durably(&self, offset: u64, block: &[u8; BLOCK]) -> Result<(), BlockError> {
        let mut buffer = AlignedBuffer::zeroed(1);
        buffer.as_mut_slice().copy_from_slice(block);
        self.write(offset, buffer.as_slice())?;
        self.sync()?;
        if self.read_block(offset)? != *block {
            return Err(BlockError::ReadBack {
                path: self.path.clone(),
                offset,
            });
        }
        Ok(())
    }

    fn io(
        &self,
        offset: u64,
        source: io::Error,
        step: fn(PathBuf, u64, io::Error) -> BlockError,
    ) -> BlockError {
        step(self.path.clone(), offset, source)
    }
}

/// Sets how far the kernel reads ahead on a device, in KiB; 0 reads only what was asked for.
///
/// # Errors
/// [`BlockError::ReadAhead`].
pub fn set_read_ahead(device: DeviceNumber, kib: u32) -> Result<(), BlockError> {
    let path = PathBuf::from(format!("/sys/dev/block/{device}/queue/read_ahead_kb"));
    fs::write(&path, kib.to_string()).map_err(|source| BlockError::ReadAhead { path, source })
}

pub(crate) fn device_number(device: u64) -> DeviceNumber {
    DeviceNumber {
        major: rustix::fs::major(device),
        minor: rustix::fs::minor(device),
    }
}

fn direct(extra: OFlags) -> OpenOptions {
    let flags = OFlags::DIRECT | extra;
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(flags.bits().cast_signed());
    options
}

/// Why a block device could not be used (class unavailable, except `ReadBack`: refused).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The device is in use, or cannot be opened at all.
    #[error("claim `{path}`")]
    Claim {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is something else.
    #[error("`{0}` is no block device")]
    NotABlockDevice(PathBuf),
    /// Opening failed.
    #[error("open `{path}`")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("read `{path}` at byte {offset}")]
    Read {
        /// The device.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The read-ahead could not be set.
    #[error("set read-ahead `{path}`")]
    ReadAhead {
        /// The setting.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device does not return what was written.
    #[error("`{path}` at byte {offset} reads back other bytes than were written")]
    ReadBack {
        /// The device.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The size could not be read.
    #[error("size of `{path}`")]
    Size {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device's number could not be read.
    #[error("stat `{path}`")]
    Stat {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device did not confirm that its data is durable.
    #[error("fsync `{path}`")]
    Sync {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed.
    #[error("write `{path}` at byte {offset}")]
    Write {
        /// The device.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

impl BlockError {
    const fn read(path: PathBuf, offset: u64, source: io::Error) -> Self {
        Self::Read {
            path,
            offset,
            source,
        }
    }

    const fn write(path: PathBuf, offset: u64, source: io::Error) -> Self {
        Self::Write {
            path,
            offset,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for blocks in [1, 2, 256] {
            let buffer = AlignedBuffer::zeroed(blocks);
            assert_eq!(buffer.as_slice().len(), blocks * BLOCK);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK), 0);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_file_is_no_block_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = BlockDevice::open(file.path()).unwrap_err();
        // Some file systems have no `O_DIRECT`; both answers refuse.
        assert!(
            matches!(
                error,
                BlockError::NotABlockDevice(_) | BlockError::Claim { .. }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_missing_device_names_its_path() {
        let error = BlockDevice::open(Path::new("/nonexistent/disk")).unwrap_err();
        assert_eq!(error.to_string(), "claim `/nonexistent/disk`");
    }
}
