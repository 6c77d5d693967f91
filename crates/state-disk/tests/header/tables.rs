//! The device-mapper tables, and the superblock that goes with them.

use crate::sample::{DATA_SECTORS, header, superblock_block};
use state_disk::{
    DeviceNumber, DmParameters, IntegritySuperblock, ParametersError, SuperblockError,
};

const DEVICE: DeviceNumber = DeviceNumber {
    major: 254,
    minor: 16,
};

/// The text that `dmsetup table` printed for what `cryptsetup` set up.
#[test]
fn the_integrity_table_is_the_kernel_s_own_text() {
    let table = header(1).parameters.integrity_table(DEVICE);
    assert_eq!(table.target, "integrity");
    assert_eq!(table.sectors, DATA_SECTORS);
    assert!(!table.read_only);
    assert_eq!(
        table.parameters,
        "254:16 32768 32 J 7 block_size:4096 journal_sectors:16368 interleave_sectors:32768 \
         buffer_sectors:128 journal_watermark:50 commit_time:10000 fix_padding"
    );
}

#[test]
fn the_crypt_table_names_the_key_and_does_not_contain_it() {
    let header = header(1);
    let table = header.parameters.crypt_table(DEVICE, &header.disk);
    assert_eq!(table.target, "crypt");
    assert_eq!(table.sectors, DATA_SECTORS);
    assert_eq!(
        table.parameters,
        format!(
            "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:constellation:state-disk/{} 0 \
             254:16 0 2 integrity:32:aead sector_size:4096",
            header.disk
        )
    );
}

#[test]
fn formatting_maps_one_block() {
    let formatting = DmParameters::formatting_table(DEVICE);
    let real = header(1).parameters.integrity_table(DEVICE);
    assert_eq!(formatting.sectors, 8);
    assert_eq!(formatting.parameters, real.parameters);
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    for sectors in [0, 1, 7, 9, (1 << 54) + 8, u64::MAX - 7] {
        assert_eq!(
            DmParameters::new(sectors),
            Err(ParametersError::Bounds {
                field: "data sectors"
            })
        );
    }
    assert!(DmParameters::new(8).is_ok());
    assert!(DmParameters::new(1 << 54).is_ok());
}

#[test]
fn the_superblock_is_compared_to_its_last_byte() {
    let superblock = header(1).superblock;
    let good = superblock_block();
    assert_eq!(superblock.compare(&good), Ok(()));
    for at in 0..4096 {
        let mut bad = good;
        bad[at] ^= 0x10;
        assert_eq!(
            superblock.compare(&bad),
            Err(SuperblockError::Differs { offset: at })
        );
    }
}

#[test]
fn a_zeroed_superblock_is_refused_everywhere() {
    assert_eq!(
        header(1).superblock.compare(&[0; 4096]),
        Err(SuperblockError::Blank)
    );
    assert_eq!(
        IntegritySuperblock::parse(&[0; 4096]),
        Err(SuperblockError::Blank)
    );
}

#[test]
fn only_what_the_kernel_writes_parses_as_a_superblock() {
    let mut foreign = superblock_block();
    foreign[0] = b'X';
    assert_eq!(
        IntegritySuperblock::parse(&foreign),
        Err(SuperblockError::Magic)
    );
    let mut trailing = superblock_block();
    trailing[64] = 1;
    assert_eq!(
        IntegritySuperblock::parse(&trailing),
        Err(SuperblockError::Trailing)
    );
}

#[test]
fn a_superblock_belongs_to_its_table_only() {
    let header = header(1);
    assert_eq!(header.superblock.provided_sectors(), DATA_SECTORS);
    let other = DmParameters::new(DATA_SECTORS - 8).unwrap();
    assert_eq!(
        header.superblock.check_against(&other),
        Err(SuperblockError::Field {
            field: "provided sectors"
        })
    );
}
