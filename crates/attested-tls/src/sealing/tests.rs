//! Sealed secrets open for one key, one channel and one name.

use evidence::{Binding, Channel, Side};
use secret::DataKey;

use crate::{SealError, SealingKey, SealingPublicKey};

fn binding(exporter: u8) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"a",
        server_hello: b"b",
        client_spki: b"c",
        server_spki: b"d",
        exporter: &[exporter; 32],
    })
}

fn data_key() -> DataKey {
    DataKey::from_slice(&[7; 32]).unwrap()
}

#[test]
fn what_is_sealed_opens() {
    let key = SealingKey::generate().unwrap();
    let sealed = key
        .public_key()
        .seal_data_key(&data_key(), &binding(1))
        .unwrap();
    assert_eq!(sealed.ciphertext.len(), DataKey::LEN + 16);
    let opened = key.open_data_key(&sealed, &binding(1)).unwrap();
    assert!(opened.ct_eq(&data_key()));
    let again = key
        .public_key()
        .seal_data_key(&data_key(), &binding(1))
        .unwrap();
    assert_ne!(sealed, again);
}

#[test]
fn another_key_channel_or_name_does_not_open() {
    let key = SealingKey::generate().unwrap();
    let public = key.public_key();
    let sealed = public.seal_data_key(&data_key(), &binding(1)).unwrap();
    assert!(matches!(
        key.open_data_key(&sealed, &binding(2)),
        Err(SealError::Open(_))
    ));
    let other = SealingKey::generate().unwrap();
    assert!(matches!(
        other.open_data_key(&sealed, &binding(1)),
        Err(SealError::Open(_))
    ));
    let named = public
        .seal(&[7; 32], &binding(1), b"master-secret")
        .unwrap();
    assert!(matches!(
        key.open_data_key(&named, &binding(1)),
        Err(SealError::Open(_))
    ));
}

#[test]
fn every_flipped_bit_is_refused() {
    let key = SealingKey::generate().unwrap();
    let sealed = key
        .public_key()
        .seal_data_key(&data_key(), &binding(1))
        .unwrap();
    for bit in 0..sealed.ciphertext.len() * 8 {
        let mut bad = sealed.clone();
        bad.ciphertext[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open_data_key(&bad, &binding(1)).is_err(), "{bit}");
    }
    // The top bit of an X25519 public key is ignored (RFC 7748, section 5), but HPKE hashes it.
    for bit in 0..256 {
        let mut bad = sealed.clone();
        bad.encapsulated_key[bit / 8] ^= 1 << (bit % 8);
        assert!(key.open_data_key(&bad, &binding(1)).is_err(), "{bit}");
    }
}

#[test]
fn a_secret_of_another_length_is_refused() {
    let key = SealingKey::generate().unwrap();
    for len in [0, 31, 33] {
        let sealed = key
            .public_key()
            .seal(&vec![7; len], &binding(1), b"data-key")
            .unwrap();
        assert!(matches!(
            key.open_data_key(&sealed, &binding(1)),
            Err(SealError::Length { expected: 32, got }) if got == len
        ));
    }
}

#[test]
fn a_low_order_public_key_is_refused() {
    let zero = SealingPublicKey::from_bytes([0; 32]);
    assert!(matches!(
        zero.seal_data_key(&data_key(), &binding(1)),
        Err(SealError::Seal(_))
    ));
}

#[test]
fn debug_shows_no_key() {
    let key = SealingKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "SealingKey(..)");
}
