//! An OVMF firmware file: the table before its reset vector, and the pages it asks for.

use super::{PAGE, hashes::PADDED_LEN};
use core::fmt;
use thiserror::Error;

/// Larger than any firmware (OVMF has 4 MiB; QEMU maps no more than 8 MiB below 4 GiB).
const MAX_LEN: usize = 16 << 20;

/// More sections than any OVMF has (seven).
const MAX_SECTIONS: u32 = 32;

/// More than any OVMF asks to validate before it starts (about 9 MiB), in pages.
const MAX_PAGES: usize = 1 << 16;

/// The firmware is mapped so that it ends here.
const END: u64 = 1 << 32;

/// The table's last entry ends at the reset code, 32 bytes before the end of the file
/// (OVMF, `ResetVectorVtf0.asm`).
const TABLE_END: usize = 32;

/// Length and GUID, behind the data of each entry.
const HEADER_LEN: usize = 2 + 16;

/// GUIDs of OVMF's `ResetVectorVtf0.asm`.
const FOOTER: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
const HASH_TABLE: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
const RESET_BLOCK: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
const METADATA: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);

/// Why a file is not a firmware whose launch is understood. Class: malformed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FirmwareError {
    /// An entry occurs twice, so which one counts is open.
    #[error("{field}: occurs twice")]
    Duplicate {
        /// What occurs twice.
        field: &'static str,
    },
    /// A length or count is out of its bounds.
    #[error("{field}: {got} is not in {min} to {max}")]
    Limit {
        /// What is out of bounds.
        field: &'static str,
        /// Lower bound.
        min: usize,
        /// Upper bound.
        max: usize,
        /// Value in the file.
        got: usize,
    },
    /// The table lacks an entry that every SNP launch needs.
    #[error("{field}: missing")]
    Missing {
        /// What is missing.
        field: &'static str,
    },
    /// Two sections share a page.
    #[error("section {index}: overlaps another one")]
    Overlap {
        /// Position in the table.
        index: usize,
    },
    /// The file ends before the field.
    #[error("{field}: outside the file")]
    Truncated {
        /// What is outside.
        field: &'static str,
    },
    /// An address or a size is not a multiple of the page size, or zero.
    #[error("{field}: {got:#x} is not a whole number of pages")]
    Unaligned {
        /// What is not aligned.
        field: &'static str,
        /// Value in the file.
        got: u64,
    },
    /// A field has a value that is not known here.
    #[error("{field}: expected {expected:#x}, got {got:#x}")]
    Unexpected {
        /// Which field.
        field: &'static str,
        /// The one value that is read.
        expected: u32,
        /// Value in the file.
        got: u32,
    },
    /// A section of a type whose measure is not known here.
    #[error("section {index}: unknown type {got:#x}")]
    UnknownSection {
        /// Position in the table.
        index: usize,
        /// Type in the file.
        got: u32,
    },
}

/// A parsed firmware file; borrows the bytes it was parsed from.
#[derive(Clone, Copy)]
pub struct Firmware<'a> {
    bytes: &'a [u8],
    /// Entries of 12 bytes, each of which parses.
    sections: &'a [u8],
    hash_table_offset: Option<usize>,
    reset_eip: Option<u32>,
}

/// Pages that the firmware wants to be there when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) address: u64,
    pub(super) size: usize,
    pub(super) kind: SectionKind,
}

/// Types of OVMF's `OvmfSevMetadata.asm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectionKind {
    Cpuid,
    KernelHashes,
    Secrets,
    /// Memory of the early firmware, and the calling area of an SVSM.
    Zero,
}

impl<'a> Firmware<'a> {
    /// Parses a firmware file.
    ///
    /// # Errors
    /// [`FirmwareError`] names the field.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        limit("firmware", bytes.len(), PAGE, MAX_LEN)?;
        whole_pages("firmware", bytes.len() as u64)?;
        let table = Table::parse(bytes)?;
        let sections = metadata(bytes, table.metadata)?;
        check_sections(sections)?;
        let mut firmware = Self {
            bytes,
            sections,
            hash_table_offset: None,
            reset_eip: table.reset_eip,
        };
        if let Some((address, size)) = table.hash_table {
            firmware.hash_table_offset = Some(firmware.locate_hash_table(address, size)?);
        }
        Ok(firmware)
    }

    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the first byte is mapped.
    pub(super) const fn address(&self) -> u64 {
        END.saturating_sub(self.bytes.len() as u64)
    }

    /// Where virtual CPUs after the first one start.
    pub(super) const fn reset_eip(&self) -> Option<u32> {
        self.reset_eip
    }

    /// Where in its page the table of kernel hashes starts; `None` if the firmware reads none.
    pub(super) const fn hash_table_offset(&self) -> Option<usize> {
        self.hash_table_offset
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = Section> + use<'a> {
        sections(self.sections).flatten()
    }

    /// The hash table has to lie whole in the one page of its section: the rest of that page is
    /// measured as zero.
    fn locate_hash_table(&self, address: u32, size: u32) -> Result<usize, FirmwareError> {
        let mut pages = self
            .sections()
            .filter(|section| section.kind == SectionKind::KernelHashes);
        let page = pages.next().ok_or(FirmwareError::Missing {
            field: "kernel-hashes section",
        })?;
        if pages.next().is_some() {
            let field = "kernel-hashes section";
            return Err(FirmwareError::Duplicate { field });
        }
        limit("kernel-hashes section", page.size, PAGE, PAGE)?;
        limit("hash table", usize_of(size), PADDED_LEN, PAGE)?;
        let offset = u64::from(address).checked_sub(page.address);
        let offset = offset.and_then(|offset| usize::try_from(offset).ok());
        let offset = offset.ok_or(FirmwareError::Truncated {
            field: "hash table",
        })?;
        let end = offset.saturating_add(usize_of(size));
        limit("end of the hash table", end, PADDED_LEN, PAGE)?;
        Ok(offset)
    }
}

/// Its size, not its megabytes.
impl fmt::Debug for Firmware<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "firmware of {} bytes, sections ", self.bytes.len())?;
        f.debug_list().entries(self.sections()).finish()
    }
}

/// What the table before the reset vector says. It is read from its end; entries that are not about
/// the launch are skipped.
#[derive(Default)]
struct Table {
    hash_table: Option<(u32, u32)>,
    metadata: Option<u32>,
    reset_eip: Option<u32>,
}

impl Table {
    fn parse(bytes: &[u8]) -> Result<Self, FirmwareError> {
        let truncated = FirmwareError::Truncated {
            field: "GUID table",
        };
        let end = bytes.len().saturating_sub(TABLE_END);
        let bytes = bytes.get(..end).unwrap_or_default();
        let (rest, guid, length) = split_header(bytes).ok_or_else(|| truncated.clone())?;
        if guid != FOOTER {
            let field = "footer of the GUID table";
            return Err(FirmwareError::Missing { field });
        }
        // The footer's length is that of the whole table, itself included.
        let length = length.checked_sub(HEADER_LEN);
        let start = length.and_then(|length| rest.len().checked_sub(length));
        let mut rest = start.and_then(|start| rest.get(start..)).ok_or(truncated)?;
        let mut table = Self::default();
        while !rest.is_empty() {
            rest = table.entry(rest)?;
        }
        Ok(table)
    }

    /// Reads the last entry of `bytes`; returns what is before it.
    fn entry<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], FirmwareError> {
        let truncated = FirmwareError::Truncated {
            field: "entry of the GUID table",
        };
        let (data, guid, length) = split_header(bytes).ok_or_else(|| truncated.clone())?;
        let length = length.checked_sub(HEADER_LEN);
        let start = length.and_then(|length| data.len().checked_sub(length));
        let split = start.and_then(|start| data.split_at_checked(start));
        let (rest, data) = split.ok_or(truncated)?;
        match guid {
            HASH_TABLE => {
                let pair = (u32_at(data, 0), u32_at(data, 4));
                let (Some(address), Some(size)) = pair else {
                    return Err(FirmwareError::Truncated {
                        field: "hash table",
                    });
                };
                // Builds of OVMF that check no hashes leave the entry zero.
                if (address, size) != (0, 0) {
                    once("hash table", &mut self.hash_table, Some((address, size)))?;
                }
            }
            METADATA => once("SEV metadata", &mut self.metadata, u32_at(data, 0))?,
            RESET_BLOCK => once("reset block", &mut self.reset_eip, u32_at(data, 0))?,
            _ => {}
        }
        Ok(rest)
    }
}

/// Takes the trailing length and GUID off `bytes`.
fn split_header(bytes: &[u8]) -> Option<(&[u8], [u8; 16], usize)> {
    let (rest, guid) = bytes.split_last_chunk()?;
    let (rest, length) = rest.split_last_chunk()?;
    Some((rest, *guid, u16::from_le_bytes(*length).into()))
}

fn once<T>(
    field: &'static str,
    slot: &mut Option<T>,
    value: Option<T>,
) -> Result<(), FirmwareError> {
    let value = value.ok_or(FirmwareError::Truncated { field })?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(FirmwareError::Duplicate { field }),
    }
}

/// The section table: magic, length, version, count, then 12 bytes a section.
fn metadata(bytes: &[u8], from_end: Option<u32>) -> Result<&[u8], FirmwareError> {
    let field = "SEV metadata";
    let from_end = from_end.ok_or(FirmwareError::Missing { field })?;
    let truncated = FirmwareError::Truncated { field };
    let start = bytes.len().checked_sub(usize_of(from_end));
    let found = start.and_then(|start| bytes.get(start..));
    let found = found.ok_or_else(|| truncated.clone())?;
    let word = |offset| u32_at(found, offset).ok_or_else(|| truncated.clone());
    expect("SEV metadata magic", word(0)?, u32::from_le_bytes(*b"ASEV"))?;
    expect("SEV metadata version", word(8)?, 1)?;
    let count = word(12)?;
    let max = usize_of(MAX_SECTIONS);
    limit("SEV metadata sections", usize_of(count), 1, max)?;
    let length = count.saturating_mul(12).saturating_add(16);
    expect("SEV metadata length", word(4)?, length)?;
    found.get(16..usize_of(length)).ok_or(truncated)
}

fn sections(table: &[u8]) -> impl Iterator<Item = Result<Section, FirmwareError>> {
    table
        .chunks_exact(12)
        .enumerate()
        .map(|(index, entry)| Section::parse(index, entry))
}

/// Refuses a table in which any section is not understood, or two share a page: a page can be
/// measured once only.
fn check_sections(table: &[u8]) -> Result<(), FirmwareError> {
    let mut pages: usize = 0;
    for (index, section) in sections(table).enumerate() {
        let section = section?;
        pages = pages.saturating_add(section.size.div_ceil(PAGE));
        limit("pages of all sections", pages, 1, MAX_PAGES)?;
        let mut earlier = sections(table).take(index).flatten();
        if earlier.any(|earlier| earlier.overlaps(&section)) {
            return Err(FirmwareError::Overlap { index });
        }
    }
    Ok(())
}

impl Section {
    fn parse(index: usize, entry: &[u8]) -> Result<Self, FirmwareError> {
        let field = "SEV metadata section";
        let word = |offset| u32_at(entry, offset).ok_or(FirmwareError::Truncated { field });
        let (address, size, kind) = (word(0)?, word(4)?, word(8)?);
        if !usize_of(address).is_multiple_of(PAGE) {
            let got = address.into();
            return Err(FirmwareError::Unaligned { field, got });
        }
        whole_pages(field, size.into())?;
        let section = Self {
            address: address.into(),
            size: usize_of(size),
            kind: SectionKind::of(index, kind)?,
        };
        if section.end() > END {
            return Err(FirmwareError::Truncated { field });
        }
        // The secure processor fills exactly one page of these.
        if matches!(section.kind, SectionKind::Cpuid | SectionKind::Secrets) {
            limit(field, section.size, PAGE, PAGE)?;
        }
        Ok(section)
    }

    const fn end(&self) -> u64 {
        self.address.saturating_add(self.size as u64)
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.address < other.end() && other.address < self.end()
    }
}

impl SectionKind {
    const fn of(index: usize, kind: u32) -> Result<Self, FirmwareError> {
        match kind {
            1 | 4 => Ok(Self::Zero),
            2 => Ok(Self::Secrets),
            3 => Ok(Self::Cpuid),
            0x10 => Ok(Self::KernelHashes),
            got => Err(FirmwareError::UnknownSection { index, got }),
        }
    }
}

/// A GUID in the byte order of UEFI: the first three fields little-endian.
pub(super) const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let ([a, b, c, d], [e, f]) = (first.to_le_bytes(), second.to_le_bytes());
    let ([g, h], [i, j, k, l, m, n, o, p]) = (third.to_le_bytes(), rest.to_be_bytes());
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

const fn limit(
    field: &'static str,
    got: usize,
    min: usize,
    max: usize,
) -> Result<(), FirmwareError> {
    if got < min || got > max {
        return Err(FirmwareError::Limit {
            field,
            min,
            max,
            got,
        });
    }
    Ok(())
}

const fn expect(field: &'static str, got: u32, expected: u32) -> Result<(), FirmwareError> {
    if got != expected {
        return Err(FirmwareError::Unexpected {
            field,
            expected,
            got,
        });
    }
    Ok(())
}

const fn whole_pages(field: &'static str, got: u64) -> Result<(), FirmwareError> {
    if got == 0 || !got.is_multiple_of(PAGE as u64) {
        return Err(FirmwareError::Unaligned { field, got });
    }
    Ok(())
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    found.copied().map(u32::from_le_bytes)
}

/// Lossless on every platform that this workspace builds for.
fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
