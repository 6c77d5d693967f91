//! Everything that is not exactly the header that was sealed is refused.

use crate::sample::{BLANK, data_key, header, slot};
use identity::{DiskId, Generation, KeyVersion};
use secret::DataKey;
use state_disk::{
    BodyError, Header, InspectError, Inspection, OpenError, Opened, Preamble, PreambleError,
    SLOT_LEN, SealError, SlotFlaw, inspect,
};

/// The preamble's, body's and tag's bytes; the rest of a slot is zero.
const USED: usize = 400;

fn open(slots: &[[u8; SLOT_LEN]; 2]) -> Result<Opened, String> {
    match inspect(slots).map_err(|error| error.to_string())? {
        Inspection::Blank => Err("blank".into()),
        Inspection::Sealed(sealed) => sealed.open(&data_key()).map_err(|error| error.to_string()),
    }
}

#[test]
fn what_was_sealed_opens() {
    let opened = open(&[slot(1), BLANK]).unwrap().header;
    let sealed = header(1);
    assert_eq!(opened.disk, sealed.disk);
    assert_eq!(opened.generation, sealed.generation);
    assert_eq!(opened.key_version, sealed.key_version);
    assert_eq!(opened.cluster, sealed.cluster);
    assert_eq!(opened.role, sealed.role);
    assert_eq!(opened.node_name, sealed.node_name);
    assert_eq!(opened.parameters, sealed.parameters);
    assert_eq!(opened.superblock, sealed.superblock);
    assert!(opened.volume_keys.ct_eq(&sealed.volume_keys));
    assert!(!opened.init_unfinished);
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_slot_refuses() {
    let good = slot(1);
    for at in 0..SLOT_LEN {
        for bit in [0x01, 0x80] {
            let mut bad = good;
            bad[at] ^= bit;
            assert!(open(&[bad, BLANK]).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_slot_cut_off_anywhere_refuses() {
    let good = slot(1);
    for len in 1..USED {
        let mut cut = BLANK;
        cut[..len].copy_from_slice(&good[..len]);
        // The tag may end in zeros; then nothing was cut.
        assert!(cut == good || open(&[cut, BLANK]).is_err(), "{len} bytes");
    }
}

#[test]
fn each_preamble_field_is_checked_by_itself() {
    let cases: [(usize, u8, PreambleError); 7] = [
        (0, b'X', PreambleError::Magic),
        (8, 2, PreambleError::FormatVersion { got: 2 }),
        (10, 1, PreambleError::Flags { got: 1 }),
        (12, 0, PreambleError::KeyVersion),
        (32, 0, PreambleError::Generation),
        (52, 81, PreambleError::Length { got: 337 }),
        (63, 1, PreambleError::Reserved),
    ];
    for (at, byte, expected) in cases {
        let mut bad = slot(1);
        bad[at] = byte;
        let preamble = bad.first_chunk().unwrap();
        assert_eq!(Preamble::parse(preamble), Err(expected), "byte {at}");
    }
}

#[test]
fn bytes_after_the_tag_are_a_flaw() {
    let mut bad = slot(1);
    bad[USED] = 1;
    assert_eq!(
        inspect(&[bad, BLANK]),
        Err(InspectError::NoSealedSlot {
            slot: state_disk::SlotIndex::First,
            flaw: SlotFlaw::Padding,
        })
    );
}

#[test]
fn another_disk_s_uuid_does_not_authenticate() {
    let mut bad = slot(1);
    let other = DiskId::from_random([0x33; 16]);
    bad[16..32].copy_from_slice(other.as_bytes());
    let Inspection::Sealed(sealed) = inspect(&[bad, BLANK]).unwrap() else {
        panic!("blank");
    };
    assert_eq!(sealed.claims().disk, other);
    let error = sealed.open(&data_key()).unwrap_err();
    assert_eq!(error, OpenError::NotAuthentic { disk: other });
}

#[test]
fn another_data_key_does_not_open() {
    let Inspection::Sealed(sealed) = inspect(&[slot(2), slot(1)]).unwrap() else {
        panic!("blank");
    };
    let other = DataKey::from_slice(&[0; 32]).unwrap();
    assert!(matches!(
        sealed.open(&other),
        Err(OpenError::NotAuthentic { .. })
    ));
}

#[test]
fn a_header_under_a_raised_generation_does_not_authenticate() {
    let mut forged = slot(1);
    forged[32] = 9;
    assert!(open(&[forged, BLANK]).is_err());
}

#[test]
fn values_that_would_not_open_are_not_sealed() {
    let mut zero = header(1);
    zero.generation = Generation(0);
    assert_eq!(zero.seal(&data_key(), [1; 12]), Err(SealError::Preamble));

    let mut zero = header(1);
    zero.key_version = KeyVersion(0);
    assert_eq!(zero.seal(&data_key(), [1; 12]), Err(SealError::Preamble));

    let mut other_size = header(1);
    other_size.parameters = state_disk::DmParameters::new(8).unwrap();
    assert!(matches!(
        other_size.seal(&data_key(), [1; 12]),
        Err(SealError::Body(BodyError::Superblock(_)))
    ));
}

/// What a holder of the data key could write, and still is not format version 1.
#[test]
fn authentic_bodies_are_bounded_field_by_field() {
    let preamble = Preamble::parse(slot(1).first_chunk().unwrap()).unwrap();
    let good = plain_body();
    assert!(Header::decode_body(&preamble, &good).is_ok());
    let cases = [
        (128, 0, "role"),
        (128, 3, "role"),
        (129, 2, "init unfinished"),
        (130, 1, "gap"),
        (132, b'-', "node name starts with a dash"),
        (132, b'W', "node name in upper case"),
        (132, 0xff, "node name not ASCII"),
        (132, 0, "node name empty, then bytes"),
        (195, b'x', "node name field not padded"),
        (196, 1, "gap"),
        (200, 2, "stack"),
        (201, 1, "gap"),
        (208, 1, "data sectors not of whole blocks"),
        (215, 0x80, "data sectors beyond any disk"),
        (216, 1, "start"),
        (223, 1, "journal sectors"),
        (224, 1, "interleave not a power of two"),
        (228, 1, "buffer not a power of two"),
        (232, 101, "watermark"),
        (239, 1, "commit time"),
        (240, 1, "block size"),
        (244, 16, "tag size"),
        (248, 1, "gap"),
        (256, b'I', "superblock magic"),
        (265, 14, "superblock interleave"),
        (266, 16, "superblock tag size"),
        (272, 0, "superblock provided sectors"),
        (280, 0x0a, "superblock flags"),
        (284, 0, "superblock block size"),
    ];
    for (at, byte, what) in cases {
        let mut bad = good.clone();
        assert_ne!(bad[at], byte, "{what}: no change");
        bad[at] = byte;
        assert!(Header::decode_body(&preamble, &bad).is_err(), "{what}");
    }
    for len in [0, 1, 319] {
        assert!(Header::decode_body(&preamble, &good[..len]).is_err());
    }
    let long = [good.as_slice(), &[0]].concat();
    assert_eq!(
        Header::decode_body(&preamble, &long).unwrap_err(),
        BodyError::Layout
    );
}

/// The body before sealing, by opening a slot by hand: HKDF and AES-GCM as the format says.
fn plain_body() -> Vec<u8> {
    use aws_lc_rs::{aead, hkdf};
    let slot = slot(1);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(data_key().expose_secret());
    let okm = prk
        .expand(&[b"state-disk header v1"], &aead::AES_256_GCM)
        .unwrap();
    let key = aead::LessSafeKey::new(aead::UnboundKey::from(okm));
    let nonce = aead::Nonce::try_assume_unique_for_key(&slot[40..52]).unwrap();
    let mut sealed = slot[64..USED].to_vec();
    let aad = aead::Aad::from(&slot[..64]);
    key.open_in_place(nonce, aad, &mut sealed).unwrap().to_vec()
}
