//! What a report says of the launch against reference values: measurements, and ID blocks whose signer
//! the owner trusts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/guest.rs"]
mod guest;

use appraisal::{AppraisalError, ErrorClass};
use guest::{Guest, MEASUREMENT, image};
use serde_json::{Value, json};
use snp::layout;

const ID_KEY: [u8; 48] = [0x1d; 48];
const AUTHOR_KEY: [u8; 48] = [0xa0; 48];
const FAMILY: [u8; 16] = [0xfa; 16];
const IMAGE: [u8; 16] = [0x1a; 16];

/// A guest that was launched with an ID block, and an image whose only anchor that is.
fn with_id_block() -> Guest {
    let mut guest = Guest::new();
    guest.report.id_key_digest = ID_KEY;
    guest.report.author_key_digest = AUTHOR_KEY;
    guest.report.key_info |= layout::KEY_INFO_AUTHOR_KEY_EN;
    guest.report.family_id = FAMILY;
    guest.report.image_id = IMAGE;
    guest.report.guest_svn = 7;
    guest.images = json!([block_image("v1", &id_block())]);
    guest
}

fn id_block() -> Value {
    json!({
        "id_key_digest": hex::encode(ID_KEY),
        "author_key_digest": hex::encode(AUTHOR_KEY),
        "family_id": hex::encode(FAMILY),
        "image_id": hex::encode(IMAGE),
        "minimum_guest_svn": 7,
    })
}

fn block_image(name: &str, id_block: &Value) -> Value {
    json!({"name": name, "roles": ["worker"], "sev_snp": {"id_block": id_block}})
}

/// Names of the failed checks.
fn failed(guest: &Guest) -> Vec<String> {
    let error = guest.appraise().unwrap_err();
    assert!(
        matches!(error, AppraisalError::ImageMismatch { .. }),
        "{error:?}"
    );
    assert_eq!(error.class(), ErrorClass::Refused);
    // Signed for this channel: whoever it is may be told which check failed.
    assert!(error.is_by_proven_attester());
    error
        .checks()
        .into_iter()
        .map(|check| check.check)
        .collect()
}

#[test]
fn any_flipped_byte_of_the_measurement_is_another_image() {
    for byte in 0..48 {
        let mut guest = Guest::new();
        guest.report.measurement[byte] ^= 1;
        assert_eq!(failed(&guest), ["launch measurement of image `v1`"]);
    }
}

#[test]
fn a_mismatch_names_expected_and_got() {
    let mut guest = Guest::new();
    let two = [hex::encode([1; 48]), hex::encode([2; 48])];
    guest.images[0]["sev_snp"]["measurements"] = json!(two);
    let error = guest.appraise().unwrap_err();
    let check = &error.checks()[0];
    assert_eq!(check.expected, two.join(" or "));
    assert_eq!(check.got, hex::encode(MEASUREMENT));
}

#[test]
fn each_measurement_of_each_image_is_accepted() {
    let mut guest = Guest::new();
    guest.images = json!([image("old", &[1; 48]), image("new", &[2; 48])]);
    guest.images[1]["sev_snp"]["measurements"] =
        json!([hex::encode([2; 48]), hex::encode([3; 48])]);
    for (measurement, expected) in [([1; 48], "old"), ([2; 48], "new"), ([3; 48], "new")] {
        guest.report.measurement = measurement;
        assert_eq!(guest.appraise().unwrap().image(), expected);
    }
}

#[test]
fn an_id_block_by_keys_of_the_owner_stands_for_the_measurement() {
    let mut guest = with_id_block();
    for measurement in [[1; 48], [2; 48]] {
        guest.report.measurement = measurement;
        guest.assert_accepted();
    }
    guest.report.guest_svn = 8;
    guest.assert_accepted();
    // One named key is enough.
    for other in ["id_key_digest", "author_key_digest"] {
        let mut block = id_block();
        block.as_object_mut().unwrap().remove(other);
        guest.images = json!([block_image("v1", &block)]);
        guest.assert_accepted();
    }
}

#[test]
fn each_field_of_an_id_block_counts() {
    type Change = fn(&mut Guest);
    let broken: [(&str, Change); 5] = [
        ("ID_KEY_DIGEST", |guest| guest.report.id_key_digest[0] ^= 1),
        ("AUTHOR_KEY_DIGEST", |guest| {
            guest.report.author_key_digest[47] ^= 1
        }),
        ("FAMILY_ID", |guest| guest.report.family_id[0] ^= 1),
        ("IMAGE_ID", |guest| guest.report.image_id[15] ^= 1),
        ("GUEST_SVN", |guest| guest.report.guest_svn = 6),
    ];
    for (check, change) in broken {
        let mut guest = with_id_block();
        change(&mut guest);
        assert_eq!(failed(&guest), [check]);
    }
}

#[test]
fn a_launch_without_id_block_does_not_pass_for_one_with_it() {
    let mut guest = with_id_block();
    guest.report.id_key_digest = [0; 48];
    guest.report.author_key_digest = [0; 48];
    assert_eq!(failed(&guest), ["ID_KEY_DIGEST", "AUTHOR_KEY_DIGEST"]);
}

/// The host writes family, image and version into a block of its own; nobody signs it.
#[test]
fn an_id_block_of_somebody_else_is_worth_nothing() {
    let mut guest = with_id_block();
    guest.report.id_key_digest = [0xee; 48];
    guest.report.author_key_digest = [0xee; 48];
    assert_eq!(failed(&guest), ["ID_KEY_DIGEST", "AUTHOR_KEY_DIGEST"]);
    // Even one that the author certified, where the owner named the ID key.
    guest.report.author_key_digest = AUTHOR_KEY;
    assert_eq!(failed(&guest), ["ID_KEY_DIGEST"]);
}

#[test]
fn either_anchor_is_enough_and_both_are_named_if_neither_holds() {
    let mut guest = with_id_block();
    guest.images[0]["sev_snp"]["measurements"] = json!([hex::encode(MEASUREMENT)]);
    guest.assert_accepted();
    guest.report.measurement = [1; 48];
    guest.assert_accepted();
    guest.report.id_key_digest = [0; 48];
    assert_eq!(
        failed(&guest),
        ["launch measurement of image `v1`", "ID_KEY_DIGEST"]
    );
    guest.report.measurement = MEASUREMENT;
    guest.assert_accepted();
}

#[test]
fn a_launch_that_fits_two_images_is_refused() {
    let mut guest = with_id_block();
    guest.images = json!([
        image("measured", &MEASUREMENT),
        block_image("signed", &id_block())
    ]);
    let error = guest.appraise().unwrap_err();
    let images = "`measured` and `signed`".to_owned();
    assert_eq!(error, AppraisalError::Ambiguous { images });
    assert_eq!(error.class(), ErrorClass::Refused);
    guest.report.measurement = [1; 48];
    assert_eq!(guest.appraise().unwrap().image(), "signed");
    guest.report.measurement = MEASUREMENT;
    guest.report.image_id = [0; 16];
    assert_eq!(guest.appraise().unwrap().image(), "measured");
}

#[test]
fn host_data_and_the_ids_of_the_launch_decide_nothing() {
    let mut guest = Guest::new();
    guest.report.host_data = [5; 32];
    guest.report.report_id_ma = [6; 32];
    guest.report.family_id = [7; 16];
    guest.report.guest_svn = 9;
    guest.report.report_id = [8; 32];
    let appraised = guest.appraise().unwrap();
    assert_eq!(appraised.report_id(), Some(&[8; 32]));
}
