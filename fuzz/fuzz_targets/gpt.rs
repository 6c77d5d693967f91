//! A partition table on a disk of the host.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use platform::gpt;

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let mut taken = false;
    for sector in [512, 4096] {
        taken |= gpt::parse(data, sector).is_ok();
        let mut disk = data.to_vec();
        sum(&mut disk, sector);
        drop(gpt::parse(&disk, sector));
    }
    taken
}

/// Makes both checksums right: a host can do that, mutations cannot.
fn sum(disk: &mut [u8], sector: usize) {
    let table = disk.get(2 * sector..gpt::needed(sector)).map(crc32);
    let (Some(table), Some(header)) = (table, disk.get_mut(sector..sector + 92)) else {
        return;
    };
    header[88..92].copy_from_slice(&table.to_le_bytes());
    header[16..20].fill(0);
    let sum = crc32(header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
}

/// The CRC of UEFI 2.10, section 5.3.2: that of ANSI X3.66, reflected.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}
