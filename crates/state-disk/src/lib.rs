//! The sealed header of a state disk and the device-mapper tables it implies.
//!
//! A state disk carries two 4 KiB *slots*, at byte 0 and at 64 KiB, and data from 16 MiB on. A slot
//! is blank or holds a *sealed header*: a [`Preamble`] of 64 cleartext bytes and a body under
//! AES-256-GCM whose key is derived from the disk's data key. `docs/state-disk.md` is the format's
//! specification, with offsets, test vectors and an independent reader.
//!
//! Everything here is pure: bytes in, values out. The disk is written by the host, so its content
//! is hostile until [`SealedDisk::open`] authenticated it; before that nothing but the preamble is
//! parsed. What this crate does not do: device access, key release, and deciding whether a disk is
//! new (the server decides that from its node record).
//!
//! * [`inspect`] tells what two slots claim: nothing ([`Inspection::Blank`]) or a [`SealedDisk`].
//! * [`SealedDisk::open`] gives [`Opened`]: the newest header that authenticates, and its slot.
//! * [`Header::seal`] makes the content of a slot.
//! * [`DmParameters`] makes the device-mapper [`Table`]s, [`IntegritySuperblock`] what
//!   dm-integrity must find on the disk.
#![no_std]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;

mod slots;

mod preamble;

mod header;

mod body;

mod mapping;

mod superblock;

mod cursor;

pub use body::{BODY_LEN, BodyError};
pub use header::{Header, NONCE_LEN, SealError};
pub use mapping::{DeviceNumber, DmParameters, ParametersError, Table};
pub use preamble::{PREAMBLE_LEN, Preamble, PreambleError};
pub use slots::{
    DATA_OFFSET, InspectError, Inspection, OpenError, Opened, SLOT_LEN, SLOT_OFFSETS, SealedDisk,
    SlotFlaw, SlotIndex, inspect,
};
pub use superblock::{IntegritySuperblock, SUPERBLOCK_LEN, SuperblockError};
