//! Captured quotes of real TPMs, where the vectors are at hand (crate `vectors`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::collections::BTreeMap;
use tpm::{AttestationKey, EkKind, PcrSet, Quote, QuoteError, composite_digest};

/// A file of the vectors; `None`, said aloud, where there are none.
fn vector(name: &str) -> Option<Vec<u8>> {
    vectors::vector(&format!("tpm/{name}"))
}

#[test]
fn a_real_quote_verifies_over_its_24_pcrs() {
    let Some(json) = vector("verifier__tpm_evidence.json") else {
        return;
    };
    let json: Value = serde_json::from_slice(&json).unwrap();
    let bytes = |pointer: &str| {
        let text = json.pointer(pointer).and_then(Value::as_str).unwrap();
        STANDARD.decode(text).unwrap()
    };
    let (message, signature) = (bytes("/tpm_quote/message"), bytes("/tpm_quote/signature"));
    // The vector has a SubjectPublicKeyInfo; the 256-byte modulus stands before `02 03 010001`.
    let info = bytes("/ak_public");
    let modulus = &info[info.len() - 5 - 256..info.len() - 5];
    let mut public = AttestationKey::template(EkKind::Rsa2048, &[0; 32]);
    public.truncate(public.len() - 34);
    public.extend([&[1, 0], modulus].concat());
    let key = AttestationKey::parse(&public).unwrap();

    let quote = key.signing_key().verify(&message, &signature).unwrap();
    assert!(quote.selection.is_exactly(PcrSet::new(0..24).unwrap()));
    assert_eq!(quote.extra_data.len(), 64);
    let pcrs = json
        .pointer("/tpm_quote/pcrs")
        .and_then(Value::as_array)
        .unwrap();
    let pcrs: BTreeMap<u32, [u8; 32]> = (0..)
        .zip(pcrs)
        .map(|(i, hex)| {
            (
                i,
                hex::decode(hex.as_str().unwrap())
                    .unwrap()
                    .try_into()
                    .unwrap(),
            )
        })
        .collect();
    assert_eq!(quote.pcr_digest, composite_digest(&pcrs));

    for at in 0..message.len() {
        let mut flipped = message.clone();
        flipped[at] ^= 1;
        assert_eq!(
            key.signing_key().verify(&flipped, &signature),
            Err(QuoteError::BadSignature)
        );
        assert!(Quote::parse(&message[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_sample_attestation_parses_and_no_part_of_it_does() {
    let Some(sample) = vector("tpm_quote_sample.bin") else {
        return;
    };
    let quote = Quote::parse(&sample).unwrap();
    assert_eq!(quote.extra_data, [0x12, 0x34, 0x56, 0x78]);
    assert_eq!(quote.clock.reset_count, 16);
    assert!(quote.selection.is_exactly(PcrSet::new(0..3).unwrap()));
    assert!(!quote.selection.is_exactly(PcrSet::new(0..4).unwrap()));
    for at in 0..sample.len() {
        assert!(Quote::parse(&sample[..at]).is_err(), "cut at {at}");
    }
    assert!(Quote::parse(&[&sample[..], &[0]].concat()).is_err());
}
