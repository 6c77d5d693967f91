use super::*;
use crate::Seed;
use alloc::vec;

fn seed(byte: u8) -> Seed {
    Seed::from_slice(&[byte; 32]).unwrap()
}

fn owner(byte: u8) -> OwnerKey {
    OwnerKey::from_seed(&seed(byte)).unwrap()
}

fn admission_key(owner: &OwnerKey) -> AdmissionKey {
    let certificate = owner.certify(AdmissionKey::public_half(&seed(2)).unwrap());
    AdmissionKey::new(&seed(2), owner.public_key(), certificate).unwrap()
}

fn key() -> AdmittedKey {
    AdmittedKey {
        attestation_key: [3; 32],
        attester: [4; 32],
        cluster: ClusterId::from_bytes([5; 32]),
        disk: DiskId::from_bytes([6; 16]),
        node: "worker-0".parse().unwrap(),
        issued: 0x0102_0304,
    }
}

/// As whoever wants to see `key` certified by owner 1.
fn verify(certificate: &AkCertificate, key: &AdmittedKey) -> Result<(), AkCertificateError> {
    let expected = ExpectedKey {
        attestation_key: &key.attestation_key,
        attester: &key.attester,
        cluster: &key.cluster,
        node: &key.node,
    };
    certificate.verify(&owner(1).public_key().fingerprint(), &expected)
}

#[test]
fn owner_and_admission_key_certify_and_both_survive_their_text() {
    for certificate in [
        owner(1).certify_key(key()),
        admission_key(&owner(1)).certify_key(key()),
    ] {
        verify(&certificate, &key()).unwrap();
        let text = certificate.encode();
        assert!(text.len() < AkCertificate::MAX_LEN / 2, "{}", text.len());
        assert_eq!(AkCertificate::parse(text.as_bytes()), Ok(certificate));
    }
}

/// Computed with Python (hashlib, and Ed25519 of the cryptography package) from the definition in
/// docs/formats.md.
#[test]
fn known_answer() {
    let certificate = owner(1).certify_key(key());
    assert_eq!(
        hex::encode(certificate.key.message()),
        include_str!("../../tests/fixtures/ak-certificate-message.hex").trim()
    );
    assert_eq!(
        hex::encode(certificate.signature),
        include_str!("../../tests/fixtures/ak-certificate-signature.hex").trim()
    );
}

#[test]
fn a_certificate_of_something_else_is_refused_by_name() {
    type Change = fn(&mut AdmittedKey);
    let changes: [(&str, Change); 4] = [
        ("cluster", |key| {
            key.cluster = ClusterId::from_bytes([9; 32])
        }),
        ("node", |key| key.node = "worker-1".parse().unwrap()),
        ("machine", |key| key.attester = [9; 32]),
        ("attestation key", |key| key.attestation_key = [9; 32]),
    ];
    let admission_key = admission_key(&owner(1));
    for (expected, change) in changes {
        let mut other = key();
        change(&mut other);
        let refused = verify(&admission_key.certify_key(other), &key());
        assert!(
            matches!(&refused, Err(AkCertificateError::Differs { what, .. }) if *what == expected),
            "{expected}: {refused:?}"
        );
    }
}

/// Whoever changes a fact after it was signed gets nowhere, those that nothing is compared with
/// included.
#[test]
fn every_fact_is_signed() {
    let changes: [fn(&mut AdmittedKey); 6] = [
        |key| key.attestation_key[31] ^= 1,
        |key| key.attester[0] ^= 1,
        |key| key.cluster = ClusterId::from_bytes([9; 32]),
        |key| key.disk = DiskId::from_bytes([9; 16]),
        |key| key.node = "worker-1".parse().unwrap(),
        |key| key.issued += 1,
    ];
    for change in changes {
        let mut certificate = admission_key(&owner(1)).certify_key(key());
        change(&mut certificate.key);
        let wanted = certificate.key.clone();
        assert_eq!(
            verify(&certificate, &wanted),
            Err(AkCertificateError::Signature)
        );
    }
}

#[test]
fn another_owner_is_refused_however_it_is_dressed_up() {
    let foreign = admission_key(&owner(9)).certify_key(key());
    assert!(matches!(
        verify(&foreign, &key()),
        Err(AkCertificateError::ForeignOwner { .. })
    ));
    let mut renamed = foreign.clone();
    renamed.owner = owner(1).public_key();
    assert!(matches!(
        verify(&renamed, &key()),
        Err(AkCertificateError::AdmissionKey(
            KeyError::NotCertified { .. }
        ))
    ));
    // Nor is an admission key good for what it did not sign, nor the owner key for what the other did.
    let mut taken = admission_key(&owner(1)).certify_key(key());
    taken.signature = foreign.signature;
    taken.key.issued += 1;
    let wanted = taken.key.clone();
    assert_eq!(verify(&taken, &wanted), Err(AkCertificateError::Signature));
    let mut stripped = admission_key(&owner(1)).certify_key(key());
    stripped.admission_key = None;
    assert_eq!(
        verify(&stripped, &key()),
        Err(AkCertificateError::Signature)
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let certificate = admission_key(&owner(1)).certify_key(key());
    for bit in 0..512 {
        let mut signature = certificate.clone();
        signature.signature[bit / 8] ^= 1 << (bit % 8);
        let mut chain = certificate.clone();
        chain.admission_key.as_mut().unwrap().signature[bit / 8] ^= 1 << (bit % 8);
        for bad in [signature, chain] {
            assert!(verify(&bad, &key()).is_err(), "bit {bit}");
        }
    }
}

/// What the two keys sign for other ends begins otherwise, so none of it is a certificate.
#[test]
fn no_other_signature_of_these_keys_has_this_label() {
    let others: [&[u8]; 3] = [
        b"constellation-owner-v1\0",
        b"constellation-admission-key-v1\0",
        b"constellation-document-v1\0",
    ];
    for other in others {
        assert!(!other.starts_with(AdmittedKey::LABEL) && !AdmittedKey::LABEL.starts_with(other));
    }
}

#[test]
fn malformed_texts_are_refused() {
    let text = owner(1).certify_key(key()).encode();
    for bad in [
        String::new(),
        "{}".into(),
        text.replace("attester", "attestor"),
        text.replace("worker-0", "Worker_0"),
        text.replace(&"03".repeat(32), &"0G".repeat(32)),
        text.replace(&"03".repeat(32), &"03".repeat(31)),
        text.replace("issued\":", "issued\":-"),
        text.replace('{', "{\"version\":1,"),
        text.clone() + &text,
    ] {
        assert!(AkCertificate::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    let long = vec![b' '; AkCertificate::MAX_LEN + 1];
    assert!(matches!(
        AkCertificate::parse(&long),
        Err(AkCertificateError::TooLong { .. })
    ));
}
