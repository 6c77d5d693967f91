//! PE32+ files for x86-64: a bounded parser.
//!
//! Offsets and names follow Microsoft's "PE Format" specification. Only what a UKI and a kernel
//! need is read; a file that is not laid out plainly (sections that overlap or leave the file,
//! other machines, more sections than [`MAX_SECTIONS`]) is refused.

mod authenticode;
mod write;

use alloc::{string::String, vec::Vec};
use core::fmt;
use thiserror::Error;

pub(crate) use write::NewSection;

/// More sections than any stub or kernel has (the stub of systemd 257 has about ten).
pub const MAX_SECTIONS: usize = 32;

/// Larger files are refused before anything is read: a UKI is tens of megabytes.
pub const MAX_FILE: usize = 1 << 30;

/// Why a file is not a PE file that this crate reads. Class: malformed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PeError {
    /// Two sections claim the same bytes in memory, or are not in ascending order.
    #[error("section {index} is not aligned or overlaps the one before it in memory")]
    Layout {
        /// Position in the section table.
        index: usize,
    },
    /// A length or count is beyond its bound.
    #[error("{field}: {got} is more than {limit}")]
    Limit {
        /// Name in the specification.
        field: &'static str,
        /// Bound of this parser.
        limit: usize,
        /// Value in the file.
        got: usize,
    },
    /// No room for another entry in the section table.
    #[error("no room in the headers for {sections} sections")]
    NoRoom {
        /// Sections that were to be written.
        sections: usize,
    },
    /// The file is signed; adding sections would break the signature.
    #[error("the file carries a signature")]
    Signed,
    /// The file ends before the field.
    #[error("{field}: the file ends before it")]
    Truncated {
        /// Name in the specification.
        field: &'static str,
    },
    /// A field has a value that this parser does not read.
    #[error("{field}: expected {expected:#x}, got {got:#x}")]
    Unexpected {
        /// Name in the specification.
        field: &'static str,
        /// The one value that is read.
        expected: u32,
        /// Value in the file.
        got: u32,
    },
}

/// A parsed file; borrows the bytes it was parsed from.
#[derive(Clone)]
pub struct Pe<'a> {
    bytes: &'a [u8],
    coff: usize,
    optional: usize,
    directories: u32,
    section_table: usize,
    size_of_headers: usize,
    section_alignment: u32,
    file_alignment: u32,
    sections: Vec<Section<'a>>,
}

/// One entry of the section table with its bytes.
#[derive(Clone, Copy)]
pub struct Section<'a> {
    name: [u8; 8],
    virtual_address: u32,
    virtual_size: u32,
    raw_offset: usize,
    raw: &'a [u8],
}

impl<'a> Pe<'a> {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// [`PeError`] names the field.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PeError> {
        limit("file", bytes.len(), MAX_FILE)?;
        expect("e_magic", u32::from(u16_at(bytes, 0, "e_magic")?), 0x5a4d)?;
        let signature = usize_of(u32_at(bytes, 0x3c, "e_lfanew")?);
        limit("e_lfanew", signature, bytes.len())?;
        let coff = signature.saturating_add(4);
        expect("Signature", u32_at(bytes, signature, "Signature")?, 0x4550)?;
        let machine = u16_at(bytes, coff, "Machine")?;
        expect("Machine", machine.into(), 0x8664)?;
        let count = usize::from(u16_at(bytes, coff.saturating_add(2), "NumberOfSections")?);
        limit("NumberOfSections", count, MAX_SECTIONS)?;
        let optional_size = u16_at(bytes, coff.saturating_add(16), "SizeOfOptionalHeader")?;
        let optional = coff.saturating_add(20);
        let mut pe = Self {
            bytes,
            coff,
            optional,
            directories: 0,
            section_table: optional.saturating_add(optional_size.into()),
            size_of_headers: 0,
            section_alignment: 0,
            file_alignment: 0,
            sections: Vec::new(),
        };
        pe.parse_optional(optional_size)?;
        pe.parse_sections(count)?;
        Ok(pe)
    }

    /// The whole file.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The sections in table order.
    #[must_use]
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The only section called `name`; `None` if there is none or more than one.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section<'a>> {
        let mut found = self.sections.iter().filter(|section| section.is(name));
        found.next().filter(|_| found.next().is_none())
    }

    fn parse_optional(&mut self, size: u16) -> Result<(), PeError> {
        let at = |offset: usize| self.optional.saturating_add(offset);
        let magic = u16_at(self.bytes, at(0), "Magic")?;
        expect("Magic", magic.into(), 0x20b)?;
        self.section_alignment = u32_at(self.bytes, at(32), "SectionAlignment")?;
        self.file_alignment = u32_at(self.bytes, at(36), "FileAlignment")?;
        self.size_of_headers = usize_of(u32_at(self.bytes, at(60), "SizeOfHeaders")?);
        self.directories = u32_at(self.bytes, at(108), "NumberOfRvaAndSizes")?;
        limit("NumberOfRvaAndSizes", usize_of(self.directories), 16)?;
        let needed = usize_of(self.directories)
            .saturating_mul(8)
            .saturating_add(112);
        limit("NumberOfRvaAndSizes", needed, size.into())?;
        limit("SizeOfHeaders", self.size_of_headers, self.bytes.len())?;
        for (field, value) in [
            ("SectionAlignment", self.section_alignment),
            ("FileAlignment", self.file_alignment),
        ] {
            if !value.is_power_of_two() || value > 1 << 16 {
                let (expected, got) = (0x1000, value);
                return Err(PeError::Unexpected {
                    field,
                    expected,
                    got,
                });
            }
        }
        Ok(())
    }

    fn parse_sections(&mut self, count: usize) -> Result<(), PeError> {
        let end = count.saturating_mul(40).saturating_add(self.section_table);
        limit("section table", end, self.size_of_headers)?;
        let mut free: u32 = 0;
        for index in 0..count {
            let offset = index.saturating_mul(40).saturating_add(self.section_table);
            let section = Section::parse(self.bytes, offset)?;
            let aligned = section
                .virtual_address
                .is_multiple_of(self.section_alignment);
            if !aligned || section.virtual_address < free {
                return Err(PeError::Layout { index });
            }
            free = section.virtual_address.saturating_add(section.virtual_size);
            self.sections.push(section);
        }
        Ok(())
    }

    /// Offset and size of the certificate table, in file bytes; `None` for an unsigned file.
    fn certificates(&self) -> Result<Option<(usize, usize)>, PeError> {
        if self.directories <= 4 {
            return Ok(None);
        }
        let entry = self.certificate_entry();
        let offset = usize_of(u32_at(self.bytes, entry, "CertificateTable")?);
        let size = usize_of(u32_at(
            self.bytes,
            entry.saturating_add(4),
            "CertificateTable",
        )?);
        let end = offset.saturating_add(size);
        limit("CertificateTable", end, self.bytes.len())?;
        Ok((size != 0).then_some((offset, size)))
    }

    /// Where the fifth data directory, the certificate table, is described.
    const fn certificate_entry(&self) -> usize {
        self.optional.saturating_add(112 + 4 * 8)
    }
}

impl<'a> Section<'a> {
    fn parse(bytes: &'a [u8], offset: usize) -> Result<Self, PeError> {
        let at = |relative: usize| offset.saturating_add(relative);
        let raw_size = usize_of(u32_at(bytes, at(16), "SizeOfRawData")?);
        let raw_offset = usize_of(u32_at(bytes, at(20), "PointerToRawData")?);
        let raw_end = raw_offset.saturating_add(raw_size);
        let truncated = PeError::Truncated {
            field: "section data",
        };
        Ok(Self {
            name: array_at(bytes, offset, "Name")?,
            virtual_size: u32_at(bytes, at(8), "VirtualSize")?,
            virtual_address: u32_at(bytes, at(12), "VirtualAddress")?,
            raw_offset,
            raw: bytes.get(raw_offset..raw_end).ok_or(truncated)?,
        })
    }

    /// The name without its padding, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self
            .name
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    /// Whether this is the section called `name`.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let (text, padding) = self.name.split_at(name.len().min(8));
        text == name.as_bytes() && padding.iter().all(|byte| *byte == 0)
    }

    /// The content: what is in the file, up to the size in memory. Padding to the file alignment is
    /// not content.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.raw
            .get(..usize_of(self.virtual_size))
            .unwrap_or(self.raw)
    }
}

/// The sections, not the megabytes in them.
impl fmt::Debug for Pe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.sections).finish()
    }
}

impl fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address, size) = (self.name(), self.virtual_address, self.virtual_size);
        write!(f, "{name} at {address:#x}, {size} bytes")
    }
}

fn limit(field: &'static str, got: usize, limit: usize) -> Result<(), PeError> {
    if got > limit {
        return Err(PeError::Limit { field, limit, got });
    }
    Ok(())
}

fn expect(field: &'static str, got: u32, expected: u32) -> Result<(), PeError> {
    if got != expected {
        return Err(PeError::Unexpected {
            field,
            expected,
            got,
        });
    }
    Ok(())
}

fn array_at<const N: usize>(
    bytes: &[u8],
    offset: usize,
    field: &'static str,
) -> Result<[u8; N], PeError> {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(PeError::Truncated { field })
}

fn u16_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u16, PeError> {
    array_at(bytes, offset, field).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u32, PeError> {
    array_at(bytes, offset, field).map(u32::from_le_bytes)
}

/// Lossless on every platform that this workspace builds for.
fn usize_of(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
