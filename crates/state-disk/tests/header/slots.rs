//! Which of two slots counts.

use crate::sample::{BLANK, data_key, header, slot};
use identity::{DiskId, Generation};
use state_disk::{
    InspectError, Inspection, SLOT_LEN, SLOT_OFFSETS, SealedDisk, SlotFlaw, SlotIndex, inspect,
};

fn sealed(slots: [[u8; SLOT_LEN]; 2]) -> SealedDisk {
    match inspect(&slots).unwrap() {
        Inspection::Sealed(sealed) => sealed,
        Inspection::Blank => panic!("blank"),
    }
}

fn opened(slots: [[u8; SLOT_LEN]; 2]) -> (Generation, SlotIndex) {
    let opened = sealed(slots).open(&data_key()).unwrap();
    (opened.header.generation, opened.slot)
}

/// A write that a power cut stopped: the old bytes, then the new ones, or half of either.
fn torn() -> [u8; SLOT_LEN] {
    let mut torn = slot(7);
    torn[200..].copy_from_slice(&slot(5)[200..]);
    torn
}

#[test]
fn two_zero_slots_are_blank() {
    assert_eq!(inspect(&[BLANK, BLANK]), Ok(Inspection::Blank));
}

#[test]
fn one_byte_anywhere_is_not_blank() {
    for at in [0, 63, 64, 4095] {
        let mut dirty = BLANK;
        dirty[at] = 1;
        assert!(inspect(&[dirty, BLANK]).is_err(), "first, byte {at}");
        assert!(inspect(&[BLANK, dirty]).is_err(), "second, byte {at}");
    }
}

#[test]
fn the_newest_wins_wherever_it_is() {
    assert_eq!(opened([slot(1), BLANK]), (Generation(1), SlotIndex::First));
    assert_eq!(opened([BLANK, slot(1)]), (Generation(1), SlotIndex::Second));
    assert_eq!(
        opened([slot(5), slot(6)]),
        (Generation(6), SlotIndex::Second)
    );
    assert_eq!(
        opened([slot(7), slot(6)]),
        (Generation(7), SlotIndex::First)
    );
    assert_eq!(
        opened([slot(6), slot(6)]),
        (Generation(6), SlotIndex::First)
    );
}

#[test]
fn a_torn_write_leaves_the_older_header() {
    let slots = [torn(), slot(6)];
    assert_eq!(sealed(slots).claims().generation, Generation(7));
    assert_eq!(opened(slots), (Generation(6), SlotIndex::Second));
}

#[test]
fn a_claim_of_a_higher_generation_does_not_hide_the_true_header() {
    let mut forged = slot(5);
    forged[32..40].fill(0xff);
    assert_eq!(
        opened([forged, slot(6)]),
        (Generation(6), SlotIndex::Second)
    );
}

#[test]
fn a_malformed_slot_beside_a_sealed_one_is_reported() {
    let mut malformed = slot(7);
    malformed[0] = 0;
    for (slots, index) in [
        ([malformed, slot(6)], SlotIndex::First),
        ([slot(6), malformed], SlotIndex::Second),
    ] {
        let sealed = sealed(slots);
        let (at, flaw) = sealed.flaw().unwrap();
        assert_eq!(*at, index);
        assert!(matches!(flaw, SlotFlaw::Preamble(_)));
        assert_eq!(opened(slots), (Generation(6), index.other()));
    }
}

#[test]
fn a_malformed_slot_beside_a_blank_one_is_not_blank() {
    let mut malformed = slot(1);
    malformed[8] = 0;
    for (slots, index) in [
        ([malformed, BLANK], SlotIndex::First),
        ([BLANK, malformed], SlotIndex::Second),
        ([malformed, malformed], SlotIndex::First),
    ] {
        assert!(matches!(
            inspect(&slots),
            Err(InspectError::NoSealedSlot { slot, .. }) if slot == index
        ));
    }
}

/// Somebody's data under our serial number: nobody may take it for a torn header and format it.
#[test]
fn a_disk_without_our_magic_is_foreign() {
    let mut foreign = slot(1);
    foreign[0] = 0;
    let mut ext4 = BLANK;
    ext4[1080] = 0x53;
    for slots in [
        [foreign, BLANK],
        [BLANK, foreign],
        [foreign, foreign],
        [ext4, BLANK],
    ] {
        assert_eq!(inspect(&slots), Err(InspectError::Foreign));
    }
}

#[test]
fn slots_of_two_disks_are_refused() {
    let mut other = header(2);
    other.disk = DiskId::from_random([0x33; 16]);
    let other = other.seal(&data_key(), [2; 12]).unwrap();
    assert!(matches!(
        inspect(&[slot(1), other]),
        Err(InspectError::TwoDisks { .. })
    ));
}

#[test]
fn slots_moved_to_the_other_place_still_count_once() {
    assert_eq!(opened([slot(2), slot(1)]).0, opened([slot(1), slot(2)]).0);
}

#[test]
fn writes_alternate() {
    assert_eq!(SlotIndex::First.other(), SlotIndex::Second);
    assert_eq!(SlotIndex::Second.other(), SlotIndex::First);
    assert_eq!(
        [SlotIndex::First.offset(), SlotIndex::Second.offset()],
        SLOT_OFFSETS
    );
}
