//! The two slots of a disk: what they claim, which of them counts, where the next write goes.

use crate::{
    body::{BODY_LEN, BodyError},
    cursor::is_zero,
    header::{self, Header},
    preamble::{MAGIC, PREAMBLE_LEN, Preamble, PreambleError, TAG_LEN},
};
use alloc::vec::Vec;
use core::cmp::Reverse;
use identity::DiskId;
use secret::DataKey;

/// Length of a slot in bytes: the largest sector size of the devices we meet.
pub const SLOT_LEN: usize = 4096;

/// Byte offsets of the slots on the disk (docs/state-disk.md).
pub const SLOT_OFFSETS: [u64; 2] = [0, 64 * 1024];

/// Byte offset from which dm-integrity owns the disk (docs/state-disk.md).
pub const DATA_OFFSET: u64 = 16 * 1024 * 1024;

/// Preamble, body and tag; the rest of a slot is zero. Below 512, so that a write of a slot
/// changes one sector and is atomic on every device whose sector writes are.
const USED_LEN: usize = PREAMBLE_LEN + BODY_LEN + TAG_LEN;

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotIndex {
    /// The slot at byte 0.
    First,
    /// The slot at 64 KiB.
    Second,
}

impl SlotIndex {
    /// The slot's byte offset on the disk.
    #[must_use]
    pub const fn offset(self) -> u64 {
        let [first, second] = SLOT_OFFSETS;
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }

    /// The other slot, the one to write next.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// What the slots of a disk claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// Every byte of both slots is zero. It does not mean that the disk is new.
    Blank,
    /// At least one slot has the form of a sealed header.
    Sealed(SealedDisk),
}

/// A disk that claims to be sealed; hostile until [`SealedDisk::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDisk {
    newest: Sealed,
    older: Option<Sealed>,
    flaw: Option<(SlotIndex, SlotFlaw)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sealed {
    index: SlotIndex,
    preamble: Preamble,
    /// The preamble, the encrypted body and its tag.
    bytes: Vec<u8>,
}

/// Inspects the two slots, in the order of [`SLOT_OFFSETS`].
///
/// A slot that is blank or malformed beside one that has the form of a sealed header is what a
/// power cut during a write leaves: the other one counts. Two slots of different disks never come
/// from us.
///
/// # Errors
/// No slot has the form of a sealed header and they are not both blank, or they name two disks. A
/// disk without even the magic in a slot is told apart: a torn header of ours has it, because all
/// of a header lies in one sector.
pub fn inspect(slots: &[[u8; SLOT_LEN]; 2]) -> Result<Inspection, InspectError> {
    let [first, second] = slots;
    match (
        parse(SlotIndex::First, first),
        parse(SlotIndex::Second, second),
    ) {
        (Ok(None), Ok(None)) => Ok(Inspection::Blank),
        (Ok(Some(first)), Ok(Some(second))) => both(first, second),
        (Ok(Some(slot)), Ok(None)) | (Ok(None), Ok(Some(slot))) => Ok(one(slot, None)),
        (Ok(Some(slot)), Err(flaw)) => Ok(one(slot, Some((SlotIndex::Second, flaw)))),
        (Err(flaw), Ok(Some(slot))) => Ok(one(slot, Some((SlotIndex::First, flaw)))),
        _ if !slots.iter().any(|slot| slot.starts_with(&MAGIC)) => Err(InspectError::Foreign),
        (Err(flaw), _) => Err(InspectError::NoSealedSlot {
            slot: SlotIndex::First,
            flaw,
        }),
        (Ok(None), Err(flaw)) => Err(InspectError::NoSealedSlot {
            slot: SlotIndex::Second,
            flaw,
        }),
    }
}

fn both(first: Sealed, second: Sealed) -> Result<Inspection, InspectError> {
    if first.preamble.disk != second.preamble.disk {
        return Err(InspectError::TwoDisks {
            first: first.preamble.disk,
            second: second.preamble.disk,
        });
    }
    let mut slots = [first, second];
    slots.sort_by_key(|slot| Reverse(slot.preamble.generation));
    let [newest, older] = slots;
    Ok(Inspection::Sealed(SealedDisk {
        newest,
        older: Some(older),
        flaw: None,
    }))
}

const fn one(newest: Sealed, flaw: Option<(SlotIndex, SlotFlaw)>) -> Inspection {
    Inspection::Sealed(SealedDisk {
        newest,
        older: None,
        flaw,
    })
}

fn parse(index: SlotIndex, bytes: &[u8; SLOT_LEN]) -> Result<Option<Sealed>, SlotFlaw> {
    if is_zero(bytes) {
        return Ok(None);
    }
    let (preamble, _) = bytes.split_first_chunk().ok_or(SlotFlaw::Padding)?;
    let preamble = Preamble::parse(preamble)?;
    match bytes.split_at_checked(USED_LEN) {
        Some((used, rest)) if is_zero(rest) => Ok(Some(Sealed {
            index,
            preamble,
            bytes: used.to_vec(),
        })),
        _ => Err(SlotFlaw::Padding),
    }
}

impl SealedDisk {
    /// The claims of the slot with the highest generation: what to ask a key for.
    #[must_use]
    pub const fn claims(&self) -> &Preamble {
        &self.newest.preamble
    }

    /// The slot that is neither blank nor has the form of a sealed header, and why; worth a line in
    /// the log.
    #[must_use]
    pub const fn flaw(&self) -> Option<&(SlotIndex, SlotFlaw)> {
        self.flaw.as_ref()
    }

    /// Opens the newest slot that authenticates under `key`.
    ///
    /// The caller compares the generation with the node record: this function cannot know that a
    /// newer header was taken away.
    ///
    /// # Errors
    /// No slot authenticates, or one does and its body is not of format version 1.
    pub fn open(&self, key: &DataKey) -> Result<Opened, OpenError> {
        for slot in core::iter::once(&self.newest).chain(&self.older) {
            if let Some(header) = header::open(key, &slot.preamble, &slot.bytes)? {
                return Ok(Opened {
                    header,
                    slot: slot.index,
                });
            }
        }
        Err(OpenError::NotAuthentic {
            disk: self.newest.preamble.disk,
        })
    }
}

/// A header that authenticated.
#[derive(Debug)]
#[must_use]
pub struct Opened {
    /// The header.
    pub header: Header,
    /// Where it was. The next write goes to [`SlotIndex::other`].
    pub slot: SlotIndex,
}

/// Why one slot is neither blank nor a sealed header (class malformed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotFlaw {
    /// A byte after the tag is not zero.
    #[error("slot bytes after the sealed header are not zero")]
    Padding,
    /// The first 64 bytes are not a preamble.
    #[error("slot preamble")]
    Preamble(#[from] PreambleError),
}

/// Why the slots are no state disk (class malformed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Neither blank nor ever a state disk: somebody's data, which nobody may format.
    #[error("the disk is not blank, and no slot has ever been a state disk's")]
    Foreign,
    /// The disk is not blank, and no slot has the form of a sealed header.
    #[error("no slot holds a sealed header and the {slot:?} slot is not blank")]
    NoSealedSlot {
        /// The slot that is not blank.
        slot: SlotIndex,
        /// What is wrong with it.
        #[source]
        flaw: SlotFlaw,
    },
    /// The slots belong to two disks.
    #[error("slots name two disks: first {first}, second {second}")]
    TwoDisks {
        /// The disk that the first slot names.
        first: DiskId,
        /// The disk that the second slot names.
        second: DiskId,
    },
}

/// Why no header was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A slot authenticated but is not of this version (class internal).
    #[error("authenticated header")]
    Body(#[from] BodyError),
    /// No slot authenticates: another disk's key, or an altered header (class refused).
    #[error("no slot of disk {disk} authenticates under the data key")]
    NotAuthentic {
        /// The disk that the slots name.
        disk: DiskId,
    },
}
