//! What activation refuses.

use crate::{Outcome, STATE, disk, kernel_log};
use platform::{
    block::BLOCK,
    dm::{DeviceMapper, DmError},
    integrity::{INTEGRITY_MAPPING, STATE_MAPPING, StateDisk, StateDiskError, Volume},
    mount,
};
use state_disk::{DATA_OFFSET, DmParameters, Header, SuperblockError};
use std::path::Path;

/// Runs all refusals and says how many integrity errors they provoked.
pub(crate) fn run(mapper: &DeviceMapper) -> Outcome<usize> {
    let disk = disk::device()?;
    let header = disk::open(&disk)?.header;
    altered_superblock(mapper, &disk, &header)?;
    existing_mapping(mapper, &disk, &header)?;
    differing_table(mapper, &disk, &header)?;
    other_keys(mapper, &disk, &header)
}

/// Every byte of the superblock's fields, one after them, the last one; then all of it zero.
fn altered_superblock(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let good = disk.device().read_block(DATA_OFFSET)?;
    let mut refused = 0;
    for at in (0..64).chain([64, 4095]) {
        let mut bad = good;
        bad[at] ^= 0x80;
        disk.device().write_block_durably(DATA_OFFSET, &bad)?;
        match disk.activate(mapper, disk::volume(header)) {
            Err(StateDiskError::Superblock(SuperblockError::Differs { offset }))
                if offset == at => {}
            other => return Err(format!("superblock byte {at}: {other:?}").into()),
        }
        refused += 1;
    }
    let zeros = [0; BLOCK];
    disk.device().write_block_durably(DATA_OFFSET, &zeros)?;
    match disk.activate(mapper, disk::volume(header)) {
        Err(StateDiskError::Superblock(SuperblockError::Blank)) => {}
        other => return Err(format!("zeroed superblock: {other:?}").into()),
    }
    // A kernel that had been asked would have formatted.
    if disk.device().read_block(DATA_OFFSET)? != zeros {
        return Err("the zeroed superblock was formatted".into());
    }
    disk.device().write_block_durably(DATA_OFFSET, &good)?;
    println!("disk-test: 0 altered-superblock refused={}", refused + 1);
    Ok(())
}

fn existing_mapping(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let linear = state_disk::Table {
        target: "linear",
        sectors: 8,
        parameters: format!("{} 0", disk.device().number()),
        read_only: false,
    };
    for name in [STATE_MAPPING, INTEGRITY_MAPPING] {
        let foreign = mapper.activate(name, &linear)?;
        match disk.activate(mapper, disk::volume(header)) {
            Err(StateDiskError::Existing(DmError::Exists(existing))) if existing == name => {}
            other => return Err(format!("existing mapping {name}: {other:?}").into()),
        }
        mapper.remove(foreign.name())?;
    }
    println!("disk-test: 0 existing-mapping refused=2");
    Ok(())
}

/// The live tables are those of the header, and no other.
fn differing_table(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let mapped = disk.activate(mapper, disk::volume(header))?;
    let device = disk.device().number();
    mapper.compare(
        INTEGRITY_MAPPING,
        &header.parameters.integrity_table(device),
    )?;
    let smaller = DmParameters::new(header.parameters.data_sectors() - 8)?;
    let mut read_only = header.parameters.integrity_table(device);
    read_only.read_only = true;
    let other_key = identity::DiskId::from_bytes([8; 16]);
    let integrity = state_disk::DeviceNumber {
        minor: mapped.number().minor - 1,
        ..mapped.number()
    };
    let others = [
        (INTEGRITY_MAPPING, smaller.integrity_table(device)),
        (INTEGRITY_MAPPING, read_only),
        (
            STATE_MAPPING,
            header.parameters.crypt_table(integrity, &other_key),
        ),
    ];
    for (name, table) in &others {
        match mapper.compare(name, table) {
            Err(DmError::Differs { .. }) => {}
            other => return Err(format!("table {table:?}: {other:?}").into()),
        }
    }
    println!("disk-test: 0 differing-table refused={}", others.len());
    Ok(StateDisk::deactivate(mapper)?)
}

/// Other volume keys map the disk and cannot read one block of it.
fn other_keys(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome<usize> {
    let before = kernel_log::errors()?;
    let keys = disk::volume_keys()?;
    let volume = Volume {
        keys: &keys,
        ..disk::volume(header)
    };
    let mapped = disk.activate(mapper, volume)?;
    let mounted = mount::mount_state(&mapped, Path::new(STATE));
    StateDisk::deactivate(mapper)?;
    if mounted.is_ok() {
        return Err("other volume keys mounted the disk".into());
    }
    let provoked = kernel_log::errors()? - before;
    if provoked == 0 {
        return Err("other keys made no integrity error: nothing counts them".into());
    }
    println!("disk-test: 0 other-keys refused=1");
    Ok(provoked)
}
