//! Files under write load, for a machine that is killed.

use crate::{Outcome, STATE, disk, file_system, kernel_log, option};
use platform::{dm::DeviceMapper, integrity::StateDisk, mount};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

/// Writes files and syncs each one until the power is cut.
pub(crate) fn load(mapper: &DeviceMapper) -> Outcome {
    disk::next_generation(&disk::device()?)?;
    println!("disk-test: 0 mapping");
    drop(disk::mount(mapper)?);
    let synced = verify_synced()?;
    kernel_log::expect_errors(0)?;
    fs::create_dir_all(format!("{STATE}/load"))?;
    let directory = File::open(format!("{STATE}/load"))?;
    let mut noise = File::create(format!("{STATE}/noise"))?;
    for number in synced + 1.. {
        // Never synced by itself: dirty pages and blocks that change owners, under way at the cut.
        noise.write_all(&content(number).repeat(16))?;
        if number % 8 == 0 {
            noise.set_len(0)?;
        }
        let mut file = File::create(format!("{STATE}/load/{number}"))?;
        file.write_all(&content(number))?;
        file.sync_all()?;
        directory.sync_all()?;
        println!("disk-test: synced={number}");
    }
    Ok(())
}

/// Every synced file is whole, and `e2fsck` has nothing to say.
pub(crate) fn verify(mapper: &DeviceMapper) -> Outcome {
    let mapped = disk::mount(mapper)?;
    verify_synced()?;
    mount::unmount(Path::new(STATE))?;
    file_system::fsck(&mapped)?;
    Ok(StateDisk::deactivate(mapper)?)
}

/// Mounting has replayed both journals, as a boot does; then every file that was synced is there.
fn verify_synced() -> Outcome<u32> {
    let recovered = kernel_log::lines_with(&["recovery complete"])?;
    println!("disk-test: 0 recoveries={}", recovered.len());
    let synced = option("disk-test-synced")?.parse()?;
    for number in 1..=synced {
        if fs::read(format!("{STATE}/load/{number}"))? != content(number) {
            return Err(format!("synced file {number} has other content").into());
        }
    }
    println!("disk-test: 0 verified={synced}");
    Ok(synced)
}

/// 16 KiB that say which file they are of.
fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(4096)
}
