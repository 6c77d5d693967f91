//! Public areas: what counts as an endorsement key and as an attestation key.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use tpm::{
    AttestationKey, EkKind, EndorsementKey, KeyError, PcrSet, Public, QuoteError, Signature,
    constants::alg, make_credential,
};

/// An endorsement key from its template with an arbitrary public number.
fn ek(kind: EkKind) -> Vec<u8> {
    let mut public = kind.template();
    match kind {
        EkKind::Rsa2048 => {
            let modulus = public.len() - 256;
            public[modulus..].fill(0xc5);
        }
        EkKind::EccP256 => {
            let x = public.len() - 66;
            public[x..x + 32].fill(7);
        }
    }
    public
}

fn ak() -> Vec<u8> {
    let mut public = AttestationKey::template(EkKind::EccP256, &[0; 32]);
    public.truncate(public.len() - 36);
    public.extend([&[0, 32][..], &[1; 32], &[0, 32], &[2; 32]].concat());
    public
}

fn refused_property<T: std::fmt::Debug>(result: Result<T, KeyError>) -> &'static str {
    match result.unwrap_err() {
        KeyError::Refused { property, .. } => property,
        malformed => panic!("{malformed}"),
    }
}

/// The default templates as tpm2-tools and the profile write them.
#[test]
fn templates_are_those_of_the_profile() {
    let policy = "0020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";
    let rsa = format!(
        "0001000b000300b2{policy}00060080004300100800000000000100{}",
        "00".repeat(256)
    );
    assert_eq!(hex::encode(EkKind::Rsa2048.template()), rsa);
    let zeros = format!("0020{}", "00".repeat(32));
    let ecc = format!(
        "0023000b000300b2{policy}0006008000430010000300100020{}{zeros}",
        "00".repeat(32)
    );
    assert_eq!(hex::encode(EkKind::EccP256.template()), ecc);
}

#[test]
fn endorsement_keys_must_be_from_a_template() {
    for kind in [EkKind::Rsa2048, EkKind::EccP256] {
        let good = ek(kind);
        assert_eq!(EndorsementKey::parse(&good).unwrap().kind(), kind);
        // Everything before `unique` is the template's; a change is refused or malformed.
        let unique = if kind == EkKind::Rsa2048 { 256 } else { 66 };
        for at in 0..good.len() - unique {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            assert!(
                EndorsementKey::parse(&flipped).is_err(),
                "{kind:?}: byte {at}"
            );
            assert!(
                EndorsementKey::parse(&good[..at]).is_err(),
                "{kind:?}: cut at {at}"
            );
        }
        assert!(EndorsementKey::parse(&[&good[..], &[0]].concat()).is_err());
    }
    let with_auth = |bit: u8| {
        let mut public = ek(EkKind::Rsa2048);
        public[7] |= bit;
        refused_property(EndorsementKey::parse(&public))
    };
    assert_eq!(with_auth(0x40), "objectAttributes");
}

#[test]
fn a_signing_key_is_no_endorsement_key_and_the_other_way_round() {
    assert!(EndorsementKey::parse(&ak()).is_err());
    assert!(AttestationKey::parse(&ek(EkKind::EccP256)).is_err());
}

#[test]
fn attestation_keys_need_exactly_the_attributes_of_one() {
    AttestationKey::parse(&ak()).unwrap();
    let good = u32::from_be_bytes(ak()[4..8].try_into().unwrap());
    let optional = [6, 7, 10];
    for bit in 0..32 {
        let mut public = ak();
        public[4..8].copy_from_slice(&(good ^ 1 << bit).to_be_bytes());
        let parsed = AttestationKey::parse(&public);
        if optional.contains(&bit) {
            parsed.unwrap();
        } else {
            assert_eq!(refused_property(parsed), "objectAttributes", "bit {bit}");
        }
    }
}

#[test]
fn attestation_keys_need_a_scheme_with_sha256_of_their_own_kind() {
    let scheme = |algorithm: u16, hash: Option<u16>| {
        let mut public = ak();
        let tail = public.split_off(12);
        public.extend(algorithm.to_be_bytes());
        public.extend(hash.map(u16::to_be_bytes).into_iter().flatten());
        public.extend(&tail[4..]);
        AttestationKey::parse(&public)
    };
    scheme(alg::ECDSA, Some(alg::SHA256)).unwrap();
    assert_eq!(refused_property(scheme(alg::NULL, None)), "scheme");
    assert_eq!(refused_property(scheme(alg::ECDSA, Some(4))), "scheme");
    assert_eq!(
        refused_property(scheme(alg::RSASSA, Some(alg::SHA256))),
        "scheme"
    );
    // Schemes that this crate does not know do not even parse.
    assert!(matches!(
        scheme(0x1a, Some(alg::SHA256)),
        Err(KeyError::Malformed(_))
    ));
}

#[test]
fn names_follow_every_byte_of_the_public_area() {
    let name = |bytes: &[u8]| *Public::parse(bytes).unwrap().name();
    let mut other = ak();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(name(&ak()), name(&other));
    assert_eq!(name(&ak()).as_bytes()[..2], [0, 0x0b]);
}

#[test]
fn coordinates_may_lack_leading_zeros_but_not_be_too_long() {
    let with_x = |x: &[u8]| {
        let mut public = AttestationKey::template(EkKind::EccP256, &[0; 32]);
        public.truncate(public.len() - 36);
        public.extend(u16::try_from(x.len()).unwrap().to_be_bytes());
        public.extend(x);
        public.extend([&[0, 32][..], &[2; 32]].concat());
        Public::parse(&public)
    };
    let short = with_x(&[1; 31]).unwrap();
    let full = with_x(&[&[0][..], &[1; 31]].concat()).unwrap();
    assert_eq!(short.key, full.key);
    assert_ne!(short.name(), full.name());
    assert!(with_x(&[1; 33]).is_err());
    assert!(with_x(&[1; 49]).is_err());
}

#[test]
fn a_modulus_must_be_as_long_as_it_says() {
    let mut short = ek(EkKind::Rsa2048);
    let modulus = short.len() - 256;
    short[modulus] = 0x7f;
    assert!(EndorsementKey::parse(&short).is_err());
}

#[test]
fn a_point_off_its_curve_gets_no_credential() {
    let key = EndorsementKey::parse(&ek(EkKind::EccP256)).unwrap();
    let name = *Public::parse(&ak()).unwrap().name();
    let error = make_credential(&key, &name, &[1; 32]).unwrap_err();
    assert_eq!(error.to_string(), "endorsement key cannot be encrypted to");
    let error = make_credential(&key, &name, &[1; 33]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "credential secret: expected at most 32 bytes, got 33"
    );
}

#[test]
fn signatures_parse_only_whole_and_with_sha256() {
    let good = [&[0, 0x18, 0, 0x0b, 0, 32][..], &[1; 32], &[0, 31], &[2; 31]].concat();
    assert!(matches!(
        Signature::parse(&good),
        Ok(Signature::Ecdsa { .. })
    ));
    for at in 0..good.len() {
        assert!(Signature::parse(&good[..at]).is_err(), "cut at {at}");
    }
    assert!(Signature::parse(&[&good[..], &[0]].concat()).is_err());
    for (at, value) in [(1, 0x1a), (1, 0x10), (3, 0x04), (3, 0x0c), (5, 49)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(Signature::parse(&bad).is_err(), "byte {at} = {value:#x}");
    }
}

#[test]
fn pcr_sets_are_never_empty_and_below_24() {
    assert_eq!(PcrSet::new([]), None);
    assert_eq!(PcrSet::new([24]), None);
    assert_eq!(PcrSet::new([u32::MAX]), None);
    let set = PcrSet::new([15, 0, 4]).unwrap();
    assert_eq!(set.iter().collect::<Vec<_>>(), [0, 4, 15]);
    assert_eq!(set.to_string(), "0,4,15");
    assert_eq!(hex::encode(set.encode()), "00000001000b03118000");
}

#[test]
fn one_endorsement_key_has_one_name_however_it_is_written() {
    let name = |bytes: &[u8]| *EndorsementKey::parse(bytes).unwrap().name();
    let rsa = ek(EkKind::Rsa2048);
    assert_eq!(name(&rsa), *Public::parse(&rsa).unwrap().name());
    let mut explicit = rsa.clone();
    let exponent = explicit.len() - 256 - 2 - 4;
    explicit[exponent..exponent + 4].copy_from_slice(&65537_u32.to_be_bytes());
    assert_eq!(name(&explicit), name(&rsa));

    let mut ecc = ek(EkKind::EccP256);
    let x = ecc.len() - 66;
    ecc[x] = 0;
    assert_eq!(name(&ecc), *Public::parse(&ecc).unwrap().name());
    let mut short = ecc.clone();
    short[x - 1] = 31;
    short.remove(x);
    assert_eq!(name(&short), name(&ecc));
}

#[test]
fn a_signature_of_another_scheme_than_the_keys_is_refused_before_it_is_verified() {
    let key = AttestationKey::parse(&ak()).unwrap();
    let rsassa = [&[0, 0x14, 0, 0x0b, 1, 0][..], &[1; 256]].concat();
    let (expected, got) = (alg::ECDSA, alg::RSASSA);
    assert_eq!(
        key.signing_key().verify(b"message", &rsassa),
        Err(QuoteError::Scheme { expected, got })
    );
}
