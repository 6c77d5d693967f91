//! The Authenticode digest: what firmware measures when it loads an image.

use super::{Pe, PeError};
use crate::pcr::finish;
use aws_lc_rs::digest::{Context, SHA256};

impl Pe<'_> {
    /// SHA-256 of the image as "Windows Authenticode Portable Executable Signature Format" defines
    /// it: everything but the checksum, the certificate table and the entry that points to it.
    ///
    /// # Errors
    /// [`PeError`] if sections leave the file.
    pub fn authenticode_sha256(&self) -> Result<[u8; 32], PeError> {
        let certificates = self.certificates()?;
        let mut hash = Context::new(&SHA256);
        let mut feed = |from: usize, to: usize| {
            let truncated = PeError::Truncated {
                field: "image data",
            };
            hash.update(self.bytes.get(from..to).ok_or(truncated)?);
            Ok::<_, PeError>(())
        };
        let checksum = self.optional.saturating_add(64);
        feed(0, checksum)?;
        let after_checksum = checksum.saturating_add(4);
        if self.directories > 4 {
            feed(after_checksum, self.certificate_entry())?;
            feed(
                self.certificate_entry().saturating_add(8),
                self.size_of_headers,
            )?;
        } else {
            feed(after_checksum, self.size_of_headers)?;
        }
        let mut hashed = self.size_of_headers;
        let mut sections = self.sections.clone();
        sections.sort_by_key(|section| section.raw_offset);
        for section in sections.iter().filter(|section| !section.raw.is_empty()) {
            feed(
                section.raw_offset,
                section.raw_offset.saturating_add(section.raw.len()),
            )?;
            hashed = hashed.saturating_add(section.raw.len());
        }
        // Step 14 of the format: data after the last section, without the certificates.
        let signature = certificates.map_or(0, |(_, size)| size);
        let end = self.bytes.len().saturating_sub(signature);
        if end > hashed {
            feed(hashed, end)?;
        }
        Ok(finish(hash.finish()))
    }
}
