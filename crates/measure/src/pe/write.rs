//! Adding sections to a PE file, always in the same bytes.

use super::{Pe, PeError, usize_of};
use alloc::vec::Vec;

/// IMAGE_SCN_CNT_INITIALIZED_DATA and IMAGE_SCN_MEM_READ.
const READ_ONLY_DATA: u32 = 0x4000_0040;

/// A section to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSection<'a> {
    /// At most eight bytes.
    pub(crate) name: &'static str,
    pub(crate) data: &'a [u8],
}

impl Pe<'_> {
    /// The file up to its `keep`th section, followed by `added`. Time stamp, checksum and the
    /// deprecated symbol table are zero, so equal input gives equal output.
    ///
    /// # Errors
    /// [`PeError`] if the file is signed, or the headers have no room for the sections.
    pub(crate) fn with_sections(
        &self,
        keep: usize,
        added: &[NewSection<'_>],
    ) -> Result<Vec<u8>, PeError> {
        if self.certificates()?.is_some() {
            return Err(PeError::Signed);
        }
        let kept = self.sections.get(..keep).unwrap_or(&self.sections);
        let sections = kept.len().saturating_add(added.len());
        let table_end = sections
            .saturating_mul(40)
            .saturating_add(self.section_table);
        if table_end > self.size_of_headers {
            return Err(PeError::NoRoom { sections });
        }
        let raw_end =
            |section: &super::Section<'_>| section.raw_offset.saturating_add(section.raw.len());
        let file_end = kept
            .iter()
            .map(raw_end)
            .max()
            .unwrap_or(self.size_of_headers);
        let truncated = PeError::Truncated {
            field: "section data",
        };
        let mut file = self.bytes.get(..file_end).ok_or(truncated)?.to_vec();
        let table_start = kept
            .len()
            .saturating_mul(40)
            .saturating_add(self.section_table);
        if let Some(unused) = file.get_mut(table_start..self.size_of_headers) {
            unused.fill(0);
        }
        pad(&mut file, self.file_alignment);

        let last = kept.last();
        let mut address = last.map_or(0, |last| {
            last.virtual_address.saturating_add(last.virtual_size)
        });
        for (index, section) in added.iter().enumerate() {
            address = address.next_multiple_of(self.section_alignment);
            let entry = index.saturating_mul(40).saturating_add(table_start);
            self.append(&mut file, entry, address, section)?;
            address = address.saturating_add(u32_of("VirtualSize", section.data.len())?);
        }
        self.finish_headers(&mut file, sections, address)?;
        Ok(file)
    }

    fn append(
        &self,
        file: &mut Vec<u8>,
        entry: usize,
        address: u32,
        section: &NewSection<'_>,
    ) -> Result<(), PeError> {
        let raw_offset = file.len();
        file.extend_from_slice(section.data);
        pad(file, self.file_alignment);
        let raw_size = file.len().saturating_sub(raw_offset);
        let mut name = [0; 8];
        for (to, from) in name.iter_mut().zip(section.name.bytes()) {
            *to = from;
        }
        put(file, entry, &name);
        for (offset, value) in [
            (8, u32_of("VirtualSize", section.data.len())?),
            (12, address),
            (16, u32_of("SizeOfRawData", raw_size)?),
            (20, u32_of("PointerToRawData", raw_offset)?),
            (36, READ_ONLY_DATA),
        ] {
            put(file, entry.saturating_add(offset), &value.to_le_bytes());
        }
        Ok(())
    }

    fn finish_headers(&self, file: &mut [u8], sections: usize, end: u32) -> Result<(), PeError> {
        let count = u16::try_from(sections).map_err(|_| PeError::NoRoom { sections })?;
        put(file, self.coff.saturating_add(2), &count.to_le_bytes());
        // TimeDateStamp, PointerToSymbolTable and NumberOfSymbols.
        put(file, self.coff.saturating_add(4), &[0; 12]);
        let size_of_image = end.next_multiple_of(self.section_alignment);
        let initialized = u32_of("file", file.len().saturating_sub(self.size_of_headers))?;
        for (offset, value) in [(8, initialized), (56, size_of_image), (64, 0)] {
            put(
                file,
                self.optional.saturating_add(offset),
                &value.to_le_bytes(),
            );
        }
        Ok(())
    }
}

fn put(file: &mut [u8], offset: usize, value: &[u8]) {
    for (to, from) in file.iter_mut().skip(offset).zip(value) {
        *to = *from;
    }
}

fn pad(file: &mut Vec<u8>, alignment: u32) {
    file.resize(file.len().next_multiple_of(usize_of(alignment)), 0);
}

fn u32_of(field: &'static str, value: usize) -> Result<u32, PeError> {
    let limit = super::MAX_FILE;
    u32::try_from(value).map_err(|_| PeError::Limit {
        field,
        limit,
        got: value,
    })
}
