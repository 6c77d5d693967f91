//! Certificates that an ordinary authority makes, and what refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose};
use x509::{
    Certificate, Malformed, UnknownExtension, signed_part, x509_cert::der::oid::ObjectIdentifier,
};

const ID: [u64; 5] = [1, 3, 6, 1, 9];
const OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.9");
const NOT_DER: Malformed = Malformed("not one DER certificate");

fn make(edit: impl FnOnce(&mut CertificateParams)) -> rcgen::Certificate {
    let mut params = CertificateParams::default();
    edit(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap()
}

fn parse(edit: impl FnOnce(&mut CertificateParams)) -> Result<Certificate, Malformed> {
    Certificate::parse(make(edit).der())
}

/// Adds an extension of no meaning.
fn extend(params: &mut CertificateParams, critical: bool) {
    let mut extension = CustomExtension::from_oid_content(&ID, vec![5, 0]);
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
}

#[test]
fn the_signed_bytes_are_those_received() {
    let made = make(|_| {});
    let certificate = Certificate::parse(made.der()).unwrap();
    // Outer sequence of up to 64 KiB: four bytes, then the signed part.
    let signed = certificate.signed();
    assert_eq!(&made.der()[4..4 + signed.len()], signed);
    assert_eq!(signed_part(made.der()), Some(signed));
    assert_eq!(signed_part(&[0x30, 0]), None);
    assert_eq!(certificate.public_key().unwrap()[0], 4);
}

#[test]
fn der_and_pem_give_one_certificate_and_nothing_after_it() {
    let made = make(|_| {});
    assert!(Certificate::parse_pem(&made.pem()).is_ok());
    for length in 0..made.der().len() {
        let refused = Certificate::parse(&made.der()[..length]);
        assert_eq!(refused.unwrap_err(), NOT_DER);
    }
    let trailing = [made.der(), &[0][..]].concat();
    assert_eq!(Certificate::parse(&trailing).unwrap_err(), NOT_DER);
    let huge = vec![0x30; 16 * 1024 + 1];
    assert_eq!(Certificate::parse(&huge).unwrap_err(), NOT_DER);
    let other = made.pem().replace("CERTIFICATE", "PRIVATE KEY");
    let refused = Certificate::parse_pem(&other);
    assert_eq!(refused.unwrap_err(), Malformed("not one PEM certificate"));
}

#[test]
fn an_extension_that_occurs_twice_refuses() {
    let twice = parse(|params| {
        extend(params, false);
        extend(params, false);
    });
    assert_eq!(twice.unwrap_err(), Malformed("duplicate extension"));
}

#[test]
fn a_critical_extension_must_be_known() {
    let check = |critical, known: &[_]| {
        let certificate = parse(|params| extend(params, critical)).unwrap();
        assert_eq!(certificate.extensions().len(), 1);
        certificate.check_critical(known)
    };
    assert_eq!(check(false, &[]), Ok(()));
    assert_eq!(check(true, &[OID]), Ok(()));
    assert_eq!(check(true, &[]), Err(UnknownExtension(OID)));
}

#[test]
fn an_authority_may_sign_as_deep_as_it_says() {
    let with = |constraints| parse(|params| params.is_ca = IsCa::Ca(constraints)).unwrap();
    let deep = with(BasicConstraints::Unconstrained);
    let shallow = with(BasicConstraints::Constrained(1));
    let verdicts = [0, 1, 2].map(|below| {
        let deep = deep.is_authority(below).unwrap();
        (deep, shallow.is_authority(below).unwrap())
    });
    assert_eq!(verdicts, [(true, true), (true, true), (true, false)]);

    assert_eq!(parse(|_| {}).unwrap().is_authority(0), Ok(false));
    let other_use = parse(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    assert_eq!(other_use.unwrap().is_authority(0), Ok(false));
}
