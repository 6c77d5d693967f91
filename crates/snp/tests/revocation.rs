//! Revocation lists under a development root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/development.rs"]
mod development;

use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PSS_SHA384};
use development::{NOW, ROOT, TCB, authorities, vcek};
use snp::{Authorities, KeyKind, LeafError, RevocationError, RevocationList, UnixTime};
use software_snp::{CrlFields, DevelopmentRoot, Leaf, LeafKind, Product};
use x509::x509_cert::{
    crl::{CertificateList, TbsCertList},
    der::{
        Decode, Encode,
        asn1::{BitString, OctetString},
        oid::ObjectIdentifier,
    },
    ext::Extension,
};

const DAY: u64 = 86_400;
/// The root's own serial number on Milan, as AMD's.
const ARK: u64 = 0x01_0000;

fn list(revoked: &[u64]) -> Vec<u8> {
    let fields = CrlFields {
        this_update: NOW.0 - DAY,
        next_update: NOW.0 + DAY,
        revoked: revoked.to_vec(),
    };
    ROOT.crl(Product::Milan, &fields).unwrap()
}

fn load(der: &[u8]) -> Result<RevocationList, RevocationError> {
    RevocationList::authenticate(der, &authorities(Product::Milan), NOW)
}

/// A list with one entry, changed before the root signs it.
fn changed(change: impl FnOnce(&mut TbsCertList)) -> Vec<u8> {
    let mut list: CertificateList = CertificateList::from_der(&list(&[7])).unwrap();
    change(&mut list.tbs_cert_list);
    let json: serde_json::Value = serde_json::from_str(&ROOT.to_json().unwrap()).unwrap();
    let key = hex::decode(json["ark_key"].as_str().unwrap()).unwrap();
    let key = KeyPair::from_pkcs8(&key).unwrap();
    let mut signature = vec![0; key.public_modulus_len()];
    let signed = list.tbs_cert_list.to_der().unwrap();
    let random = SystemRandom::new();
    key.sign(&RSA_PSS_SHA384, &random, &signed, &mut signature)
        .unwrap();
    list.signature = BitString::from_bytes(&signature).unwrap();
    list.to_der().unwrap()
}

/// An extension of no meaning.
fn extension(critical: bool) -> Extension {
    Extension {
        extn_id: ObjectIdentifier::new_unwrap("2.5.29.29"),
        critical,
        extn_value: OctetString::new([5, 0]).unwrap(),
    }
}

#[test]
fn a_list_that_does_not_say_when_the_next_comes_refuses() {
    assert!(load(&changed(|_| {})).is_ok());
    let refused = load(&changed(|list| list.next_update = None));
    assert_eq!(refused.unwrap_err(), RevocationError::NoNextUpdate);
}

/// So does an indirect list, whose entries would be of other issuers.
#[test]
fn a_list_with_a_critical_extension_refuses() {
    for critical in [false, true] {
        let of_list = changed(|list| {
            let extensions = list.crl_extensions.get_or_insert_default();
            extensions.push(extension(critical));
        });
        let of_entry = changed(|list| {
            let entry = &mut list.revoked_certificates.as_mut().unwrap()[0];
            entry.crl_entry_extensions = Some(vec![extension(critical)]);
        });
        for der in [of_list, of_entry] {
            let refused = critical.then_some(RevocationError::CriticalExtension);
            assert_eq!(load(&der).err(), refused);
        }
    }
}

#[test]
fn a_list_that_names_two_algorithms_refuses() {
    let rsa = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
    let refused = load(&changed(|list| list.signature.oid = rsa));
    let untrusted = RevocationError::Untrusted(snp::Product::Milan);
    assert_eq!(refused.unwrap_err(), untrusted);
}

/// What a list with these entries does to a leaf.
fn verdict(revoked: &[u64], leaf: &Leaf) -> Option<LeafError> {
    let list = load(&list(revoked)).unwrap();
    let kind = match leaf.kind() {
        LeafKind::Vcek => KeyKind::Vcek,
        LeafKind::Vlek => KeyKind::Vlek,
    };
    authorities(Product::Milan)
        .authenticate_leaf(kind, leaf.certificate(), Some(&list), NOW)
        .err()
}

#[test]
fn a_listed_authority_refuses_its_leaves_only() {
    let vcek = vcek(Product::Milan);
    let vlek = ROOT.vlek(Product::Milan, "CN=cloud", TCB).unwrap();
    let (ask, asvk) = DevelopmentRoot::serials(Product::Milan);
    let revoked = Some(LeafError::Revoked(RevocationError::Revoked(
        snp::Product::Milan,
    )));
    for (listed, of_vcek, of_vlek) in [
        (&[][..], &None, &None),
        (&[ask], &revoked, &None),
        (&[asvk], &None, &revoked),
        (&[1, ask, asvk], &revoked, &revoked),
        (&[ARK], &revoked, &revoked),
        (&[ask + 1, ARK + 0x200], &None, &None),
    ] {
        assert_eq!(&verdict(listed, &vcek), of_vcek, "{listed:x?}");
        assert_eq!(&verdict(listed, &vlek), of_vlek, "{listed:x?}");
    }
}

/// AMD's leaves all have the serial number 0; a root's list does not speak of them.
#[test]
fn an_entry_with_the_serial_number_of_every_leaf_revokes_none() {
    assert_eq!(verdict(&[0], &vcek(Product::Milan)), None);
}

#[test]
fn a_list_is_in_force_between_its_updates() {
    let der = list(&[]);
    let authorities = authorities(Product::Milan);
    let leaf = vcek(Product::Milan);
    let at = |seconds| RevocationList::authenticate(&der, &authorities, UnixTime(seconds));
    assert!(at(NOW.0 - DAY).is_ok() && at(NOW.0 + DAY).is_ok());
    for outside in [NOW.0 - DAY - 1, NOW.0 + DAY + 1] {
        let refused = at(outside).map(|_| ());
        assert!(matches!(refused, Err(RevocationError::OutOfDate(_))));
        // One that was in force when it was read is not forever.
        let kept = at(NOW.0).unwrap();
        let refused = authorities.authenticate_leaf(
            KeyKind::Vcek,
            leaf.certificate(),
            Some(&kept),
            UnixTime(outside),
        );
        let reason = refused.map(|_| ());
        assert!(matches!(
            reason,
            Err(LeafError::Revoked(RevocationError::OutOfDate(_)))
        ));
    }
}

#[test]
fn a_list_of_another_root_says_nothing_here() {
    let der = list(&[]);
    let amd = Authorities::amd(snp::Product::Milan).unwrap();
    let untrusted = RevocationError::Untrusted(snp::Product::Milan);
    assert_eq!(
        RevocationList::authenticate(&der, &amd, NOW).unwrap_err(),
        untrusted
    );

    let genoa = authorities(Product::Genoa);
    let fields = CrlFields {
        this_update: NOW.0,
        next_update: NOW.0,
        revoked: vec![],
    };
    let other = ROOT.crl(Product::Genoa, &fields).unwrap();
    let list = RevocationList::authenticate(&other, &genoa, NOW).unwrap();
    let leaf = vcek(Product::Milan);
    let refused = authorities(Product::Milan).authenticate_leaf(
        KeyKind::Vcek,
        leaf.certificate(),
        Some(&list),
        NOW,
    );
    assert_eq!(
        refused.unwrap_err(),
        LeafError::Revoked(RevocationError::OtherRoot)
    );
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_list_refuses() {
    let der = list(&[1, 2, 3]);
    assert!(load(&der).is_ok());
    for at in 0..der.len() {
        let mut flipped = der.clone();
        flipped[at] ^= 1;
        assert!(load(&flipped).is_err(), "byte {at}");
        assert_eq!(load(&der[..at]).unwrap_err(), RevocationError::Malformed);
    }
    let trailing = [&der[..], &[0]].concat();
    assert_eq!(load(&trailing).unwrap_err(), RevocationError::Malformed);
    let huge = vec![0x30; snp::MAX_REVOCATION_LIST + 1];
    assert_eq!(load(&huge).unwrap_err(), RevocationError::Malformed);
}
