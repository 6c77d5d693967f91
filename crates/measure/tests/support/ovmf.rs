//! Firmware files as OVMF's build lays them out, with any flaw a test wants.
#![allow(dead_code, reason = "each test program uses a part")]

/// Type of a section: early memory, secrets, CPUID, calling area, kernel hashes.
pub(crate) const MEMORY: u32 = 1;
pub(crate) const SECRETS: u32 = 2;
pub(crate) const CPUID: u32 = 3;
pub(crate) const CALLING_AREA: u32 = 4;
pub(crate) const HASHES: u32 = 0x10;

pub(crate) const HASH_TABLE_GUID: &str = "1f3755723b3a044b927b1da6efa8d454";
pub(crate) const METADATA_GUID: &str = "666588dc4a989847a75e5585a7bf67cc";
pub(crate) const RESET_GUID: &str = "de71f7007e1acb4f890e68c77e2fb44e";
const FOOTER_GUID: &str = "de82b596b21ff745baeaa366c55a082d";

/// A firmware file to be.
#[derive(Clone)]
pub(crate) struct Ovmf {
    pub(crate) size: usize,
    /// Address, size and type.
    pub(crate) sections: Vec<(u32, u32, u32)>,
    /// GUID and data of the table's entries.
    pub(crate) entries: Vec<(&'static str, Vec<u8>)>,
    /// The metadata's magic, length, version and count, where not as they should be.
    pub(crate) metadata_header: [Option<u32>; 4],
}

impl Ovmf {
    /// Like a build for confidential guests: every kind of section, and kernel hashes.
    pub(crate) fn new() -> Self {
        Self {
            size: 0x10000,
            sections: vec![
                (0x80_0000, 0x9000, MEMORY),
                (0x80_a000, 0x3000, MEMORY),
                (0x80_d000, 0x1000, SECRETS),
                (0x80_e000, 0x1000, CPUID),
                (0x80_f000, 0x1000, CALLING_AREA),
                (0x81_0000, 0x1000, HASHES),
                (0x81_1000, 0x2000, MEMORY),
            ],
            entries: vec![
                ("00112233445566778899aabbccddeeff", b"not ours".to_vec()),
                (METADATA_GUID, 0x400_u32.to_le_bytes().to_vec()),
                (HASH_TABLE_GUID, words(&[0x81_0c00, 0x400])),
                (RESET_GUID, words(&[0x0080_b004])),
            ],
            metadata_header: [None; 4],
        }
    }

    /// Replaces the data of an entry.
    pub(crate) fn entry(mut self, guid: &str, data: Vec<u8>) -> Self {
        let entry = self.entries.iter_mut().find(|(name, _)| *name == guid);
        entry.unwrap().1 = data;
        self
    }

    /// Leaves out an entry.
    pub(crate) fn without(mut self, guid: &str) -> Self {
        self.entries.retain(|(name, _)| *name != guid);
        self
    }

    /// The file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file: Vec<u8> = (0..=250).cycle().take(self.size).collect();
        let count = u32::try_from(self.sections.len()).unwrap();
        let right = [u32::from_le_bytes(*b"ASEV"), 16 + 12 * count, 1, count];
        let header = std::iter::zip(self.metadata_header, right);
        let mut metadata: Vec<u8> = words(&header.map(|(a, b)| a.unwrap_or(b)).collect::<Vec<_>>());
        for (address, size, kind) in &self.sections {
            metadata.extend(words(&[*address, *size, *kind]));
        }
        let at = self.size - 0x400;
        file[at..at + metadata.len()].copy_from_slice(&metadata);
        let mut table = Vec::new();
        for (guid, data) in &self.entries {
            table.extend(data);
            table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
            table.extend(hex::decode(guid).unwrap());
        }
        table.extend(u16::try_from(table.len() + 18).unwrap().to_le_bytes());
        table.extend(hex::decode(FOOTER_GUID).unwrap());
        let end = self.size - 32;
        file[end - table.len()..end].copy_from_slice(&table);
        file
    }
}

pub(crate) fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
