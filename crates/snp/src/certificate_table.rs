//! The host's certificate table of an extended report request: "SEV-ES Guest-Hypervisor
//! Communication Block Standardization" (AMD 56421), revision 2.03, "SNP Extended Guest Request".
//!
//! The host wrote all of it. What it gives is used only after a signature was verified; what is
//! decided here is that no offset leads out of the table and that no byte is two things at once.

use crate::bytes::{array, slice_at, u32_at};

/// The largest table parsed, in bytes.
pub const MAX_CERTIFICATE_TABLE: usize = 32 * 1024;
/// The most entries; there are five kinds known here.
const MAX_ENTRIES: usize = 16;

/// Length of an entry: GUID, offset from the start of the table, length. One of zeros ends them.
pub const ENTRY_LEN: usize = 24;
const OFFSET: usize = 16;
const LENGTH: usize = 20;

/// What an entry is, by its GUID, in the order of its text form.
pub type Guid = [u8; 16];
/// 63da758d-e664-4564-adc5-f4b93be8accd: the chip's certificate.
pub const VCEK: Guid = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128.to_be_bytes();
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1: the loaded key's certificate.
pub const VLEK: Guid = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1_u128.to_be_bytes();
/// 4ab7b379-bbac-4fe4-a02f-05aef327c782: the intermediate's certificate.
pub const ASK: Guid = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782_u128.to_be_bytes();
/// c0b406a4-a803-4952-9743-3fb6014cd0ae: the root's certificate.
pub const ARK: Guid = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128.to_be_bytes();
/// 92f81bc3-5811-4d3d-97ff-d19f88dc67ea: the root's revocation list.
pub const CRL: Guid = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea_u128.to_be_bytes();

/// Why bytes are not a certificate table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateTableError {
    /// Two entries have one GUID.
    #[error("certificate table has two entries of one kind, the second is entry {0}")]
    Duplicate(usize),
    /// An entry has no bytes.
    #[error("entry {0} of the certificate table is empty")]
    Empty(usize),
    /// An entry shares bytes with the entries' own list, or with another one.
    #[error("entry {0} of the certificate table overlaps another part")]
    Overlap(usize),
    /// An entry ends after the table.
    #[error("entry {0} of the certificate table is not inside it")]
    OutOfRange(usize),
    /// The table is longer than any that is parsed.
    #[error("certificate table is {0} bytes long, more than {MAX_CERTIFICATE_TABLE}")]
    TooLong(usize),
    /// There are more entries than any table needs.
    #[error("certificate table has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// No entry of zeros ends the list.
    #[error("certificate table has no end")]
    Unterminated,
}

/// What the host gave along with a report. Nobody vouches for any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateTable<'a> {
    /// The certificate of the chip's key.
    pub vcek: Option<&'a [u8]>,
    /// The certificate of the loaded key.
    pub vlek: Option<&'a [u8]>,
    /// The certificate of the intermediate, of either kind of key.
    pub ask: Option<&'a [u8]>,
    /// The certificate of the root.
    pub ark: Option<&'a [u8]>,
    /// The root's revocation list.
    pub crl: Option<&'a [u8]>,
}

impl<'a> CertificateTable<'a> {
    /// Parses a table. None at all, from a host that has no certificates, is empty. Entries of a
    /// kind unknown here are checked like the others and left out.
    ///
    /// # Errors
    /// The first entry that is wrong, and how.
    pub fn parse(table: &'a [u8]) -> Result<Self, CertificateTableError> {
        if table.is_empty() {
            return Ok(Self::default());
        }
        if table.len() > MAX_CERTIFICATE_TABLE {
            return Err(CertificateTableError::TooLong(table.len()));
        }
        let count = count_entries(table)?;
        let entries = || {
            let entries = table.chunks_exact(ENTRY_LEN).map(Entry::parse);
            entries.take(count).enumerate()
        };
        let data_start =
            u32::try_from(count.saturating_add(1).saturating_mul(ENTRY_LEN)).unwrap_or(u32::MAX);
        let mut parsed = Self::default();
        for (i, entry) in entries() {
            let data = entry.data(i, table)?;
            if entry.offset < data_start {
                return Err(CertificateTableError::Overlap(i));
            }
            for (_, earlier) in entries().take(i) {
                entry.check_beside(i, &earlier)?;
            }
            if let Some(field) = parsed.field(&entry.guid) {
                *field = Some(data);
            }
        }
        Ok(parsed)
    }

    fn field(&mut self, guid: &Guid) -> Option<&mut Option<&'a [u8]>> {
        match *guid {
            VCEK => Some(&mut self.vcek),
            VLEK => Some(&mut self.vlek),
            ASK => Some(&mut self.ask),
            ARK => Some(&mut self.ark),
            CRL => Some(&mut self.crl),
            _ => None,
        }
    }
}

/// How many entries come before the one of zeros.
fn count_entries(table: &[u8]) -> Result<usize, CertificateTableError> {
    let mut entries = table.chunks_exact(ENTRY_LEN).take(MAX_ENTRIES + 1);
    let seen = entries.len();
    match entries.position(|entry| entry.iter().all(|byte| *byte == 0)) {
        Some(count) => Ok(count),
        None if seen > MAX_ENTRIES => Err(CertificateTableError::TooManyEntries),
        None => Err(CertificateTableError::Unterminated),
    }
}

/// An entry as the host wrote it.
struct Entry {
    guid: Guid,
    offset: u32,
    length: u32,
}

impl Entry {
    /// Reads `bytes`, which are [`ENTRY_LEN`] long; what would be missing reads as zero.
    fn parse(bytes: &[u8]) -> Self {
        Self {
            guid: array(bytes, 0).copied().unwrap_or_default(),
            offset: u32_at(bytes, OFFSET).unwrap_or_default(),
            length: u32_at(bytes, LENGTH).unwrap_or_default(),
        }
    }

    fn data<'a>(&self, i: usize, table: &'a [u8]) -> Result<&'a [u8], CertificateTableError> {
        let data = slice_at(table, self.offset, self.length);
        match data.ok_or(CertificateTableError::OutOfRange(i))? {
            [] => Err(CertificateTableError::Empty(i)),
            data => Ok(data),
        }
    }

    /// Checks this, entry `i`, against an earlier one. Both are known to be inside of the table.
    fn check_beside(&self, i: usize, earlier: &Self) -> Result<(), CertificateTableError> {
        if self.guid == earlier.guid {
            return Err(CertificateTableError::Duplicate(i));
        }
        if self.offset < earlier.end() && earlier.offset < self.end() {
            return Err(CertificateTableError::Overlap(i));
        }
        Ok(())
    }

    fn end(&self) -> u32 {
        self.offset.saturating_add(self.length)
    }
}
