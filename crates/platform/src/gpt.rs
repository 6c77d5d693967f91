//! A bounded parser of GUID partition tables (UEFI 2.10, section 5.3), enough to find a partition
//! by its type. The table is the host's: it names a place to look at and proves nothing.

/// A partition type in the byte order of the disk: the first three fields little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionType([u8; 16]);

impl PartitionType {
    /// State disks of Constellation: `dfef13db-9fe3-485f-9b95-3e511493985e`.
    pub const STATE: Self = Self([
        0xdb, 0x13, 0xef, 0xdf, 0xe3, 0x9f, 0x5f, 0x48, 0x9b, 0x95, 0x3e, 0x51, 0x14, 0x93, 0x98,
        0x5e,
    ]);

    /// Root file systems with their hash tree: `238d5588-4d66-4b30-a7ca-cd54973d42da`.
    pub const ROOT: Self = Self([
        0x88, 0x55, 0x8d, 0x23, 0x66, 0x4d, 0x30, 0x4b, 0xa7, 0xca, 0xcd, 0x54, 0x97, 0x3d, 0x42,
        0xda,
    ]);
}

/// One used entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The number the kernel gives it: its place in the table, from 1.
    pub number: u32,
    /// Its type.
    pub kind: PartitionType,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub size: u64,
}

/// Entries in the table, and their size; every tool writes these, and we take no other.
const ENTRIES: usize = 128;
const ENTRY_LEN: usize = 128;

/// Length of the header that its checksum covers.
const HEADER_LEN: usize = 92;

/// The bytes that [`parse`] needs from the start of a disk with this sector size.
#[must_use]
pub const fn needed(sector: usize) -> usize {
    2 * sector + ENTRIES * ENTRY_LEN
}

/// Parses the primary table at the start of a disk of `sector`-byte sectors.
///
/// # Errors
/// The first field that a table of 128 entries right after its header does not have.
pub fn parse(disk: &[u8], sector: usize) -> Result<Vec<Partition>, GptError> {
    let header = disk.get(sector..).ok_or(GptError::Truncated)?;
    let header: &[u8; HEADER_LEN] = header.first_chunk().ok_or(GptError::Truncated)?;
    check_header(header)?;
    let table = 2 * sector..needed(sector);
    let table = disk.get(table).ok_or(GptError::Truncated)?;
    if crc32(table) != u32_at(header, 88) {
        return Err(GptError::TableChecksum);
    }
    let (entries, _) = table.as_chunks::<ENTRY_LEN>();
    let used = entries
        .iter()
        .zip(1..)
        .filter(|(entry, _)| entry[..16] != [0; 16]);
    used.map(|(entry, number)| parse_entry(entry, number, sector as u64))
        .collect()
}

fn check_header(header: &[u8; HEADER_LEN]) -> Result<(), GptError> {
    if header[..8] != *b"EFI PART" {
        return Err(GptError::Signature);
    }
    let layout = [(8, 0x0001_0000), (12, 92), (80, 128), (84, 128)];
    let mut others = layout
        .iter()
        .filter(|(at, want)| u32_at(header, *at) != *want);
    if let Some((offset, _)) = others.next() {
        return Err(GptError::Layout { offset: *offset });
    }
    if u64_at(header, 24) != 1 || u64_at(header, 72) != 2 {
        return Err(GptError::Layout { offset: 72 });
    }
    let mut summed = *header;
    summed[16..20].fill(0);
    if crc32(&summed) != u32_at(header, 16) {
        return Err(GptError::HeaderChecksum);
    }
    Ok(())
}

fn parse_entry(entry: &[u8; ENTRY_LEN], number: u32, sector: u64) -> Result<Partition, GptError> {
    let mut kind = [0; 16];
    kind.copy_from_slice(&entry[..16]);
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let blocks = last.checked_sub(first).and_then(|rest| rest.checked_add(1));
    let size = blocks.and_then(|blocks| blocks.checked_mul(sector));
    match (first.checked_mul(sector), size) {
        (Some(start), Some(size)) => Ok(Partition {
            number,
            kind: PartitionType(kind),
            start,
            size,
        }),
        _ => Err(GptError::Extent { number }),
    }
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// The CRC-32 of IEEE 802.3, bit by bit: a table is read once a boot.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// Why a disk has no partition table that we read (class malformed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// A partition that ends before it starts, or beyond any disk.
    #[error("partition {number} has no valid extent")]
    Extent {
        /// The partition.
        number: u32,
    },
    /// The header's checksum.
    #[error("partition table header checksum")]
    HeaderChecksum,
    /// Another revision, place or size of the table.
    #[error("partition table header field at byte {offset}")]
    Layout {
        /// Offset of the field.
        offset: usize,
    },
    /// No partition table.
    #[error("partition table signature")]
    Signature,
    /// The entries' checksum.
    #[error("partition table checksum")]
    TableChecksum,
    /// Too few bytes.
    #[error("partition table truncated")]
    Truncated,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(sector: usize) -> Vec<u8> {
        let mut disk = vec![0; needed(sector)];
        let entry = 2 * sector + ENTRY_LEN;
        disk[entry..entry + 16].copy_from_slice(&PartitionType::STATE.0);
        disk[entry + 32..entry + 40].copy_from_slice(&2048_u64.to_le_bytes());
        disk[entry + 40..entry + 48].copy_from_slice(&4095_u64.to_le_bytes());
        let header = &mut disk[sector..];
        header[..8].copy_from_slice(b"EFI PART");
        for (at, value) in [(8, 0x0001_0000_u32), (12, 92), (80, 128), (84, 128)] {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        header[24] = 1;
        header[72] = 2;
        seal(&mut disk, sector);
        disk
    }

    fn seal(disk: &mut [u8], sector: usize) {
        let table = crc32(&disk[2 * sector..needed(sector)]);
        disk[sector + 88..sector + 92].copy_from_slice(&table.to_le_bytes());
        disk[sector + 16..sector + 20].fill(0);
        let header = crc32(&disk[sector..sector + HEADER_LEN]);
        disk[sector + 16..sector + 20].copy_from_slice(&header.to_le_bytes());
    }

    #[test]
    fn finds_the_partition_with_both_sector_sizes() {
        for sector in [512, 4096] {
            let partitions = parse(&disk(sector), sector).unwrap();
            assert_eq!(
                partitions,
                [Partition {
                    number: 2,
                    kind: PartitionType::STATE,
                    start: 2048 * sector as u64,
                    size: 2048 * sector as u64,
                }]
            );
        }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn any_flipped_byte_of_header_or_table_is_refused() {
        let good = disk(512);
        // The table's checksum is the same everywhere: a sample of it, all of the header.
        let table = (1024..needed(512)).step_by(97);
        let covered = (512..512 + HEADER_LEN).chain(table);
        for at in covered {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad, 512).is_err(), "byte {at}");
        }
    }

    #[test]
    fn truncation_is_refused() {
        let good = disk(512);
        for len in (0..good.len()).step_by(7) {
            assert!(parse(&good[..len], 512).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_well_summed_table_with_a_wild_extent_is_refused() {
        for (first, last) in [(4096_u64, 2048_u64), (0, u64::MAX), (u64::MAX, u64::MAX)] {
            let mut bad = disk(512);
            let entry = 1024 + ENTRY_LEN;
            bad[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
            bad[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
            seal(&mut bad, 512);
            assert_eq!(parse(&bad, 512), Err(GptError::Extent { number: 2 }));
        }
    }

    #[test]
    fn other_table_sizes_are_refused() {
        for (at, value) in [(12, 93_u8), (80, 127), (84, 64), (24, 2), (72, 3)] {
            let mut bad = disk(512);
            bad[512 + at] = value;
            seal(&mut bad, 512);
            assert!(matches!(parse(&bad, 512), Err(GptError::Layout { .. })));
        }
    }
}
