//! Leaf certificates and reports under a development root: what passes, and each thing that refuses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/development.rs"]
mod development;

use development::{
    NOW, ROOT, TCB, authenticate, authorities, chip, report, vcek, vcek_fields, verify,
};
use snp::{
    Authorities, AuthorityCertificates, AuthorityError, ChipId, ExtensionFault, KeyKind, LeafError,
    Origin, Report, ReportError, UnixTime, VerifyError, layout,
};
use software_snp::{Leaf, LeafFields, LeafKind, Product};

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
fn a_report_of_each_product_line_and_version_passes() {
    for product in Product::ALL {
        for version in [2, 3, 5] {
            let key = vcek(product);
            let fields = report(product).with_version(version);
            let bytes = fields.signed_by(&key).unwrap();
            let report = Report::parse(&bytes).unwrap();
            let leaf = authenticate(product, &key).unwrap();
            let verified = leaf.verify(report).unwrap();
            assert_eq!(verified.product(), product.into());
            assert_eq!(verified.origin(), Origin::Development);
            assert_eq!(verified.signing_key(), KeyKind::Vcek);
            assert_eq!(verified.chip_id(), Some(ChipId(chip(product))));
            assert_eq!(verified.tcbs().reported.microcode, TCB.microcode);

            let other = authenticate(product, &vcek(product)).unwrap();
            let refused = other.verify(report);
            assert_eq!(refused.unwrap_err(), VerifyError::Signature);
        }
    }
}

#[test]
fn turins_tcb_has_its_own_order_and_an_fmc() {
    let leaf = vcek(Product::Turin);
    let honest = report(Product::Turin);
    assert_eq!(verify(Product::Turin, &honest, &leaf), Ok(()));
    // The same bytes in the other lines' order.
    let mut other = honest.clone();
    other.reported_tcb = TCB.encode(Product::Milan);
    let bytes = other.signed_by(&leaf).unwrap();
    assert!(matches!(
        Report::parse(&bytes),
        Err(ReportError::Tcb {
            offset: layout::REPORTED_TCB,
            ..
        })
    ));
    for at in [0, 1, 2, 3, 7] {
        let mut other = honest.clone();
        other.reported_tcb[at] ^= 1;
        let refused = verify(Product::Turin, &other, &leaf);
        assert!(matches!(refused, Err(VerifyError::Tcb { .. })), "byte {at}");
    }
}

#[test]
fn the_reported_tcb_must_be_the_certificates_and_no_other_tcb() {
    let leaf = vcek(Product::Milan);
    let mut fields = report(Product::Milan);
    fields.current_tcb[7] = 255;
    fields.committed_tcb[0] = 0;
    fields.launch_tcb[6] = 0;
    assert_eq!(verify(Product::Milan, &fields, &leaf), Ok(()));
    for at in [0, 1, 6, 7] {
        let mut fields = report(Product::Milan);
        fields.reported_tcb[at] -= 1;
        let refused = verify(Product::Milan, &fields, &leaf);
        assert!(matches!(refused, Err(VerifyError::Tcb { .. })), "byte {at}");
    }
}

#[test]
fn a_report_of_version_2_fits_the_product_line_of_its_certificate() {
    let leaf = vcek(Product::Turin);
    let mut fields = report(Product::Turin).with_version(2);
    fields.current_tcb[4] = 1;
    assert!(matches!(
        verify(Product::Turin, &fields, &leaf),
        Err(VerifyError::Report(ReportError::Tcb {
            offset: layout::CURRENT_TCB,
            ..
        }))
    ));
    let mut fields = report(Product::Turin).with_version(2);
    fields.chip_id[8] = 1;
    let refused = verify(Product::Turin, &fields, &leaf);
    assert!(matches!(refused, Err(VerifyError::ChipId { .. })));
}

#[test]
fn a_report_of_another_product_line_refuses() {
    let mut fields = report(Product::Milan);
    fields.cpuid = Product::Genoa.cpuid();
    assert_eq!(
        verify(Product::Milan, &fields, &vcek(Product::Milan)),
        Err(VerifyError::Product {
            expected: snp::Product::Milan,
            got: snp::Product::Genoa
        })
    );
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
fn a_report_of_another_chip_or_of_none_refuses() {
    for product in Product::ALL {
        let leaf = vcek(product);
        for at in 0..product.hardware_id_len() {
            let mut fields = report(product);
            fields.chip_id[at] ^= 1;
            let refused = verify(product, &fields, &leaf);
            assert!(matches!(refused, Err(VerifyError::ChipId { .. })));
        }
        for version in [2, 3, 5] {
            let mut fields = report(product).with_version(version);
            fields.chip_id = [0; 64];
            let masked = VerifyError::ChipIdMasked(ChipId(chip(product)));
            assert_eq!(verify(product, &fields, &leaf), Err(masked));
        }
    }
}

#[test]
fn a_vcek_that_the_report_says_is_masked_did_not_sign() {
    let mut fields = report(Product::Milan);
    fields.key_info |= layout::KEY_INFO_MASK_CHIP_KEY;
    let refused = Err(VerifyError::MaskedKey);
    assert_eq!(
        verify(Product::Milan, &fields, &vcek(Product::Milan)),
        refused
    );
}

#[test]
fn a_vlek_passes_for_a_vlek_only() {
    let vlek = ROOT.vlek(Product::Milan, "CN=cloud", TCB).unwrap();
    let mut fields = report(Product::Milan).with_vlek();
    for (chip_id, seen) in [(chip(Product::Milan), true), ([0; 64], false)] {
        fields.chip_id = chip_id;
        let bytes = fields.signed_by(&vlek).unwrap();
        let leaf = authenticate(Product::Milan, &vlek).unwrap();
        assert_eq!(leaf.leaf().csp_id(), Some("CN=cloud"));
        let verified = leaf.verify(Report::parse(&bytes).unwrap()).unwrap();
        assert_eq!(verified.signing_key(), KeyKind::Vlek);
        assert_eq!(verified.chip_id().is_some(), seen);
    }
    fields.key_info |= layout::KEY_INFO_MASK_CHIP_KEY;
    assert_eq!(verify(Product::Milan, &fields, &vlek), Ok(()));

    let as_vcek =
        authorities(Product::Milan).authenticate_leaf(KeyKind::Vcek, vlek.certificate(), None, NOW);
    assert_eq!(as_vcek.err(), fault("hwID", ExtensionFault::Missing));
}

#[test]
fn the_kind_in_the_report_must_be_the_certificates() {
    let vlek = ROOT.vlek(Product::Milan, "CN=cloud", TCB).unwrap();
    let mixed = [
        (report(Product::Milan), vlek, KeyKind::Vlek, KeyKind::Vcek),
        (
            report(Product::Milan).with_vlek(),
            vcek(Product::Milan),
            KeyKind::Vcek,
            KeyKind::Vlek,
        ),
    ];
    for (fields, leaf, expected, got) in mixed {
        let refused = Err(VerifyError::KeyKind { expected, got });
        assert_eq!(verify(Product::Milan, &fields, &leaf), refused);
    }
}

#[test]
fn a_report_that_is_not_signed_refuses() {
    let mut fields = report(Product::Milan);
    fields.key_info = layout::SIGNING_KEY_NONE << layout::KEY_INFO_SIGNING_KEY_SHIFT;
    let bytes = fields.encode();
    let leaf = authenticate(Product::Milan, &vcek(Product::Milan)).unwrap();
    let refused = leaf.verify(Report::parse(&bytes).unwrap());
    assert_eq!(refused.unwrap_err(), VerifyError::Unsigned);
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
fn a_development_root_with_amds_names_is_not_amds() {
    for product in Product::ALL {
        let leaf = vcek(product);
        let amd = Authorities::amd(product.into()).unwrap();
        let refused = amd.authenticate_leaf(KeyKind::Vcek, leaf.certificate(), None, NOW);
        assert!(matches!(
            refused,
            Err(LeafError::Untrusted {
                authority: "ASK",
                ..
            })
        ));
        assert_ne!(amd.root(), authorities(product).root());
        assert_eq!(amd.origin(), Origin::Amd);
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
fn authorities_must_be_a_root_and_what_it_signed() {
    let chain = |product| AuthorityCertificates {
        ark: &ROOT.chain(product).ark,
        ask: &ROOT.chain(product).ask,
        asvk: &ROOT.chain(product).asvk,
    };
    let load = |certificates: AuthorityCertificates<'_>| {
        Authorities::development(snp::Product::Milan, &certificates).err()
    };
    let good = chain(Product::Milan);
    let amd = AuthorityCertificates::amd(snp::Product::Milan);
    let leaf: Leaf = vcek(Product::Milan);
    assert_eq!(load(good), None);
    assert_eq!(
        load(AuthorityCertificates {
            ask: amd.ask,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            asvk: amd.asvk,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASVK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ark: amd.ark,
            ..good
        }),
        Some(AuthorityError::Unsigned("ASK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ark: good.ask,
            ..good
        }),
        Some(AuthorityError::NotAuthority("ARK"))
    );
    assert_eq!(
        load(AuthorityCertificates {
            ask: leaf.certificate(),
            ..good
        }),
        Some(AuthorityError::NotAuthority("ASK"))
    );
    let empty = load(AuthorityCertificates { ask: &[], ..good });
    assert!(matches!(
        empty,
        Some(AuthorityError::Malformed { name: "ASK", .. })
    ));
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
