//! One disk, as a 1 GiB disk formatted in a virtual machine looks.

use identity::{ClusterId, DiskId, Generation, KeyVersion, Role};
use secret::{DataKey, VolumeKeys};
use state_disk::{DmParameters, Header, IntegritySuperblock, SLOT_LEN};

pub(crate) const BLANK: [u8; SLOT_LEN] = [0; SLOT_LEN];

/// What the kernel wrote at byte 16777216 of a 1 GiB disk (Linux 6.12.95, journal mode).
pub(crate) const SUPERBLOCK: &str = "696e746567727400040f20003e00000008011f000000000008000000030c00000000000000000000000000000000000000000000000000000000000000000000";

pub(crate) const DATA_SECTORS: u64 = 2031880;

pub(crate) fn data_key() -> DataKey {
    DataKey::from_slice(&counting::<32>(0x40)).unwrap()
}

pub(crate) fn superblock_block() -> [u8; 4096] {
    let mut block = [0; 4096];
    block[..64].copy_from_slice(&hex::decode(SUPERBLOCK).unwrap());
    block
}

pub(crate) fn header(generation: u64) -> Header {
    Header {
        disk: DiskId::from_random([0x11; 16]),
        key_version: KeyVersion::FIRST,
        generation: Generation(generation),
        volume_keys: VolumeKeys::from_slice(&counting::<96>(0)).unwrap(),
        cluster: ClusterId::from_bytes([0x22; 32]),
        role: Role::Worker,
        init_unfinished: false,
        node_name: "worker-0".parse().unwrap(),
        parameters: DmParameters::new(DATA_SECTORS).unwrap(),
        superblock: IntegritySuperblock::parse(&superblock_block()).unwrap(),
    }
}

/// A slot with this generation; the nonce follows from the generation, which no real one does.
pub(crate) fn slot(generation: u64) -> [u8; SLOT_LEN] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&generation.to_le_bytes());
    header(generation).seal(&data_key(), nonce).unwrap()
}

/// `start`, `start + 1`, and so on.
fn counting<const N: usize>(start: u8) -> [u8; N] {
    let mut next = start..;
    std::array::from_fn(|_| next.next().unwrap())
}
