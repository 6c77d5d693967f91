//! The state disk's stack: slots of the sealed header, dm-integrity, dm-crypt.

use crate::{
    block::{BLOCK, BlockDevice, BlockError, set_read_ahead},
    dm::{DeviceMapper, DmError, MappedDevice},
    keyring::{KeyringError, LogonKey},
};
use identity::DiskId;
use secret::VolumeKeys;
use state_disk::{
    DATA_OFFSET, DmParameters, InspectError, Inspection, IntegritySuperblock, ParametersError,
    SLOT_LEN, SLOT_OFFSETS, SlotIndex, SuperblockError, inspect,
};
use std::path::Path;

/// The dm-crypt mapping that carries the state file system.
pub const STATE_MAPPING: &str = "constellation-state";

/// The dm-integrity mapping below it.
pub const INTEGRITY_MAPPING: &str = "constellation-state-integrity";

/// Below this, dm-integrity's journal and ext4's would leave no room worth having.
const MINIMUM_SIZE: u64 = 128 * 1024 * 1024;

/// An opened state disk. Its content is the host's until the sealed header authenticates.
#[derive(Debug)]
pub struct StateDisk {
    device: BlockDevice,
}

/// What formatting made; both go into the sealed header.
#[derive(Debug)]
#[must_use]
pub struct Formatted {
    /// The parameters of the tables.
    pub parameters: DmParameters,
    /// The superblock that the kernel wrote.
    pub superblock: IntegritySuperblock,
}

impl StateDisk {
    /// Opens a disk that nothing else uses.
    ///
    /// # Errors
    /// The device, or [`StateDiskError::TooSmall`].
    pub fn open(path: &Path) -> Result<Self, StateDiskError> {
        let device = BlockDevice::open(path).map_err(StateDiskError::Open)?;
        if device.size() < MINIMUM_SIZE {
            return Err(StateDiskError::TooSmall {
                expected: MINIMUM_SIZE,
                got: device.size(),
            });
        }
        Ok(Self { device })
    }

    /// The device under the disk.
    #[must_use]
    pub const fn device(&self) -> &BlockDevice {
        &self.device
    }

    /// Reads the two slots and tells what they claim.
    ///
    /// # Errors
    /// A read, or slots that are neither blank nor of a state disk.
    pub fn inspect(&self) -> Result<Inspection, StateDiskError> {
        let [first, second] = SLOT_OFFSETS.map(|offset| self.device.read_block(offset));
        let slots = [
            first.map_err(StateDiskError::ReadSlot)?,
            second.map_err(StateDiskError::ReadSlot)?,
        ];
        let inspection = inspect(&slots).map_err(StateDiskError::Inspect)?;
        if inspection == Inspection::Blank {
            self.refuse_foreign()?;
        }
        Ok(inspection)
    }

    /// Blank slots do not make a blank disk: some formats leave them zero and begin between them
    /// (md 1.2 and bcachefs at 4 KiB, ZFS at 16 KiB). Nothing of ours was ever there.
    fn refuse_foreign(&self) -> Result<(), StateDiskError> {
        let [_, second] = SLOT_OFFSETS;
        for offset in (0..second).step_by(BLOCK) {
            let block = self.device.read_block(offset);
            if block.map_err(StateDiskError::ReadSlot)? != [0; BLOCK] {
                return Err(StateDiskError::Inspect(InspectError::Foreign));
            }
        }
        Ok(())
    }

    /// Writes a sealed header into one slot, makes it durable and reads it back.
    ///
    /// # Errors
    /// The step that failed.
    pub fn write_slot(
        &self,
        slot: SlotIndex,
        sealed: &[u8; SLOT_LEN],
    ) -> Result<(), StateDiskError> {
        self.device
            .write_block_durably(slot.offset(), sealed)
            .map_err(StateDiskError::WriteSlot)
    }

    /// Lets the kernel format dm-integrity: its superblock and its journal, no data. Takes as long
    /// on a small disk as on a large one. The caller holds an admission that says that this disk
    /// is new; both slots must be blank.
    ///
    /// # Errors
    /// The step that failed. The slots are untouched, so the disk is still blank.
    pub fn format(&self, mapper: &DeviceMapper) -> Result<Formatted, StateDiskError> {
        if self.inspect()? != Inspection::Blank {
            return Err(StateDiskError::NotBlank);
        }
        refuse_existing(mapper)?;
        // The kernel formats when it finds zeros, and only then.
        self.device
            .write_block_durably(DATA_OFFSET, &[0; BLOCK])
            .map_err(StateDiskError::ZeroSuperblock)?;
        let table = DmParameters::formatting_table(self.device.number());
        let formatting = mapper
            .activate(INTEGRITY_MAPPING, &table)
            .map_err(StateDiskError::FormatIntegrity)?;
        mapper
            .remove(formatting.name())
            .map_err(StateDiskError::FormatRemove)?;
        self.formatted()
    }

    /// Reads back what the kernel wrote, and refuses what does not belong to the table.
    fn formatted(&self) -> Result<Formatted, StateDiskError> {
        let superblock = IntegritySuperblock::parse(&self.read_superblock()?)
            .map_err(StateDiskError::FormattedSuperblock)?;
        let parameters = DmParameters::new(superblock.provided_sectors())
            .map_err(StateDiskError::FormattedParameters)?;
        superblock
            .check_against(&parameters)
            .map_err(StateDiskError::FormattedSuperblock)?;
        Ok(Formatted {
            parameters,
            superblock,
        })
    }

    /// Maps the disk: compares the superblock, activates dm-integrity and dm-crypt, and compares
    /// both live tables. Everything comes from an authenticated header, or from
    /// [`StateDisk::format`] just now.
    ///
    /// # Errors
    /// The step that failed; no mapping is left then.
    pub fn activate(
        &self,
        mapper: &DeviceMapper,
        volume: Volume<'_>,
    ) -> Result<MappedDevice, StateDiskError> {
        refuse_existing(mapper)?;
        self.check(volume.parameters, volume.superblock)?;
        let table = volume.parameters.integrity_table(self.device.number());
        let integrity = mapper
            .activate(INTEGRITY_MAPPING, &table)
            .map_err(StateDiskError::ActivateIntegrity)?;
        let mapped = compare_provided(mapper, volume.parameters)
            .and_then(|()| activate_crypt(mapper, &integrity, volume));
        if mapped.is_err() {
            // The first error is the one to report.
            mapper.remove(INTEGRITY_MAPPING).unwrap_or_default();
        }
        mapped
    }

    /// Compares the device with an authenticated header as far as that goes without mapping it: the
    /// size and dm-integrity's superblock. A node does so before it commits to this disk, and again
    /// when it maps it.
    ///
    /// # Errors
    /// [`StateDiskError::TooSmall`] or [`StateDiskError::Superblock`].
    pub fn check(
        &self,
        parameters: &DmParameters,
        superblock: &IntegritySuperblock,
    ) -> Result<(), StateDiskError> {
        let (expected, got) = (parameters.minimum_device_size(), self.device.size());
        if got < expected {
            return Err(StateDiskError::TooSmall { expected, got });
        }
        superblock
            .compare(&self.read_superblock()?)
            .map_err(StateDiskError::Superblock)
    }

    /// Removes both mappings, which writes out dm-integrity's journal.
    ///
    /// # Errors
    /// The step that failed.
    pub fn deactivate(mapper: &DeviceMapper) -> Result<(), StateDiskError> {
        mapper
            .remove(STATE_MAPPING)
            .and_then(|()| mapper.remove(INTEGRITY_MAPPING))
            .map_err(StateDiskError::Deactivate)
    }

    fn read_superblock(&self) -> Result<[u8; BLOCK], StateDiskError> {
        self.device
            .read_block(DATA_OFFSET)
            .map_err(StateDiskError::ReadSuperblock)
    }
}

/// What activation needs of a sealed header.
#[derive(Clone, Copy, Debug)]
pub struct Volume<'a> {
    /// The disk; names the kernel key.
    pub disk: &'a DiskId,
    /// The keys of dm-crypt.
    pub keys: &'a VolumeKeys,
    /// The parameters of the tables.
    pub parameters: &'a DmParameters,
    /// What dm-integrity must find.
    pub superblock: &'a IntegritySuperblock,
}

fn refuse_existing(mapper: &DeviceMapper) -> Result<(), StateDiskError> {
    mapper
        .refuse_existing(STATE_MAPPING)
        .and_then(|()| mapper.refuse_existing(INTEGRITY_MAPPING))
        .map_err(StateDiskError::Existing)
}

/// The kernel read the superblock itself, after we did, from a host that may answer differently
/// each time. Its status line is "mismatches, provided sectors, recalculated sector or `-`"
/// (`dm-integrity.rst`); the other fields it read are in the live table.
fn compare_provided(
    mapper: &DeviceMapper,
    parameters: &DmParameters,
) -> Result<(), StateDiskError> {
    let got = mapper
        .target_status(INTEGRITY_MAPPING)
        .map_err(StateDiskError::ActivateIntegrity)?;
    let expected = format!("0 {} -", parameters.data_sectors());
    if got == expected {
        return Ok(());
    }
    Err(StateDiskError::ProvidedSectors { expected, got })
}

/// The key is in the kernel's keyring only while the table is loaded.
///
/// The mapping does not read ahead: whoever reads the bare device, such as `e2fsck`, would be given
/// sectors that it did not ask for and that were never written, each with an integrity error.
/// [`mount_state`](crate::mount::mount_state) turns it on, because a file system reads ahead only
/// inside of files.
fn activate_crypt(
    mapper: &DeviceMapper,
    integrity: &MappedDevice,
    volume: Volume<'_>,
) -> Result<MappedDevice, StateDiskError> {
    let description = DmParameters::key_description(volume.disk);
    let key = LogonKey::add(&description, volume.keys.expose_secret())
        .map_err(StateDiskError::Keyring)?;
    let table = volume
        .parameters
        .crypt_table(integrity.number(), volume.disk);
    let mapped = mapper
        .activate(STATE_MAPPING, &table)
        .map_err(StateDiskError::ActivateCrypt)?;
    let ready = key
        .remove()
        .map_err(StateDiskError::Keyring)
        .and_then(|()| set_read_ahead(mapped.number(), 0).map_err(StateDiskError::ReadAhead));
    match ready {
        Ok(()) => Ok(mapped),
        Err(error) => {
            // The first error is the one to report.
            mapper.remove(STATE_MAPPING).unwrap_or_default();
            Err(error)
        }
    }
}

/// Why the state disk was not inspected, formatted or mapped; one variant a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDiskError {
    /// dm-crypt.
    #[error("activate dm-crypt")]
    ActivateCrypt(#[source] DmError),
    /// dm-integrity.
    #[error("activate dm-integrity")]
    ActivateIntegrity(#[source] DmError),
    /// Removing the mappings.
    #[error("deactivate the state disk")]
    Deactivate(#[source] DmError),
    /// A mapping of our name exists (class refused).
    #[error("look for mappings of the state disk's names")]
    Existing(#[source] DmError),
    /// The kernel did not format dm-integrity.
    #[error("format dm-integrity")]
    FormatIntegrity(#[source] DmError),
    /// The mapping that formatted was not removed.
    #[error("remove dm-integrity after formatting")]
    FormatRemove(#[source] DmError),
    /// The kernel provides a size that no header can have.
    #[error("size of the formatted dm-integrity")]
    FormattedParameters(#[source] ParametersError),
    /// The superblock on the disk is not what the kernel writes for our table.
    #[error("superblock of the formatted dm-integrity")]
    FormattedSuperblock(#[source] SuperblockError),
    /// The slots are no state disk's (class malformed).
    #[error("slots of the state disk")]
    Inspect(#[source] InspectError),
    /// The key did not get into the kernel's keyring, or not out of it.
    #[error("volume keys in the kernel keyring")]
    Keyring(#[source] KeyringError),
    /// Only a blank disk is formatted (class refused).
    #[error("format the state disk: its slots are not blank")]
    NotBlank,
    /// The device.
    #[error("open the state disk")]
    Open(#[source] BlockError),
    /// dm-integrity provides other sectors than the header says (class refused).
    #[error("dm-integrity status: expected {expected:?}, got {got:?}")]
    ProvidedSectors {
        /// The status of the disk as sealed.
        expected: String,
        /// The kernel's status line.
        got: String,
    },
    /// The mapping's read-ahead was not turned off.
    #[error("read-ahead of the state disk")]
    ReadAhead(#[source] BlockError),
    /// Reading a slot.
    #[error("read a slot of the state disk")]
    ReadSlot(#[source] BlockError),
    /// Reading the superblock.
    #[error("read the dm-integrity superblock")]
    ReadSuperblock(#[source] BlockError),
    /// The superblock on the disk is not the sealed one (class refused).
    #[error("dm-integrity superblock on the disk")]
    Superblock(#[source] SuperblockError),
    /// The disk is too small (class refused).
    #[error("state disk: expected at least {expected} bytes, got {got}")]
    TooSmall {
        /// What a new disk, or the sealed one, needs.
        expected: u64,
        /// The disk's size.
        got: u64,
    },
    /// Writing a slot.
    #[error("write a slot of the state disk")]
    WriteSlot(#[source] BlockError),
    /// Zeroing the superblock before formatting.
    #[error("zero the dm-integrity superblock")]
    ZeroSuperblock(#[source] BlockError),
}
