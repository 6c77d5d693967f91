//! Scenarios with the state disk as their subject: its format, a full disk, power cuts, a host that
//! alters it, mappings that are somebody else's, and a disk that was planted.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Result, ensure};
use qemu_tests::{Disk, DiskGuest, Workspace};

const MIB: u64 = 1024 * 1024;

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
