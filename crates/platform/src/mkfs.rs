//! The state file system: made by the verified root's own `mke2fs`, without a pass over the disk.
//!
//! A sector of the mapping that was never written has no valid tag and cannot be read, so a
//! program that probes or rewrites part of a block fails on it. `mke2fs` therefore works on a
//! sparse file in memory, and its data extents are copied to the mapping in aligned writes of
//! whole blocks. What ext4 later reads without having written it is the journal: mke2fs leaves
//! that as a hole of zeros, and a recovery after a power cut reads it, so its zeros are written
//! too.

use crate::{
    block::{AlignedBuffer, BLOCK, BlockDevice, BlockError},
    chroot,
    mount::{MountError, mount_private_tmpfs, unmount},
};
use journal::Extent;
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    process::ExitStatus,
};

mod journal;

pub use journal::JournalError;

/// Blocks copied at a time: 1 MiB, enough that the device and not the call is what takes time.
const COPY_BLOCKS: usize = 256;

/// `mke2fs` and its arguments. Inode tables are zeroed by the kernel while the disk is in use;
/// nothing is discarded; all metadata is at the start of the disk, so that groups far away need
/// none; a disk never grows (its size is sealed), so no descriptors are reserved for that, which
/// would be the part of the writing that grows with the disk; the journal is small.
const MKE2FS: &str = "/sbin/mke2fs";
const ARGUMENTS: [&str; 12] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-O",
    "^resize_inode",
    "-b",
    "4096",
    "-J",
    "size=8",
    "-E",
    "lazy_itable_init=1,nodiscard,packed_meta_blocks=1",
];

/// What was written, for the console and the tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file system's data extents.
    pub data: u64,
    /// Bytes of zeros for its journal.
    pub journal: u64,
}

/// Makes an ext4 file system on `mapping` with the `mke2fs` of the verified root at `root`.
///
/// # Errors
/// The step that failed. The mapping is then not to be mounted.
pub fn make_ext4(root: &Path, mapping: &Path) -> Result<Written, MkfsError> {
    let device = BlockDevice::open(mapping).map_err(MkfsError::Open)?;
    // The one directory that every root has and that nothing is mounted on yet.
    let scratch = root.join("run");
    mount_private_tmpfs(&scratch).map_err(MkfsError::Scratch)?;
    let written = make_and_copy(root, &scratch, &device);
    let unmounted = unmount(&scratch).map_err(MkfsError::Scratch);
    let written = written?;
    unmounted?;
    Ok(written)
}

fn make_and_copy(root: &Path, scratch: &Path, device: &BlockDevice) -> Result<Written, MkfsError> {
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scratch.join("state.ext4"))
        .map_err(MkfsError::Image)?;
    image.set_len(device.size()).map_err(MkfsError::Image)?;
    run_mke2fs(root, "/run/state.ext4")?;
    copy(&image, device)
}

fn run_mke2fs(root: &Path, image: &str) -> Result<(), MkfsError> {
    let output = chroot::command(root, MKE2FS)
        .and_then(|mut command| command.args(ARGUMENTS).arg(image).output())
        .map_err(MkfsError::Spawn)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(MkfsError::Mke2fs {
        status: output.status,
        said: said.chars().take(200).collect(),
    })
}

/// Zeros first: the journal's own superblock is one of the data extents that follow.
fn copy(image: &File, device: &BlockDevice) -> Result<Written, MkfsError> {
    let mut buffer = AlignedBuffer::zeroed(COPY_BLOCKS);
    let mut written = Written::default();
    for extent in journal::extents(image).map_err(MkfsError::Journal)? {
        for piece in extent.pieces() {
            let zeros = &buffer.as_slice()[..piece.len];
            device
                .write(piece.offset, zeros)
                .map_err(MkfsError::Write)?;
        }
        written.journal += extent.len();
    }
    let mut position = 0;
    while let Some(extent) = next_data(image, position).map_err(MkfsError::Extent)? {
        for piece in extent.pieces() {
            let bytes = &mut buffer.as_mut_slice()[..piece.len];
            image
                .read_exact_at(bytes, piece.offset)
                .map_err(MkfsError::ReadImage)?;
            device
                .write(piece.offset, bytes)
                .map_err(MkfsError::Write)?;
        }
        written.data += extent.len();
        position = extent.end;
    }
    device.sync().map_err(MkfsError::Write)?;
    Ok(written)
}

/// The next extent with data at or after `position`, grown to whole blocks.
fn next_data(image: &File, position: u64) -> Result<Option<Extent>, Errno> {
    let start = match seek(image, SeekFrom::Data(position)) {
        Ok(start) => start,
        // There is no data after `position`, lseek(2).
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error),
    };
    let end = seek(image, SeekFrom::Hole(start))?;
    let block = BLOCK as u64;
    Ok(Some(Extent {
        start: start - start % block,
        end: end.next_multiple_of(block),
    }))
}

/// Why the state file system was not made (class internal, `Open` and `Write`: unavailable).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MkfsError {
    /// Looking for the next data extent.
    #[error("data extents of the file system image")]
    Extent(#[source] Errno),
    /// Making the sparse file.
    #[error("make the file system image")]
    Image(#[source] io::Error),
    /// The journal was not found where mke2fs says it is.
    #[error("journal of the file system image")]
    Journal(#[source] JournalError),
    /// mke2fs failed.
    #[error("`{MKE2FS}` of the verified root: {status}: {said}")]
    Mke2fs {
        /// How it ended.
        status: ExitStatus,
        /// The start of what it said.
        said: String,
    },
    /// Opening the mapping.
    #[error("open the mapping to make a file system on")]
    Open(#[source] BlockError),
    /// Reading the image.
    #[error("read the file system image")]
    ReadImage(#[source] io::Error),
    /// The memory for the image.
    #[error("memory for the file system image")]
    Scratch(#[source] MountError),
    /// Starting mke2fs.
    #[error("start `{MKE2FS}` of the verified root")]
    Spawn(#[source] io::Error),
    /// Writing to the mapping.
    #[error("write the file system")]
    Write(#[source] BlockError),
}
