use admission::node::{DiskState, Slot};
use anyhow::{Context as _, Result};
use identity::DiskId;
use initrd_agent::{
    exit::{ExitReason, Failure, exits},
    unlock::{Disk, Made},
};
use platform::random;
use secret::{DataKey, VolumeKeys};
use state_disk::{
    DmParameters, Header, InspectError, Inspection, IntegritySuperblock, OpenError, Opened,
    SLOT_LEN, inspect,
};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// A folder in a state disk's place: two files are the slots of the sealed header, and what would be
/// the mapping is the folder itself. Nothing in it is encrypted but the header.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Opens the folder, or makes it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make `{}`", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    fn slot(&self, slot: Slot) -> PathBuf {
        self.0.join(format!("header-{slot:?}.bin"))
    }

    fn read(&self, slot: Slot) -> io::Result<[u8; SLOT_LEN]> {
        let bytes = match fs::read(self.slot(slot)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok([0; SLOT_LEN]),
            read => read?,
        };
        bytes
            .try_into()
            .map_err(|_| io::Error::other("a slot of another length"))
    }

    fn write(&self, slot: Slot, bytes: &[u8; SLOT_LEN]) -> Result<(), Failure> {
        let path = self.slot(slot);
        let write = || {
            let fresh = path.with_extension("new");
            let mut file = File::create(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|error: io::Error| exits(ExitReason::StateDiskFailed)(error))
    }

    fn inspection(&self) -> Result<Result<Inspection, InspectError>, Failure> {
        let slots = self
            .read(Slot::A)
            .and_then(|a| Ok([a, self.read(Slot::B)?]));
        slots
            .map(|slots| inspect(&slots))
            .map_err(exits(ExitReason::StateDiskFailed))
    }
}

impl Disk for Folder {
    fn inspect(&self) -> Result<DiskState, Failure> {
        Ok(match self.inspection()? {
            Ok(Inspection::Blank) => DiskState::Blank,
            Ok(Inspection::Sealed(sealed)) => {
                let claims = sealed.claims();
                DiskState::Header {
                    disk: claims.disk,
                    key_version: claims.key_version,
                }
            }
            Err(InspectError::Foreign) => {
                return Err(exits(ExitReason::StateDiskUnusable)(InspectError::Foreign));
            }
            Err(_) => DiskState::Torn,
        })
    }

    fn wipe(&self) -> Result<(), Failure> {
        self.write(Slot::A, &[0; SLOT_LEN])?;
        self.write(Slot::B, &[0; SLOT_LEN])
    }

    /// A header must name a stack, and this is the smallest one. Nothing is ever mapped by it.
    fn format(&self, _: &DiskId) -> Result<Made, Failure> {
        self.wipe()?;
        Ok(Made {
            volume_keys: VolumeKeys::try_fill(|bytes| random::fill(bytes))
                .map_err(exits(ExitReason::Format))?,
            parameters: DmParameters::new(SECTORS).map_err(exits(ExitReason::Format))?,
            superblock: IntegritySuperblock::parse(&superblock())
                .map_err(exits(ExitReason::Format))?,
        })
    }

    fn open_header(&self, disk: &DiskId, key: &DataKey) -> Result<Option<Opened>, Failure> {
        let Ok(Inspection::Sealed(sealed)) = self.inspection()? else {
            return Ok(None);
        };
        match sealed.open(key) {
            Ok(opened) if opened.header.disk == *disk => Ok(Some(opened)),
            Ok(_) | Err(OpenError::NotAuthentic { .. }) => Ok(None),
            Err(error) => Err(exits(ExitReason::HeaderRefused)(error)),
        }
    }

    fn write_header(&self, slot: Slot, header: &Header, key: &DataKey) -> Result<(), Failure> {
        let nonce = random::array().map_err(exits(ExitReason::StateDiskFailed))?;
        let sealed = header
            .seal(key, nonce)
            .map_err(exits(ExitReason::StateDiskFailed))?;
        self.write(slot, &sealed)
    }

    fn map(&self, _: &Header) -> Result<PathBuf, Failure> {
        Ok(self.0.clone())
    }
}

/// Sectors of the smallest stack: one block.
const SECTORS: u64 = 8;

/// What the kernel would write for it (`struct superblock` in Linux `drivers/md/dm-integrity.c`).
fn superblock() -> [u8; SLOT_LEN] {
    let mut block = [0; SLOT_LEN];
    let fields = [
        b"integrt\0".as_slice(),
        &[5, 15],               // version; log2 of the interleaved sectors
        &32_u16.to_le_bytes(),  // tag size
        &88_u32.to_le_bytes(),  // journal sections
        &SECTORS.to_le_bytes(), // provided sectors
        &8_u32.to_le_bytes(),   // flags: SB_FLAG_FIXED_PADDING
        &[3],                   // log2 of the sectors of a block
    ]
    .concat();
    block[..fields.len()].copy_from_slice(&fields);
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{ClusterId, Generation, KeyVersion, Role};

    #[test]
    fn a_header_comes_back_with_its_key_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(&parent.path().join("disk")).unwrap();
        assert_eq!(folder.inspect().unwrap(), DiskState::Blank);
        let disk = DiskId::from_random([7; 16]);
        let made = folder.format(&disk).unwrap();
        let header = Header {
            disk,
            key_version: KeyVersion::FIRST,
            generation: Generation::FIRST,
            volume_keys: made.volume_keys,
            cluster: ClusterId::from_bytes([2; 32]),
            role: Role::Worker,
            init_unfinished: false,
            node_name: "worker-0".parse().unwrap(),
            parameters: made.parameters,
            superblock: made.superblock,
        };
        let key = DataKey::from_slice(&[3; 32]).unwrap();
        folder.write_header(Slot::A, &header, &key).unwrap();
        assert!(matches!(
            folder.inspect().unwrap(),
            DiskState::Header { disk: got, .. } if got == disk
        ));
        let opened = folder.open_header(&disk, &key).unwrap().unwrap();
        assert_eq!(opened.header.generation, Generation::FIRST);
        let other = DataKey::from_slice(&[4; 32]).unwrap();
        assert!(folder.open_header(&disk, &other).unwrap().is_none());
        folder.wipe().unwrap();
        assert_eq!(folder.inspect().unwrap(), DiskState::Blank);
    }
}
