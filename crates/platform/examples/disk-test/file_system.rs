//! The file system: made, filled to the last block, read back, checked.

use crate::{Outcome, ROOT, STATE, disk, timed};
use platform::{
    block, chroot,
    dm::{DeviceMapper, MappedDevice},
    integrity::StateDisk,
    mkfs, mount, random,
};
use state_disk::{Inspection, SlotIndex};
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    path::Path,
    time::Instant,
};

/// What fills a file system.
const FILLING: u8 = 0x5a;

/// What the first file says.
const KEPT: &[u8] = b"kept";

/// A new state disk, from zeros to a file on it.
pub(crate) fn format(mapper: &DeviceMapper) -> Outcome {
    let disk = disk::device()?;
    if disk.inspect()? != Inspection::Blank {
        return Err("the disk is not blank".into());
    }
    let whole = Instant::now();
    let header = disk::header(timed("format", || Ok(disk.format(mapper)?))?)?;
    let mapped = timed("activate", || {
        Ok(disk.activate(mapper, disk::volume(&header))?)
    })?;
    let written = timed("mkfs", || {
        Ok(mkfs::make_ext4(Path::new(ROOT), &mapped.node())?)
    })?;
    timed("header", || {
        let sealed = header.seal(&disk::data_key()?, random::array()?)?;
        disk.write_slot(SlotIndex::First, &sealed)?;
        Ok(())
    })?;
    println!(
        "disk-test: 0 formatted format_ms={} bytes={} data={} journal={}",
        whole.elapsed().as_millis(),
        disk.device().size(),
        written.data,
        written.journal
    );
    if disk.format(mapper).is_ok() {
        return Err("a sealed disk was formatted".into());
    }
    // Before the kernel has zeroed any inode table.
    fsck(&mapped)?;
    mount::mount_state(&mapped, Path::new(STATE))?;
    fs::write(format!("{STATE}/kept"), KEPT)?;
    close(mapper)
}

/// Fills the file system to the last block, and checks it.
pub(crate) fn fill(mapper: &DeviceMapper) -> Outcome {
    let mapped = disk::mount(mapper)?;
    let bytes = timed("fill", || write_until_full(&format!("{STATE}/fill")))?;
    let left = rustix::fs::statvfs(STATE)?.f_bavail;
    println!("disk-test: 0 filled={bytes} left={left}");
    mount::unmount(Path::new(STATE))?;
    fsck(&mapped)?;
    Ok(StateDisk::deactivate(mapper)?)
}

fn write_until_full(path: &str) -> Outcome<u64> {
    let mut file = File::create(path)?;
    let piece = vec![FILLING; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.write(&piece) {
            Ok(len) => bytes += len as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()?;
    Ok(bytes)
}

/// Reads every file back.
pub(crate) fn read(mapper: &DeviceMapper) -> Outcome {
    drop(disk::mount(mapper)?);
    let bytes = timed("read", || read_back(&format!("{STATE}/fill")))?;
    println!("disk-test: 0 read-back={bytes}");
    close(mapper)
}

fn read_back(path: &str) -> Outcome<u64> {
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    let expected = vec![FILLING; 1 << 20];
    let mut bytes = 0;
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            return Ok(bytes);
        }
        if piece[..len] != expected[..len] {
            return Err("the file has other content".into());
        }
        bytes += len as u64;
    }
}

/// The first file is there, and `e2fsck` has nothing to say.
pub(crate) fn check(mapper: &DeviceMapper) -> Outcome {
    let mapped = disk::mount(mapper)?;
    if fs::read(format!("{STATE}/kept"))? != KEPT {
        return Err("the first file is gone".into());
    }
    mount::unmount(Path::new(STATE))?;
    fsck(&mapped)?;
    Ok(StateDisk::deactivate(mapper)?)
}

fn close(mapper: &DeviceMapper) -> Outcome {
    mount::unmount(Path::new(STATE))?;
    Ok(StateDisk::deactivate(mapper)?)
}

/// The verified root's own `e2fsck`, reading all metadata and changing nothing.
pub(crate) fn fsck(mapped: &MappedDevice) -> Outcome {
    // Mounting turned it on; on the bare device it would read what nobody wrote.
    block::set_read_ahead(mapped.number(), 0)?;
    rustix::mount::mount_bind("/dev", format!("{ROOT}/dev"))?;
    let status = timed("fsck", || {
        let mut command = chroot::command(Path::new(ROOT), "/sbin/e2fsck")?;
        command.args(["-f", "-n", "/dev/mapper/constellation-state"]);
        Ok(command.status()?)
    })?;
    mount::unmount(&Path::new(ROOT).join("dev"))?;
    if !status.success() {
        return Err(format!("e2fsck: {status}").into());
    }
    println!("disk-test: 0 clean");
    Ok(())
}
