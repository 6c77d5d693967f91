//! The state disk and its header, as the agent keeps them.

use crate::{Outcome, STATE};
use identity::{ClusterId, DiskId, Generation, KeyVersion, Role};
use platform::{
    dm::{DeviceMapper, MappedDevice},
    find::{Wanted, find},
    integrity::{Formatted, StateDisk, Volume},
    mount, random,
};
use secret::{DataKey, VolumeKeys};
use state_disk::{Header, Inspection, Opened};
use std::path::Path;

/// The disk of this test; the real one is minted by the admitting side.
const DISK: DiskId = DiskId::from_bytes([7; 16]);

/// Opens the disk, blank or not.
pub(crate) fn device() -> Outcome<StateDisk> {
    Ok(StateDisk::open(&find(&Wanted::STATE)?)?)
}

pub(crate) fn data_key() -> Outcome<DataKey> {
    Ok(DataKey::from_slice(&[9; 32]).ok_or("data key")?)
}

pub(crate) fn volume_keys() -> Outcome<VolumeKeys> {
    Ok(VolumeKeys::try_fill(|bytes| random::fill(bytes))?)
}

/// The first header of a disk that was just formatted.
pub(crate) fn header(formatted: Formatted) -> Outcome<Header> {
    Ok(Header {
        disk: DISK,
        key_version: KeyVersion::FIRST,
        generation: Generation::FIRST,
        volume_keys: volume_keys()?,
        cluster: ClusterId::from_bytes([3; 32]),
        role: Role::Worker,
        init_unfinished: false,
        node_name: "worker-0".parse()?,
        parameters: formatted.parameters,
        superblock: formatted.superblock,
    })
}

/// The newest header.
pub(crate) fn open(disk: &StateDisk) -> Outcome<Opened> {
    let Inspection::Sealed(sealed) = disk.inspect()? else {
        return Err("the disk is blank".into());
    };
    Ok(sealed.open(&data_key()?)?)
}

/// Writes the next generation into the other slot, and finds it to be the newest.
pub(crate) fn next_generation(disk: &StateDisk) -> Outcome {
    let opened = open(disk)?;
    let mut header = opened.header;
    header.generation = header.generation.next().ok_or("generation")?;
    let slot = opened.slot.other();
    disk.write_slot(slot, &header.seal(&data_key()?, random::array()?)?)?;
    let newest = open(disk)?;
    if newest.slot != slot || newest.header.generation != header.generation {
        return Err("the newest header did not win".into());
    }
    println!("disk-test: 0 generation={}", header.generation);
    Ok(())
}

pub(crate) const fn volume(header: &Header) -> Volume<'_> {
    Volume {
        disk: &header.disk,
        keys: &header.volume_keys,
        parameters: &header.parameters,
        superblock: &header.superblock,
    }
}

/// Opens and maps the disk.
pub(crate) fn map(mapper: &DeviceMapper) -> Outcome<MappedDevice> {
    let disk = device()?;
    let opened = open(&disk)?;
    Ok(disk.activate(mapper, volume(&opened.header))?)
}

/// Maps and mounts the disk.
pub(crate) fn mount(mapper: &DeviceMapper) -> Outcome<MappedDevice> {
    let mapped = map(mapper)?;
    mount::mount_state(&mapped, Path::new(STATE))?;
    Ok(mapped)
}
