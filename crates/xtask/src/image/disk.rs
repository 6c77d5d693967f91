//! The disk image: GPT with the boot partition and the verity root, for machines that boot one disk.

use anyhow::Context;
use std::{fs, path::Path};

const SECTOR: u64 = 512;
/// Partitions start at multiples of 1 MiB, in sectors.
const ALIGN: u64 = 2048;
/// Header and entries: UEFI specification, section 5.3; 128 entries of 128 bytes.
const ENTRIES: u64 = 128 * 128;

/// EFI system partition (UEFI specification, table 5-7).
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Our own types (os-image/README.md): the verity root, found by the agent by its type.
const ROOT: &str = "238d5588-4d66-4b30-a7ca-cd54973d42da";

const DISK_ID: &str = "59d7a9c5-5c1e-4b4c-9a58-6f3f5f6b7a00";
const ESP_ID: &str = "59d7a9c5-5c1e-4b4c-9a58-6f3f5f6b7a10";
const ROOT_ID: &str = "59d7a9c5-5c1e-4b4c-9a58-6f3f5f6b7a11";

struct Partition {
    kind: &'static str,
    id: &'static str,
    name: &'static str,
    first: u64,
    content: Vec<u8>,
}

/// Writes `image` with the file systems `esp` and `root`.
pub(crate) fn build(esp: &Path, root: &Path, image: &Path) -> anyhow::Result<()> {
    let mut next = ALIGN;
    let mut partition = |kind, id, name, path: &Path| {
        let content = fs::read(path).with_context(|| format!("read `{}`", path.display()))?;
        let first = next;
        next = (first + sectors(&content)).next_multiple_of(ALIGN);
        anyhow::Ok(Partition {
            kind,
            id,
            name,
            first,
            content,
        })
    };
    let partitions = [
        partition(ESP, ESP_ID, "boot", esp)?,
        partition(ROOT, ROOT_ID, "constellation-root", root)?,
    ];
    let total = next + ALIGN;
    let mut disk = vec![0; usize::try_from(total * SECTOR)?];
    for partition in &partitions {
        put(&mut disk, partition.first * SECTOR, &partition.content)?;
    }
    let entries = encode_entries(&partitions)?;
    let backup_entries = total - 1 - ENTRIES / SECTOR;
    put(&mut disk, 2 * SECTOR, &entries)?;
    put(&mut disk, backup_entries * SECTOR, &entries)?;
    put(&mut disk, SECTOR, &header(1, total - 1, 2, &entries)?)?;
    put(
        &mut disk,
        (total - 1) * SECTOR,
        &header(total - 1, 1, backup_entries, &entries)?,
    )?;
    put(&mut disk, 446, &protective_entry(total)?)?;
    put(&mut disk, 510, &[0x55, 0xaa])?;
    Ok(fs::write(image, disk)?)
}

fn sectors(content: &[u8]) -> u64 {
    (content.len() as u64).div_ceil(SECTOR)
}

fn put(disk: &mut [u8], offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
    let start = usize::try_from(offset)?;
    let place = disk
        .get_mut(start..start + bytes.len())
        .context("the disk is too small")?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// One MBR partition of type 0xee over the whole disk (section 5.2.3).
fn protective_entry(total: u64) -> anyhow::Result<Vec<u8>> {
    let mut entry = vec![0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff];
    entry.extend(1_u32.to_le_bytes());
    entry.extend(u32::try_from(total - 1)?.to_le_bytes());
    Ok(entry)
}

fn encode_entries(partitions: &[Partition]) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for partition in partitions {
        let last = partition.first + sectors(&partition.content) - 1;
        let start = bytes.len();
        bytes.extend(guid(partition.kind)?);
        bytes.extend(guid(partition.id)?);
        bytes.extend(partition.first.to_le_bytes());
        bytes.extend(last.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(partition.name.encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(start + 128, 0);
    }
    bytes.resize(usize::try_from(ENTRIES)?, 0);
    Ok(bytes)
}

fn header(own: u64, other: u64, entries_at: u64, entries: &[u8]) -> anyhow::Result<Vec<u8>> {
    let last = own.max(other);
    let usable = (2 + ENTRIES / SECTOR, last - ENTRIES / SECTOR - 1);
    let mut bytes = b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec();
    bytes.extend([0; 8]);
    for value in [own, other, usable.0, usable.1] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(guid(DISK_ID)?);
    bytes.extend(entries_at.to_le_bytes());
    for value in [128, 128, crc32(entries)] {
        bytes.extend(value.to_le_bytes());
    }
    let checksum = crc32(&bytes).to_le_bytes();
    put(&mut bytes, 16, &checksum)?;
    Ok(bytes)
}

/// The first three fields of a GUID are little-endian (UEFI specification, appendix A).
fn guid(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = hex::decode(text.replace('-', "")).map_err(anyhow::Error::msg)?;
    for field in [0..4, 4..6, 6..8] {
        bytes
            .get_mut(field)
            .context("a GUID has 16 bytes")?
            .reverse();
    }
    Ok(bytes)
}

/// CRC-32 of ISO 3309, as the UEFI specification, section 5.3.2, asks for.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computes_the_check_value_of_crc32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn writes_a_table_that_points_at_the_file_systems() {
        let dir = std::env::temp_dir().join(format!("xtask-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name);
        fs::write(path("esp"), [1; 1000]).unwrap();
        fs::write(path("root"), [2; 4096]).unwrap();
        build(&path("esp"), &path("root"), &path("disk")).unwrap();
        let disk = fs::read(path("disk")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(disk[510..520], *b"\x55\xaaEFI PART");
        assert_eq!(disk[2048 * 512..][..1000], [1; 1000]);
        assert_eq!(disk[4096 * 512..][..4096], [2; 4096]);
        assert_eq!(disk[1024 + 32..1024 + 40], 2048_u64.to_le_bytes());
        assert_eq!(
            disk[1024 + 128 + 40..1024 + 128 + 48],
            4103_u64.to_le_bytes()
        );
        assert_eq!(disk[disk.len() - 512..disk.len() - 504], *b"EFI PART");
    }
}
