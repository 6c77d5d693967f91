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
    let (tree, size) = backup(&superblock)?;
    let node = Node::parse(tree)?;
    let extents = match node.depth {
        0 => node.extents().collect(),
        // A journal among the backups of a large disk has more extents than its inode has room for.
        1 => leaves(image, &node)?,
        _ => return Err(JournalError::ExtentTree),
    };
    if extents.iter().map(Extent::len).sum::<u64>() != size {
        return Err(JournalError::Size);
    }
    Ok(extents)
}

/// The superblock's copy of the journal's inode: the root of its extent tree, and its size.
fn backup(superblock: &[u8; SUPERBLOCK_LEN]) -> Result<(&[u8], u64), JournalError> {
    // s_magic, s_log_block_size (4096), s_jnl_backup_type (1: s_jnl_blocks is a copy of i_block).
    let seen = (
        u16_at(superblock, 0x38),
        u32_at(superblock, 0x18),
        superblock[0xfd],
    );
    if seen != (0xef53, 2, 1) {
        return Err(JournalError::Superblock);
    }
    // s_jnl_blocks: the 60 bytes of i_block, then i_size with its high half first.
    let size = u32_at(superblock, 0x148) << 32 | u32_at(superblock, 0x14c);
    Ok((&superblock[0x10c..0x148], size))
}

fn leaves(image: &File, root: &Node<'_>) -> Result<Vec<Extent>, JournalError> {
    let mut extents = Vec::new();
    for leaf in root.leaves() {
        let mut block = [0; BLOCK];
        image
            .read_exact_at(&mut block, leaf)
            .map_err(JournalError::Read)?;
        let node = Node::parse(&block)?;
        if node.depth != 0 {
            return Err(JournalError::ExtentTree);
        }
        extents.extend(node.extents());
    }
    Ok(extents)
}

/// A node of an extent tree: a header of 12 bytes, then entries of 12 bytes.
struct Node<'a> {
    depth: u16,
    entries: &'a [[u8; 12]],
}

impl<'a> Node<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, JournalError> {
        let (nodes, _) = bytes.as_chunks::<12>();
        let (header, entries) = nodes.split_first().ok_or(JournalError::ExtentTree)?;
        // eh_magic, eh_entries, eh_max, eh_depth.
        let used = usize::from(u16_at(header, 2));
        if u16_at(header, 0) != 0xf30a || used == 0 {
            return Err(JournalError::ExtentTree);
        }
        Ok(Self {
            depth: u16_at(header, 6),
            entries: entries.get(..used).ok_or(JournalError::ExtentTree)?,
        })
    }

    /// Entries of a leaf: ee_block, ee_len, ee_start_hi, ee_start_lo.
    fn extents(&self) -> impl Iterator<Item = Extent> {
        self.entries.iter().map(|entry| {
            let first = u64::from(u16_at(entry, 6)) << 32 | u32_at(entry, 8);
            let end = first + u64::from(u16_at(entry, 4));
            Extent {
                start: first * BLOCK as u64,
                end: end * BLOCK as u64,
            }
        })
    }

    /// Entries of an inner node: ei_block, ei_leaf_lo, ei_leaf_hi. Gives the leaves' offsets.
    fn leaves(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().map(|entry| {
            let block = u64::from(u16_at(entry, 8)) << 32 | u32_at(entry, 4);
            block * BLOCK as u64
        })
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16_at(bytes, at)) | u64::from(u16_at(bytes, at + 2)) << 16
}

/// Why the journal was not found (class internal).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The journal's extent tree is not one of at most two levels.
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

    fn image(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        let status = Command::new("/sbin/mke2fs")
            .args(super::super::ARGUMENTS)
            .arg(file.path())
            .status()
            .unwrap();
        assert!(status.success());
        file
    }

    /// On 64 GiB the journal lies among the backup superblocks, in more than four extents.
    #[test]
    fn the_journal_of_a_real_file_system_is_found() {
        for size in [112 << 20, 1 << 30, 64 << 30, 1 << 40] {
            let file = image(size);
            let extents = extents(file.as_file()).unwrap();
            let bytes = extents.iter().map(Extent::len).sum::<u64>();
            assert_eq!(bytes, 8 << 20, "{size}");
            let mut first = [0; 4];
            file.as_file()
                .read_exact_at(&mut first, extents[0].start)
                .unwrap();
            // JBD2's magic number, big-endian.
            assert_eq!(first, [0xc0, 0x3b, 0x39, 0x98], "{size}");
        }
    }

    #[test]
    fn other_superblocks_are_refused() {
        let file = image(1 << 30);
        let mut good = [0; SUPERBLOCK_LEN];
        file.as_file().read_exact_at(&mut good, SUPERBLOCK).unwrap();
        for at in [0x38, 0x18, 0xfd, 0x10c, 0x10e, 0x112, 0x14c, 0x11c] {
            let mut bad = good;
            bad[at] ^= 0x41;
            file.as_file().write_all_at(&bad, SUPERBLOCK).unwrap();
            assert!(extents(file.as_file()).is_err(), "byte {at:#x}");
        }
        file.as_file()
            .write_all_at(&[0; SUPERBLOCK_LEN], SUPERBLOCK)
            .unwrap();
        assert!(matches!(
            extents(file.as_file()),
            Err(JournalError::Superblock)
        ));
    }

    #[test]
    fn extent_trees_with_more_entries_than_room_are_refused() {
        let mut node = [0; 60];
        node[..2].copy_from_slice(&0xf30a_u16.to_le_bytes());
        assert!(Node::parse(&node).is_err(), "no entry");
        node[2] = 4;
        assert!(Node::parse(&node).is_ok());
        node[2] = 5;
        assert!(Node::parse(&node).is_err(), "one too many");
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
