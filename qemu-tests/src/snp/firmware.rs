//! A firmware file for launch measurements.
//!
//! QEMU under emulation starts no SNP guest and Debian's firmware for them is not at hand, so a
//! direct boot here runs none. The measurement is computed as if this one had been there: it has what
//! `OVMF.amdsev.fd` has where the computation looks, and the hashes of kernel, initial RAM disk and
//! command line go into it in the same way.

/// Length of the file; it ends at 4 GiB.
const LEN: usize = 0x1_0000;

/// Where the metadata begins, from the end of the file.
const METADATA: u32 = 0x400;

/// Address, length and kind of the parts of memory that are measured: early memory, secrets, CPUID,
/// calling area, kernel hashes (EDK2, `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`).
const SECTIONS: [[u32; 3]; 6] = [
    [0x80_0000, 0x9000, 1],
    [0x80_a000, 0x3000, 1],
    [0x80_d000, 0x1000, 2],
    [0x80_e000, 0x1000, 3],
    [0x80_f000, 0x1000, 4],
    [0x81_0000, 0x1000, 0x10],
];

/// GUIDs of the table (EDK2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`), as its bytes are.
const METADATA_GUID: u128 = 0x6665_88dc_4a98_9847_a75e_5585_a7bf_67cc;
const HASHES_GUID: u128 = 0x1f37_5572_3b3a_044b_927b_1da6_efa8_d454;
const RESET_GUID: u128 = 0xde71_f700_7e1a_cb4f_890e_68c7_7e2f_b44e;
const FOOTER_GUID: u128 = 0xde82_b596_b21f_f745_baea_a366_c55a_082d;

/// The file.
pub(super) fn build() -> Vec<u8> {
    let count = 6;
    let mut metadata = words(&[u32::from_le_bytes(*b"ASEV"), 16 + 12 * count, 1, count]);
    SECTIONS
        .iter()
        .for_each(|section| metadata.extend(words(section)));

    let mut table = Vec::new();
    entry(&mut table, METADATA_GUID, &[METADATA]);
    entry(&mut table, HASHES_GUID, &[0x81_0c00, 0x400]);
    entry(&mut table, RESET_GUID, &[0x80_b004]);
    // The footer's length is the whole table's.
    let len = u16::try_from(table.len() + 18).unwrap_or(0);
    table.extend(len.to_le_bytes());
    table.extend(FOOTER_GUID.to_be_bytes());

    let mut file = vec![0x90; LEN - METADATA as usize];
    file.extend(metadata);
    file.resize(LEN - 32 - table.len(), 0x90);
    file.extend(table);
    file.resize(LEN, 0x90);
    file
}

/// Data, length and GUID: the table is read from its end.
fn entry(table: &mut Vec<u8>, guid: u128, data: &[u32]) {
    let data = words(data);
    let len = u16::try_from(data.len() + 18).unwrap_or(0);
    table.extend(data);
    table.extend(len.to_le_bytes());
    table.extend(guid.to_be_bytes());
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use measure::sev_snp::Firmware;

    #[test]
    fn the_computation_understands_the_firmware() {
        Firmware::parse(&super::build()).unwrap();
    }
}
