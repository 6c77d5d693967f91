//! Certificates of signing keys under a development root: what passes, and each thing that refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/development.rs"]
mod development;

use development::{
    NOW, ROOT, TCB, authenticate, authorities, chip, report, vcek, vcek_fields, verify,
};
use snp::{ExtensionFault, KeyKind, LeafError, UnixTime};
use software_snp::{LeafFields, LeafKind, Product};

/// What is wrong with a VCEK after `change`.
fn refused(product: Product, change: impl FnOnce(&mut LeafFields)) -> Option<LeafError> {
    let mut fields = vcek_fields(product);
    change(&mut fields);
    authenticate(product, &ROOT.issue(&fields).unwrap()).err()
}

fn fault(name: &'static str, fault: ExtensionFault) -> Option<LeafError> {
    Some(LeafError::Extension { name, fault })
}

/// Sets the value of an extension below AMD's arc.
fn set(fields: &mut LeafFields, arcs: &[u64], value: &[u8]) {
    fields.extension(arcs).unwrap().value = value.to_vec();
}

/// Removes an extension, and returns it.
fn remove(fields: &mut LeafFields, arcs: &[u64]) -> software_snp::Extension {
    let removed = fields.extension(arcs).unwrap().clone();
    fields.extensions.retain(|extension| *extension != removed);
    removed
}

#[test]
fn bergamo_and_siena_chips_are_of_genoas_line() {
    for name in ["Bergamo", "Siena", "Genoa-B1"] {
        let text = [&[0x16, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        assert_eq!(
            refused(Product::Genoa, |fields| set(fields, &[2], &text)),
            None
        );
        let refused = refused(Product::Milan, |fields| set(fields, &[2], &text));
        assert!(matches!(refused, Some(LeafError::Product { .. })));
    }
    let mut fields = report(Product::Genoa);
    fields.cpuid = [0x19, 0xa0, 0x02];
    assert_eq!(
        verify(Product::Genoa, &fields, &vcek(Product::Genoa)),
        Ok(())
    );
}

#[test]
fn a_leaf_under_the_other_intermediate_refuses() {
    // A VCEK that the ASVK signed, and a VLEK that the ASK signed.
    let mut vcek = vcek_fields(Product::Milan);
    vcek.kind = LeafKind::Vlek;
    let mut vlek = LeafFields::vlek(Product::Milan, "CN=cloud", TCB);
    vlek.kind = LeafKind::Vcek;
    let crossed = [(vcek, KeyKind::Vcek, "ASK"), (vlek, KeyKind::Vlek, "ASVK")];
    for (fields, kind, authority) in crossed {
        let leaf = ROOT.issue(&fields).unwrap();
        let refused =
            authorities(Product::Milan).authenticate_leaf(kind, leaf.certificate(), None, NOW);
        let untrusted = LeafError::Untrusted {
            authority,
            product: snp::Product::Milan,
        };
        assert_eq!(refused.err(), Some(untrusted));
    }
}

#[test]
fn a_flipped_bit_of_any_byte_of_a_certificate_refuses() {
    let leaf = vcek(Product::Milan);
    let authorities = authorities(Product::Milan);
    for at in 0..leaf.certificate().len() {
        let mut der = leaf.certificate().to_vec();
        der[at] ^= 1;
        let refused = authorities.authenticate_leaf(KeyKind::Vcek, &der, None, NOW);
        assert!(refused.is_err(), "byte {at}");
    }
    for length in 0..leaf.certificate().len() {
        let der = &leaf.certificate()[..length];
        let refused = authorities.authenticate_leaf(KeyKind::Vcek, der, None, NOW);
        assert!(matches!(refused, Err(LeafError::Malformed(_))));
    }
    let trailing = [leaf.certificate(), &[0]].concat();
    let refused = authorities.authenticate_leaf(KeyKind::Vcek, &trailing, None, NOW);
    assert!(matches!(refused, Err(LeafError::Malformed(_))));
}

#[test]
fn a_certificate_is_valid_at_its_edges_and_not_beyond() {
    let leaf = vcek(Product::Milan);
    let authorities = authorities(Product::Milan);
    let at = |seconds| {
        authorities
            .authenticate_leaf(KeyKind::Vcek, leaf.certificate(), None, UnixTime(seconds))
            .is_ok()
    };
    let validity = vcek_fields(Product::Milan).validity;
    assert!(!at(validity.start - 1) && at(validity.start));
    assert!(at(validity.end) && !at(validity.end + 1));
}

#[test]
fn an_authority_out_of_its_dates_refuses() {
    // The development authorities end in 2045; this leaf does not.
    let mut fields = vcek_fields(Product::Milan);
    fields.validity.end = 2_500_000_000;
    let leaf = ROOT.issue(&fields).unwrap();
    let late = UnixTime(2_400_000_000);
    let refused = authorities(Product::Milan).authenticate_leaf(
        KeyKind::Vcek,
        leaf.certificate(),
        None,
        late,
    );
    assert!(matches!(refused, Err(LeafError::OutOfDate(_))));
}

#[test]
fn security_versions_are_der_integers_from_0_to_255() {
    let snp = &[3, 3];
    for good in [
        &[2, 1, 0x17][..],
        &[2, 1, 0x7f],
        &[2, 2, 0, 0x80],
        &[2, 2, 0, 0xff],
    ] {
        assert_eq!(
            refused(Product::Milan, |fields| set(fields, snp, good)),
            None
        );
    }
    let wrong: [&[u8]; 9] = [
        &[],
        &[2, 1, 0x80],
        &[2, 2, 0, 0x17],
        &[2, 2, 1, 0],
        &[2, 1, 0x17, 0],
        &[2, 0],
        &[4, 1, 0x17],
        &[2, 0x81, 1, 0x17],
        &[0x17],
    ];
    for value in wrong {
        let got = refused(Product::Milan, |fields| set(fields, snp, value));
        assert_eq!(got, fault("snpSPL", ExtensionFault::Encoding), "{value:?}");
    }
}

#[test]
fn each_extension_of_a_product_line_must_be_there_once() {
    let common: [(&[u64], &str); 11] = [
        (&[1], "structVersion"),
        (&[2], "productName1"),
        (&[3, 1], "blSPL"),
        (&[3, 2], "teeSPL"),
        (&[3, 3], "snpSPL"),
        (&[3, 5], "spl_5"),
        (&[3, 6], "spl_6"),
        (&[3, 7], "spl_7"),
        (&[3, 8], "ucodeSPL"),
        (&[4], "hwID"),
        (&[], ""),
    ];
    for product in Product::ALL {
        let own: (&[u64], _) = match product {
            Product::Turin => (&[3, 9], "fmcSPL"),
            Product::Milan | Product::Genoa => (&[3, 4], "spl_4"),
        };
        for (arcs, name) in common.into_iter().chain([own]) {
            if arcs.is_empty() {
                continue;
            }
            let missing = refused(product, |fields| drop(remove(fields, arcs)));
            assert_eq!(missing, fault(name, ExtensionFault::Missing));
            let twice = refused(product, |fields| {
                let again = fields.extension(arcs).unwrap().clone();
                fields.extensions.push(again);
            });
            assert!(matches!(twice, Some(LeafError::Malformed(_))), "{name}");
        }
    }
}

#[test]
fn extensions_of_another_line_or_kind_refuse() {
    let turin = || LeafFields::vcek(Product::Turin, &chip(Product::Turin), TCB);
    let fmc = remove(&mut turin(), &[3, 9]);
    let with_fmc = refused(Product::Genoa, |fields| fields.extensions.push(fmc));
    assert_eq!(with_fmc, fault("fmcSPL", ExtensionFault::Unexpected));

    let reserved = remove(&mut vcek_fields(Product::Milan), &[3, 4]);
    let with_reserved = refused(Product::Turin, |fields| fields.extensions.push(reserved));
    assert_eq!(with_reserved, fault("spl_4", ExtensionFault::Unexpected));

    let provider = remove(&mut LeafFields::vlek(Product::Milan, "CN=cloud", TCB), &[5]);
    let with_provider = refused(Product::Milan, |fields| fields.extensions.push(provider));
    assert_eq!(with_provider, fault("cspID", ExtensionFault::Unexpected));

    let mut vlek = LeafFields::vlek(Product::Milan, "CN=cloud", TCB);
    let hardware_id = remove(&mut vcek_fields(Product::Milan), &[4]);
    vlek.extensions.push(hardware_id);
    let with_hardware_id = authenticate(Product::Milan, &ROOT.issue(&vlek).unwrap());
    assert_eq!(
        with_hardware_id.err(),
        fault("hwID", ExtensionFault::Unexpected)
    );
}

#[test]
fn reserved_security_versions_are_zero() {
    for arcs in [[3, 4], [3, 5], [3, 6], [3, 7]] {
        let got = refused(Product::Milan, |fields| set(fields, &arcs, &[2, 1, 1]));
        let name = ["spl_4", "spl_5", "spl_6", "spl_7"][usize::try_from(arcs[1] - 4).unwrap()];
        assert_eq!(got, fault(name, ExtensionFault::Reserved(1)));
    }
}

#[test]
fn a_hardware_id_is_raw_bytes_of_the_lines_length() {
    for product in Product::ALL {
        let expected = product.hardware_id_len();
        let raw = vec![0xc7; expected];
        // As a DER octet string, which AMD's is not.
        let wrapped = [&[4, u8::try_from(expected).unwrap()], &raw[..]].concat();
        for id in [&[][..], &raw[1..], &wrapped, &[7; 65]] {
            let got = refused(product, |fields| set(fields, &[4], id));
            let length = ExtensionFault::Length {
                expected,
                got: id.len(),
            };
            assert_eq!(got, fault("hwID", length));
        }
        let zero = vec![0; expected];
        let got = refused(product, |fields| set(fields, &[4], &zero));
        assert_eq!(got, fault("hwID", ExtensionFault::Unknown));
    }
}

#[test]
fn an_unknown_product_name_or_structure_refuses() {
    let names: [&[u8]; 4] = [
        b"\x16\x05Rome!",
        b"\x16\x05milan",
        b"\x16\x06Milan ",
        b"\x16\x00",
    ];
    for name in names {
        let got = refused(Product::Milan, |fields| set(fields, &[2], name));
        assert_eq!(got, fault("productName1", ExtensionFault::Unknown));
    }
    for wrong in [
        &b"\x0c\x05Milan"[..],
        b"Milan",
        b"\x16\x06Milan",
        b"\x16\x05Mil\xc3\xa4n",
    ] {
        let got = refused(Product::Milan, |fields| set(fields, &[2], wrong));
        assert_eq!(got, fault("productName1", ExtensionFault::Encoding));
    }
    let got = refused(Product::Milan, |fields| set(fields, &[1], &[2, 1, 2]));
    assert_eq!(got, fault("structVersion", ExtensionFault::Unknown));
}

/// A VCEK in whose certificate every `old` is `new`; its signature is no longer good.
fn replaced(old: &[u8], new: &[u8]) -> Option<LeafError> {
    let mut der = vcek(Product::Milan).certificate().to_vec();
    let mut found = 0;
    for at in 0..der.len() - old.len() {
        if der[at..].starts_with(old) {
            der[at..at + old.len()].copy_from_slice(new);
            found += 1;
        }
    }
    assert!(found > 0);
    snp::Leaf::parse(KeyKind::Vcek, &der).err()
}

#[test]
fn a_certificate_of_another_signature_algorithm_refuses() {
    let pss = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
    let pkcs1 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c";
    let sha384 = b"\x60\x86\x48\x01\x65\x03\x04\x02\x02";
    let sha256 = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01";
    let refused = Some(LeafError::SignatureAlgorithm);
    assert_eq!(replaced(pss, pkcs1), refused);
    assert_eq!(replaced(sha384, sha256), refused);
    // Length of the salt.
    assert_eq!(
        replaced(b"\xa2\x03\x02\x01\x30", b"\xa2\x03\x02\x01\x20"),
        refused
    );
}

#[test]
fn a_key_of_another_curve_refuses() {
    let (p384, p521) = (b"\x2b\x81\x04\x00\x22", b"\x2b\x81\x04\x00\x23");
    assert_eq!(replaced(p384, p521), Some(LeafError::Key));
    // A compressed point.
    assert_eq!(
        replaced(b"\x03\x62\x00\x04", b"\x03\x62\x00\x02"),
        Some(LeafError::Key)
    );
}

#[test]
fn an_authority_is_no_leaf() {
    let constraints = |value: &[u8]| software_snp::Extension {
        id: vec![2, 5, 29, 19],
        value: value.to_vec(),
    };
    let with = |value: &[u8]| {
        let extension = constraints(value);
        refused(Product::Milan, |fields| fields.extensions.push(extension))
    };
    assert_eq!(with(&[0x30, 0]), None);
    assert_eq!(with(&[0x30, 3, 1, 1, 0xff]), Some(LeafError::Authority));
    assert!(matches!(with(&[0x31]), Some(LeafError::Malformed(_))));
}

#[test]
fn a_serial_number_other_than_amds_0_is_legal() {
    for serial in [0, 1, u64::MAX] {
        assert_eq!(
            refused(Product::Milan, |fields| fields.serial = serial),
            None
        );
    }
}

#[test]
fn a_refusal_for_dates_names_both() {
    let leaf = vcek(Product::Milan);
    let late = UnixTime(2_335_219_201);
    let refused = authorities(Product::Milan).authenticate_leaf(
        KeyKind::Vcek,
        leaf.certificate(),
        None,
        late,
    );
    let Err(LeafError::OutOfDate(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        reason.to_string(),
        "valid until 2044-01-01T00:00:00Z, and it is 2044-01-01T00:00:01Z"
    );
    assert_eq!(
        UnixTime(u64::MAX).to_string(),
        format!("{} s after 1970", u64::MAX)
    );
}
