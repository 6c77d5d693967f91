//! Where ext4's internal journal is: the copy of the journal's inode in the superblock.
//!
//! Layout: Linux `Documentation/filesystems/ext4/`, "Super Block" and "Extent Tree". The image was
//! written by the verified root's `mke2fs` just now; it is checked, not distrusted.

use super::COPY_BLOCKS;
use crate::block::BLOCK;
use std::{fs::File, io, os::unix::fs::FileExt};

/// Offset of the superblock, and the part of it that is read.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_LEN: usize = 1024;

/// Bytes `start..end` of a device or file, whole blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A part of an extent that fits the copy buffer.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: usize,
}

impl Extent {
    pub(super) const fn len(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> {
        let (end, step) = (self.end, COPY_BLOCKS * BLOCK);
        (self.start..end).step_by(step).map(move |offset| Piece {
            offset,
            len: usize::try_from(end - offset).map_or(step, |rest| rest.min(step)),
        })
    }
}

/// The extents of the journal of a file system image.
pub(super) fn extents(image: &File) -> Result<Vec<Extent>, JournalError> {
    let mut superblock = [0; SUPERBLOCK_LEN];
    image
        .read_exact_at(&mut superblock, SUPERBLOCK)
        .map_err(JournalError::Read)?;
    parse(&superblock)
}

fn parse(superblock: &[u8; SUPERBLOCK_LEN]) -> Result<Vec<Extent>, JournalError> {
    let u16_at = |at: usize| u16::from_le_bytes([superblock[at], superblock[at + 1]]);
    let u32_at = |at: usize| u64::from(u16_at(at)) | u64::from(u16_at(at + 2)) << 16;
    // s_magic, s_log_block_size (4096), s_jnl_backup_type (1: s_jnl_blocks is a copy of i_block).
    if (u16_at(0x38), u32_at(0x18), superblock[0xfd]) != (0xef53, 2, 1) {
        return Err(JournalError::Superblock);
    }
    // s_jnl_blocks: an extent header (eh_magic, eh_entries, eh_max, eh_depth), then extents.
    let root = 0x10c;
    let entries = usize::from(u16_at(root + 2));
    if u16_at(root) != 0xf30a || u16_at(root + 6) != 0 || !(1..=4).contains(&entries) {
        return Err(JournalError::ExtentTree);
    }
    let block = BLOCK as u64;
    let extents = (1..=entries).map(|entry| {
        let at = root + 12 * entry;
        let first = u64::from(u16_at(at + 6)) << 32 | u32_at(at + 8);
        Extent {
            start: first * block,
            end: (first + u64::from(u16_at(at + 4))) * block,
        }
    });
    let extents: Vec<_> = extents.collect();
    // i_size, its high half first.
    let size = u32_at(root + 60) << 32 | u32_at(root + 64);
    if extents.iter().map(Extent::len).sum::<u64>() != size {
        return Err(JournalError::Size);
    }
    Ok(extents)
}

/// Why the journal was not found (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The journal is not in one to four extents of the inode itself.
    #[error("journal extents")]
    ExtentTree,
    /// The superblock could not be read.
    #[error("read the superblock")]
    Read(#[source] io::Error),
    /// The extents do not add up to the journal's size.
    #[error("journal size")]
    Size,
    /// The superblock is not ext4's with 4096-byte blocks and a copy of the journal's inode.
    #[error("superblock")]
    Superblock,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 30).unwrap();
        let status = Command::new("/sbin/mke2fs")
            .args(super::super::ARGUMENTS)
            .arg(file.path())
            .status()
            .unwrap();
        assert!(status.success());
        file
    }

    #[test]
    fn the_journal_of_a_real_file_system_is_found() {
        let file = image();
        let extents = extents(file.as_file()).unwrap();
        assert_eq!(extents.iter().map(Extent::len).sum::<u64>(), 8 << 20);
        let mut first = [0; 4];
        file.as_file()
            .read_exact_at(&mut first, extents[0].start)
            .unwrap();
        // JBD2's magic number, big-endian.
        assert_eq!(first, [0xc0, 0x3b, 0x39, 0x98]);
    }

    #[test]
    fn other_superblocks_are_refused() {
        let file = image();
        let mut good = [0; SUPERBLOCK_LEN];
        file.as_file().read_exact_at(&mut good, SUPERBLOCK).unwrap();
        for at in [0x38, 0x18, 0xfd, 0x10c, 0x10e, 0x112, 0x14c, 0x11c] {
            let mut bad = good;
            bad[at] ^= 0x41;
            assert!(parse(&bad).is_err(), "byte {at:#x}");
        }
        assert!(matches!(
            parse(&[0; SUPERBLOCK_LEN]),
            Err(JournalError::Superblock)
        ));
    }

    #[test]
    fn pieces_cover_an_extent_once() {
        let extent = Extent {
            start: 4096,
            end: 4096 + (5 << 19),
        };
        let pieces: Vec<_> = extent.pieces().collect();
        assert_eq!(pieces.len(), 3);
        assert_eq!(
            pieces.iter().map(|piece| piece.len as u64).sum::<u64>(),
            extent.len()
        );
        assert_eq!(pieces[2].offset, 4096 + (2 << 20));
    }
}
