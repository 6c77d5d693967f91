//! Scenarios with the state disk as their subject: its format, a full disk, power cuts, a host that
//! alters it, mappings that are somebody else's, and a disk that was planted.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};
use qemu_tests::{Disk, DiskGuest, Workspace};

const MIB: u64 = 1024 * 1024;

/// A disk that is filled to its last block.
const FULL_MIB: u64 = 192;

/// The smallest disk that the agent takes.
const SMALL_MIB: u64 = 128;

/// Bytes that the disk's file takes on the host.
fn allocated(disk: &Disk) -> Result<u64> {
    // st_blocks counts 512 bytes, stat(2).
    Ok(disk.path().metadata()?.blocks() * 512)
}

#[test]
fn formatting_writes_no_more_on_a_large_disk() -> Result<()> {
    let workspace = Workspace::create("disk-format")?;
    let guest = DiskGuest::build(&workspace)?;
    let format = |name: &str, mebibytes: u64| -> Result<u64> {
        let disk = Disk::blank_state(&workspace.file(&format!("{name}.raw")), mebibytes)?;
        let report = guest.run(name, "format,check", &disk)?;
        report.expect_no_errors()?;
        ensure!(report.number("bytes")? == mebibytes * MIB, "another disk");
        ensure!(report.count(" clean") == 2, "e2fsck did not run twice");
        let written = allocated(&disk)?;
        println!(
            "{name}: format_ms={} host_bytes={written}",
            report.number("format_ms")?
        );
        Ok(written)
    };
    let small = format("1g", 1024)?;
    let large = format("64g", 64 * 1024)?;
    // Both journals have 8 MiB; superblocks, tables and tags are what is left.
    ensure!(small < 20 * MIB, "formatting 1 GiB wrote {small} bytes");
    ensure!(
        large * 4 < small * 5,
        "formatting 64 GiB wrote {large} bytes, 1 GiB {small}"
    );
    Ok(())
}

#[test]
fn a_full_disk_meets_no_unwritten_sector() -> Result<()> {
    let workspace = Workspace::create("disk-full")?;
    let guest = DiskGuest::build(&workspace)?;
    let disk = Disk::blank_state(&workspace.file("full.raw"), FULL_MIB)?;
    let filled = guest.run("fill", "format,check,fill", &disk)?;
    filled.expect_no_errors()?;
    let bytes = filled.number("filled")?;
    ensure!(filled.number("left")? == 0, "the disk is not full");
    ensure!(filled.count(" clean") == 3, "e2fsck did not run each time");
    ensure!(bytes > 3 * FULL_MIB * MIB / 4, "{bytes} bytes filled it");

    let read = guest.run("read", "read,check", &disk)?;
    read.expect_no_errors()?;
    ensure!(
        read.number("read-back")? == bytes,
        "not all of it was read back"
    );
    ensure!(read.count(" clean") == 1, "e2fsck did not run");
    Ok(())
}

#[test]
fn a_host_that_alters_the_disk_is_refused() -> Result<()> {
    let workspace = Workspace::create("disk-altered")?;
    let guest = DiskGuest::build(&workspace)?;
    let disk = Disk::blank_state(&workspace.file("altered.raw"), SMALL_MIB)?;
    let report = guest.run("altered", "format,refusals,check,tamper", &disk)?;
    for (line, refused) in [
        ("altered-superblock", 67),
        ("existing-mapping", 2),
        ("differing-table", 3),
        ("other-keys", 1),
        ("tampered", 7),
    ] {
        let line = format!("disk-test: 0 {line} refused={refused}");
        ensure!(report.count(&line) == 1, "no line `{line}`");
    }
    // Each refusal of a sector is in the kernel's log, so its silence elsewhere means something.
    ensure!(report.number("provoked")? >= 8, "too few integrity errors");
    ensure!(report.expect_no_errors().is_err(), "none on the console");
    Ok(())
}
