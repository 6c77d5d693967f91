//! ID blocks: the captured one, and what must refuse.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use snp::{
    EcdsaError, IdAuthentication, IdBlock, IdBlockError,
    id_block::{ID_AUTHENTICATION_LEN, ID_BLOCK_LEN},
};
use vectors::vector;

struct Captured {
    block: Vec<u8>,
    authentication: Vec<u8>,
    expected: Value,
}

fn captured() -> Option<Captured> {
    let expected: Value = serde_json::from_slice(&vector("snp/expected_idblock.json")?).unwrap();
    Some(Captured {
        block: STANDARD
            .decode(expected["id_block_b64"].as_str().unwrap())
            .unwrap(),
        authentication: vector("snp/tests__measurement__test_auth_block.bin")?,
        expected,
    })
}

fn verify(block: &[u8], authentication: &[u8]) -> Result<snp::IdKeys, IdBlockError> {
    IdAuthentication::parse(authentication)?.verify(&IdBlock::parse(block)?)
}

#[test]
fn the_captured_block_is_signed_by_the_expected_keys() {
    let Some(captured) = captured() else {
        return;
    };
    let keys = verify(&captured.block, &captured.authentication).unwrap();
    let author = keys.author_key_digest.unwrap();
    let text = |name: &str| captured.expected[name].as_str().unwrap();
    assert_eq!(
        STANDARD.encode(keys.id_key_digest),
        text("id_key_digest_b64")
    );
    assert_eq!(STANDARD.encode(author), text("auth_key_digest_b64"));

    let block = IdBlock::parse(&captured.block).unwrap();
    assert_eq!(hex::encode(block.launch_digest), text("launch_digest"));
    assert_eq!((block.guest_svn, block.policy), (0, 0x30000));
    assert_eq!((block.family_id, block.image_id), (&[0; 16], &[0; 16]));
}

#[test]
fn a_flipped_bit_of_any_byte_refuses() {
    let Some(captured) = captured() else {
        return;
    };
    for at in 0..ID_BLOCK_LEN {
        let mut block = captured.block.clone();
        block[at] ^= 1;
        assert!(
            verify(&block, &captured.authentication).is_err(),
            "byte {at:#x}"
        );
    }
    // Without an author key's algorithm the rest would still say what the firmware checked.
    for at in 0..ID_AUTHENTICATION_LEN {
        let mut authentication = captured.authentication.clone();
        authentication[at] ^= 1;
        assert!(
            verify(&captured.block, &authentication).is_err(),
            "byte {at:#x}"
        );
    }
}

#[test]
fn without_an_author_key_the_id_key_stands_alone() {
    let Some(captured) = captured() else {
        return;
    };
    let mut alone = captured.authentication.clone();
    alone[0x680..0xc84].fill(0);
    alone[4..8].fill(0);
    let keys = verify(&captured.block, &alone).unwrap();
    assert_eq!(keys.author_key_digest, None);

    // With the key left and only its signature gone, it did not sign.
    let mut unsigned = captured.authentication.clone();
    unsigned[0x680..0x880].fill(0);
    let refused = verify(&captured.block, &unsigned);
    let source = EcdsaError::Range("R");
    let field = "signature of the ID key";
    assert_eq!(refused, Err(IdBlockError::Ecdsa { field, source }));
}

#[test]
fn keys_of_another_curve_and_points_off_it_refuse() {
    let Some(captured) = captured() else {
        return;
    };
    let with = |at: usize, value: u8| {
        let mut authentication = captured.authentication.clone();
        authentication[at] = value;
        verify(&captured.block, &authentication)
    };
    let wrong = |source| {
        Err(IdBlockError::Ecdsa {
            field: "ID key",
            source,
        })
    };
    assert_eq!(with(0x240, 1), wrong(EcdsaError::Curve(1)));
    assert_eq!(with(0x244, 0x55), wrong(EcdsaError::Point));
    assert_eq!(with(0x244 + 48, 1), wrong(EcdsaError::Reserved(52)));
    assert_eq!(with(0x643, 1), wrong(EcdsaError::Reserved(148)));
}

#[test]
fn other_lengths_versions_and_algorithms_refuse() {
    for length in (0..200).filter(|length| *length != ID_BLOCK_LEN) {
        let what = "ID block";
        let refused = IdBlockError::Length { what, got: length };
        assert_eq!(IdBlock::parse(&vec![1; length]).err(), Some(refused));
    }
    for version in [0, 2, 0x100_0001] {
        let mut block = [0; ID_BLOCK_LEN];
        block[0x50..0x54].copy_from_slice(&u32::to_le_bytes(version));
        let refused = Some(IdBlockError::Version(version));
        assert_eq!(IdBlock::parse(&block).err(), refused);
    }
    for length in [
        0,
        1,
        0xc84,
        ID_AUTHENTICATION_LEN - 1,
        ID_AUTHENTICATION_LEN + 1,
    ] {
        let refused = IdAuthentication::parse(&vec![0; length]).err();
        assert!(matches!(refused, Some(IdBlockError::Length { got, .. }) if got == length));
    }
    let refused = IdAuthentication::parse(&[0; ID_AUTHENTICATION_LEN]).err();
    let key = "ID key";
    assert_eq!(refused, Some(IdBlockError::Algorithm { key, got: 0 }));
}
