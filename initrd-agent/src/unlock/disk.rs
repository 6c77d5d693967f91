//! The state disk of a whole machine: a block device under dm-integrity and dm-crypt.

use super::{Disk, Made, exits, step};
use crate::exit::{ExitReason, Failure};
use admission::node::{DiskState, Slot};
use identity::DiskId;
use platform::{
    dm::{DeviceMapper, DmError},
    integrity::{StateDisk, StateDiskError, Volume},
    mkfs::make_ext4,
    random,
};
use secret::{DataKey, VolumeKeys};
use state_disk::{Header, InspectError, Inspection, OpenError, Opened, SLOT_LEN, SlotIndex};
use std::path::{Path, PathBuf};

/// The state disk of this machine, and what it takes to map it.
#[derive(Debug)]
pub struct MappedDisk<'a> {
    /// The device mapper.
    pub mapper: &'a DeviceMapper,
    /// Where the verified root is mounted; its `mke2fs` makes the state file system.
    pub root: &'a Path,
    /// The state disk.
    pub disk: &'a StateDisk,
}

impl Disk for MappedDisk<'_> {
    fn inspect(&self) -> Result<DiskState, Failure> {
        let state = match self.disk.inspect() {
            Ok(Inspection::Blank) => DiskState::Blank,
            Ok(Inspection::Sealed(sealed)) => {
                let claims = sealed.claims();
                step("state-disk")
                    .with("header", claims.disk)
                    .with("generation", claims.generation)
                    .end();
                return Ok(DiskState::Header {
                    disk: claims.disk,
                    key_version: claims.key_version,
                });
            }
            Err(error @ StateDiskError::Inspect(InspectError::Foreign)) => {
                return Err(exits(ExitReason::StateDiskUnusable)(error));
            }
            // The server alone decides whether a disk is new, so this is for it to refuse.
            Err(StateDiskError::Inspect(_)) => DiskState::Torn,
            Err(error) => return Err(exits(disk_reason(&error))(error)),
        };
        let header = if state == DiskState::Torn {
            "torn"
        } else {
            "none"
        };
        step("state-disk").with("header", header).end();
        Ok(state)
    }

    fn wipe(&self) -> Result<(), Failure> {
        for slot in [SlotIndex::First, SlotIndex::Second] {
            let written = self.disk.write_slot(slot, &[0; SLOT_LEN]);
            written.map_err(exits(ExitReason::StateDiskFailed))?;
        }
        step("wipe").end();
        Ok(())
    }

    fn format(&self, disk: &DiskId) -> Result<Made, Failure> {
        self.wipe()?;
        let formatted = self
            .disk
            .format(self.mapper)
            .map_err(exits(ExitReason::Format))?;
        let volume_keys =
            VolumeKeys::try_fill(|bytes| random::fill(bytes)).map_err(exits(ExitReason::Format))?;
        let made = Made {
            volume_keys,
            parameters: formatted.parameters,
            superblock: formatted.superblock,
        };
        let volume = Volume {
            disk,
            keys: &made.volume_keys,
            parameters: &made.parameters,
            superblock: &made.superblock,
        };
        let mapped = self
            .disk
            .activate(self.mapper, volume)
            .map_err(exits(ExitReason::Format))?;
        let written = make_ext4(self.root, &mapped.node()).map_err(exits(ExitReason::Format))?;
        StateDisk::deactivate(self.mapper).map_err(exits(ExitReason::Format))?;
        step("format")
            .with("data", written.data)
            .with("journal", written.journal)
            .end();
        Ok(made)
    }

    fn open_header(&self, disk: &DiskId, key: &DataKey) -> Result<Option<Opened>, Failure> {
        let sealed = match self.disk.inspect() {
            Ok(Inspection::Sealed(sealed)) => sealed,
            Ok(Inspection::Blank) | Err(StateDiskError::Inspect(_)) => return Ok(None),
            Err(error) => return Err(exits(disk_reason(&error))(error)),
        };
        match sealed.open(key) {
            Ok(opened) if opened.header.disk == *disk => {
                // Before the Commit: a copy that was cut must not make the real disk the older one.
                let header = &opened.header;
                let checked = self.disk.check(&header.parameters, &header.superblock);
                checked.map_err(|error| exits(disk_reason(&error))(error))?;
                Ok(Some(opened))
            }
            Ok(_) | Err(OpenError::NotAuthentic { .. }) => Ok(None),
            Err(error) => Err(exits(ExitReason::HeaderRefused)(error)),
        }
    }

    fn write_header(&self, slot: Slot, header: &Header, key: &DataKey) -> Result<(), Failure> {
        let nonce = random::array().map_err(exits(ExitReason::StateDiskFailed))?;
        let sealed = header
            .seal(key, nonce)
            .map_err(exits(ExitReason::StateDiskFailed))?;
        self.disk
            .write_slot(index_of(slot), &sealed)
            .map_err(exits(ExitReason::StateDiskFailed))
    }

    fn map(&self, header: &Header) -> Result<PathBuf, Failure> {
        let volume = Volume {
            disk: &header.disk,
            keys: &header.volume_keys,
            parameters: &header.parameters,
            superblock: &header.superblock,
        };
        let mapped = self.disk.activate(self.mapper, volume);
        let mapped = mapped.map_err(|error| exits(disk_reason(&error))(error))?;
        Ok(mapped.link())
    }
}

/// The row of the table for an error of the state disk.
pub(crate) const fn disk_reason(error: &StateDiskError) -> ExitReason {
    match error {
        StateDiskError::Open(_) | StateDiskError::TooSmall { .. } => ExitReason::StateDiskUnusable,
        StateDiskError::Existing(_)
        | StateDiskError::ProvidedSectors { .. }
        | StateDiskError::Superblock(_)
        | StateDiskError::ActivateIntegrity(DmError::Differs { .. } | DmError::Exists(_))
        | StateDiskError::ActivateCrypt(DmError::Differs { .. } | DmError::Exists(_)) => {
            ExitReason::MappingDiffers
        }
        StateDiskError::ReadSlot(_)
        | StateDiskError::ReadSuperblock(_)
        | StateDiskError::WriteSlot(_) => ExitReason::StateDiskFailed,
        _ => ExitReason::Mapping,
    }
}

const fn index_of(slot: Slot) -> SlotIndex {
    match slot {
        Slot::A => SlotIndex::First,
        Slot::B => SlotIndex::Second,
    }
}

pub(super) const fn slot_of(index: SlotIndex) -> Slot {
    match index {
        SlotIndex::First => Slot::A,
        SlotIndex::Second => Slot::B,
    }
}
