//! A disk with one partition, as a partitioning tool leaves it.

use std::os::unix::fs::FileExt as _;

use anyhow::Result;

use vm::Disk;

/// The state disk's partition type (docs/state-disk.md), as bytes of a table.
const STATE: [u8; 16] = [
    0xdb, 0x13, 0xef, 0xdf, 0xe3, 0x9f, 0x5f, 0x48, 0x9b, 0x95, 0x3e, 0x51, 0x14, 0x93, 0x98, 0x5e,
];

const SECTOR: u64 = 512;

/// Where the partition begins, and what the disk has behind it, in sectors.
const MARGIN: u64 = 2048;

/// A disk of a meaningless serial with a blank partition of the state disk's type on all of it.
pub fn partitioned_state(path: &std::path::Path, mebibytes: u64) -> Result<Disk> {
    let disk = Disk::new(path, crate::DiskFormat::Raw, "disk-7");
    disk.blank(mebibytes)?;
    let total = mebibytes * (1 << 20) / SECTOR;
    let mut table = vec![0; 128 * 128];
    put(&mut table, 0, &STATE);
    put(&mut table, 16, &[7; 16]);
    put(&mut table, 32, &MARGIN.to_le_bytes());
    put(&mut table, 40, &(total - MARGIN - 1).to_le_bytes());
    let file = std::fs::File::options().write(true).open(path)?;
    file.write_all_at(&protective(total), 0)?;
    file.write_all_at(&header(total, &table), SECTOR)?;
    file.write_all_at(&table, 2 * SECTOR)?;
    Ok(disk)
}

/// UEFI specification, section 5.2.3; without it the kernel ignores the table.
fn protective(total: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    put(&mut sector, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    put(&mut sector, 454, &1_u32.to_le_bytes());
    let length = u32::try_from(total - 1).unwrap_or(u32::MAX);
    put(&mut sector, 458, &length.to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    sector
}

/// UEFI specification, table 5-5. There is no second table at the end: the first one is used.
fn header(total: u64, table: &[u8]) -> [u8; 92] {
    let mut header = [0; 92];
    put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c");
    for (at, value) in [
        (24, 1),
        (32, total - 1),
        (40, 34),
        (48, total - 34),
        (72, 2),
    ] {
        put(&mut header, at, &u64::to_le_bytes(value));
    }
    put(&mut header, 56, &[8; 16]);
    for (at, value) in [(80, 128), (84, 128), (88, crc32(table))] {
        put(&mut header, at, &u32::to_le_bytes(value));
    }
    let sum = crc32(&header);
    put(&mut header, 16, &sum.to_le_bytes());
    header
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (byte, value) in bytes.iter_mut().skip(at).zip(value) {
        *byte = *value;
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}
